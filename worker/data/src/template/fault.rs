//! Why a template cannot be used, or why a conversation cannot be trained on with it.

use minijinja::Error;

use super::owners::Owner;

/// Why a template cannot be used, or a conversation not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("the chat template does not compile: {0:#}")]
    Syntax(Error),
    #[error("the chat template refuses the conversation: {0:#}")]
    Refused(Error),
    #[error(
        "the chat template joins the arguments of a call to text, which they are not; set data.template: chatml-tools, or a copy of the template that writes `arguments | tojson`"
    )]
    TextArguments,
    #[error(
        "the chat template cannot render tool calls ({0}); set data.template: chatml-tools, or take a model whose template does"
    )]
    Calls(Error),
    #[error("the model has no chat template for a conversation without tools, only {}; give data.template", .0.join(", "))]
    NoDefault(Vec<String>),
    #[error(
        "message {index}: the chat template does not show which part of the text is this turn's; set data.template: chatml-tools, or a copy of the template with {{% generation %}} around what the assistant writes"
    )]
    Unclear { index: usize },
    #[error(
        "message {index}: the chat template writes text of {other} into this turn, which is not to be trained on; set data.template: chatml-tools, or a copy of the template with {{% generation %}} around what the assistant alone writes"
    )]
    Foreign { index: usize, other: String },
    #[error(
        "message {index}: the chat template writes this answer {side} message {other}, which is not the order of the messages; set data.template: chatml-tools, or a copy of the template that writes them in their order"
    )]
    Order {
        index: usize,
        side: &'static str,
        other: usize,
    },
    #[error("`{0}` is no date; write one as 2024-07-26")]
    Date(String),
    #[error(
        "the chat template takes more than {steps} steps for one conversation: it does not end, or loops over too much"
    )]
    Endless { steps: u64 },
}

impl TemplateError {
    /// A text of `owner` stands in turn `index`.
    pub(super) fn foreign(index: usize, owner: Owner) -> Self {
        let other = match owner {
            Owner::Message(other) => format!("message {other}"),
            Owner::Tools => "the tools".into(),
        };
        Self::Foreign { index, other }
    }
}

/// A part of an answer that is to be trained on and is not among what is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "message {index}: the chat template {how}; set data.template: chatml-tools, or a template that writes it"
)]
pub struct Lost {
    pub index: usize,
    pub how: Loss,
}

/// What of a row, besides the answers that are trained on, the template does not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwritten {
    #[error(
        "message {index}: the chat template leaves out what this message of the role `{role}` says; {way_out}, or set data.template: chatml-tools, or a template that writes it"
    )]
    Message {
        index: usize,
        role: String,
        way_out: WayOut,
    },
    #[error(
        "the chat template writes none of the row's `tools`, and the model could not know them; leave them out of the row, or set data.template: chatml-tools, or a template that writes them"
    )]
    Tools,
}

/// What to do about a message that the template leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WayOut {
    #[error("leave the message out of the row")]
    LeaveOut,
    /// The template writes the same under the other role.
    #[error("write its role as `system`")]
    System,
    /// The template writes it where the model is asked, and not where it has answered.
    #[error("move its text into the first question")]
    Question,
}

/// What the template does with a part of an answer instead of writing it as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    #[error("leaves out {0}")]
    LeftOut(String),
    #[error("writes {0} outside of its {{% generation %}} blocks, where nothing is trained on")]
    OutsideBlocks(String),
    #[error("writes {0} outside of the answer, where nothing is trained on")]
    OutsideAnswer(String),
    #[error("does not write {0} as the row has it")]
    Unlike(String),
    #[error("writes {what} otherwise than the row has it: `{found}` for `{wanted}`")]
    Changed {
        what: String,
        found: String,
        wanted: String,
    },
}
