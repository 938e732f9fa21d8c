//! Who may import whom: the table of docs/ARCHITECTURE.md, held against `cargo metadata`.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Crates of this workspace that each crate may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("qlora-proto", &[]),
    ("qlora-telemetry", &[]),
    ("qlora-access", &[]),
    ("qlora-client", &["qlora-access", "qlora-proto", "qlora-telemetry"]),
    ("qlora-config", &[]),
    ("qlora-engine", &[]),
    ("qlora-store", &["qlora-engine"]),
    ("qlora-planner", &["qlora-config"]),
    ("qlora-data", &[]),
    ("qlora-kernels", &[]),
    ("qlora-trainer", &["qlora-kernels", "qlora-data", "qlora-planner", "qlora-config"]),
    (
        "qlora-coordinator",
        &[
            "qlora-access",
            "qlora-engine",
            "qlora-store",
            "qlora-proto",
            "qlora-telemetry",
            "qlora-config",
            "qlora-planner",
        ],
    ),
    ("qlora-ctl", &["qlora-proto", "qlora-client", "qlora-telemetry", "qlora-config", "qlora-planner", "qlora-data"]),
    (
        "qlora-worker",
        &["qlora-trainer", "qlora-planner", "qlora-config", "qlora-proto", "qlora-client", "qlora-telemetry"],
    ),
    ("qlora-tests", &["qlora-config", "qlora-client", "qlora-proto", "qlora-data", "qlora-trainer"]),
];

/// Crates that must stay without input and output.
const PURE: &[&str] = &["qlora-engine", "qlora-planner", "qlora-data", "qlora-config"];
const IMPURE: &[&str] = &["tokio", "tonic", "sqlx", "candle-core", "axum", "ureq", "rand"];
const NO_NETWORK: &[&str] = &["qlora-trainer", "qlora-kernels"];

fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata");
    let names = |package: &Value| {
        let own = package["dependencies"].as_array().expect("dependencies").iter();
        let normal = own.filter(|d| d["kind"].is_null() || package["name"] == "qlora-tests");
        normal.filter_map(|d| d["name"].as_str().map(str::to_owned)).collect()
    };
    let packages = metadata["packages"].as_array().expect("packages").iter();
    packages.map(|p| (p["name"].as_str().expect("a name").to_owned(), names(p))).collect()
}

#[test]
fn every_crate_imports_only_what_it_may() {
    let found = dependencies();
    assert_eq!(found.len(), ALLOWED.len(), "a crate is missing from the table");
    for (name, allowed) in ALLOWED {
        let own = found[*name].iter().filter(|d| d.starts_with("qlora-"));
        for dependency in own {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not import {dependency}");
        }
    }
    for name in PURE {
        assert!(found[*name].iter().all(|d| !IMPURE.contains(&d.as_str())), "{name} must stay pure");
    }
    for name in NO_NETWORK {
        assert!(found[*name].iter().all(|d| d != "tokio" && d != "tonic"), "{name} must not know the network");
    }
}
