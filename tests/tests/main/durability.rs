//! What the coordinator acknowledged is there, whatever its disk does; numbers and rows that are
//! not what they should be do not stop it.
#![cfg(target_os = "linux")]

mod speaker;
mod uploads;

use std::collections::HashMap;
use std::fs;

use qlora_proto::synchronize_response::Wanted;
use qlora_proto::*;
use qlora_tests::World;
use sqlx::Connection;
use tonic::Code;

use self::speaker::{Speaker, Upload, file, run};
use crate::disk::Disk;

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
            until_now: true,
            ..SubscribeRequest::default()
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
