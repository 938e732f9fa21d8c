//! The examples of the library crates run, and say what they are for.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use qlora_tests::repository::{files, root};
use qlora_tests::{World, binary, forget_settings};

/// Crate, example, and what it prints without arguments.
const EXAMPLES: [(&str, &str, &[&str]); 10] = [
    (
        "configs/codes",
        "error_codes",
        &["| Q0001 | The command line asks for something that cannot be done."],
    ),
    (
        "coordinator/engine",
        "lost_worker",
        &[
            "36 s lost (first): its lease ended",
            "36 s started (second): attempt 2",
            "the second worker resumes from step 100",
            "40 s succeeded",
        ],
    ),
    (
        "coordinator/store",
        "restart",
        &[
            "job 1 is there: kept",
            "artifact complete: true, 10 bytes",
            "from byte 3 on: adapter",
        ],
    ),
    (
        "proto/access",
        "find_token",
        &["found: true", "after it has stopped: Nothing"],
    ),
    (
        "proto/files",
        "publish",
        &[
            "while both are written, it is there: false",
            "the second is refused: the name is taken",
            "replaced: of the third",
        ],
    ),
    (
        "configs",
        "check_config",
        &[
            "model: smollm2-135m-instruct",
            "adapter: rank 16, scale 2",
            "SHA-256",
        ],
    ),
    (
        "worker/data",
        "loss_mask",
        &[
            "How warm is it in Lima?",
            ">>>It is 19 degrees.<|im_end|><<<",
        ],
    ),
    (
        "worker/planner",
        "plan_memory",
        &[
            "8 GiB: needs",
            "fits with data.max_seq_len: ",
            "80 GiB: fits",
        ],
    ),
    (
        "worker/kernels",
        "nf4_matmul",
        &[
            "2097152 bytes in f32",
            "relative error of the product: 0.09",
        ],
    ),
    (
        "worker/trainer",
        "model_shape",
        &["layers: 2", "parameters of linear layers:"],
    ),
];

/// The example that needs a coordinator and a worker.
const CONNECTED: (&str, &str) = ("proto/client", "submit_noop");

fn example(name: &str) -> Command {
    let programs = binary("qlora-ctl");
    let path = programs.with_file_name("examples").join(name);
    assert!(
        path.exists(),
        "{} is not there: build it first with `cargo build --release --examples`",
        path.display()
    );
    let mut command = Command::new(path);
    forget_settings(&mut command);
    command
}

/// Every example, with the folder of its crate.
fn listed() -> BTreeSet<(String, String)> {
    let alone = EXAMPLES.map(|(folder, name, _)| (folder, name));
    alone
        .into_iter()
        .chain([CONNECTED])
        .map(|(folder, name)| (folder.to_owned(), name.to_owned()))
        .collect()
}

/// Runs an example to its end, which must be a good one, and holds what it prints against `wanted`.
fn says(name: &str, command: &mut Command, wanted: &[&str]) {
    let output = command.output().expect("an example");
    let said = String::from_utf8_lossy(&output.stdout);
    let fault = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}{fault}");
    for part in wanted {
        assert!(said.contains(part), "{name}: `{part}` is not in:\n{said}");
    }
}

#[test]
fn every_example_that_needs_nothing_runs() {
    let home = tempfile::tempdir().expect("a folder");
    for (_, name, wanted) in EXAMPLES {
        // A record of a token is left in no folder of the user's.
        says(
            name,
            example(name).env("XDG_DATA_HOME", home.path()),
            wanted,
        );
    }
}

#[test]
fn the_example_of_a_client_follows_its_job_and_says_what_it_needs() {
    let (_, name) = CONNECTED;
    let mut world = World::new(&[]);
    let _worker = world.worker("worker", &[]);
    let mut connected = example(name);
    connected.arg(&world.address).env_remove("QLORA_TOKEN");
    says(
        name,
        &mut connected,
        &["job 1 is durable", "job 1: succeeded"],
    );

    // Port 1 has no listener.
    let output = example(name).arg("127.0.0.1:1").output();
    let output = output.expect("an example");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success());
    assert!(said.contains("start `qlora-coordinator` first"), "{said}");
}

#[test]
fn every_example_is_in_the_list_of_documents() {
    let page = fs::read_to_string(root().join("docs/README.md")).expect("the list");
    for (folder, name) in listed() {
        let row = format!("[{folder}/examples/{name}.rs](../{folder}/examples/{name}.rs)");
        assert!(page.contains(&row), "docs/README.md has no {row}");
    }
}

#[test]
fn every_example_is_run_and_short() {
    let mut found = BTreeSet::new();
    for file in files().iter().filter(|file| file.ends_with(".rs")) {
        let Some((folder, name)) = file.split_once("/examples/") else {
            continue;
        };
        let text = fs::read_to_string(root().join(file)).expect("an example");
        let lines = text.lines().count();
        // Records of the engine have many fields.
        let most = if folder == "coordinator/engine" {
            175
        } else {
            75
        };
        assert!(lines < most, "{file} has {lines} lines");
        let name = name.trim_end_matches(".rs").to_owned();
        found.insert((folder.to_owned(), name));
    }
    assert_eq!(found, listed());
}

#[test]
fn a_configuration_that_is_not_valid_ends_its_example_with_each_fault() {
    let broken = root().join("configs/invalid/unknown_keys.yaml");
    let output = example("check_config")
        .arg(broken)
        .output()
        .expect("an example");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success());
    assert!(said.contains("did you mean `data.train`?"), "{said}");
    assert!(
        said.contains("did you mean `training.learning_rate`?"),
        "{said}"
    );
}
