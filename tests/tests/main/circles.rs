//! Modules of a crate import each other in one direction: no circle, as docs/ARCHITECTURE.md says;
//! and only the backends of the kernels know what the program is built with.

use std::fs;

use qlora_tests::modules::{Modules, sources};
use qlora_tests::repository::root;

/// Folders of the workspace's crates.
fn crates() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let (_, members) = manifest.split_once("members = [").expect("members");
    let (members, _) = members.split_once(']').expect("the end of the members");
    let quoted = members.split('"').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

#[test]
fn modules_import_each_other_in_one_direction() {
    let mut all = String::new();
    let crates = crates();
    assert!(crates.len() > 15, "only {crates:?} are seen");
    for folder in crates {
        let modules = Modules::read(&root().join(&folder).join("src"));
        assert!(!modules.imports().is_empty(), "{folder}: no modules");
        for circle in modules.circles() {
            all += &format!("{folder}: {}\n", circle.join(", "));
        }
    }
    assert!(all.is_empty(), "modules import each other:\n{all}");
}

/// Folders of the kernels, with those whose modules they may import.
const LAYERS: &[(&str, &[&str])] = &[("types", &["types"]), ("host", &["types", "host"])];

#[test]
fn data_of_the_kernels_knows_no_device_and_no_backend() {
    let imports = Modules::read(&root().join("worker/kernels/src")).imports();
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
    let kernels = root().join("worker/kernels/src");
    let above = [
        "worker/src",
        "worker/trainer/src",
        "worker/planner/src",
        "worker/data/src",
    ];
    let above = above.map(|folder| root().join(folder));
    for folder in above.iter().chain([&kernels]) {
        let sources = sources(folder);
        assert!(!sources.is_empty(), "{} is empty", folder.display());
        for path in sources {
            let text = fs::read_to_string(&path).expect("a source");
            let asks = text.lines().any(|line| {
                line.split("//")
                    .next()
                    .unwrap_or_default()
                    .contains("feature = \"")
            });
            assert!(
                path.starts_with(kernels.join("backend")) || !asks,
                "{} asks for a feature",
                path.display()
            );
        }
    }
}
