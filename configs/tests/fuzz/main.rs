//! Fuzz targets: whatever a person or another program writes is read, or refused in words.

mod overrides;
mod record;
mod yaml;

use qlora_config::{ConfigErrors, Diagnostic, ResolvedConfig};

/// Keys, and values that only some of them take.
const WORDS: [&str; 24] = [
    "model",
    "data",
    "lora",
    "training",
    "resources",
    "base",
    "train",
    "targets",
    "extends",
    "r",
    "h100",
    "cpu",
    "auto",
    "nf4",
    "bf16",
    "all-linear",
    "q_proj",
    "max_steps: 1",
    "<<: *a",
    "&a",
    "!!str",
    "|\n",
    "- ",
    "? ",
];

/// What was resolved is what its record says.
fn is_recorded(resolved: &ResolvedConfig) {
    let read = ResolvedConfig::from_json(resolved.json()).expect("a record is read back");
    assert_eq!(read.config(), resolved.config());
    assert_eq!(read.hash(), resolved.hash());
}

/// Every refusal says something, on one line and with its code.
fn are_told(errors: &ConfigErrors) -> &[Diagnostic] {
    assert!(!errors.0.is_empty(), "a refusal without a fault");
    for fault in &errors.0 {
        assert!(!fault.message.trim().is_empty(), "{fault:?}");
        assert!(
            fault
                .help
                .as_ref()
                .is_none_or(|help| !help.trim().is_empty()),
            "{fault:?}"
        );
    }
    &errors.0
}
