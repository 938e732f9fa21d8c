//! What the scripts of the emulated GPU name is there: a filter without a test would pass, and so
//! would a fault that nobody plants.

use std::fs;

use qlora_tests::repository::root;

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).expect(name)
}

/// Whether `word` may be the name of a module or a function.
fn is_name(word: &str) -> bool {
    let of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    !word.is_empty() && word.chars().all(of_name)
}

#[test]
fn every_test_that_has_to_find_a_planted_fault_is_there() {
    let script = text("worker/kernels/tests/emulated/planted.sh");
    let values = script.lines().filter_map(|line| line.split_once('='));
    let named: Vec<(&str, &str)> = values
        .filter_map(|(_, value)| value.split_once("::"))
        .filter(|(place, test)| place.split('/').all(is_name) && is_name(test))
        .collect();
    assert!(named.len() >= 6, "{named:?}");
    // PROGRAM/MODULE is where the file of the module is, too, or its folder.
    for (module, test) in named {
        let files = [format!("{module}.rs"), format!("{module}/mod.rs")];
        let tests = root().join("worker/kernels/tests");
        let file = files.iter().find(|file| tests.join(file).exists());
        let file = file.unwrap_or_else(|| panic!("there is no module {module}"));
        let source = text(&format!("worker/kernels/tests/{file}"));
        let head = format!("#[test]\nfn {test}(");
        assert!(source.contains(&head), "{file} has no test {test}");
    }
}

#[test]
fn the_golden_tests_of_a_gpu_are_in_the_module_that_the_emulated_run_asks_for() {
    assert!(text("tests/env").contains("golden=(gpu::)"));
    assert!(text("worker/trainer/tests/golden/main.rs").contains("\nmod gpu;"));
    assert!(text("worker/trainer/tests/golden/gpu.rs").contains("#[test]"));
}
