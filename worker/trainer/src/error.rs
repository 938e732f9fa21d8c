//! Why training cannot start, or cannot go on.

use std::path::PathBuf;

/// Whether the job, the machine or chance is to blame decides whether an attempt is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The configuration, the data or the model: repeating changes nothing.
    Input,
    /// Memory ran out: repeating without a change does too.
    Memory,
    /// Something that another attempt may not meet.
    Attempt,
    /// Another process of the group, which is gone.
    Peer,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{key}` {fault}; {help}")]
    Config { key: &'static str, fault: String, help: &'static str },
    #[error("{path}: {fault}; {help}")]
    Model { path: PathBuf, fault: String, help: &'static str },
    #[error("{path}: tensor `{tensor}` {fault}")]
    Tensor { path: PathBuf, tensor: String, fault: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Data(#[from] qlora_data::DatasetError),
    #[error(transparent)]
    Template(#[from] qlora_data::TemplateError),
    #[error(transparent)]
    Encode(#[from] qlora_data::EncodeError),
    #[error("{path}: {fault}")]
    Checkpoint { path: PathBuf, fault: String },
    #[error("the adapter {path} {fault}")]
    Adapter { path: PathBuf, fault: String },
    #[error("{path} {fault}")]
    Export { path: PathBuf, fault: String },
    #[error("no gradient reaches {tensors}: training would change nothing there")]
    NoGradient { tensors: String },
    #[error(
        "{steps} steps in a row had a loss or gradient that is not finite, the last at step {step}; lower training.learning_rate, or look for a broken row with qlora-ctl data check"
    )]
    NotFinite { step: u64, steps: u64 },
    #[error("the device {name} cannot be used: {fault}")]
    Device { name: String, fault: String },
    #[error("the device's memory ran out ({fault}); {advice}")]
    Memory { fault: String, advice: String },
    /// What happened to the other process, it tells itself.
    #[error("another process of the group is gone: {fault}")]
    Peer { fault: String },
    #[error("the workers of this job do not come together: {fault}")]
    Meeting { fault: String },
    #[error("worker {rank} of the group does not work on the same as the first: {theirs}; the first has {first}")]
    Mismatch { rank: usize, theirs: String, first: String },
    #[error(
        "the adapters of worker {rank} differ from those of the first after step {step}; their processors do not compute alike"
    )]
    Diverged { rank: usize, step: u64 },
    #[error("the job was stopped")]
    Stopped,
    #[error("{0}")]
    Tensors(#[from] candle_core::Error),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.into(), source }
    }

    /// Who is to blame; see [`Blame`].
    pub fn blame(&self) -> Blame {
        match self {
            Self::Config { .. }
            | Self::Model { .. }
            | Self::Tensor { .. }
            | Self::Data(_)
            | Self::Template(_)
            | Self::Encode(_)
            | Self::Adapter { .. }
            | Self::Export { .. }
            | Self::NoGradient { .. }
            | Self::NotFinite { .. }
            | Self::Mismatch { .. }
            | Self::Diverged { .. } => Blame::Input,
            Self::Peer { .. } => Blame::Peer,
            Self::Memory { .. } => Blame::Memory,
            Self::Tensors(e) if is_out_of_memory(e) => Blame::Memory,
            Self::Tensors(_)
            | Self::Meeting { .. }
            | Self::Io { .. }
            | Self::Checkpoint { .. }
            | Self::Device { .. }
            | Self::Stopped => Blame::Attempt,
        }
    }
}

/// Whether a device had no room for a tensor.
pub(crate) fn is_out_of_memory(e: &candle_core::Error) -> bool {
    let text = e.to_string().to_lowercase().replace('_', " ");
    text.contains("out of memory") || text.contains("alloc failed")
}
