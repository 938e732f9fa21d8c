//! What docs/ARCHITECTURE.md says, held against what there is: who may import whom, where things
//! lie, which tests hold which invariant, and which meet which threat.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use qlora_tests::repository::{files, root};

use serde_json::Value;

/// A crate as the document's table or as cargo has it: its folder, and what it imports of ours.
#[derive(Debug, PartialEq)]
pub struct Crate {
    pub folder: String,
    imports: BTreeSet<String>,
}

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

/// The crates of the document's table by their names.
pub fn table(document: &str) -> BTreeMap<String, Crate> {
    let section = document
        .split("\n## ")
        .find(|s| s.starts_with("Code map"))
        .expect("the section");
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, folder, name, _, imports, _] = cells[..] else {
            panic!("not four cells: {line}")
        };
        let imports = imports.split(',').map(str::trim).filter(|i| !i.is_empty());
        let own = Crate {
            folder: folder.trim_matches('`').to_owned(),
            imports: imports.map(|import| format!("qlora-{import}")).collect(),
        };
        (name.to_owned(), own)
    };
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(row).collect()
}

/// The packages of the workspace as `cargo metadata` tells them.
fn packages() -> (String, Vec<Value>) {
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
    let root = metadata["workspace_root"].as_str().expect("the root");
    let packages = metadata["packages"].as_array().expect("packages");
    (root.to_owned(), packages.clone())
}

/// What a package depends on; what only tests need counts for the crate of tests.
fn dependencies(package: &Value) -> impl Iterator<Item = &str> {
    let own = package["dependencies"].as_array().expect("dependencies");
    let counts = move |d: &&Value| d["kind"].is_null() || package["name"] == "qlora-tests";
    own.iter().filter(counts).filter_map(|d| d["name"].as_str())
}

/// The crates that there are, by their names.
fn crates() -> BTreeMap<String, Crate> {
    let (root, packages) = packages();
    let one = |package: &Value| {
        let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
        let folder = manifest.parent().and_then(|f| f.strip_prefix(&root).ok());
        let imports = dependencies(package).filter(|name| name.starts_with("qlora-"));
        let own = Crate {
            folder: folder.expect("a folder of ours").display().to_string(),
            imports: imports.map(str::to_owned).collect(),
        };
        (package["name"].as_str().expect("a name").to_owned(), own)
    };
    packages.iter().map(one).collect()
}

/// An import that the table does not have is refused; one that only the table has is taken out of
/// it, so that it goes on saying what there is.
#[test]
fn the_table_of_crates_is_that_of_the_workspace() {
    let (told, found) = (table(&document()), crates());
    let names = |crates: &BTreeMap<String, Crate>| crates.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&told), names(&found));
    for (name, own) in &found {
        assert_eq!(&told[name], own, "{name}: the table (left), cargo (right)");
    }
}

#[test]
fn the_table_is_read_as_it_is_written() {
    let text = "x\n## Code map\n\n| folder | crate | what | imports |\n|---|---|---|---|\n\
                | `a` | qlora-a | one | |\n| `a/b` | qlora-b | **pure**: two | a, c |\n\n## y\n| `z` | q | w | |\n";
    let found = table(text);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["qlora-a", "qlora-b"]);
    assert!(found["qlora-a"].imports.is_empty());
    let wanted = Crate {
        folder: "a/b".into(),
        imports: ["qlora-a", "qlora-c"].map(str::to_owned).into(),
    };
    assert_eq!(found["qlora-b"], wanted);
}

#[test]
fn no_crate_knows_what_it_must_not() {
    let (_, packages) = packages();
    for (names, refused) in [(PURE, IMPURE), (NO_NETWORK, &["tokio", "tonic"][..])] {
        for name in names {
            let package = packages.iter().find(|package| package["name"] == *name);
            let mut own = dependencies(package.expect(name));
            let found = own.find(|dependency| refused.contains(dependency));
            assert_eq!(found, None, "{name} must stay without it");
        }
    }
}

pub fn document() -> String {
    text("docs/ARCHITECTURE.md")
}

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).expect(name)
}

/// What stands between backticks.
pub fn quoted(text: &str) -> Vec<&str> {
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
pub fn is_path(text: &str) -> bool {
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

/// The numbered entries of a section, each with what stands behind its `Tests:`.
pub fn entries(document: &str, section: &str) -> Vec<(usize, String)> {
    let section = document
        .split("\n## ")
        .find(|s| s.starts_with(section))
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

/// What is wrong with the tests that an entry of a document names, each behind the file that it is
/// in.
fn faults(number: usize, tests: &str) -> Vec<String> {
    let (mut source, mut named, mut faults) = (None, 0, Vec::new());
    for word in quoted(tests) {
        if is_path(word) {
            source = fs::read_to_string(root().join(word)).ok();
            faults.extend(
                source
                    .is_none()
                    .then(|| format!("entry {number}: there is no file {word}")),
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
            faults.push(format!("entry {number}: there is no test {word}"));
        }
    }
    faults.extend((named == 0).then(|| format!("entry {number} names no test")));
    faults
}

#[test]
fn every_invariant_is_held_by_tests_that_are_there() {
    held("docs/ARCHITECTURE.md", "Invariants");
}

#[test]
fn every_guarantee_is_held_by_tests_that_are_there() {
    held("docs/GUARANTEES.md", "Guarantees");
}

#[test]
fn every_threat_is_met_by_tests_that_are_there() {
    let document = text("SECURITY.md");
    let found = threats(&document);
    assert!(found.len() > 20, "only {found:?} are seen");
    let faults: Vec<String> = (1..)
        .zip(found)
        .flat_map(|(number, tests)| faults(number, tests))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The last column of the table of threats.
fn threats(document: &str) -> Vec<&str> {
    let (_, table) = document
        .split_once("| threat | defense | test |\n|---|---|---|\n")
        .expect("the table of threats");
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| row.trim_end_matches(['|', ' ']).rsplit('|').next())
        .collect()
}

/// # Panics
/// An entry of the section names no test, or one that is not there.
fn held(document: &str, section: &str) {
    let found = entries(&text(document), section);
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
    let found = entries(text, "Invariants");
    assert_eq!(
        found.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let faults: Vec<Vec<String>> = found
        .iter()
        .map(|(number, tests)| faults(*number, tests))
        .collect();
    assert_eq!(faults[0], ["entry 1 names no test"]);
    assert_eq!(
        faults[1],
        [
            "entry 2: there is no test no_such_test",
            "entry 2: there is no test is_path"
        ]
    );
    assert_eq!(
        faults[2],
        [
            "entry 3: there is no file no/file.rs",
            "entry 3: there is no test x"
        ]
    );
}
