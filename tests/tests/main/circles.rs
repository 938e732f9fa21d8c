//! Modules of a crate import each other in one direction: no circle, as docs/ARCHITECTURE.md says;
//! and only the backends of the kernels know what the program is built with.

use std::fs;
use std::path::{Path, PathBuf};

use qlora_tests::modules::{Modules, sources};

/// Crates, with the circles that they still have; a circle that is gone is taken off the list.
const CIRCLES: &[(&str, &[&[&str]])] = &[
    ("proto", &[]),
    ("proto/access", &[]),
    ("proto/client", &[]),
    ("proto/telemetry", &[]),
    ("configs", &[]),
    ("configs/codes", &[]),
    ("proto/files", &[]),
    (
        "coordinator",
        &[&["doors", "doors::origin", "doors::pass", "doors::refusal"]],
    ),
    (
        "coordinator/engine",
        &[&[
            "engine",
            "engine::next",
            "engine::reservation",
            "engine::workers",
        ]],
    ),
    (
        "coordinator/store",
        &[
            &["artifacts::digest", "artifacts::error"],
            &["artifacts::store", "artifacts::upload"],
        ],
    ),
    (
        "coordinator/ctl",
        &[&[
            "cli",
            "commands",
            "commands::artifacts",
            "commands::base",
            "commands::cancel",
            "commands::completions",
            "commands::config",
            "commands::data",
            "commands::eval",
            "commands::explain",
            "commands::jobs",
            "commands::local",
            "commands::logs",
            "commands::metrics",
            "commands::page",
            "commands::plan",
            "commands::quickstart",
            "commands::rows",
            "commands::show",
            "commands::source",
            "commands::stored",
            "commands::submit",
            "commands::watch",
            "commands::workers",
            "context",
            "output::follow",
            "output::waiting",
            "programs",
        ]],
    ),
    ("worker", &[]),
    ("worker/planner", &[]),
    ("worker/data", &[]),
    ("worker/kernels", &[]),
    ("worker/trainer", &[]),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the repository")
        .to_owned()
}

#[test]
fn modules_import_each_other_in_one_direction() {
    let mut all = String::new();
    for (folder, known) in CIRCLES {
        let found = Modules::read(&repository().join(folder).join("src")).circles();
        if found.iter().map(Vec::as_slice).ne(known.iter().copied()) {
            all += &format!("{folder}: {found:?}\n");
        }
    }
    assert!(all.is_empty(), "other circles than the list has:\n{all}");
}

/// Folders of the kernels, with those whose modules they may import.
const LAYERS: &[(&str, &[&str])] = &[("types", &["types"]), ("host", &["types", "host"])];

#[test]
fn data_of_the_kernels_knows_no_device_and_no_backend() {
    let imports = Modules::read(&repository().join("worker/kernels/src")).imports();
    assert!(
        imports.len() > 60,
        "only {} modules are seen",
        imports.len()
    );
    for (layer, allowed) in LAYERS {
        let own: Vec<_> = imports
            .iter()
            .filter(|(module, _)| module.first().is_some_and(|m| m == layer))
            .collect();
        assert!(!own.is_empty(), "there is no {layer}");
        for (module, targets) in own {
            let strange = targets
                .iter()
                .find(|to| !to.first().is_none_or(|top| allowed.contains(&top.as_str())));
            assert!(strange.is_none(), "{module:?} imports {strange:?}");
        }
    }
}

#[test]
fn only_backends_know_what_the_program_is_built_with() {
    let root = repository().join("worker/kernels/src");
    for folder in [root.clone(), repository().join("worker/trainer/src")] {
        for path in sources(&folder) {
            let text = fs::read_to_string(&path).expect("a source");
            let asks = text.lines().any(|line| {
                line.split("//")
                    .next()
                    .unwrap_or_default()
                    .contains("feature = \"")
            });
            assert!(
                path.starts_with(root.join("backend")) || !asks,
                "{} asks for a feature",
                path.display()
            );
        }
    }
}
