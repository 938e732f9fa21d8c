//! What the artifact store promises.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::digest;
use qlora_store::*;

const BYTES: &[u8] = b"a checkpoint of some length";
const SIZE: u64 = BYTES.len() as u64;

async fn open(folder: &Path) -> ArtifactStore {
    ArtifactStore::open(folder).await.expect("a store")
}

async fn begin(store: &ArtifactStore, offset: u64) -> Upload {
    store
        .upload(&digest(BYTES), SIZE, offset)
        .await
        .expect("an upload")
}

async fn stat(store: &ArtifactStore) -> ArtifactStat {
    store.stat(&digest(BYTES)).await.expect("a stat")
}

async fn put(store: &ArtifactStore, bytes: &[u8]) {
    let mut upload = store
        .upload(&digest(bytes), bytes.len() as u64, 0)
        .await
        .expect("an upload");
    upload.write(bytes.to_vec()).await.expect("bytes");
    upload
        .finish()
        .await
        .expect("the right bytes")
        .publish()
        .await
        .expect("a name");
}

async fn all(store: &ArtifactStore) -> Result<Vec<u8>, ArtifactError> {
    let mut reader = store.read(&digest(BYTES), 0).await?;
    let mut all = Vec::new();
    loop {
        match reader.next(7).await? {
            piece if piece.is_empty() => return Ok(all),
            piece => all.extend(piece),
        }
    }
}

fn final_path(folder: &Path) -> PathBuf {
    let name = digest(BYTES).to_string();
    folder.join("sha256").join(&name[..2]).join(name)
}

/// Files of uploads that are not complete.
fn partial(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder.join("partial"))
        .expect("a folder")
        .map(|entry| entry.expect("a file").path())
        .collect()
}

const THERE: ArtifactStat = ArtifactStat {
    complete: true,
    damaged: false,
    size: SIZE,
};
const MISSING: ArtifactStat = ArtifactStat {
    complete: false,
    damaged: false,
    size: 0,
};

#[tokio::test]
async fn an_upload_goes_on_where_it_broke_off_and_is_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path()).await;
    let mut upload = begin(&store, 0).await;
    upload.write(BYTES[..10].to_vec()).await.expect("bytes");
    assert_eq!(
        stat(&store).await,
        MISSING,
        "what an upload has is nobody else's"
    );
    drop(upload);
    assert_eq!(
        stat(&store).await,
        ArtifactStat {
            size: 10,
            ..MISSING
        }
    );
    assert!(matches!(all(&store).await, Err(ArtifactError::Missing(_))));
    let elsewhere = store.upload(&digest(BYTES), SIZE, 3).await;
    assert!(matches!(
        elsewhere,
        Err(ArtifactError::Offset { expected: 10, .. })
    ));
    let mut upload = begin(&store, 10).await;
    let second = store.upload(&digest(BYTES), SIZE, 10).await;
    assert!(
        matches!(second, Err(ArtifactError::Offset { expected: 0, .. })),
        "two went on with one file"
    );
    upload.write(BYTES[10..].to_vec()).await.expect("bytes");
    upload
        .finish()
        .await
        .expect("the right bytes")
        .publish()
        .await
        .expect("a name");
    assert_eq!(stat(&store).await, THERE);
    assert_eq!(all(&store).await.expect("an artifact"), BYTES);
    let mut reader = store.read(&digest(BYTES), 2).await.expect("an artifact");
    assert_eq!(
        (reader.size, reader.next(5).await.expect("bytes")),
        (SIZE, BYTES[2..7].to_vec())
    );
    assert_eq!(partial(folder.path()), Vec::<PathBuf>::new());
}

/// Changes the stored bytes so that length and time stay as they were.
fn flip_a_bit(path: &Path) {
    let modified = fs::metadata(path).and_then(|meta| meta.modified());
    let mut bytes = fs::read(path).expect("a file");
    bytes[3] ^= 1;
    fs::write(path, bytes).expect("damage");
    let file = fs::File::options().append(true).open(path).expect("a file");
    file.set_modified(modified.expect("a time"))
        .expect("a time");
}

#[tokio::test]
async fn damage_that_only_the_bytes_tell_is_found_while_they_are_read() {
    for offset in [0, 1, 10, SIZE] {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(folder.path()).await;
        put(&store, BYTES).await;
        assert_eq!(all(&store).await.expect("an artifact"), BYTES);
        flip_a_bit(&final_path(folder.path()));
        assert_eq!(stat(&store).await, THERE, "nobody has read it since");
        let mut reader = store.read(&digest(BYTES), offset).await.expect("a reader");
        let ended = loop {
            match reader.next(7).await {
                Ok(piece) if piece.is_empty() => break Ok(()),
                Ok(_) => {}
                Err(fault) => break Err(fault),
            }
        };
        assert!(
            matches!(ended, Err(ArtifactError::Damaged { .. })),
            "{offset}: {ended:?}"
        );
        let found = stat(&store).await;
        assert!(found.damaged && !found.complete, "{found:?}");
        put(&store, BYTES).await;
        assert_eq!(all(&store).await.expect("an artifact"), BYTES);
    }
}

#[tokio::test]
async fn a_folder_under_the_name_of_an_artifact_is_damage_and_an_upload_takes_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path()).await;
    let path = final_path(folder.path());
    // The second one finds the first one's place taken.
    for aside in ["damaged", "damaged-2"] {
        fs::create_dir_all(path.join(aside)).expect("a folder");
        let found = stat(&store).await;
        assert!(found.damaged && !found.complete, "{found:?}");
        let fault = all(&store).await.expect_err("no artifact");
        assert!(
            matches!(fault, ArtifactError::Damaged { .. }) && fault.to_string().contains("no file"),
            "{fault}"
        );
        put(&store, BYTES).await;
        assert_eq!(all(&store).await.expect("an artifact"), BYTES);
        assert!(path.with_extension(aside).join(aside).is_dir());
        fs::remove_file(&path).expect("the artifact");
    }
    assert!(path.with_extension("damaged").join("damaged").is_dir());
}

#[tokio::test]
async fn an_upload_that_broke_off_is_gone_on_with_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path()).await;
    begin(&store, 0)
        .await
        .write(BYTES[..10].to_vec())
        .await
        .expect("bytes");
    drop(store);
    let store = open(folder.path()).await;
    assert_eq!(stat(&store).await.size, 10);
    let mut upload = begin(&store, 10).await;
    upload.write(BYTES[10..].to_vec()).await.expect("bytes");
    upload
        .finish()
        .await
        .expect("the right bytes")
        .publish()
        .await
        .expect("a name");
    assert_eq!(all(&store).await.expect("an artifact"), BYTES);
}

#[tokio::test]
async fn uploads_of_one_digest_at_once_never_meet() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path()).await;
    let mut uploads = Vec::new();
    for _ in 0..4 {
        uploads.push(begin(&store, 0).await);
    }
    // Interleaved, and each at a pace of its own.
    for piece in BYTES.chunks(5) {
        for upload in &mut uploads[1..] {
            upload.write(piece.to_vec()).await.expect("bytes");
        }
    }
    uploads[0].write(BYTES.to_vec()).await.expect("bytes");
    for upload in uploads {
        upload
            .finish()
            .await
            .expect("the right bytes")
            .publish()
            .await
            .expect("a name");
        assert_eq!(stat(&store).await, THERE);
        assert_eq!(fs::read(final_path(folder.path())).expect("a file"), BYTES);
    }
    assert_eq!(partial(folder.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn wrong_bytes_never_get_the_final_name_and_the_next_try_is_free_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path()).await;
    let mut upload = begin(&store, 0).await;
    let mut wrong = BYTES.to_vec();
    wrong[3] ^= 1;
    upload.write(wrong).await.expect("bytes");
    assert!(matches!(
        upload.finish().await,
        Err(ArtifactError::Mismatch { .. })
    ));
    assert_eq!(stat(&store).await, MISSING);
    let mut upload = begin(&store, 0).await;
    upload.write(BYTES.to_vec()).await.expect("bytes");
    assert!(matches!(
        upload.write(vec![0]).await,
        Err(ArtifactError::TooLong { .. })
    ));
    assert_eq!(stat(&store).await, MISSING);
    let mut upload = begin(&store, 0).await;
    upload.write(BYTES[..5].to_vec()).await.expect("bytes");
    assert!(matches!(
        upload.finish().await,
        Err(ArtifactError::TooShort { received: 5, .. })
    ));
    assert_eq!(stat(&store).await.size, 5);
    put(&store, BYTES).await;
    assert_eq!(all(&store).await.expect("an artifact"), BYTES);
}

#[tokio::test]
async fn what_is_not_to_be_published_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path()).await;
    let mut upload = begin(&store, 0).await;
    upload.write(BYTES.to_vec()).await.expect("bytes");
    upload.finish().await.expect("the right bytes").discard();
    assert_eq!(stat(&store).await, MISSING);
    assert_eq!(partial(folder.path()), Vec::<PathBuf>::new());
}

/// Each way in which a file can stop being what its name says, while the store is open and before
/// it is opened.
#[tokio::test]
async fn a_damaged_artifact_is_told_is_not_given_and_is_repaired_by_an_upload() {
    let damage: [fn(&Path); 4] = [
        |path| fs::write(path, [BYTES, BYTES].concat()).expect("a file that grew"),
        |path| fs::write(path, &BYTES[..4]).expect("a file that was cut"),
        |path| fs::write(path, "").expect("an empty file"),
        |path| {
            let mut bytes = BYTES.to_vec();
            bytes[5] ^= 64;
            // A file system may stamp two writes with one time.
            std::thread::sleep(Duration::from_millis(20));
            fs::write(path, bytes).expect("a changed byte");
        },
    ];
    for (i, damage) in damage.into_iter().enumerate() {
        for restart in [false, true] {
            let folder = tempfile::tempdir().expect("a folder");
            let mut store = open(folder.path()).await;
            put(&store, BYTES).await;
            damage(&final_path(folder.path()));
            if restart {
                store = open(folder.path()).await;
            }
            let what = format!("damage {i}, restart {restart}");
            assert_eq!(
                stat(&store).await,
                ArtifactStat {
                    damaged: true,
                    ..MISSING
                },
                "{what}"
            );
            assert!(
                matches!(all(&store).await, Err(ArtifactError::Damaged { .. })),
                "{what}"
            );
            put(&store, BYTES).await;
            assert_eq!(stat(&store).await, THERE, "{what}");
            assert_eq!(all(&store).await.expect("an artifact"), BYTES, "{what}");
        }
    }
}

#[tokio::test]
async fn a_start_keeps_one_part_of_each_upload_and_removes_what_is_of_no_use() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(folder.path()).await);
    let part = |name: &str, bytes: &[u8], age: u64| {
        let path = folder.path().join("partial").join(name);
        fs::write(&path, bytes).expect("a part");
        let file = fs::File::options()
            .append(true)
            .open(&path)
            .expect("a part");
        file.set_modified(SystemTime::now() - Duration::from_secs(age))
            .expect("a time");
        path
    };
    let (name, other) = (digest(BYTES), digest(b"another"));
    part(&format!("{name}.1"), &BYTES[..4], 0);
    let longest = part(&format!("{name}.2"), &BYTES[..9], 3600);
    part(&format!("{name}.3"), b"", 0);
    part(&format!("{other}.1"), b"ano", 25 * 3600);
    part("something else", b"x", 0);
    // As versions before this one called it.
    let unnumbered = part(&digest(b"older").to_string(), b"old", 0);
    let store = open(folder.path()).await;
    let mut left = partial(folder.path());
    left.sort();
    let mut wanted = vec![longest, unnumbered];
    wanted.sort();
    assert_eq!(left, wanted);
    assert_eq!(stat(&store).await.size, 9);
    store.clean();
    assert_eq!(partial(folder.path()).len(), 2);
}

#[tokio::test]
async fn an_upload_that_is_given_up_in_a_write_leaves_a_part_that_can_be_gone_on_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path()).await;
    let bytes = vec![7u8; 8 << 20];
    let name = digest(&bytes);
    let mut upload = store
        .upload(&name, bytes.len() as u64, 0)
        .await
        .expect("an upload");
    let given_up = tokio::time::timeout(Duration::ZERO, upload.write(bytes.clone())).await;
    drop(upload);
    assert!(given_up.is_err(), "eight megabytes were written in no time");
    // The write that was under way comes to its end by itself.
    let received = loop {
        match store.stat(&name).await.expect("a stat").size {
            0 => tokio::time::sleep(Duration::from_millis(5)).await,
            received => break received,
        }
    };
    assert_eq!(received, bytes.len() as u64);
    let upload = store
        .upload(&name, received, received)
        .await
        .expect("an upload");
    upload
        .finish()
        .await
        .expect("the right bytes")
        .publish()
        .await
        .expect("a name");
    assert!(store.stat(&name).await.expect("a stat").complete);
}

#[test]
fn names_that_are_no_digests_are_refused() {
    for text in ["", "../../etc/passwd", &"A".repeat(64), &"0".repeat(63)] {
        assert!(text.parse::<Digest256>().is_err(), "{text}");
    }
}

#[tokio::test]
async fn what_no_job_needs_goes_after_a_day_and_what_somebody_was_told_of_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path()).await;
    let contents: [&[u8]; 4] = [b"needed", b"old", b"new", b"told of"];
    for (i, bytes) in contents.iter().enumerate() {
        let name = digest(bytes);
        let mut upload = store
            .upload(&name, bytes.len() as u64, 0)
            .await
            .expect("an upload");
        upload.write(bytes.to_vec()).await.expect("bytes");
        upload
            .finish()
            .await
            .expect("all bytes")
            .publish()
            .await
            .expect("a file");
        if i != 2 {
            let path = folder
                .path()
                .join("sha256")
                .join(&name.to_string()[..2])
                .join(name.to_string());
            let file = fs::File::options()
                .append(true)
                .open(path)
                .expect("an artifact");
            file.set_modified(SystemTime::now() - Duration::from_secs(25 * 3600))
                .expect("a time");
        }
    }
    assert!(
        store
            .stat(&digest(contents[3]))
            .await
            .expect("a stat")
            .complete
    );
    let needed = digest(contents[0]);
    assert_eq!(
        store
            .sweep(&|digest| digest == needed.to_string())
            .expect("a sweep"),
        1
    );
    for (bytes, stays) in contents.into_iter().zip([true, false, true, true]) {
        assert_eq!(
            store.stat(&digest(bytes)).await.expect("a stat").complete,
            stays,
            "{bytes:?}"
        );
    }
}

#[tokio::test]
async fn a_released_artifact_goes_at_once_unless_somebody_was_told_that_it_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path()).await;
    let name = digest(BYTES);
    // Nobody is told by a look, nor while it is not there.
    assert_eq!(stat(&store).await, MISSING);
    put(&store, BYTES).await;
    assert_eq!(store.look(&name).await.expect("a look"), THERE);
    assert!(store.release(&name));
    assert_eq!(store.look(&name).await.expect("a look"), MISSING);
    assert!(store.release(&name), "it is no fault that nothing is there");

    put(&store, BYTES).await;
    assert_eq!(stat(&store).await, THERE);
    assert!(!store.release(&name));
    assert_eq!(stat(&store).await, THERE, "who was told relies on it");
}

#[tokio::test]
async fn what_artifacts_and_begun_uploads_take_on_disk_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path()).await;
    assert_eq!(store.disk_bytes(), 0);
    put(&store, BYTES).await;
    assert_eq!(store.disk_bytes(), SIZE);
    let other = b"another artifact";
    let mut upload = store
        .upload(&digest(other), other.len() as u64, 0)
        .await
        .expect("an upload");
    upload.write(other[..7].to_vec()).await.expect("bytes");
    drop(upload);
    assert_eq!(store.disk_bytes(), SIZE + 7);
    store.make_room();
    assert_eq!(store.disk_bytes(), SIZE);
}
