//! The examples of the library crates run, and say what they are for.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use qlora_tests::binary;
use qlora_tests::repository::root;

/// Crate, example, and what it prints without arguments.
const EXAMPLES: [(&str, &str, &[&str]); 5] = [
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

fn example(name: &str) -> Command {
    let programs = binary("qlora-ctl");
    let path = programs.with_file_name("examples").join(name);
    assert!(
        path.exists(),
        "{} is not there: build it first with `cargo build --release --examples`",
        path.display()
    );
    Command::new(path)
}

#[test]
fn every_example_runs_and_is_in_the_list_of_documents() {
    let page = fs::read_to_string(root().join("docs/README.md")).expect("the list");
    for (folder, name, wanted) in EXAMPLES {
        let output = example(name).output().expect("an example");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {said}");
        for part in wanted {
            assert!(said.contains(part), "{name}: `{part}` is not in:\n{said}");
        }
        let row = format!("[{folder}/examples/{name}.rs](../{folder}/examples/{name}.rs)");
        assert!(page.contains(&row), "docs/README.md has no {row}");
    }
}

#[test]
fn every_example_is_run_and_short() {
    let mut found = BTreeSet::new();
    let folders = [
        "configs",
        "worker/data",
        "worker/planner",
        "worker/kernels",
        "worker/trainer",
    ];
    for folder in folders {
        let entries = fs::read_dir(root().join(folder).join("examples")).expect("examples");
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            let lines = fs::read_to_string(&path)
                .expect("an example")
                .lines()
                .count();
            assert!(lines < 60, "{} has {lines} lines", path.display());
            let name = path
                .file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            found.insert((folder.to_owned(), name));
        }
    }
    let listed = EXAMPLES.map(|(folder, name, _)| (folder.to_owned(), name.to_owned()));
    assert_eq!(found, BTreeSet::from(listed));
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
