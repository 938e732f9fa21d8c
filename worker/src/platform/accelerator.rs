//! What a worker knows of an accelerator, whichever library tells it.

/// An accelerator, as its own library describes it.
#[derive(Debug, Clone, Default)]
pub struct Accelerator {
    pub name: String,
    pub memory: u64,
    pub memory_free: u64,
    pub compute_capability: String,
    pub driver: String,
    pub flash_attention: bool,
    /// By which its library knows it; empty where there can only be one.
    pub id: String,
}
