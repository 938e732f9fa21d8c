//! CONTRIBUTING.md, held against the tree and the justfile.

use std::collections::BTreeSet;
use std::fs;

use qlora_tests::repository::root;

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
    let named = |recipe| quoted(recipe).filter(|word| word.contains('/')).collect();
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
