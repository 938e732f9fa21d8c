//! What the artifact store promises, in a folder and in a bucket alike.

mod common;
mod places;

use common::{digest, owner};
use places::Place;
use qlora_store::*;

/// Three parts of an upload to a bucket, and a rest.
const BYTES: &[u8] = &bytes::<200>();
const SIZE: u64 = BYTES.len() as u64;

const fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = (i * 31 % 251) as u8;
        i += 1;
    }
    bytes
}

async fn begin(store: &ArtifactStore, offset: usize) -> Upload {
    store
        .upload(&digest(BYTES), SIZE, offset as u64)
        .await
        .expect("an upload")
}

/// An upload that does not end.
const OTHER: &[u8] = &[7; 200];

async fn begin_other(store: &ArtifactStore) -> Upload {
    let upload = store.upload(&digest(OTHER), OTHER.len() as u64, 0).await;
    upload.expect("an upload")
}

async fn stat(store: &ArtifactStore) -> ArtifactStat {
    store.stat(&digest(BYTES)).await.expect("a stat")
}

async fn publish(upload: Upload) {
    let finished = upload.finish().await.expect("the right bytes");
    finished.publish().await.expect("a name");
}

async fn put(store: &ArtifactStore, bytes: &[u8]) {
    let size = bytes.len() as u64;
    let upload = store.upload(&digest(bytes), size, 0).await;
    let mut upload = upload.expect("an upload");
    upload.write(bytes.to_vec()).await.expect("bytes");
    publish(upload).await;
}

async fn from(store: &ArtifactStore, offset: usize) -> Result<Vec<u8>, ArtifactError> {
    let mut reader = store.read(&digest(BYTES), offset as u64).await?;
    assert_eq!(reader.size, SIZE);
    let mut all = Vec::new();
    loop {
        match reader.next(7).await? {
            piece if piece.is_empty() => return Ok(all),
            piece => {
                assert!(piece.len() <= 7);
                all.extend(piece);
            }
        }
    }
}

async fn all(store: &ArtifactStore) -> Result<Vec<u8>, ArtifactError> {
    from(store, 0).await
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
    for place in Place::both() {
        let store = place.open().await;
        let kept = place.kept(130);
        let mut upload = begin(&store, 0).await;
        upload.write(BYTES[..130].to_vec()).await.expect("bytes");
        let found = stat(&store).await;
        assert_eq!(found, MISSING, "what an upload has is nobody else's");
        drop(upload);
        let size = kept as u64;
        assert_eq!(stat(&store).await, ArtifactStat { size, ..MISSING });
        assert!(matches!(all(&store).await, Err(ArtifactError::Missing(_))));
        match store.upload(&digest(BYTES), SIZE, 3).await.err() {
            Some(ArtifactError::Offset { expected, .. }) => assert_eq!(expected, size),
            other => panic!("{other:?}"),
        }
        let mut upload = begin(&store, kept).await;
        let second = store.upload(&digest(BYTES), SIZE, size).await;
        assert!(
            matches!(second, Err(ArtifactError::Offset { expected: 0, .. })),
            "two went on with one upload"
        );
        upload.write(BYTES[kept..].to_vec()).await.expect("bytes");
        publish(upload).await;
        assert_eq!(stat(&store).await, THERE);
        assert_eq!(all(&store).await.expect("an artifact"), BYTES);
        assert_eq!(place.begun().await, 0);
    }
}

#[tokio::test]
async fn an_artifact_is_read_from_any_byte_by_who_wrote_it_and_after_a_restart() {
    for place in Place::both() {
        let store = place.open().await;
        put(&store, BYTES).await;
        for store in [store, place.open().await] {
            for offset in [0, 1, 64, 65, BYTES.len() - 1, BYTES.len()] {
                let read = from(&store, offset).await.expect("an artifact");
                assert_eq!(read, BYTES[offset..], "from byte {offset}");
            }
            let behind = from(&store, BYTES.len() + 5).await.expect("an artifact");
            assert_eq!(behind, b"");
        }
    }
}

#[tokio::test]
async fn artifacts_of_every_length_are_what_they_were() {
    for place in Place::both() {
        let store = place.open().await;
        for length in [0, 1, 63, 64, 65, 127, 128, 129, 192] {
            let bytes = &BYTES[..length];
            put(&store, bytes).await;
            let mut reader = store.read(&digest(bytes), 0).await.expect("a reader");
            assert_eq!(reader.next(1000).await.expect("bytes"), bytes);
            assert_eq!(reader.next(1000).await.expect("the end"), b"");
        }
        assert_eq!(place.begun().await, 0);
    }
}

#[tokio::test]
async fn damage_that_only_the_bytes_tell_is_found_while_they_are_read() {
    for offset in [0, 1, 10, BYTES.len()] {
        for place in Place::both() {
            let store = place.open().await;
            put(&store, BYTES).await;
            assert_eq!(all(&store).await.expect("an artifact"), BYTES);
            let mut wrong = BYTES.to_vec();
            wrong[3] ^= 1;
            place.damage(&digest(BYTES), &wrong).await;
            assert_eq!(stat(&store).await, THERE, "nobody has read it since");
            let ended = from(&store, offset).await;
            assert!(
                matches!(ended, Err(ArtifactError::Damaged { .. })),
                "{offset}: {ended:?}"
            );
            let found = stat(&store).await;
            assert!(found.damaged && !found.complete, "{found:?}");
            let again = from(&store, offset).await;
            assert!(matches!(again, Err(ArtifactError::Damaged { .. })));
            put(&store, BYTES).await;
            assert_eq!(all(&store).await.expect("an artifact"), BYTES);
        }
    }
}

#[tokio::test]
async fn an_upload_that_broke_off_is_gone_on_with_after_a_restart() {
    for place in Place::both() {
        let store = place.open().await;
        let mut upload = begin(&store, 0).await;
        upload.write(BYTES[..130].to_vec()).await.expect("bytes");
        // Its end is not heard of, as when the process is killed.
        std::mem::forget(upload);
        let kept = place.kept(130);
        let store = place.open().await;
        assert_eq!(stat(&store).await.size, kept as u64);
        let mut upload = begin(&store, kept).await;
        // It breaks off once more.
        upload
            .write(BYTES[kept..kept + 65].to_vec())
            .await
            .expect("bytes");
        drop(upload);
        let store = place.open().await;
        let kept = place.kept(kept + 65);
        let mut upload = begin(&store, kept).await;
        upload.write(BYTES[kept..].to_vec()).await.expect("bytes");
        publish(upload).await;
        assert_eq!(all(&store).await.expect("an artifact"), BYTES);
        assert_eq!(place.begun().await, 0);
    }
}

#[tokio::test]
async fn wrong_bytes_before_a_restart_never_get_the_final_name() {
    for place in Place::both() {
        let store = place.open().await;
        let mut upload = begin(&store, 0).await;
        let mut wrong = BYTES[..128].to_vec();
        wrong[3] ^= 1;
        upload.write(wrong).await.expect("bytes");
        drop(upload);
        let store = place.open().await;
        let mut upload = begin(&store, 128).await;
        upload.write(BYTES[128..].to_vec()).await.expect("bytes");
        let ended = upload.finish().await.err();
        assert!(
            matches!(ended, Some(ArtifactError::Mismatch { .. })),
            "{ended:?}"
        );
        assert_eq!(stat(&store).await, MISSING);
        assert_eq!(place.begun().await, 0);
    }
}

#[tokio::test]
async fn uploads_of_one_digest_at_once_never_meet() {
    for place in Place::both() {
        let store = place.open().await;
        let mut uploads = Vec::new();
        for _ in 0..4 {
            uploads.push(begin(&store, 0).await);
        }
        // Interleaved, and each at a pace of its own.
        for piece in BYTES.chunks(50) {
            for upload in &mut uploads[1..] {
                upload.write(piece.to_vec()).await.expect("bytes");
            }
        }
        uploads[0].write(BYTES.to_vec()).await.expect("bytes");
        for upload in uploads {
            publish(upload).await;
            assert_eq!(stat(&store).await, THERE);
            assert_eq!(all(&store).await.expect("an artifact"), BYTES);
        }
        assert_eq!(place.begun().await, 0);
    }
}

#[tokio::test]
async fn of_two_uploads_that_broke_off_the_longer_one_is_kept() {
    for place in Place::both() {
        let store = place.open().await;
        let (mut short, mut long) = (begin(&store, 0).await, begin(&store, 0).await);
        short.write(BYTES[..64].to_vec()).await.expect("bytes");
        long.write(BYTES[..128].to_vec()).await.expect("bytes");
        drop(long);
        drop(short);
        assert_eq!(stat(&store).await.size, 128);
        // What has no use any more goes by itself, and a clean waits for that.
        store.clean().await;
        drop(store);
        let store = place.open().await;
        assert_eq!(place.begun().await, 1);
        let mut upload = begin(&store, 128).await;
        upload.write(BYTES[128..].to_vec()).await.expect("bytes");
        publish(upload).await;
        assert_eq!(all(&store).await.expect("an artifact"), BYTES);
    }
}

#[tokio::test]
async fn wrong_bytes_never_get_the_final_name_and_the_next_try_is_free_of_them() {
    for place in Place::both() {
        let store = place.open().await;
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
        upload.write(BYTES[..130].to_vec()).await.expect("bytes");
        assert!(matches!(
            upload.finish().await,
            Err(ArtifactError::TooShort { received: 130, .. })
        ));
        assert_eq!(stat(&store).await.size, place.kept(130) as u64);
        put(&store, BYTES).await;
        assert_eq!(all(&store).await.expect("an artifact"), BYTES);
    }
}

#[tokio::test]
async fn what_is_not_to_be_published_leaves_nothing() {
    for place in Place::both() {
        let store = place.open().await;
        let mut upload = begin(&store, 0).await;
        upload.write(BYTES.to_vec()).await.expect("bytes");
        let finished = upload.finish().await.expect("the right bytes");
        finished.discard().await;
        assert_eq!(stat(&store).await, MISSING);
        assert_eq!(place.begun().await, 0);
    }
}

#[test]
fn names_that_are_no_digests_are_refused() {
    for text in ["", "../../etc/passwd", &"A".repeat(64), &"0".repeat(63)] {
        assert!(text.parse::<Digest256>().is_err(), "{text}");
    }
}

#[tokio::test]
async fn what_no_job_needs_goes_after_a_day_and_what_somebody_was_told_of_stays() {
    for place in Place::both() {
        let store = place.open().await;
        let contents: [&[u8]; 4] = [b"needed", b"old", b"new", b"told of"];
        for (i, bytes) in contents.iter().enumerate() {
            put(&store, bytes).await;
            if i != 2 {
                place.age(&digest(bytes), 25);
            }
        }
        let told = store.stat(&digest(contents[3])).await.expect("a stat");
        assert!(told.complete);
        let needed = digest(contents[0]).to_string();
        let release = |digest: Digest256| {
            let (store, is_needed) = (&store, digest.to_string() == needed);
            async move { store.release(&digest, async move { is_needed }).await }
        };
        let removed = store.sweep(release).await;
        assert_eq!(removed.expect("a sweep"), 1);
        for (bytes, stays) in contents.into_iter().zip([true, false, true, true]) {
            let found = store.stat(&digest(bytes)).await.expect("a stat");
            assert_eq!(found.complete, stays, "{bytes:?}");
        }
    }
}

/// No job needs it.
async fn unneeded() -> bool {
    false
}

#[tokio::test]
async fn what_somebody_is_about_to_refer_to_or_has_referred_to_stays() {
    for place in Place::both() {
        let store = place.open().await;
        let name = digest(BYTES);
        put(&store, BYTES).await;
        let claims = [(); 2].map(|()| store.claim(&name).expect("it is there"));
        for claim in claims {
            assert!(!store.release(&name, unneeded()).await, "it is claimed");
            drop(claim);
        }
        assert!(!store.release(&name, async { true }).await, "a job has it");
        assert_eq!(store.look(&name).await.expect("a look"), THERE);
        // Whoever comes while it goes is told that it is not there.
        let late = async {
            assert!(store.claim(&name).is_none(), "it goes");
            false
        };
        assert!(store.release(&name, late).await);
        assert_eq!(store.look(&name).await.expect("a look"), MISSING);
        assert!(store.claim(&name).is_some(), "it may come again");
    }
}

#[tokio::test]
async fn a_released_artifact_goes_at_once_unless_somebody_was_told_that_it_is_there() {
    for place in Place::both() {
        let store = place.open().await;
        let name = digest(BYTES);
        // Nobody is told by a look, nor while it is not there.
        assert_eq!(stat(&store).await, MISSING);
        put(&store, BYTES).await;
        assert_eq!(store.look(&name).await.expect("a look"), THERE);
        assert!(store.release(&name, unneeded()).await);
        assert_eq!(store.look(&name).await.expect("a look"), MISSING);
        assert!(
            store.release(&name, unneeded()).await,
            "it is no fault that nothing is there"
        );

        put(&store, BYTES).await;
        assert_eq!(stat(&store).await, THERE);
        assert!(!store.release(&name, unneeded()).await);
        assert_eq!(stat(&store).await, THERE, "who was told relies on it");
    }
}

#[tokio::test]
async fn what_artifacts_and_begun_uploads_take_is_told() {
    for place in Place::both() {
        let store = place.open().await;
        let bytes = async |store: &ArtifactStore| store.bytes().await.expect("a number");
        assert_eq!(bytes(&store).await, 0);
        put(&store, BYTES).await;
        assert_eq!(bytes(&store).await, SIZE);
        let other = [7; 150];
        let upload = store.upload(&digest(&other), 150, 0).await;
        let mut upload = upload.expect("an upload");
        upload.write(other[..70].to_vec()).await.expect("bytes");
        drop(upload);
        let kept = place.kept(70) as u64;
        assert_eq!(bytes(&store).await, SIZE + kept);
        assert_eq!(bytes(&place.open().await).await, SIZE + kept);
        assert!(store.release(&digest(BYTES), unneeded()).await);
        assert_eq!(bytes(&store).await, kept);
        // Only what lies on this disk keeps state from being stored.
        store.make_room();
        let left = if place.bucket.is_some() { kept } else { 0 };
        assert_eq!(bytes(&store).await, left);
    }
}

#[tokio::test]
async fn a_place_is_of_one_database_and_another_is_refused_and_removes_nothing() {
    for place in Place::both() {
        let store = place.open().await;
        put(&store, BYTES).await;
        place.age(&digest(BYTES), 48);
        let mut upload = begin_other(&store).await;
        upload.write(OTHER[..130].to_vec()).await.expect("bytes");
        drop(upload);
        let (mark, begun) = (place.mark().await, place.begun().await);

        let other = Owner::new("f".repeat(32), false);
        let fault = place.open_for(&other).await.err().expect("a refusal");
        let text = fault.to_string();
        assert!(matches!(fault, ArtifactError::Foreign { .. }), "{text}");
        for part in ["qlora-owner", mark.trim(), &"f".repeat(32)] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(place.begun().await, begun);
        assert_eq!(place.mark().await, mark);
        let again = place.open().await;
        assert_eq!(all(&again).await.expect("an artifact"), BYTES);
    }
}

#[tokio::test]
async fn a_place_without_a_mark_is_adopted_by_who_opens_it_first() {
    for place in Place::both() {
        put(&place.open().await, BYTES).await;
        place.unmark().await;
        let first = Owner::new("a".repeat(32), true);
        let store = place.open_for(&first).await.expect("a store");
        assert_eq!(all(&store).await.expect("an artifact"), BYTES);
        assert_eq!(place.mark().await, format!("{}\n", "a".repeat(32)));
        let late = place.open_for(&owner()).await.err();
        assert!(matches!(late, Some(ArtifactError::Foreign { .. })));
    }
}

#[tokio::test]
async fn a_place_without_artifacts_is_refused_to_a_database_that_has_some() {
    for place in Place::both() {
        let rich = Owner::new("a".repeat(32), true);
        let fault = place.open_for(&rich).await.err().expect("a refusal");
        assert!(matches!(fault, ArtifactError::Elsewhere { .. }), "{fault}");
        // It left no mark that would let it in.
        let again = place.open_for(&rich).await.err();
        assert!(matches!(again, Some(ArtifactError::Elsewhere { .. })));
        let poor = Owner::new("a".repeat(32), false);
        place.open_for(&poor).await.expect("a store");
        // Whoever led while there were none has marked it, and they lie with who led since.
        let late = place.open_for(&rich).await.err();
        assert!(matches!(late, Some(ArtifactError::Elsewhere { .. })));
        assert_eq!(place.mark().await, format!("{}\n", "a".repeat(32)));
        // A person knows that they are lost.
        place.set_mark(&format!("{} lost\n", "a".repeat(32))).await;
        place.open_for(&rich).await.expect("its store");
        let other = place.open_for(&owner()).await.err();
        assert!(matches!(other, Some(ArtifactError::Foreign { .. })));
    }
}
