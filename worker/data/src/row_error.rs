//! Why a row of a file cannot be trained on, at whichever stage that shows: as bytes, as JSON, as
//! one of the known shapes, or as messages and tools.

/// Why a row is no conversation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    #[error("the row is not JSON: {0}")]
    NotJson(String),
    #[error("the row is not UTF-8: byte {byte:#04x} at column {column}; save the file as UTF-8")]
    NotUtf8 { byte: u8, column: usize },
    #[error("the row holds a value that cannot be read: {0}")]
    Value(String),
    #[error(
        "the row holds neither `messages`, nor `conversations`, nor `instruction` and `output`, nor `prompt` and `completion`, nor `text`"
    )]
    NoMessages,
    #[error("`{0}` is empty: there is nothing to train on")]
    EmptyKey(&'static str),
    #[error("the row holds both `{0}` and `{1}`; keep the one to train on")]
    TwoShapes(&'static str, &'static str),
    #[error("`{key}` {fault}")]
    Key { key: String, fault: String },
    #[error("the row is empty")]
    Empty,
    #[error("message {index} {fault}")]
    Message { index: usize, fault: String },
    #[error("no message is the assistant's: there is nothing to train on")]
    NoAssistant,
    #[error("every answer has `weight: 0`: there is nothing to train on")]
    NoWeight,
    #[error("`tools` is not a list of function definitions: {0}")]
    Tools(String),
}
