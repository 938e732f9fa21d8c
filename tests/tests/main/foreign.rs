//! Programs that others wrote against ours: gRPC from Python, and a real Prometheus with the Grafana dashboard.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use qlora_tests::World;

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a script of `tests/python` in the environment that `tests/run` makes.
fn python(script: &str, args: &[&str]) -> Output {
    let python = std::env::var("QLORA_TEST_PYTHON")
        .expect("QLORA_TEST_PYTHON is not set: run tests/run, which installs what this test needs");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script);
    Command::new(python).arg(script).args(args).output().expect("python runs")
}

fn passes(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn python_submits_and_follows_with_generated_stubs() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let proto = repository().join("proto");
    let said = passes(&python("submit_and_follow.py", &[&world.address, &proto.to_string_lossy()]));
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
    let dashboard = repository().join("deploy/grafana/qlora.json");
    let args = [world.address.as_str(), &dashboard.to_string_lossy(), &folder.to_string_lossy()];
    // A dispatch while Prometheus looks: rates need a change.
    let proto = repository().join("proto");
    let scraped = std::thread::scope(|scope| {
        let scraped = scope.spawn(|| python("dashboard.py", &args));
        let _other = world_worker(&world);
        passes(&python("submit_and_follow.py", &[&world.address, &proto.to_string_lossy()]));
        for _ in 0..5 {
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
