//! What the scripts for GPUs, real and emulated, name is there: a filter without a test would pass,
//! and so would a fault that nobody plants.

use std::fs;
use std::path::Path;

use qlora_tests::repository::root;

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).expect(name)
}

/// The tests of one program of the kernels', as it names them: MODULE::TEST.
fn tests_of(program: &str) -> Vec<String> {
    let mut found = Vec::new();
    add_tests(
        &root().join("worker/kernels/tests").join(program),
        "",
        &mut found,
    );
    found
}

fn add_tests(folder: &Path, module: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder of tests") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let inner = match stem.expect("a name") {
            "main" | "mod" => module.to_owned(),
            name => format!("{module}{name}::"),
        };
        if path.is_dir() {
            add_tests(&path, &inner, found);
            continue;
        }
        let source = fs::read_to_string(&path).expect("a source file");
        let functions = source.split("#[test]\n").skip(1);
        let names = functions.filter_map(|rest| rest.split_once("fn ")?.1.split_once('('));
        found.extend(names.map(|(name, _)| format!("{inner}{name}")));
    }
}

/// Whether `word` may be a part of a test's name.
fn is_name(word: &str) -> bool {
    let of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
    !word.is_empty() && word.chars().all(of_name)
}

#[test]
fn every_test_that_has_to_find_a_planted_fault_is_there() {
    let (script, tests) = (
        text("worker/kernels/tests/emulated/planted.sh"),
        tests_of("operations"),
    );
    let values = script.lines().filter_map(|line| line.split_once('='));
    let named: Vec<&str> = values
        .map(|(_, value)| value)
        .filter(|value| is_name(value) && value.contains("::"))
        .collect();
    assert!(named.len() >= 6, "{named:?}");
    for name in named {
        assert!(tests.iter().any(|test| test == name), "no test {name}");
    }
}

/// The scripts call a program by a variable; what follows chooses its tests.
#[test]
fn every_filter_of_a_visit_to_a_gpu_chooses_a_test() {
    let mut filters = 0;
    for (script, variable, program) in [
        ("tests/gpu/run", "\"$device\"", "device"),
        ("tests/gpu/run", "\"$operations\"", "operations"),
        ("tests/gpu/variant", "\"$tests\"", "operations"),
    ] {
        let (script, tests) = (text(script), tests_of(program));
        let calls = script.lines().filter_map(|line| line.split_once(variable));
        for word in calls.flat_map(|(_, arguments)| arguments.split_whitespace()) {
            if !is_name(word) {
                continue;
            }
            filters += 1;
            assert!(
                tests.iter().any(|test| test.contains(word)),
                "{word} chooses none of {program}"
            );
        }
    }
    assert!(filters >= 12, "{filters}");
}

#[test]
fn the_golden_tests_of_a_gpu_are_in_the_module_that_the_emulated_run_asks_for() {
    assert!(text("tests/env").contains("golden=(gpu::)"));
    assert!(text("worker/trainer/tests/golden/main.rs").contains("\nmod gpu;"));
    assert!(text("worker/trainer/tests/golden/gpu.rs").contains("#[test]"));
}
