//! What docs/ARCHITECTURE.md says, held against what there is: who may import whom, where things
//! lie, and which tests hold which invariant.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use qlora_tests::repository::{files, root};

use serde_json::Value;

/// Crates of this workspace that each crate may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("qlora-proto", &[]),
    ("qlora-telemetry", &["qlora-codes"]),
    ("qlora-access", &[]),
    (
        "qlora-client",
        &[
            "qlora-codes",
            "qlora-files",
            "qlora-access",
            "qlora-proto",
            "qlora-telemetry",
        ],
    ),
    ("qlora-codes", &[]),
    ("qlora-files", &[]),
    ("qlora-config", &["qlora-codes"]),
    ("qlora-engine", &["qlora-codes"]),
    ("qlora-store", &["qlora-codes", "qlora-engine"]),
    ("qlora-planner", &["qlora-config"]),
    ("qlora-data", &["qlora-codes", "qlora-files"]),
    ("qlora-kernels", &[]),
    (
        "qlora-trainer",
        &[
            "qlora-codes",
            "qlora-files",
            "qlora-kernels",
            "qlora-data",
            "qlora-planner",
            "qlora-config",
        ],
    ),
    (
        "qlora-coordinator",
        &[
            "qlora-codes",
            "qlora-access",
            "qlora-engine",
            "qlora-store",
            "qlora-proto",
            "qlora-telemetry",
            "qlora-config",
            "qlora-planner",
        ],
    ),
    (
        "qlora-ctl",
        &[
            "qlora-codes",
            "qlora-files",
            "qlora-proto",
            "qlora-client",
            "qlora-telemetry",
            "qlora-config",
            "qlora-planner",
            "qlora-data",
        ],
    ),
    (
        "qlora-worker",
        &[
            "qlora-codes",
            "qlora-trainer",
            "qlora-planner",
            "qlora-config",
            "qlora-proto",
            "qlora-client",
            "qlora-telemetry",
        ],
    ),
    (
        "qlora-tests",
        &[
            "qlora-codes",
            "qlora-config",
            "qlora-client",
            "qlora-proto",
            "qlora-data",
            "qlora-trainer",
        ],
    ),
];

/// Crates that must stay without input and output.
const PURE: &[&str] = &[
    "qlora-codes",
    "qlora-engine",
    "qlora-planner",
    "qlora-data",
    "qlora-config",
];
const IMPURE: &[&str] = &[
    "tokio",
    "tonic",
    "sqlx",
    "candle-core",
    "axum",
    "ureq",
    "rand",
];
const NO_NETWORK: &[&str] = &["qlora-trainer", "qlora-kernels"];

fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata");
    let names = |package: &Value| {
        let own = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter();
        let normal = own.filter(|d| d["kind"].is_null() || package["name"] == "qlora-tests");
        normal
            .filter_map(|d| d["name"].as_str().map(str::to_owned))
            .collect()
    };
    let packages = metadata["packages"].as_array().expect("packages").iter();
    packages
        .map(|p| (p["name"].as_str().expect("a name").to_owned(), names(p)))
        .collect()
}

#[test]
fn every_crate_imports_only_what_it_may() {
    let found = dependencies();
    assert_eq!(
        found.len(),
        ALLOWED.len(),
        "a crate is missing from the table"
    );
    for (name, allowed) in ALLOWED {
        let own = found[*name].iter().filter(|d| d.starts_with("qlora-"));
        for dependency in own {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} must not import {dependency}"
            );
        }
    }
    for name in PURE {
        assert!(
            found[*name].iter().all(|d| !IMPURE.contains(&d.as_str())),
            "{name} must stay pure"
        );
    }
    for name in NO_NETWORK {
        assert!(
            found[*name].iter().all(|d| d != "tokio" && d != "tonic"),
            "{name} must not know the network"
        );
    }
}

fn document() -> String {
    fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the document")
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Files and folders of the repository, by their paths in it.
fn tree() -> Vec<String> {
    let files = files();
    let folders = files
        .iter()
        .flat_map(|file| Path::new(file).ancestors().skip(1));
    let folders: Vec<String> = folders
        .map(|folder| format!("{}/", folder.display()))
        .collect();
    files.into_iter().chain(folders).collect()
}

/// Whether `text` says where something lies, and not what a thing is called.
fn is_path(text: &str) -> bool {
    let ends = [".rs", ".md", ".cu", ".cpp", ".proto", ".sh", ".yaml"];
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./*".contains(c);
    text.chars().all(plain) && (text.contains('/') || ends.iter().any(|end| text.ends_with(end)))
}

/// Whether `path`, given from the root or from some folder on, is in `tree`; `*` stands for a part
/// of a name.
fn is_there(path: &str, tree: &[String]) -> bool {
    let fits = |there: &String| {
        let there = there.trim_end_matches('/');
        let wanted = path.trim_end_matches('/');
        match wanted.split_once('*') {
            Some((folder, end)) => there.contains(folder) && there.ends_with(end),
            None => there == wanted || there.ends_with(&format!("/{wanted}")),
        }
    };
    tree.iter().any(fits)
}

/// Crates whose lints refuse the clock, the environment, files, networks and chance.
const LINTED: [&str; 3] = ["configs", "coordinator/engine", "worker/planner"];

#[test]
fn the_pure_crates_have_the_same_lints() {
    let lints = LINTED
        .map(|folder| fs::read_to_string(root().join(folder).join("clippy.toml")).expect(folder));
    assert!(lints.iter().all(|text| *text == lints[0]));
    for refused in [
        "time::SystemTime::now",
        "time::Instant::now",
        "thread::sleep",
        "fs::read",
        "env::var",
        "net::TcpStream",
    ] {
        assert!(
            lints[0].contains(&format!("\"std::{refused}\"")),
            "{refused}"
        );
    }
}

#[test]
fn every_path_that_the_architecture_names_is_there() {
    let (text, tree) = (document(), tree());
    // What begins with a slash is an address of the coordinator.
    let named: Vec<&str> = quoted(&text)
        .into_iter()
        .filter(|text| is_path(text) && !text.starts_with('/'))
        .collect();
    assert!(named.len() > 60, "{named:?}");
    let missing: Vec<&&str> = named.iter().filter(|path| !is_there(path, &tree)).collect();
    assert!(
        missing.is_empty(),
        "the document names {missing:?}, which are not there"
    );
    assert!(
        !is_there("coordinator/engine/src/nowhere.rs", &tree) && !is_there("where/*.rs", &tree)
    );
}

/// The numbered invariants, each with what stands behind its `Tests:`.
fn invariants(document: &str) -> Vec<(usize, String)> {
    let section = document
        .split("\n## ")
        .find(|s| s.starts_with("Invariants"))
        .expect("the section");
    let mut found: Vec<(usize, String)> = Vec::new();
    for line in section.lines().skip(1) {
        let number = line
            .split_once(". **")
            .and_then(|(number, _)| number.parse().ok());
        match (number, found.last_mut()) {
            (Some(number), _) => found.push((number, line.to_owned())),
            (None, Some((_, text))) => *text += &format!(" {}", line.trim()),
            (None, None) => {}
        }
    }
    found
        .into_iter()
        .map(|(n, text)| {
            (
                n,
                text.split_once("Tests:")
                    .map_or("", |(_, tests)| tests)
                    .to_owned(),
            )
        })
        .collect()
}

/// What is wrong with the tests that an invariant names, each behind the file that it is in.
fn faults(number: usize, tests: &str) -> Vec<String> {
    let (mut source, mut named, mut faults) = (None, 0, Vec::new());
    for word in quoted(tests) {
        if is_path(word) {
            source = fs::read_to_string(root().join(word)).ok();
            faults.extend(
                source
                    .is_none()
                    .then(|| format!("invariant {number}: there is no file {word}")),
            );
            continue;
        }
        named += 1;
        let text = source.as_deref().unwrap_or_default();
        // Between the attribute and the name nothing else begins.
        let mut before = text
            .split_once(&format!("fn {word}("))
            .map(|(before, _)| before.rsplit(['}', ';']))
            .into_iter()
            .flatten();
        if !before
            .next()
            .is_some_and(|before| before.contains("#[test]") || before.contains("#[tokio::test"))
        {
            faults.push(format!("invariant {number}: there is no test {word}"));
        }
    }
    faults.extend((named == 0).then(|| format!("invariant {number} names no test")));
    faults
}

#[test]
fn every_invariant_is_held_by_tests_that_are_there() {
    let found = invariants(&document());
    let numbers: Vec<usize> = found.iter().map(|(number, _)| *number).collect();
    assert!(
        numbers.len() > 10 && numbers.iter().copied().eq(1..=numbers.len()),
        "{numbers:?}"
    );
    let faults: Vec<String> = found
        .iter()
        .flat_map(|(number, tests)| faults(*number, tests))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn an_invariant_without_a_test_is_noticed() {
    let text = "x\n## Invariants\n\n1. **One.** a\n   b\n2. **Two.** c\n   Tests: `tests/tests/main/house.rs`: `no_such_test`,\n   `is_path`.\n3. **Three.** Tests: `no/file.rs`: `x`.\n\n## y\n4. **Four.**\n";
    let found = invariants(text);
    assert_eq!(
        found.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let faults: Vec<Vec<String>> = found
        .iter()
        .map(|(number, tests)| faults(*number, tests))
        .collect();
    assert_eq!(faults[0], ["invariant 1 names no test"]);
    assert_eq!(
        faults[1],
        [
            "invariant 2: there is no test no_such_test",
            "invariant 2: there is no test is_path"
        ]
    );
    assert_eq!(
        faults[2],
        [
            "invariant 3: there is no file no/file.rs",
            "invariant 3: there is no test x"
        ]
    );
}
