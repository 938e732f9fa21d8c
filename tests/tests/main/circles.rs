//! Modules of a crate import each other in one direction: no circle, as docs/ARCHITECTURE.md says.

use std::path::{Path, PathBuf};

use qlora_tests::modules::Modules;

/// Crates, with the circles that they still have; a circle that is gone is taken off the list.
const CIRCLES: &[(&str, &[&[&str]])] =
    &[("proto", &[]), ("proto/access", &[]), ("proto/client", &[]), ("proto/telemetry", &[]), ("worker/planner", &[])];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
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
