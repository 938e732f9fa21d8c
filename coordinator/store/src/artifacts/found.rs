//! What the store finds under the name of an artifact.

/// What lies under a final name.
pub(super) enum Found {
    Nothing,
    Right { bytes: u64 },
    Damaged { fault: String },
}
