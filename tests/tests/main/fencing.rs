//! At no time do two processes train one job, and nobody speaks for an attempt but its worker.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use qlora_client::Client;
use qlora_client::transfer;
use qlora_proto::*;
use qlora_tests::{Program, Proxy, World, launch, wait_until};
use rustix::process::Signal;
use tonic::Code;

use crate::faults::{child_of, is_alive, signal};

const ENDLESS: &str = "training: {max_steps: 100000, checkpoint_every: 10, eval_rows: 2}";

/// Waits until `second` trains, and looks whether the process `first` still does then.
fn first_has_ended_when_second_begins(first: u32, second: &Program) {
    let (begun, alive) = wait_until("a second attempt", || {
        // In this order: the first one may end between the two looks, and not the other way round.
        let alive = is_alive(first);
        child_of(second.pid()).map(|begun| (begun, alive))
    });
    assert!(!alive, "{first} and {begun} train one job");
}

#[test]
fn a_worker_that_is_not_heard_has_stopped_before_another_begins() {
    let mut world = World::new(&["--lease", "5"]);
    let proxy = Proxy::to(&world.address);
    let through = proxy.address.to_string();
    let first = world.worker_at(&through, "a", &[]);
    let id = world.submit(&world.config(ENDLESS), &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    let training = child_of(first.pid()).expect("a training process");
    let second = world.worker("b", &[]);
    proxy.cut();
    first_has_ended_when_second_begins(training, &second);
    world.wait(id, "a second attempt", |job| {
        job["attempts"].as_array().map(Vec::len) == Some(2)
    });
}

/// The files of `from` in a new folder `to`; a lock is another one in a copy.
fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let copy = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &copy);
        } else {
            fs::copy(entry.path(), &copy).expect("a copy");
        }
    }
}

#[test]
fn a_worker_on_a_copied_state_folder_is_refused_and_its_original_trains_on() {
    let world = World::new(&["--lease", "20"]);
    let (state, copy) = (world.path("original"), world.path("copy"));
    let registered = |worker: &Program| {
        wait_until("a registration", || {
            Some(()).filter(|()| worker.log().contains("registered"))
        });
    };
    // The machine is imaged while it is idle, and goes on.
    let mut first = world.worker_in("a", &state, &[]);
    registered(&first);
    assert_eq!(first.stop(), Some(0), "{}", first.log());
    copy_folder(&state, &copy);
    let mut first = world.worker_in("a", &state, &[]);
    let id = world.submit(&world.config(ENDLESS), &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    let training = child_of(first.pid()).expect("a training process");
    // It tries for as long as the lease of one that has ended would hold.
    let mut copied = world.worker_in("a", &copy, &[]);
    assert_eq!(copied.exit_code(), Some(5), "{}", copied.log());
    assert!(
        copied.log().contains("state folder was copied") && copied.log().contains("--name"),
        "{}",
        copied.log()
    );
    assert!(is_alive(training), "{}", first.log());
    assert_eq!(world.job(id)["attempts"].as_array().map(Vec::len), Some(1));
    // The original is taken at once though it was killed and its lease holds.
    first.kill();
    let again = world.worker_in("a", &state, &[]);
    world.wait(id, "a second attempt", |job| {
        job["attempts"].as_array().map(Vec::len) == Some(2)
    });
    wait_until("the end of the first training process", || {
        Some(()).filter(|()| !is_alive(training))
    });
    let log = again.log();
    assert!(
        !log.contains("refuses") && !log.contains("trying again until"),
        "{log}"
    );
}

/// So it is with one of a version that wrote no session down, after an upgrade.
#[test]
fn a_worker_that_cannot_show_its_session_is_taken_once_its_lease_has_ended() {
    // Longer than a busy machine takes to start a worker.
    let world = World::new(&["--lease", "15"]);
    let state = world.path("state-of-a");
    let mut first = world.worker_in("a", &state, &[]);
    // Who was never heard after its registration may have lost the answer, and is taken at once.
    world.ended(world.submit(&world.config("training: {max_steps: 1}"), &[]));
    first.kill();
    fs::remove_file(state.join("sessions.json")).expect("a session");
    let again = world.worker_in("a", &state, &[]);
    let log = wait_until("a registration", || {
        Some(again.log()).filter(|log| log.contains("registered"))
    });
    assert!(log.contains("trying again until"), "{log}");
}

#[test]
fn a_training_process_ends_with_its_lease_though_its_agent_stands_still() {
    let mut world = World::new(&["--lease", "5"]);
    let first = world.worker("a", &[]);
    let id = world.submit(&world.config(ENDLESS), &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    let training = child_of(first.pid()).expect("a training process");
    let second = world.worker("b", &[]);
    signal(first.pid(), Signal::STOP);
    first_has_ended_when_second_begins(training, &second);
    signal(first.pid(), Signal::CONT);
    let job = world.wait(id, "a second attempt", |job| {
        job["attempts"].as_array().map(Vec::len) == Some(2)
    });
    assert!(
        job["attempts"][0]["outcome"]
            .as_str()
            .expect("an outcome")
            .starts_with("lost"),
        "{job:#}"
    );
}

#[test]
fn a_coordinator_that_stood_still_loses_nobody_for_it() {
    let mut world = World::new(&["--lease", "5"]);
    let worker = world.worker("a", &[]);
    wait_until("a worker", || {
        Some(()).filter(|()| worker.log().contains("registered"))
    });
    signal(world.coordinator.pid(), Signal::STOP);
    // Longer than two leases.
    std::thread::sleep(std::time::Duration::from_secs(11));
    signal(world.coordinator.pid(), Signal::CONT);
    wait_until("word of it", || {
        Some(()).filter(|()| world.coordinator.log().contains("stood still"))
    });
    // The worker is there, under the session that it had.
    let id = world.submit(&world.config("training: {max_steps: 2}"), &[]);
    assert_eq!(world.ended(id)["state"], "succeeded");
    assert!(
        !world.coordinator.log().contains("lost"),
        "{}",
        world.coordinator.log()
    );
    assert!(
        !worker.log().contains("registering again"),
        "{}",
        worker.log()
    );
}

#[test]
fn a_worker_leaves_when_it_is_told_to_though_the_coordinator_is_away() {
    let mut world = World::new(&[]);
    let mut worker = world.worker("a", &[]);
    let id = world.submit(&world.config(ENDLESS), &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    let training = child_of(worker.pid()).expect("a training process");
    world.coordinator.kill();
    assert_eq!(worker.stop(), Some(0), "{}", worker.log());
    wait_until("the end of the training process", || {
        Some(()).filter(|()| !is_alive(training))
    });
}

#[tokio::test]
async fn nobody_speaks_for_an_attempt_that_is_anothers() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let id = world.submit(&world.config(ENDLESS), &[]);
    let job = world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    // What everyone is shown of the attempt.
    let token = job["attempts"][0]["attempt"].as_u64().expect("a number");
    let client = world.client();
    let mut workers = client.workers.clone();
    for session in [0, 1, u64::MAX] {
        for token in [token, token << 32, (token << 32) | 1] {
            let artifact = JobArtifact {
                kind: "adapter".into(),
                name: "a".into(),
                digest: "0".repeat(64),
                ..Default::default()
            };
            let report = workers
                .report(ReportRequest {
                    session,
                    token,
                    batch: 1,
                    ..Default::default()
                })
                .await;
            let commit = workers
                .commit_artifact(CommitArtifactRequest {
                    session,
                    token,
                    artifact: Some(artifact),
                })
                .await;
            let finish = FinishRequest {
                session,
                token,
                outcome: Outcome::Succeeded.into(),
                ..Default::default()
            };
            let finish = workers.finish(finish).await;
            let offer = RendezvousOffer {
                addresses: vec!["a:1".into()],
                secret: vec![1; 32],
            };
            let answer = workers
                .rendezvous(RendezvousRequest {
                    session,
                    token,
                    offer: Some(offer),
                    wait_ms: 0,
                })
                .await;
            let file = world.path("stranger");
            fs::write(&file, format!("{session} {token}")).expect("a file");
            let (digest, size) = transfer::digest(&file).expect("a digest");
            let header = UploadHeader {
                digest: digest.clone(),
                size,
                offset: 0,
                token,
                session,
            };
            let whole = UploadRequest {
                header: Some(header),
                data: fs::read(&file).expect("a file"),
            };
            let upload = client
                .artifacts
                .clone()
                .upload(tokio_stream::iter([whole]))
                .await;
            let codes = [
                report.err(),
                commit.err(),
                finish.err(),
                answer.err(),
                upload.err(),
            ];
            let codes = codes.map(|e| e.map(|status| status.code()));
            for code in codes {
                assert!(
                    matches!(code, Some(Code::FailedPrecondition | Code::Unauthenticated)),
                    "{codes:?}"
                );
            }
            let stat = client
                .artifacts
                .clone()
                .stat_artifact(StatArtifactRequest { digest })
                .await
                .expect("a stat");
            assert!(
                !stat.into_inner().complete,
                "what a stranger has sent is taken"
            );
        }
    }
    let job = world.job(id);
    assert_eq!(
        (&job["state"], job["attempts"].as_array().map(Vec::len)),
        (&"running".into(), Some(1))
    );
}

#[tokio::test]
async fn a_coordinator_whose_log_nobody_reads_goes_on() {
    let world = World::new(&[]);
    let (address, state) = (world.path("unread-address"), world.path("unread"));
    let mut unread = launch("qlora-coordinator")
        .args(["--listen", "127.0.0.1:0", "--address-file"])
        .arg(&address)
        .arg("--state-dir")
        .arg(&state)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a coordinator");
    let address = wait_until("an address", || {
        fs::read_to_string(&address).ok().filter(|t| !t.is_empty())
    });
    let client = Client::new(&address, Some(&state.join("token"))).expect("an address");
    let mut jobs = client.jobs;
    // Each is told in the log; a pipe holds 64 KiB.
    for i in 0..3_000 {
        let name = format!("{i} {}", "x".repeat(100));
        let request = SubmitRequest {
            kind: JobKind::Noop.into(),
            name,
            ..Default::default()
        };
        let submitted =
            tokio::time::timeout(std::time::Duration::from_secs(60), jobs.submit(request)).await;
        submitted.expect("an answer").expect("a job");
    }
    unread.kill().expect("a program that can be killed");
    unread.wait().expect("its end");
}
