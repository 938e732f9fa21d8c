//! What an export reports: how far it is, and what it wrote. `merge` has what a merge wrote.

use crate::Result;

/// Hears the tensors that are written, and of how many; an error ends the export, and nothing is
/// left of it. It hears of all of them once more before the result gets its name.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> Result<()>;

/// What was written without an adapter, or of an adapter alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Written {
    pub tensors: usize,
    pub bytes: u64,
    /// What a person should hear of the result.
    pub notes: Vec<String>,
}
