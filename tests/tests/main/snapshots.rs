//! Texts that users see, as a whole, in files that a review shows: a change of wording is seen
//! where it is meant and where it is not. `just bless` writes them.

use std::fs;
use std::path::PathBuf;

use expect_test::expect_file;
use qlora_config::{Layers, json_schema};
use qlora_tests::launch;
use qlora_tests::repository::root;

use crate::options::{PROGRAMS, command_names, help_text};

fn snapshot(name: &str) -> PathBuf {
    root().join("tests/snapshots").join(name)
}

/// The help of a command and of all below it.
fn helps(words: &[&str], all: &mut String) {
    let text = help_text(words);
    let lines = text.lines().map(|line| line.trim_end().to_owned() + "\n");
    all.push_str(&format!(
        "$ {} --help\n{}\n",
        words.join(" "),
        lines.collect::<String>()
    ));
    for command in command_names(&text).iter().filter(|name| *name != "help") {
        helps(&[words, &[command]].concat(), all);
    }
}

#[test]
fn the_help_of_every_command_is_the_recorded_one() {
    for program in PROGRAMS {
        let mut all = String::new();
        helps(&[program], &mut all);
        expect_file![snapshot(&format!("help/{program}.txt"))].assert_eq(&all);
    }
}

#[test]
fn every_broken_configuration_gets_the_recorded_message() {
    let folder = root().join("configs/invalid");
    let entries = fs::read_dir(folder).expect("configs/invalid");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let mut all = String::new();
    for path in paths {
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&path).expect("a file");
        let layers = Layers {
            file: Some((name.clone(), text)),
            ..Layers::default()
        };
        let fault = layers.resolve().expect_err(&name);
        all.push_str(&format!("== {name}\n{fault}\n\n"));
    }
    expect_file![snapshot("invalid_configurations.txt")].assert_eq(&all);
}

/// Stdout of `qlora-ctl` with `args`, in the repository.
fn printed(args: &[&str]) -> String {
    let output = launch("qlora-ctl")
        .args(args)
        .current_dir(root())
        .output()
        .expect("qlora-ctl");
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn plans_of_the_shipped_configurations_are_the_recorded_ones() {
    let mut all = String::new();
    for (config, memory) in [
        ("configs/training_config_h100.yaml", "79"),
        ("configs/training_config_m4.yaml", "16"),
        ("configs/quickstart.yaml", "8"),
    ] {
        let args = ["plan", config, "--memory", memory];
        let text = printed(&args);
        all.push_str(&format!("$ qlora-ctl {}\n{text}\n", args.join(" ")));
    }
    expect_file![snapshot("plans.txt")].assert_eq(&all);
}

/// It is what stands in the reference, in every form of output.
#[test]
fn the_schema_that_is_printed_is_that_of_the_code() {
    let wanted = format!("{:#}\n", json_schema());
    for args in [&["config", "schema"][..], &["config", "schema", "--json"]] {
        assert_eq!(printed(args), wanted, "{args:?}");
    }
}
