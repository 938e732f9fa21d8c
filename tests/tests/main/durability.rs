//! What the coordinator acknowledged is there, whatever its disk does; numbers and rows that are
//! not what they should be do not stop it; artifacts are what their names say.
#![cfg(target_os = "linux")]

#[path = "../../../coordinator/store/tests/disk/mod.rs"]
mod disk;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use disk::Disk;
use qlora_client::Client;
use qlora_client::transfer;
use qlora_proto::synchronize_response::Wanted;
use qlora_proto::*;
use qlora_tests::World;
use sqlx::Connection;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

type Answer<T> = Result<T, Status>;

/// Speaks to the coordinator of a world as its own clients do.
struct Speaker(Client);

impl Speaker {
    fn new(world: &World) -> Self {
        Self(Client::new(&world.address, None).expect("a client"))
    }

    async fn submit(&self, name: &str) -> Answer<u64> {
        let request = SubmitRequest {
            kind: JobKind::Noop.into(),
            name: name.into(),
            ..SubmitRequest::default()
        };
        let answer = self.0.jobs.clone().submit(request).await?;
        Ok(answer.into_inner().job.expect("a job").id)
    }

    async fn register(&self, name: &str) -> Answer<u64> {
        Ok(self.registration(name).await?.session)
    }

    async fn registration(&self, name: &str) -> Answer<RegisterResponse> {
        let platform = Platform {
            device_class: DeviceClass::Cpu.into(),
            memory: 8 << 30,
            ..Platform::default()
        };
        let request = RegisterRequest {
            name: name.into(),
            instance: name.into(),
            platform: Some(platform),
            ..Default::default()
        };
        Ok(self.0.workers.clone().register(request).await?.into_inner())
    }

    async fn sync(&self, session: u64, running_token: u64) -> Answer<Wanted> {
        let request = SynchronizeRequest {
            session,
            running_token,
            ..SynchronizeRequest::default()
        };
        Ok(self
            .0
            .workers
            .clone()
            .synchronize(request)
            .await?
            .into_inner()
            .wanted
            .expect("an answer"))
    }

    async fn start(&self, session: u64) -> Assignment {
        match self.sync(session, 0).await {
            Ok(Wanted::Run(assignment)) => assignment,
            other => panic!("{other:?}"),
        }
    }

    async fn finish(&self, session: u64, token: u64) -> Answer<()> {
        let request = FinishRequest {
            session,
            token,
            outcome: Outcome::Succeeded.into(),
            ..FinishRequest::default()
        };
        self.0.workers.clone().finish(request).await.map(drop)
    }

    async fn jobs(&self) -> HashMap<u64, Job> {
        let request = ListJobsRequest {
            limit: 1000,
            ..ListJobsRequest::default()
        };
        let jobs = self
            .0
            .jobs
            .clone()
            .list_jobs(request)
            .await
            .expect("jobs")
            .into_inner()
            .jobs;
        jobs.into_iter().map(|job| (job.id, job)).collect()
    }

    async fn stat(&self, digest: &str) -> StatArtifactResponse {
        let request = StatArtifactRequest {
            digest: digest.into(),
        };
        self.0
            .artifacts
            .clone()
            .stat_artifact(request)
            .await
            .expect("a stat")
            .into_inner()
    }
}

/// An upload whose bytes are sent one by one as the test wants.
struct Upload {
    sender: mpsc::Sender<UploadRequest>,
    answer: tokio::task::JoinHandle<Answer<()>>,
}

impl Upload {
    async fn begin(
        speaker: &Speaker,
        digest: &str,
        size: u64,
        (session, token): (u64, u64),
    ) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let mut client = speaker.0.artifacts.clone();
        let answer =
            tokio::spawn(
                async move { client.upload(ReceiverStream::new(receiver)).await.map(drop) },
            );
        let header = UploadHeader {
            digest: digest.into(),
            size,
            offset: 0,
            token,
            session,
        };
        sender
            .send(UploadRequest {
                header: Some(header),
                data: Vec::new(),
            })
            .await
            .expect("a coordinator");
        Self { sender, answer }
    }

    async fn send(&self, data: &[u8]) {
        // Whoever was refused tells why at the end.
        let _ = self
            .sender
            .send(UploadRequest {
                header: None,
                data: data.to_vec(),
            })
            .await;
    }

    async fn end(self) -> Answer<()> {
        drop(self.sender);
        self.answer.await.expect("an answer")
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(test)
}

fn restart(world: &mut World) {
    assert_eq!(
        world.coordinator.stop(),
        Some(0),
        "{}",
        world.coordinator.log()
    );
    world.restart_coordinator();
}

#[test]
fn a_worker_is_told_which_coordinator_it_is_and_a_restart_does_not_change_it() {
    run(async {
        let (mut world, other) = (World::new(&[]), World::new(&[]));
        let id = async |world: &World| {
            Speaker::new(world)
                .registration("a")
                .await
                .expect("a session")
                .coordinator_id
        };
        let first = id(&world).await;
        assert!(
            first.len() == 32 && first.bytes().all(|b| b.is_ascii_hexdigit()),
            "{first}"
        );
        restart(&mut world);
        assert_eq!(id(&world).await, first);
        assert_ne!(id(&other).await, first);
    });
}

#[test]
fn what_is_acknowledged_after_a_full_disk_survives_a_restart_and_no_session_is_lost() {
    run(async {
        let disk = Disk::new("/state/");
        let env = disk.env();
        let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let mut world = World::with_env(&[], &env);
        let speaker = Speaker::new(&world);
        let mut acknowledged = Vec::new();
        for i in 0..5 {
            acknowledged.push(speaker.submit(&format!("before {i}")).await.expect("a job"));
        }
        let session = speaker.register("a").await.expect("a session");
        let assignment = speaker.start(session).await;
        let (_, bytes, digest, size) = file(&world);
        let parts = || {
            fs::read_dir(world.path("state/artifacts/partial"))
                .expect("a folder")
                .count()
        };
        for time in 0..2 {
            let broken_off = Upload::begin(&speaker, &digest, size, (0, 0)).await;
            broken_off.send(&bytes[..300_000]).await;
            broken_off
                .end()
                .await
                .expect_err("an upload that is too short");
            assert_eq!(parts(), 1);
            disk.set_full(true);
            for i in 0..20 {
                let refused = speaker
                    .submit("while it is full")
                    .await
                    .expect_err("a job that is not durable");
                assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
                assert!(refused.message().contains("is full"), "{refused:?}");
                let end = speaker
                    .finish(session, assignment.token)
                    .await
                    .expect_err("an end that is not durable");
                assert_eq!(end.code(), Code::Unavailable, "{end:?}");
                let going_on = speaker.sync(session, assignment.token).await;
                assert!(
                    matches!(going_on, Ok(Wanted::GoOn(_))),
                    "time {time}, try {i}: {going_on:?}"
                );
            }
            let yaml =
                format!("extends: cpu\nmodel: {{base: m}}\ndata: {{train: t.jsonl}}\n# {time}\n");
            let put = async || {
                let request = PutConfigRequest {
                    name: "c".into(),
                    yaml: yaml.clone(),
                };
                speaker.0.configs.clone().put_config(request).await
            };
            let refused = put().await.expect_err("a revision that is not durable");
            assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
            assert!(disk.has_failed());
            assert_eq!(
                parts(),
                0,
                "what is left of an upload takes room that state needs"
            );
            disk.set_full(false);
            assert_eq!(
                put()
                    .await
                    .expect("room for a revision")
                    .into_inner()
                    .revision,
                time + 1
            );
            for i in 0..5 {
                acknowledged.push(
                    speaker
                        .submit(&format!("after {time} {i}"))
                        .await
                        .expect("room for a job"),
                );
            }
        }
        speaker
            .finish(session, assignment.token)
            .await
            .expect("an end");
        restart(&mut world);
        let jobs = Speaker::new(&world).jobs().await;
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|id| !jobs.contains_key(id))
            .collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        assert_eq!(
            jobs.len(),
            acknowledged.len(),
            "what was refused is there: {jobs:?}"
        );
        assert_eq!(jobs[&assignment.job].state(), JobState::Succeeded);
        let log = world.coordinator.log();
        assert!(!log.contains("ERROR"), "{log}");
    });
}

#[test]
fn numbers_that_are_not_finite_are_kept_and_the_coordinator_starts_again() {
    run(async {
        let mut world = World::new(&[]);
        let speaker = Speaker::new(&world);
        let id = speaker.submit("x").await.expect("a job");
        let session = speaker.register("a").await.expect("a session");
        let token = speaker.start(session).await.token;
        let (nan, infinite) = (f64::NAN, f64::INFINITY);
        let calls = CallScores {
            rows: 1,
            valid_json: nan,
            schema_valid: infinite,
            names_match: -infinite,
            exact_match: 0.5,
        };
        let scores = Scores {
            rows: 1,
            tokens: 1,
            loss: nan,
            perplexity: infinite,
            calls: Some(calls),
        };
        let progress = Progress {
            loss: Some(nan),
            learning_rate: Some(infinite),
            tokens_per_second: Some(-infinite),
            first_evaluation: Some(nan),
            last_evaluation: Some(infinite),
            seconds_left: Some(infinite),
            scores: Some(scores),
            ..Progress::default()
        };
        let values = HashMap::from([
            ("loss".to_owned(), nan),
            ("grad_norm".to_owned(), infinite),
            ("skipped".into(), 1.0),
        ]);
        let metrics = vec![MetricPoint {
            seq: 0,
            step: u64::MAX,
            unix_ms: i64::MIN,
            values,
        }];
        let request = ReportRequest {
            session,
            token,
            batch: 1,
            metrics,
            progress: Some(progress),
            ..ReportRequest::default()
        };
        speaker
            .0
            .workers
            .clone()
            .report(request)
            .await
            .expect("a report");
        for _ in 0..2 {
            let speaker = Speaker::new(&world);
            let progress = speaker.jobs().await[&id]
                .progress
                .clone()
                .expect("progress");
            assert!(
                progress.loss.is_some_and(f64::is_nan)
                    && progress.first_evaluation.is_some_and(f64::is_nan)
            );
            assert_eq!(
                (progress.learning_rate, progress.tokens_per_second),
                (Some(infinite), Some(-infinite))
            );
            assert_eq!(
                (progress.last_evaluation, progress.seconds_left),
                (Some(infinite), None)
            );
            let scores = progress.scores.expect("scores");
            assert!(scores.loss.is_nan() && scores.perplexity == infinite);
            let calls = scores.calls.expect("calls");
            assert!(
                calls.valid_json.is_nan()
                    && calls.schema_valid == infinite
                    && calls.names_match == -infinite
            );
            let request = GetMetricsRequest {
                id,
                after: 0,
                limit: 0,
            };
            let points = speaker
                .0
                .jobs
                .clone()
                .get_metrics(request)
                .await
                .expect("metrics")
                .into_inner()
                .points;
            let [point] = points.as_slice() else {
                panic!("{points:?}")
            };
            assert!(
                point.values["loss"].is_nan() && point.values["grad_norm"] == infinite,
                "{point:?}"
            );
            assert_eq!(
                (point.values.len(), point.step, point.unix_ms),
                (3, u64::MAX, i64::MIN)
            );
            let shown = world.ctl(&["show", &id.to_string()]);
            assert_eq!(shown.code, 0, "{}", shown.stderr);
            restart(&mut world);
        }
    });
}

#[test]
fn a_row_that_cannot_be_read_does_not_stop_a_start_and_is_named() {
    run(async {
        let mut world = World::new(&[]);
        let speaker = Speaker::new(&world);
        for name in ["one", "two", "three"] {
            speaker.submit(name).await.expect("a job");
        }
        assert_eq!(world.coordinator.stop(), Some(0));
        let options =
            sqlx::sqlite::SqliteConnectOptions::new().filename(world.path("state/qlora.db"));
        let mut database = sqlx::SqliteConnection::connect_with(&options)
            .await
            .expect("a database");
        let damage = "UPDATE jobs SET body = substr(body, 1, 20) WHERE id = 3;
            UPDATE journal SET text = CAST(x'ff' AS TEXT) WHERE seq = 2";
        sqlx::raw_sql(damage)
            .execute(&mut database)
            .await
            .expect("a change");
        database.close().await.expect("an end");
        world.restart_coordinator();
        let speaker = Speaker::new(&world);
        let mut ids: Vec<u64> = speaker.jobs().await.into_keys().collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2]);
        assert_eq!(
            speaker.submit("four").await.expect("a job"),
            4,
            "the number of a job was given a second time"
        );
        let log = world.coordinator.log();
        assert!(log.contains("cannot be read and is set aside"), "{log}");
        let shown = world.ctl(&["show", "3"]);
        assert!(
            shown.code != 0 && shown.stderr.contains("job 3 cannot be read"),
            "{} {}",
            shown.code,
            shown.stderr
        );
        let request = SubscribeRequest {
            after: 0,
            until_now: true,
        };
        let mut events = speaker
            .0
            .events
            .clone()
            .subscribe(request)
            .await
            .expect("events")
            .into_inner();
        let mut kinds = Vec::new();
        while let Some(event) = events.message().await.expect("an event") {
            kinds.push((event.job, event.kind));
        }
        let submitted = |id| (id, "submitted".to_owned());
        let named = (3, "unreadable".to_owned());
        assert_eq!(
            kinds,
            [
                submitted(1),
                submitted(2),
                submitted(3),
                named,
                submitted(4)
            ]
        );
    });
}

/// A file of a world, its bytes, digest and size.
fn file(world: &World) -> (PathBuf, Vec<u8>, String, u64) {
    let bytes: Vec<u8> = (0..600_000u32)
        .map(|i| (i.wrapping_mul(i) >> 7) as u8)
        .collect();
    let file = world.path("file");
    fs::write(&file, &bytes).expect("a file");
    let (digest, size) = transfer::digest(&file).expect("a digest");
    (file, bytes, digest, size)
}

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
fn a_worker_needs_no_room_for_the_archive_of_a_checkpoint() {
    let disk = Disk::new(".tar");
    let env = disk.env();
    let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut world = World::with_env(&[], &env);
    let mut worker = world.worker("a", &[]);
    disk.set_full(true);
    let config = world.config("training: {max_steps: 100000, checkpoint_every: 10, eval_rows: 2}");
    let id = world.submit(&config, &[]);
    world.wait(id, "a checkpoint that the coordinator has", |job| {
        !job["artifacts"].as_array().is_none_or(Vec::is_empty)
    });
    assert_eq!(worker.stop(), Some(0), "{}", worker.log());
    assert!(
        !disk.has_failed(),
        "an archive was written: {}",
        worker.log()
    );
}

#[test]
fn a_configuration_that_no_worker_could_run_is_refused_whoever_submits_it() {
    run(async {
        let world = World::new(&[]);
        let speaker = Speaker::new(&world);
        let submitted = async |base: &str, kind: JobKind| {
            let text = format!("extends: cpu\nmodel: {{base: {base}}}\ndata: {{train: t.jsonl}}\n");
            let layers = qlora_config::Layers {
                file: Some(("f.yaml".into(), text)),
                env: Vec::new(),
                set: Vec::new(),
            };
            let config_json = layers.resolve().expect("a configuration").json().to_owned();
            let request = SubmitRequest {
                kind: kind.into(),
                config_json,
                ..SubmitRequest::default()
            };
            speaker
                .0
                .jobs
                .clone()
                .submit(request)
                .await
                .expect_err("a job without files")
        };
        for kind in [JobKind::Train, JobKind::Eval] {
            for base in ["gpt2", "llama-3.1-8b", "mistral-7b-instuct"] {
                let refused = submitted(base, kind).await;
                assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
                assert!(
                    refused.message().contains("Q0302") && refused.message().contains(base),
                    "{refused:?}"
                );
            }
            // What only a worker can know is not judged: its files are asked for next.
            for base in [
                "me/mine",
                "/models/mine",
                "mine.gguf",
                "llama-3.1-8b-instruct",
            ] {
                let refused = submitted(base, kind).await;
                assert!(
                    refused.message().contains("no file with the role"),
                    "{base}: {refused:?}"
                );
            }
        }
        assert!(speaker.jobs().await.is_empty());
    });
}
