//! Artifacts in a bucket, on a server of S3 that others wrote.

use std::fs;
use std::path::{Path, PathBuf};

use qlora_proto::StatArtifactRequest;
use qlora_tests::{BUCKET, Postgres, Program, Proxy, S3Server, World, try_http, wait_until};
use rustix::process::Signal;

use crate::faults::{adapter, checkpointed, signal, succeeded_once};

/// Adapters of more than one part of an upload, with a checkpoint every ten steps.
const LARGE: &str =
    "lora: {r: 1024}\ntraining: {max_steps: 30, checkpoint_every: 10, eval_rows: 2}";
/// Every part of an upload of this size but the last.
const PART: usize = 8 << 20;

fn server() -> S3Server {
    S3Server::start(&Path::new(env!("CARGO_MANIFEST_DIR")).join("python/s3_server.py"))
}

/// A coordinator with artifacts in a bucket, which it reaches by the address `endpoint`.
fn world(endpoint: &str) -> World {
    let place = format!("s3://{BUCKET}/of-a-test/");
    let env = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "us-east-1"),
    ];
    World::with_env(&["--artifacts", &place], &env)
}

/// The record of an upload of which the bucket has one part.
fn record_of_one_part(world: &World) -> Option<PathBuf> {
    let entries = fs::read_dir(world.path("state/uploads")).ok()?;
    let mut records = entries.filter_map(|entry| Some(entry.ok()?.path()));
    records.find(|path| fs::read_to_string(path).is_ok_and(|text| text.lines().count() == 2))
}

/// Kills the coordinator in the middle of an upload of `worker`, once `proxy` has cut it off, and
/// starts it again. The upload is there and waits.
fn kill_in_an_upload(world: &mut World, worker: &Program, proxy: &Proxy) {
    let record = wait_until("an upload that is cut off after a part", || {
        record_of_one_part(world).filter(|_| proxy.is_cut())
    });
    world.coordinator.kill();
    // What it says next, it says once somebody has looked.
    signal(worker.pid(), Signal::STOP);
    proxy.mend();
    world.restart_coordinator();
    let name = record.file_name().and_then(|name| name.to_str());
    let digest = name
        .and_then(|name| name.split('.').next())
        .expect("a digest");
    let digest = digest.to_owned();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let stat = runtime.block_on(async {
        let mut artifacts = world.client().artifacts;
        artifacts
            .stat_artifact(StatArtifactRequest { digest })
            .await
    });
    let stat = stat.expect("a stat").into_inner();
    assert!(!stat.complete);
    assert_eq!(stat.received, PART as u64);
    signal(worker.pid(), Signal::CONT);
}

#[test]
fn a_coordinator_that_is_killed_in_an_upload_to_a_bucket_goes_on_with_it() {
    let server = server();
    let endpoint = server.address.trim_start_matches("http://");
    let proxy = Proxy::to(endpoint);
    let mut world = world(&format!("http://{}", proxy.address));
    let config = world.config(LARGE);
    let killed = world.submit(&config, &[]);
    // Of the first checkpoint, a part and the beginning of the next one.
    proxy.cut_after(PART + (2 << 20));
    let worker = world.worker("a", &[]);
    kill_in_an_upload(&mut world, &worker, &proxy);
    let job = world.ended(killed);
    assert!(checkpointed(&job), "{job:#}");
    succeeded_once(&job);
    let attempts = job["attempts"].as_array().map(Vec::len);
    assert_eq!(attempts, Some(1), "the trouble of a bucket ends no attempt");
    let whole = world.submit(&config, &[]);
    succeeded_once(&world.ended(whole));
    assert!(
        adapter(&world, killed) == adapter(&world, whole),
        "the adapter is another one than without the kill"
    );
    assert!(
        !world.path("state/artifacts").exists(),
        "artifacts lie on this disk too"
    );
}

#[test]
fn a_start_with_a_bucket_that_is_not_there_is_refused_with_the_way_out() {
    let server = server();
    let folder = tempfile::tempdir().expect("a folder");
    let output = qlora_tests::launch("qlora-coordinator")
        .args(["--listen", "127.0.0.1:0", "--artifacts", "s3://nowhere"])
        .arg("--state-dir")
        .arg(folder.path())
        .env("AWS_ENDPOINT_URL", &server.address)
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .output()
        .expect("a coordinator");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    for part in ["Q0602", "s3://nowhere", "no such bucket", "help:"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// What a coordinator says that is refused a start with `args`.
fn refused(args: &[&str]) -> String {
    let mut coordinator = qlora_tests::launch("qlora-coordinator");
    coordinator.args(["--listen", "127.0.0.1:0"]).args(args);
    let output = coordinator.output().expect("a coordinator");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    for part in ["Q0602", "qlora-owner", "help:"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    said
}

#[test]
fn a_coordinator_with_another_database_is_refused_the_artifacts_of_one_that_runs() {
    let server = Postgres::start();
    let mut world = World::new(&["--database", &server.database("jobs")]);
    let _worker = world.worker("a", &[]);
    let config = world.config("training: {max_steps: 2}");
    let id = world.submit(&config, &[]);
    succeeded_once(&world.ended(id));
    let state = world.path("state").to_string_lossy().into_owned();
    // It has forgotten its database, and has the folder of one that has it.
    let said = refused(&["--state-dir", &state]);
    assert!(said.contains("nothing was removed"), "{said}");
    // It has the database, and a folder of its own.
    let own = world.path("own").to_string_lossy().into_owned();
    let said = refused(&["--state-dir", &own, "--database", &server.url("jobs")]);
    assert!(said.contains("nothing was changed"), "{said}");
}

#[test]
fn a_standby_with_a_folder_of_its_own_says_what_it_waits_for_and_ends_once_there_are_artifacts() {
    let server = Postgres::start();
    let mut world = World::new(&["--database", &server.database("jobs")]);
    let own = world.path("own").to_string_lossy().into_owned();
    let (mut standby, address) = world.another_coordinator_with("own", &["--artifacts", &own]);
    wait_until("word of the mark", || {
        let log = standby.log();
        log.contains("waiting for the leader to mark").then_some(())
    });
    let answer = try_http(&address, "GET", "/healthz", &[], b"").expect("an answer");
    assert_eq!(answer.status, 503);
    let _worker = world.worker("a", &[]);
    let config = world.config("training: {max_steps: 2}");
    let id = world.submit(&config, &[]);
    succeeded_once(&world.ended(id));
    assert_eq!(standby.exit_code(), Some(3), "{}", standby.log());
    assert!(standby.log().contains("Q0602"), "{}", standby.log());
}

#[test]
fn a_standby_that_takes_over_while_the_bucket_is_silent_refuses_calls_and_then_leads() {
    let (database, bucket) = (Postgres::start(), server());
    let proxy = Proxy::to(bucket.address.trim_start_matches("http://"));
    let place = format!("s3://{BUCKET}/of-a-takeover");
    let endpoint = format!("http://{}", proxy.address);
    let env = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "us-east-1"),
    ];
    let url = database.database("jobs");
    let mut world = World::with_env(&["--database", &url, "--artifacts", &place], &env);
    let (standby, other) = world.another_coordinator("standby");
    proxy.cut();
    world.coordinator.kill();
    wait_until("a takeover", || {
        standby.log().contains("leads from now on").then_some(())
    });
    let health = || try_http(&other, "GET", "/healthz", &[], b"").map_or(0, |answer| answer.status);
    wait_until("a refusal of calls", || (health() == 503).then_some(()));
    proxy.mend();
    wait_until("the standby to lead", || (health() == 200).then_some(()));
}
