//! The patches of `tests/sabotage`, each of which breaks an invariant. `tests/sabotage/run` shows
//! that a test finds them, which takes long; what would make that run fail for another reason is
//! found here.

use std::fs;
use std::path::Path;
use std::process::Command;

use qlora_tests::repository::{files, is_program, root};

use crate::house::{document, entries, is_path, quoted, table};

/// A patch and what its head says.
#[derive(Debug)]
struct Sabotage {
    /// Its path from the root.
    file: String,
    invariant: usize,
    /// Arguments of `cargo test`, and the test as the last of them.
    run: Vec<String>,
    /// What the failing test says.
    fails_with: String,
    /// Files that it changes.
    changes: Vec<String>,
}

impl Sabotage {
    fn read(file: String, text: &str) -> Self {
        let value = |key: &str| {
            let mut lines = text.lines().take_while(|line| !line.starts_with("--- "));
            lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        };
        let name = Path::new(&file).file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        let number = name.split_once('-').and_then(|(n, _)| n.parse().ok());
        let run = value("Run").unwrap_or_default().split_whitespace();
        let changes = text.lines().filter_map(|line| line.strip_prefix("+++ b/"));
        Self {
            invariant: number.unwrap_or_default(),
            run: run.map(str::to_owned).collect(),
            fails_with: value("Fails with").unwrap_or_default().to_owned(),
            changes: changes.map(str::to_owned).collect(),
            file,
        }
    }

    /// What is wrong with its head or with what it changes, where `tests` are those of its
    /// invariant by their files.
    fn fault(&self, tests: &[(String, String)]) -> Option<&'static str> {
        let [package, krate, target @ .., test] = self.run.as_slice() else {
            return Some("its head does not say what to run");
        };
        let (modules, test) = test.rsplit_once("::").unwrap_or(("", test.as_str()));
        let own = tests.iter().find(|(_, name)| name == test);
        let folder = table(&document()).remove(krate).map(|own| own.folder);
        let start = match target.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["--lib"] => "src/".to_owned(),
            ["--test", name] => format!("tests/{name}"),
            _ => return Some("it runs neither a library's tests nor those of one binary"),
        };
        let lies_there = |(file, _): &(String, String)| {
            let mut starts = folder.iter().map(|folder| format!("{folder}/{start}"));
            let mut named = modules.split("::").filter(|name| *name != "tests");
            starts.any(|start| file.starts_with(&start)) && named.all(|name| file.contains(name))
        };
        match own {
            _ if package != "-p" => Some("its head does not begin with a package"),
            None => Some("its test is none of the invariant's"),
            Some(own) if !lies_there(own) => Some("its test lies elsewhere than it is looked for"),
            _ if self.fails_with.len() < 4 => Some("its head does not say what the test says"),
            _ if self.changes.is_empty() => Some("it changes nothing"),
            _ if !self.changes.iter().all(|file| is_program(file)) => {
                Some("it changes what is no program")
            }
            _ => None,
        }
    }

    fn applies(&self) -> bool {
        let checked = Command::new("git")
            .args(["apply", "--check"])
            .arg(&self.file)
            .current_dir(root())
            .output();
        checked.expect("git runs").status.success()
    }
}

/// Files and names of the tests that stand behind an invariant.
fn named(tests: &str) -> Vec<(String, String)> {
    let mut file = String::new();
    let mut found = Vec::new();
    for word in quoted(tests) {
        if is_path(word) {
            file = word.to_owned();
        } else {
            found.push((file.clone(), word.to_owned()));
        }
    }
    found
}

#[test]
fn every_invariant_has_a_patch_that_applies_and_names_one_of_its_tests() {
    let invariants = entries(&document(), "Invariants");
    let is_patch = |file: &String| file.starts_with("tests/sabotage/") && file.ends_with(".patch");
    let patches: Vec<Sabotage> = files()
        .into_iter()
        .filter(is_patch)
        .map(|file| {
            let text = fs::read_to_string(root().join(&file)).expect("a patch");
            Sabotage::read(file, &text)
        })
        .collect();
    let mut faults = Vec::new();
    for (number, _) in &invariants {
        if !patches.iter().any(|patch| patch.invariant == *number) {
            faults.push(format!("invariant {number} has no patch"));
        }
    }
    for patch in &patches {
        let own = invariants.iter().find(|(n, _)| *n == patch.invariant);
        let fault = match own {
            None => Some("there is no invariant of its number"),
            Some(_) if !patch.applies() => Some("it does not apply any more"),
            Some((_, tests)) => patch.fault(&named(tests)),
        };
        faults.extend(fault.map(|fault| format!("{}: {fault}", patch.file)));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_patch_that_proves_nothing_is_noticed() {
    let tests = [(
        "coordinator/engine/tests/lifecycle/jobs.rs".to_owned(),
        "t".to_owned(),
    )];
    let right = "x\nRun: -p qlora-engine --test lifecycle jobs::t\nFails with: words\n\n\
                 --- a/coordinator/engine/src/job.rs\n+++ b/coordinator/engine/src/job.rs\n";
    let fault = |from: &str, to: &str| {
        let text = right.replace(from, to);
        Sabotage::read("tests/sabotage/07-x.patch".into(), &text).fault(&tests)
    };
    assert_eq!(fault("", ""), None);
    for (from, to, wanted) in [
        ("Run", "Ran", "what to run"),
        ("--test", "--bench", "neither"),
        ("jobs::t", "jobs::u", "none of the invariant's"),
        ("jobs::t", "wakes::t", "elsewhere"),
        ("qlora-engine", "qlora-store", "elsewhere"),
        ("words", "", "what the test says"),
        ("+++ b/", "+++ c/", "nothing"),
        ("src/job.rs", "tests/job.rs", "no program"),
    ] {
        let found = fault(from, to);
        assert!(
            found.is_some_and(|fault| fault.contains(wanted)),
            "{from} to {to}: {found:?}"
        );
    }
    let patch = Sabotage::read("tests/sabotage/07-x.patch".into(), right);
    assert_eq!(patch.invariant, 7);
    assert!(!patch.applies(), "there is no such patch");
}
