//! Kernels of chips that the emulated GPU is not by itself.

use std::process::Command;

use qlora_testkit::skip;

use crate::fixture::is_emulated;

/// Chips other than Hopper's have kernels of their own; on a Hopper GPU these do not run.
#[test]
fn other_than_hopper_agree() {
    if !is_emulated() {
        return skip("it takes the emulated GPU");
    }
    let tests = [
        "of_heads_of_every_size",
        "over_long_sequences",
        "with_a_window",
        "with_keys_from_before",
        "of_large_heads",
        "with_a_scale_and_a_cap",
    ];
    // Ampere's and, with 99 KiB of shared memory, Ada's.
    for capability in ["80", "89"] {
        let output = Command::new(std::env::current_exe().expect("this program"))
            .arg("--exact")
            .args(tests.map(|test| format!("attention::{test}")))
            .env("QLORA_EMULATED_CAPABILITY", capability)
            .output()
            .expect("this program");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains(&format!("{} passed", tests.len())),
            "{capability}: {said}"
        );
    }
}
