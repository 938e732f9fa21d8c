//! From a rendered conversation to token ids and labels.

use qlora_codes::Code;
use tokenizers::{Encoding, Tokenizer};

use crate::chat::{Conversation, Example};
use crate::covered::dropped;
use crate::template::{ChatTemplate, Lost, Rendered, TemplateError, Unwritten};

/// Label of a token that is not trained on.
pub const IGNORE: i64 = -100;

/// A tokenized conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub ids: Vec<u32>,
    /// `ids[i]` where the token is the assistant's, else [`IGNORE`]; not yet shifted.
    pub labels: Vec<i64>,
}

impl Sample {
    /// Tokens that carry loss: a label at position 0 has nothing before it to be predicted from.
    pub fn supervised(&self) -> usize {
        self.labels.iter().skip(1).filter(|&&l| l != IGNORE).count()
    }
}

/// Why a conversation gives no tokens, or not those that it stands for.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Lost(#[from] Lost),
    #[error(transparent)]
    Unwritten(#[from] Unwritten),
    #[error(
        "{place} holds `{token}`, which the model reads as a control token and not as text; write it in another way"
    )]
    Control { place: String, token: String },
    #[error("the tokenizer has no token for `{0}` ({code}) and would leave it out; write it in another way", code = .0.escape_unicode())]
    Dropped(char),
    #[error("the tokenizer fails: {0}")]
    Tokenizer(String),
}

impl EncodeError {
    /// [`Code::ChatTemplate`] where another template would do, rather than another row.
    pub fn code(&self) -> Code {
        match self {
            Self::Template(_) | Self::Lost(_) | Self::Unwritten(_) => Code::ChatTemplate,
            Self::Control { .. } | Self::Dropped(_) | Self::Tokenizer(_) => Code::InvalidRow,
        }
    }
}

/// Tokens of `example`, as they are; [`crate::Encoder`] looks whether they are what the example
/// stands for.
///
/// # Errors
/// See [`encode`].
pub fn encode_example(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    example: &Example,
) -> Result<Sample, EncodeError> {
    match example {
        Example::Chat(conversation) => encode(tokenizer, template, conversation),
        Example::Text(text) => encode_text(tokenizer, template, text),
    }
}

/// Tokens of plain text with the special tokens that the tokenizer adds, but none twice, and an end
/// of text where it adds none.
fn encode_text(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    text: &str,
) -> Result<Sample, EncodeError> {
    let special = template.special();
    let encoding = tokens(tokenizer, text, true)?;
    let mut ids = encoding.get_ids().to_vec();
    let id_of = |token: &str| tokenizer.token_to_id(token).filter(|_| !token.is_empty());
    // The text begins with one already, and the tokenizer adds another.
    let bos = id_of(&special.bos).filter(|_| text.starts_with(&special.bos));
    if bos.is_some_and(|bos| ids.starts_with(&[bos, bos])) {
        ids.remove(0);
    }
    ids.extend(id_of(&special.eos).filter(|end| ids.last() != Some(end)));
    let labels = ids.iter().map(|&id| i64::from(id)).collect();
    Ok(Sample { ids, labels })
}

/// Tokens that cover all of `text`.
fn tokens(tokenizer: &Tokenizer, text: &str, add_special: bool) -> Result<Encoding, EncodeError> {
    let fault = |e: tokenizers::Error| EncodeError::Tokenizer(e.to_string());
    match dropped(tokenizer, text).map_err(fault)? {
        Some(letter) => Err(EncodeError::Dropped(letter)),
        None => tokenizer.encode(text, add_special).map_err(fault),
    }
}

/// Tokens of `conversation`; a token is trained on when any of its characters is the assistant's.
///
/// # Errors
/// The template refuses the conversation, or the tokenizer fails.
pub fn encode(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    conversation: &Conversation,
) -> Result<Sample, EncodeError> {
    encode_rendered(tokenizer, &template.render(conversation)?)
}

pub(crate) fn encode_rendered(
    tokenizer: &Tokenizer,
    rendered: &Rendered,
) -> Result<Sample, EncodeError> {
    let encoding = tokens(tokenizer, &rendered.text, false)?;
    let mut spans = rendered.assistant.iter().peekable();
    let mut labels = Vec::with_capacity(encoding.len());
    for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
        while spans.peek().is_some_and(|span| span.end <= start) {
            spans.next();
        }
        let supervised = spans
            .peek()
            .is_some_and(|span| span.start < end.max(start + 1));
        labels.push(if supervised { i64::from(id) } else { IGNORE });
    }
    Ok(Sample {
        ids: encoding.get_ids().to_vec(),
        labels,
    })
}
