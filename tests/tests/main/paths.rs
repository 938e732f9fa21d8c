//! Paths of this repository that its documents name, held against the tree.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use qlora_tests::repository::{files, root};

/// Endings of what this repository holds and neither a model's folder nor a run's.
const SOURCES: [&str; 9] = [
    ".rs", ".py", ".md", ".cu", ".cuh", ".cpp", ".proto", ".sh", ".sql",
];

/// Everything that git knows, and the folders that it is in, by their paths.
struct Tree(BTreeSet<String>);

impl Tree {
    fn of(files: &[String]) -> Self {
        let all = files.iter().flat_map(|file| Path::new(file).ancestors());
        let named = all.map(|path| path.display().to_string());
        Self(named.filter(|path| !path.is_empty()).collect())
    }

    /// Whether `path` lies in the root or beside `document`; the documents may leave out the
    /// beginning of what does not begin with a folder of the root. `*` stands for a part of a name.
    fn has(&self, path: &str, document: &str) -> bool {
        let (beside, _) = document.rsplit_once('/').unwrap_or_default();
        let whole = joined("", path);
        let is_short = !self.begins_in_root(path) && !path.starts_with('.');
        self.0.iter().any(|there| {
            fits(there, &whole)
                || fits(there, &joined(beside, path))
                || is_short && fits_end(there, &whole)
        })
    }

    fn begins_in_root(&self, path: &str) -> bool {
        path.split_once('/')
            .is_some_and(|(first, _)| self.0.contains(first))
    }

    /// Whether `text` says where something of this repository lies.
    fn is_path(&self, text: &str) -> bool {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-./*".contains(c);
        let is_elsewhere = text.starts_with('/') || text.starts_with("target/");
        let is_source = SOURCES.iter().any(|end| text.ends_with(end));
        text.contains('/')
            && text.chars().all(plain)
            && !is_elsewhere
            && !stands_for_others(text)
            && (self.begins_in_root(text) || text.starts_with('.') || is_source)
    }

    /// The paths in the text of `document` that are not there.
    fn missing<'a>(&self, document: &str, text: &'a str) -> (usize, Vec<&'a str>) {
        let named: Vec<&str> = quoted(text).filter(|text| self.is_path(text)).collect();
        let missing = named.iter().filter(|path| !self.has(path, document));
        (named.len(), missing.copied().collect())
    }
}

/// `path` as it is seen from the root when it is written in `folder`.
fn joined(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn fits(there: &str, wanted: &str) -> bool {
    match wanted.split_once('*') {
        Some((start, end)) => there
            .strip_prefix(start)
            .is_some_and(|rest| rest.ends_with(end)),
        None => there == wanted,
    }
}

fn fits_end(there: &str, wanted: &str) -> bool {
    there
        .match_indices('/')
        .any(|(at, _)| fits(&there[at + 1..], wanted))
}

/// A name in capitals is filled in by who reads, unless it is a document's.
fn stands_for_others(path: &str) -> bool {
    path.split('/').any(|part| {
        let name = part.split('.').next().unwrap_or_default();
        let is_capital = |c: char| c.is_ascii_uppercase() || c == '_';
        name.len() > 1 && name.chars().all(is_capital) && !part.ends_with(".md")
    })
}

/// What stands between backticks outside of blocks of code.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let blocks = text.split("```").step_by(2);
    blocks.flat_map(|prose| prose.split('`').skip(1).step_by(2))
}

fn is_document(file: &str) -> bool {
    let is_readme = file.ends_with("/README.md");
    ["README.md", "CONTRIBUTING.md", "SECURITY.md"].contains(&file)
        || file.starts_with("docs/") && file.ends_with(".md")
        || is_readme && (file.starts_with("worker/") || file.starts_with("tests/"))
}

#[test]
fn every_path_that_a_document_names_is_there() {
    let files = files();
    let tree = Tree::of(&files);
    let (mut named, mut missing) = (0, String::new());
    for document in files.iter().filter(|file| is_document(file)) {
        let text = fs::read_to_string(root().join(document)).expect("a document");
        let (count, absent) = tree.missing(document, &text);
        named += count;
        for path in absent {
            missing += &format!("{document} names {path}\n");
        }
    }
    assert!(named > 120, "only {named} paths are seen");
    assert!(missing.is_empty(), "paths that are not there:\n{missing}");
}

#[test]
fn a_path_that_is_gone_is_noticed_and_other_words_are_none() {
    let there = ["a/src/one.rs", "a/README.md", "b/x.json", "b/make/two.py"];
    let tree = Tree::of(&there.map(str::to_owned));
    let found = |text: &str| tree.missing("a/README.md", text).1.join(", ");
    for text in [
        "`a/src/one.rs`, `a/src`, `a/src/`, `a/src/*.rs`, `src/one.rs`, `./src/one.rs`",
        "`../b/x.json`, `make/two.py`, `b/NAME.json`, `OWNER/NAME`, `b/<name>`, `target/gone.sh`",
        "`/a/gone.rs`, `adapter/x.json`, `n/a`, a/gone.rs\n```sh\n`a/gone.rs`\n```\n",
    ] {
        assert_eq!(found(text), "");
    }
    let gone = [
        "a/gone.rs",
        "a/src/gone",
        "a/*.py",
        "../gone/x.json",
        "gone/two.py",
        "a/GONE.md",
        "src/gone.rs",
    ];
    for path in gone {
        assert_eq!(found(&format!("x\n\n`{path}` y `z`")), path);
    }
}
