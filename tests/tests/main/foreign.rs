//! Programs that others wrote against ours: gRPC from Python, and a real Prometheus with the
//! Grafana dashboard.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use qlora_tests::repository::root;
use qlora_tests::{World, wait_until};

/// A script of `tests/python` in the environment that `tests/run` makes.
fn command(script: &str, args: &[&str]) -> Command {
    let python = std::env::var("QLORA_TEST_PYTHON")
        .expect("QLORA_TEST_PYTHON is not set: run tests/run, which installs what this test needs");
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("python")
        .join(script);
    let mut command = Command::new(python);
    command.arg(script).args(args);
    command
}

pub fn python(script: &str, args: &[&str]) -> Output {
    command(script, args).output().expect("python runs")
}

pub fn passes(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

#[test]
fn python_submits_and_follows_with_generated_stubs() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let proto = root().join("proto");
    let token = world.path("state/token");
    let said = passes(&python(
        "submit_and_follow.py",
        &[
            &world.address,
            &proto.to_string_lossy(),
            &token.to_string_lossy(),
        ],
    ));
    assert!(said.contains("JOB_STATE_SUCCEEDED"), "{said}");
}

#[test]
fn every_query_of_the_dashboard_returns_data_from_a_real_prometheus() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let config = world.config("training: {max_steps: 1000000, eval_rows: 2}");
    let id = world.submit(&config, &[]);
    world.wait(id, "a first step", |job| job["step"].as_u64() > Some(0));
    let folder = world.path("prometheus");
    std::fs::create_dir_all(&folder).expect("a folder");
    let dashboard = root().join("deploy/grafana/qlora.json");
    let token = world.path("state/token").to_string_lossy().into_owned();
    let args = [
        world.address.as_str(),
        &dashboard.to_string_lossy(),
        &folder.to_string_lossy(),
        &token,
    ];
    // A dispatch while Prometheus looks: rates need a change.
    let proto = root().join("proto");
    let scraped = std::thread::scope(|scope| {
        let scraped = scope.spawn(|| python("dashboard.py", &args));
        let _other = world_worker(&world);
        passes(&python(
            "submit_and_follow.py",
            &[&world.address, &proto.to_string_lossy(), &token],
        ));
        // Rates need dispatches between two scrapes, whenever Prometheus comes to make them.
        while !scraped.is_finished() {
            let job = world.submit(&config, &["--set", "training.max_steps=2"]);
            world.ended(job);
        }
        scraped.join().expect("the script")
    });
    let said = passes(&scraped);
    assert!(said.contains("queries returned data"), "{said}");
}

/// A second worker, since the first is busy.
fn world_worker(world: &World) -> qlora_tests::Program {
    world.worker_in("b", &world.path("worker-b"), &[])
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a port")
        .port()
}

struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn traces_and_metrics_of_all_three_programs_reach_an_otlp_receiver() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("receiver.log");
    let (grpc, http) = (free_port(), free_port());
    let mut receiver = command("otlp_receiver.py", &[&grpc.to_string(), &http.to_string()]);
    receiver
        .stdout(File::create(&log).expect("a log"))
        .stderr(Stdio::null());
    let _receiver = Receiver(receiver.spawn().expect("the receiver starts"));
    wait_until("the receiver", || {
        TcpStream::connect(("127.0.0.1", grpc)).ok()
    });

    let endpoint = format!("http://127.0.0.1:{grpc}");
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "300"),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
    ];
    let mut world = World::with_env(&[], &env);
    let _worker = world.worker("a", &[]);
    let config = world.config("training: {max_steps: 300, eval_rows: 2}");
    let id = world.submit(&config, &[]);
    world.ended(id);

    let has = |text: &str, wanted: &str| text.contains(wanted).then_some(());
    for name in ["qlora-coordinator", "qlora-worker", "qlora-ctl"] {
        wait_until(name, || {
            has(
                &fs::read_to_string(&log).ok()?,
                &format!("service.name: Str({name})"),
            )
        });
    }
    for name in [
        "qlora.jobs",
        "qlora.steps",
        "qlora.step.duration",
        "qlora.ctl.duration",
    ] {
        wait_until(name, || {
            has(&fs::read_to_string(&log).ok()?, &format!("Name: {name}\n"))
        });
    }
    // One trace goes from the command line through the coordinator to the worker.
    wait_until("a trace of four spans", || {
        let text = fs::read_to_string(&log).ok()?;
        let ids: Vec<&str> = text
            .lines()
            .filter_map(|l| {
                l.split_once("Trace ID")?
                    .1
                    .split_once(':')
                    .map(|(_, id)| id.trim())
            })
            .collect();
        ids.iter()
            .any(|id| ids.iter().filter(|other| *other == id).count() >= 4)
            .then_some(())
    });
}
