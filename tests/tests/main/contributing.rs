//! CONTRIBUTING.md, held against the tree and the justfile.

use std::collections::BTreeSet;
use std::fs;

use qlora_tests::repository::{files, is_program, root};

/// For each recipe something that was made by it, as the tree calls it, in lower case.
const MADE: [(&str, &str); 6] = [
    ("A configuration key", "loraplus"),
    ("A call of the protocol", "removeworker"),
    ("An error code", "q0514"),
    ("A kernel", "cross_entropy"),
    ("A model family", "smollm3"),
    ("An optimizer", "adamw8bit"),
];

/// What tells of a thing that is there, and is no part of making one.
const TELLING: [&str; 7] = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/benchmarks/",
    "tests/golden/make/",
    "tests/gpu/",
    "tests/tests/main/contributing.rs",
    "worker/data/tests/left_out.txt",
];

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).expect(name)
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Recipes of `document`, each with the paths that it names.
fn recipes(document: &str) -> Vec<(&str, Vec<&str>)> {
    let section = document.split("\n## Recipes").nth(1).expect("the section");
    let is_path = |word: &&str| word.contains('/') || word.ends_with(".md");
    let named = |recipe| quoted(recipe).filter(is_path).collect();
    section
        .split("\n### ")
        .skip(1)
        .map(|recipe| (recipe.lines().next().unwrap_or_default(), named(recipe)))
        .collect()
}

#[test]
fn every_file_of_a_recipe_is_there() {
    let document = text("CONTRIBUTING.md");
    let recipes = recipes(&document);
    assert!(recipes.len() >= 6, "{recipes:?}");
    for (recipe, paths) in recipes {
        assert!(paths.len() >= 3, "{recipe} names {paths:?}");
        let missing: Vec<_> = paths
            .iter()
            .filter(|path| !root().join(path).exists())
            .collect();
        assert!(
            missing.is_empty(),
            "{recipe} names {missing:?}, which are not there"
        );
    }
}

#[test]
fn a_file_of_a_recipe_that_is_gone_is_noticed() {
    let found = recipes("x\n## Recipes\n\n### One\n\n1. `a/b.rs` and `c`\n\n### Two\n\n1. `d/`\n");
    assert_eq!(found, [("One", vec!["a/b.rs"]), ("Two", vec!["d/"])]);
}

/// Files that name `thing` and that no path of a recipe covers.
fn uncovered(thing: &str, paths: &[&str]) -> Vec<String> {
    let is_covered = |file: &String| {
        let mut known = paths.iter().chain(&TELLING);
        known.any(|path| file.starts_with(*path))
    };
    let names = |file: &String| {
        // What is no text names nothing.
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        text.to_lowercase().contains(thing)
    };
    let others = files().into_iter().filter(|file| !is_covered(file));
    others.filter(names).collect()
}

#[test]
fn every_file_that_a_thing_of_a_recipe_has_touched_is_in_the_recipe() {
    let document = text("CONTRIBUTING.md");
    let recipes = recipes(&document);
    assert_eq!(
        recipes.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        MADE.map(|(recipe, _)| recipe)
    );
    for ((recipe, paths), (_, thing)) in recipes.iter().zip(MADE) {
        let missing = uncovered(thing, paths);
        assert!(
            missing.is_empty(),
            "`{recipe}` does not name {missing:?}, which have {thing}"
        );
    }
}

#[test]
fn a_file_that_a_recipe_leaves_out_is_noticed() {
    let missing = uncovered("smollm3", &["worker/planner/", "docs/", "tests/"]);
    assert!(
        missing.contains(&"worker/trainer/src/model/arch/mod.rs".to_owned()),
        "{missing:?}"
    );
}

/// Families of models, with the program sources that name each outside their tests.
fn touched_by_families() -> Vec<(String, usize)> {
    let list = text("worker/trainer/src/model/arch/mod.rs");
    let entries = list.lines().filter_map(|line| line.strip_prefix("    &"));
    let families = entries.filter_map(|entry| entry.split_once("::"));
    let sources: Vec<String> = files()
        .iter()
        .filter(|file| is_program(file))
        .map(|file| {
            let text = text(file);
            let own = text.split("\n#[cfg(test)]\n").next().unwrap_or_default();
            own.to_lowercase().replace(['-', ' '], "")
        })
        .collect();
    families
        .map(|(family, _)| {
            let naming = sources.iter().filter(|source| source.contains(family));
            (family.to_owned(), naming.count())
        })
        .collect()
}

#[test]
fn the_table_of_families_counts_the_files_that_name_each() {
    let document = text("CONTRIBUTING.md");
    let rows = document.lines().filter_map(|line| {
        let (family, count) = line.strip_prefix("| `")?.split_once("` | ")?;
        let count = count.strip_suffix(" |")?.parse::<usize>().ok()?;
        Some((family.to_owned(), count))
    });
    let told: Vec<(String, usize)> = rows.collect();
    let mut counted = touched_by_families();
    // llama.cpp has its name.
    counted.retain(|(family, _)| family != "llama");
    assert!(counted.len() >= 8, "{counted:?}");
    assert_eq!(told, counted);
}

#[test]
fn the_recipes_of_just_are_those_that_are_told() {
    let document = text("CONTRIBUTING.md");
    let told = quoted(&document).filter_map(|word| word.strip_prefix("just ")?.split(' ').next());
    let told: BTreeSet<&str> = told.filter(|name| !name.is_empty()).collect();
    let file = text("justfile");
    let heads = file
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()) && !line.contains(":="));
    let heads = heads
        .filter(|line| line.contains(':'))
        .filter_map(|line| line.split([' ', ':']).next());
    let there: BTreeSet<&str> = heads.filter(|name| *name != "default").collect();
    assert!(there.len() > 5, "{there:?}");
    assert_eq!(told, there);
}
