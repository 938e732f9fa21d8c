//! What the artifact store promises of its folder, beside what it promises everywhere.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::{digest, owner};
use qlora_store::*;

const BYTES: &[u8] = b"a checkpoint of some length";
const SIZE: u64 = BYTES.len() as u64;

async fn open(folder: &Path) -> ArtifactStore {
    ArtifactStore::open(folder, &owner())
        .await
        .expect("a store")
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
    store.clean().await;
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

/// A standby with a folder of its own is one until the leader has artifacts, and never settled.
#[tokio::test]
async fn who_waits_to_lead_is_accepted_where_the_leader_has_been_and_not_in_an_empty_folder() {
    let (shared, own) = (tempfile::tempdir(), tempfile::tempdir());
    let (shared, own) = (shared.expect("a folder"), own.expect("a folder"));
    let poor = Owner::new("a".repeat(32), false);
    let rich = Owner::new("a".repeat(32), true);
    let check = async |folder: &Path, owner: &Owner| {
        let checked = ArtifactStore::check(folder.to_owned(), owner.clone()).await;
        checked.err()
    };
    for folder in [shared.path(), own.path(), &own.path().join("none")] {
        let fault = check(folder, &poor).await;
        assert!(matches!(fault, Some(ArtifactError::Unmarked { .. })));
    }
    let leader = ArtifactStore::open(shared.path(), &poor).await;
    assert!(check(shared.path(), &poor).await.is_none());
    put(&leader.expect("a store"), BYTES).await;
    assert!(check(shared.path(), &rich).await.is_none());
    let fault = check(own.path(), &rich).await;
    assert!(matches!(fault, Some(ArtifactError::Elsewhere { .. })));
    let is_untouched = fs::read_dir(own.path()).expect("a folder").next().is_none();
    assert!(is_untouched, "it was marked by who may not lead");
}

/// As programs that show folders to people leave it in each.
#[tokio::test]
async fn a_stray_file_among_the_shelves_keeps_no_start_and_no_sweep() {
    let folder = tempfile::tempdir().expect("a folder");
    let shelves = folder.path().join("sha256");
    fs::create_dir_all(shelves.join("ab")).expect("a shelf");
    for stray in [".DS_Store", "ab/.DS_Store"] {
        fs::write(shelves.join(stray), "x").expect("a stray file");
    }
    let rich = Owner::new("a".repeat(32), true);
    let fault = ArtifactStore::open(folder.path(), &rich).await.err();
    assert!(
        matches!(fault, Some(ArtifactError::Elsewhere { .. })),
        "it is no artifact: {fault:?}"
    );
    let store = open(folder.path()).await;
    put(&store, BYTES).await;
    let old = SystemTime::now() - Duration::from_secs(48 * 3600);
    let file = fs::File::options()
        .append(true)
        .open(final_path(folder.path()));
    file.and_then(|file| file.set_modified(old))
        .expect("an old artifact");
    let swept = store
        .sweep(|_| std::future::ready(true))
        .await
        .expect("a sweep");
    assert_eq!(swept, 1);
    assert!(shelves.join(".DS_Store").exists());
}
