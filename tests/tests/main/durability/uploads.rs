//! Uploads: several at once, of attempts that end meanwhile, of files that change, into a store that
//! fails. Artifacts are what their names say.

use std::fs;

use qlora_client::transfer;
use qlora_proto::{CommitArtifactRequest, JobArtifact};
use qlora_tests::World;
use tonic::Code;

use super::speaker::{Speaker, Upload, file, run};

#[test]
fn uploads_of_one_digest_at_once_are_all_taken_and_what_is_damaged_is_told_and_repaired() {
    run(async {
        let world = World::new(&[]);
        let speaker = Speaker::new(&world);
        let (file, bytes, digest, size) = file(&world);
        let stored = world
            .path("state/artifacts/sha256")
            .join(&digest[..2])
            .join(&digest);
        let mut uploads = Vec::new();
        for _ in 0..3 {
            uploads.push(Upload::begin(&speaker, &digest, size, (0, 0)).await);
        }
        for piece in bytes.chunks(100_000) {
            for upload in &uploads {
                upload.send(piece).await;
            }
        }
        for upload in uploads {
            upload.end().await.expect("an upload of its own");
            let stat = speaker.stat(&digest).await;
            assert_eq!(
                (stat.complete, stat.damaged, stat.size),
                (true, false, size)
            );
            assert!(
                fs::read(&stored).expect("a file") == bytes,
                "the file under the final name is not whole"
            );
        }
        fs::write(&stored, [&bytes[..], &bytes[..]].concat()).expect("damage");
        let stat = speaker.stat(&digest).await;
        assert_eq!((stat.complete, stat.damaged), (false, true));
        let source = transfer::Source {
            path: &file,
            digest: &digest,
            size,
            by: None,
        };
        transfer::upload(&speaker.0, &source, &transfer::unwatched)
            .await
            .expect("a repair");
        let stat = speaker.stat(&digest).await;
        assert_eq!(
            (stat.complete, stat.damaged, stat.size),
            (true, false, size)
        );
        assert!(fs::read(&stored).expect("a file") == bytes);
    });
}

#[test]
fn an_upload_counts_only_while_its_attempt_is_current_at_its_end_too_and_wrong_bytes_may_be_sent_again()
 {
    run(async {
        let world = World::new(&[]);
        let speaker = Speaker::new(&world);
        speaker.submit("x").await.expect("a job");
        let session = speaker.register("a").await.expect("a session");
        let token = speaker.start(session).await.token;
        let (_, bytes, digest, size) = file(&world);

        let wrong = Upload::begin(&speaker, &digest, size, (session, token)).await;
        wrong.send(&vec![0; bytes.len()]).await;
        assert_eq!(
            wrong.end().await.expect_err("wrong bytes").code(),
            Code::Aborted
        );

        let upload = Upload::begin(&speaker, &digest, size, (session, token)).await;
        upload.send(&bytes[..300_000]).await;
        speaker.finish(session, token).await.expect("an end");
        upload.send(&bytes[300_000..]).await;
        let refused = upload
            .end()
            .await
            .expect_err("an upload of an attempt that is over");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        let stat = speaker.stat(&digest).await;
        assert_eq!((stat.complete, stat.received), (false, 0));
        let left = fs::read_dir(world.path("state/artifacts/partial"))
            .expect("a folder")
            .count();
        assert_eq!(left, 0);
    });
}

#[test]
fn an_upload_whose_file_has_changed_ends_and_says_so() {
    run(async {
        let world = World::new(&[]);
        let speaker = Speaker::new(&world);
        let (file, bytes, digest, size) = file(&world);
        fs::write(&file, vec![7; bytes.len()]).expect("other bytes");
        let source = transfer::Source {
            path: &file,
            digest: &digest,
            size,
            by: None,
        };
        let fault = transfer::upload(&speaker.0, &source, &transfer::unwatched)
            .await
            .expect_err("a refusal");
        assert!(
            matches!(fault, qlora_client::TransferError::Changed { .. }),
            "{fault}"
        );
        fs::write(&file, &bytes[..300_000]).expect("fewer bytes");
        let fault = transfer::upload(&speaker.0, &source, &transfer::unwatched)
            .await
            .expect_err("a refusal");
        assert!(
            matches!(fault, qlora_client::TransferError::Changed { .. }),
            "{fault}"
        );
        fs::write(&file, &bytes).expect("the bytes again");
        transfer::upload(&speaker.0, &source, &transfer::unwatched)
            .await
            .expect("an upload");
    });
}

#[test]
fn a_store_that_fails_for_a_moment_is_tried_again() {
    run(async {
        let world = World::new(&[]);
        let speaker = Speaker::new(&world);
        let (file, _, digest, size) = file(&world);
        let partial = world.path("state/artifacts/partial");
        let aside = world.path("state/artifacts/aside");
        fs::rename(&partial, &aside).expect("a folder");
        fs::write(&partial, "").expect("a file in its place");
        let client = speaker.0.clone();
        let uploading = tokio::spawn(async move {
            let source = transfer::Source {
                path: &file,
                digest: &digest,
                size,
                by: None,
            };
            transfer::upload(&client, &source, &transfer::unwatched)
                .await
                .map(|()| digest)
        });
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        fs::remove_file(&partial).expect("a file");
        fs::rename(&aside, &partial).expect("a folder");
        let digest = uploading
            .await
            .expect("a task")
            .expect("an upload that is tried again");
        assert!(speaker.stat(&digest).await.complete);
    });
}

#[test]
fn a_commit_is_of_what_was_uploaded_and_nobody_has_a_name_that_is_none() {
    run(async {
        let world = World::new(&[]);
        let speaker = Speaker::new(&world);
        speaker.submit("x").await.expect("a job");
        let unseen = "\u{200b}\u{feff}";
        for refused in [
            speaker.submit(unseen).await.map(drop),
            speaker.register(unseen).await.map(drop),
        ] {
            assert_eq!(refused.expect_err("a name").code(), Code::InvalidArgument);
        }
        let session = speaker.register("a").await.expect("a session");
        let token = speaker.start(session).await.token;
        let (_, bytes, digest, size) = file(&world);
        let upload = Upload::begin(&speaker, &digest, size, (session, token)).await;
        upload.send(&bytes).await;
        upload.end().await.expect("an upload");
        let commit = async |name: &str, size: u64| {
            let artifact = JobArtifact {
                kind: "adapter".into(),
                name: name.into(),
                digest: digest.clone(),
                size,
                ..JobArtifact::default()
            };
            let request = CommitArtifactRequest {
                session,
                token,
                artifact: Some(artifact),
            };
            let mut workers = speaker.0.workers.clone();
            let taken = workers.commit_artifact(request).await;
            taken.map(drop).map_err(|status| status.code())
        };
        for (name, size) in [
            ("a.tar", size + 1),
            ("../a.tar", size),
            ("a\nb", size),
            ("", size),
        ] {
            let refused = commit(name, size).await;
            assert_eq!(refused, Err(Code::InvalidArgument), "{name}");
        }
        assert_eq!(commit("a.tar", size).await, Ok(()));
    });
}
