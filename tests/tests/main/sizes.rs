//! Functions are short: CONTRIBUTING.md asks for fewer than 60 lines, and this holds the whole to
//! it, with room for a few that tell one long thing.

use std::fs;

use qlora_tests::functions::functions;
use qlora_tests::repository::{files, is_program, root};

/// The most lines of the function in the middle, and of nine in ten.
const MEDIAN: usize = 10;
const NINE_IN_TEN: usize = 33;
/// A function is long beyond so many lines; at most so many in a thousand are.
const LONG: usize = 60;
const LONG_IN_A_THOUSAND: usize = 15;

/// Every function with its place, the longest first.
fn all() -> Vec<(usize, String)> {
    let mut all = Vec::new();
    for file in files().into_iter().filter(|file| is_program(file)) {
        let text = fs::read_to_string(root().join(&file)).expect("a source");
        let found = functions(&text).into_iter();
        all.extend(found.map(|f| (f.lines, format!("{file}:{} {}", f.line, f.name))));
    }
    all.sort_unstable();
    all.reverse();
    all
}

#[test]
fn functions_are_short() {
    let all = all();
    assert!(all.len() > 3000, "only {} functions are seen", all.len());
    // The longest come first.
    let median = all[all.len() / 2].0;
    let ninth = all[all.len() / 10].0;
    let long = all.iter().take_while(|(lines, _)| *lines > LONG).count();
    let longest: Vec<String> = all
        .iter()
        .take(10)
        .map(|(lines, place)| format!("{lines} lines: {place}"))
        .collect();
    assert!(
        median <= MEDIAN && ninth <= NINE_IN_TEN && long * 1000 <= all.len() * LONG_IN_A_THOUSAND,
        "median {median}, nine in ten {ninth}, {long} of {} over {LONG}; the longest:\n{}",
        all.len(),
        longest.join("\n")
    );
}
