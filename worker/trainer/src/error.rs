//! Why training cannot start, or cannot go on.

use std::path::PathBuf;

use qlora_codes::Code;

/// Who caused a failure: it decides whether an attempt is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
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
    Config {
        key: &'static str,
        fault: String,
        help: &'static str,
    },
    /// The configuration asks for what this model does not have.
    #[error("{}; {}", .0.message, .0.help)]
    Misfit(qlora_planner::Misfit),
    #[error("{path}: {fault}; {help}")]
    Model {
        path: PathBuf,
        fault: String,
        help: &'static str,
    },
    /// The model is whole, and of a kind that is not read here.
    #[error("{path}: {fault}; {help}")]
    Unsupported {
        path: PathBuf,
        fault: String,
        help: &'static str,
    },
    #[error("{path}: tensor `{tensor}` {fault}")]
    Tensor {
        path: PathBuf,
        tensor: String,
        fault: String,
    },
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Data(#[from] qlora_data::DatasetError),
    #[error(transparent)]
    Template(#[from] qlora_data::TemplateError),
    #[error(transparent)]
    Encode(#[from] qlora_data::EncodeError),
    /// A prompt of nothing has no next token.
    #[error(
        "the chat template writes nothing of a question, not one token; give --template chatml-tools (data.template), or a template that writes the messages"
    )]
    NoPrompt,
    #[error("{name}: {fault}; {help}")]
    NothingToScore {
        name: String,
        fault: String,
        help: &'static str,
    },
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
    #[error(
        "the loss of the first row is {loss} before any step; the model's weights are too large to compute with; take another model"
    )]
    FirstLoss { loss: f64 },
    #[error(
        "the loss of the first row is {loss} before any step with an adapter that has an effect, and finite without one: the update is too large; lower {keys}"
    )]
    FirstUpdate { loss: f64, keys: &'static str },
    #[error(
        "after step {step}, {tensor} has {value} at element {index}: the adapter is not finite, and nothing of it is saved; lower training.learning_rate, and look at the other keys of the optimizer; what was saved before stays"
    )]
    Weights {
        step: u64,
        tensor: String,
        index: usize,
        value: f32,
    },
    #[error(
        "{what} is not finite; {origin} is the first to give such a number; the weights or the adapter are too large to compute with"
    )]
    Result { what: String, origin: String },
    #[error(
        "a sequence of {tokens} tokens is longer than the {positions} positions that the model is loaded for"
    )]
    Positions { tokens: usize, positions: usize },
    #[error(
        "each of the {rows} rows has more tokens than the model's {positions} positions; cut them"
    )]
    NoRow { rows: usize, positions: usize },
    #[error(
        "token id {id} is outside the model's vocabulary of {vocabulary}; the tokenizer belongs to another model"
    )]
    Vocabulary { id: u32, vocabulary: usize },
    #[error("the device {name} cannot be used: {fault}")]
    Device { name: String, fault: String },
    #[error("the device's memory ran out ({fault}); {advice}")]
    Memory { fault: String, advice: String },
    /// What happened to the other process, it tells itself.
    #[error("another process of the group is gone: {fault}")]
    Peer { fault: String },
    #[error("rendezvous failed: {fault}")]
    Rendezvous { fault: String },
    #[error("worker {rank} has a different task from rank 0: {theirs}; rank 0 has {first}")]
    Mismatch {
        rank: usize,
        theirs: String,
        first: String,
    },
    #[error(
        "the adapters of worker {rank} differ from those of the first after step {step}; their devices do not compute alike"
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
        move |source| Self::Io {
            path: path.into(),
            source,
        }
    }

    /// `qlora-ctl explain CODE` prints its meaning.
    pub fn code(&self) -> Code {
        match self {
            Self::Config { .. } | Self::Misfit(_) => Code::InvalidValue,
            Self::Template(_) | Self::NoPrompt => Code::ChatTemplate,
            Self::Data(e) => e.code(),
            Self::Encode(e) => e.code(),
            Self::NoRow { .. } | Self::NothingToScore { .. } => Code::InvalidRow,
            Self::Device { .. } => Code::NoDevice,
            Self::Stopped => Code::JobCancelled,
            Self::Model { .. }
            | Self::Tensor { .. }
            | Self::Vocabulary { .. }
            | Self::Positions { .. } => Code::InvalidModel,
            Self::Unsupported { .. } => Code::UnsupportedModel,
            Self::Adapter { .. } => Code::Adapter,
            Self::Checkpoint { .. } => Code::Checkpoint,
            Self::Export { .. } => Code::Export,
            Self::NotFinite { .. }
            | Self::FirstLoss { .. }
            | Self::FirstUpdate { .. }
            | Self::Weights { .. }
            | Self::Result { .. }
            | Self::NoGradient { .. } => Code::NotFinite,
            Self::Peer { .. }
            | Self::Rendezvous { .. }
            | Self::Mismatch { .. }
            | Self::Diverged { .. } => Code::ProcessGroup,
            Self::Memory { .. } => Code::OutOfMemory,
            Self::Tensors(e) if is_out_of_memory(e) => Code::OutOfMemory,
            Self::Tensors(_) => Code::Computation,
            Self::Io { source, .. } => Code::of_file(source),
        }
    }

    /// The class of the failure; see [`FailureClass`].
    pub fn failure_class(&self) -> FailureClass {
        match self {
            Self::Config { .. }
            | Self::Misfit(_)
            | Self::Model { .. }
            | Self::Unsupported { .. }
            | Self::Tensor { .. }
            | Self::Data(_)
            | Self::Template(_)
            | Self::Encode(_)
            | Self::Adapter { .. }
            | Self::Export { .. }
            | Self::NoGradient { .. }
            | Self::FirstLoss { .. }
            | Self::FirstUpdate { .. }
            | Self::Weights { .. }
            | Self::Result { .. }
            | Self::NoPrompt
            | Self::NothingToScore { .. }
            | Self::Positions { .. }
            | Self::NoRow { .. }
            | Self::Vocabulary { .. }
            | Self::NotFinite { .. }
            | Self::Mismatch { .. }
            | Self::Diverged { .. } => FailureClass::Input,
            Self::Peer { .. } => FailureClass::Peer,
            Self::Memory { .. } => FailureClass::Memory,
            Self::Tensors(e) if is_out_of_memory(e) => FailureClass::Memory,
            Self::Tensors(_)
            | Self::Rendezvous { .. }
            | Self::Io { .. }
            | Self::Checkpoint { .. }
            | Self::Device { .. }
            | Self::Stopped => FailureClass::Attempt,
        }
    }
}

/// Whether a device had no room for a tensor.
pub(crate) fn is_out_of_memory(e: &candle_core::Error) -> bool {
    says_out_of_memory(&e.to_string())
}

/// What CUDA and Metal call it, in lower case and without underscores.
const OUT_OF_MEMORY: [&str; 5] = [
    "out of memory",
    "alloc failed",
    // A command buffer of Metal: the code stays as it is where the system speaks another language.
    "insufficient memory",
    "erroroutofmemory",
    // candle, where Metal returns no buffer.
    "failed to create metal resource: buffer",
];

fn says_out_of_memory(text: &str) -> bool {
    let text = text.to_lowercase().replace('_', " ");
    OUT_OF_MEMORY.iter().any(|words| text.contains(words))
}

/// What candle's error says; the other lines are where in the program.
pub(crate) fn first_line(fault: &str) -> String {
    fault.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure_class(text: &str) -> FailureClass {
        Error::from(candle_core::Error::Msg(text.into())).failure_class()
    }

    #[test]
    fn a_lack_of_memory_is_recognized_on_every_device() {
        for text in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CUBLAS_STATUS_ALLOC_FAILED",
            "Failed to create metal resource: Buffer",
            "Metal error Failed to create metal resource: Buffer\n   0: candle_core::error",
            "Command buffer had following error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
            "Command buffer had following error: Nicht genug Speicher (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        ] {
            assert_eq!(failure_class(text), FailureClass::Memory, "{text}");
        }
    }

    #[test]
    fn faults_of_one_kind_have_one_code() {
        let path = std::path::PathBuf::from("m");
        let io = |kind: std::io::ErrorKind| Error::Io {
            path: path.clone(),
            source: kind.into(),
        };
        let row = |source: qlora_data::EncodeError| {
            Error::Data(qlora_data::DatasetError::Encode {
                place: qlora_data::rows::Place {
                    file: "f".into(),
                    line: 3,
                },
                source,
            })
        };
        let lost = qlora_data::Lost {
            index: 1,
            how: qlora_data::Loss::LeftOut("the answer".into()),
        };
        for (error, code) in [
            (row(lost.clone().into()), "Q0204"),
            (
                row(qlora_data::TemplateError::Unclear { index: 1 }.into()),
                "Q0204",
            ),
            (row(qlora_data::EncodeError::Dropped('x')), "Q0203"),
            (Error::Encode(lost.into()), "Q0204"),
            (
                Error::Model {
                    path: path.clone(),
                    fault: "x".into(),
                    help: "y",
                },
                "Q0511",
            ),
            (
                Error::Unsupported {
                    path: path.clone(),
                    fault: "x".into(),
                    help: "y",
                },
                "Q0518",
            ),
            (
                Error::Tensor {
                    path: path.clone(),
                    tensor: "t".into(),
                    fault: "x".into(),
                },
                "Q0511",
            ),
            (
                Error::Adapter {
                    path: path.clone(),
                    fault: "x".into(),
                },
                "Q0512",
            ),
            (
                Error::Export {
                    path: path.clone(),
                    fault: "x".into(),
                },
                "Q0514",
            ),
            (Error::NotFinite { step: 3, steps: 2 }, "Q0515"),
            (
                Error::Weights {
                    step: 3,
                    tensor: "t".into(),
                    index: 0,
                    value: f32::NAN,
                },
                "Q0515",
            ),
            (Error::NoPrompt, "Q0204"),
            (
                Error::NothingToScore {
                    name: "f".into(),
                    fault: "x".into(),
                    help: "y",
                },
                "Q0203",
            ),
            (
                Error::from(candle_core::Error::Msg("CUBLAS_STATUS_ALLOC_FAILED".into())),
                "Q0304",
            ),
            (
                Error::from(candle_core::Error::Msg("shape mismatch".into())),
                "Q0517",
            ),
            (io(std::io::ErrorKind::StorageFull), "Q0607"),
            (io(std::io::ErrorKind::NotFound), "Q0605"),
        ] {
            assert_eq!(error.code().id(), code, "{error}");
        }
    }

    #[test]
    fn other_faults_of_a_gpu_are_of_the_attempt() {
        for text in [
            "Failed to create metal resource: CommandBuffer",
            "Failed to create metal resource: CommandQueue",
            "Command buffer had following error: Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)",
            "Command buffer had following error: Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
            "Error while loading function: \"Function 'cast_bf16_f32' does not exist\"",
            "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")",
        ] {
            assert_eq!(failure_class(text), FailureClass::Attempt, "{text}");
        }
    }
}
