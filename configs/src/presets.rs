//! The presets and the quickstart, embedded so that the programs need no files beside them.

/// Every key with its default.
pub(crate) const DEFAULTS: &str = include_str!("../presets/defaults.yaml");

const PRESETS: [(&str, &str); 3] = [
    ("h100", include_str!("../presets/h100.yaml")),
    ("m4", include_str!("../presets/m4.yaml")),
    ("cpu", include_str!("../presets/cpu.yaml")),
];

/// The configuration that `qlora-ctl quickstart` runs.
pub const QUICKSTART: &str = include_str!("../quickstart.yaml");
/// Its training rows, made from BFCL (see `quickstart/NOTICE`).
pub const QUICKSTART_TRAIN: &str = include_str!("../quickstart/train.jsonl");
/// Its held-out rows: no function in them occurs in the training rows.
pub const QUICKSTART_EVAL: &str = include_str!("../quickstart/heldout.jsonl");

/// What `extends:` may name.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

pub(crate) fn preset(name: &str) -> Option<&'static str> {
    PRESETS
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, text)| *text)
}
