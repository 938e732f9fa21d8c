//! What is wrong with a `config.json`. The reader of a key words its fault; this module reads
//! nothing.

/// Why a `config.json` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFault {
    /// It does not say what it must, or contradicts itself.
    #[error("{0}")]
    Broken(String),
    /// It says clearly what is not carried out here.
    #[error("{0}")]
    Unsupported(String),
}

impl From<String> for ConfigFault {
    fn from(fault: String) -> Self {
        Self::Broken(fault)
    }
}
