//! The tokens of a GGUF file and what each of them is.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, AddedVocabulary, Tokenizer};

use super::keys::Keys;
use crate::model::as_number;

/// Types of tokens in llama.cpp's `llama_token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenType {
    fn of(number: f64) -> Option<Self> {
        [
            Self::Normal,
            Self::Unknown,
            Self::Control,
            Self::UserDefined,
            Self::Unused,
            Self::Byte,
        ]
        .into_iter()
        .find(|kind| f64::from(*kind as u8) == number)
        // llama.cpp merges tokens of no type as it does normal ones.
        .or((number == 0.0).then_some(Self::Normal))
    }
}

/// Keys of the ids of tokens that are never text; the spelling is llama.cpp's.
const SPECIAL: [&str; 9] = [
    "bos",
    "eos",
    "eot",
    "eom",
    "unknown",
    "padding",
    "seperator",
    "cls",
    "mask",
];

/// Every id from 0 on.
pub(super) struct Vocabulary {
    pub tokens: Vec<String>,
    pub types: Vec<TokenType>,
    /// The token for what no other token stands for.
    pub unknown: Option<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Vocabulary {
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self, String> {
        let tokens = keys.required("tokens", keys.list("tokens")?)?;
        let text = |token: &Value| token.to_string().cloned();
        let tokens: Vec<String> = tokens
            .iter()
            .map(text)
            .collect::<Result<_, _>>()
            .map_err(|_| "`tokenizer.ggml.tokens` holds other values than texts")?;
        distinct(&tokens)?;
        let types = match numbers(keys, "token_type", tokens.len())? {
            None => vec![TokenType::Normal; tokens.len()],
            Some(types) => types
                .into_iter()
                .map(known_type)
                .collect::<Result<_, _>>()?,
        };
        let mut vocabulary = Self {
            tokens,
            types,
            unknown: None,
            bos: None,
            eos: None,
        };
        vocabulary.name_special(keys)?;
        Ok(vocabulary)
    }

    /// Marks the tokens that the keys of [`SPECIAL`] name.
    fn name_special(&mut self, keys: &Keys<'_>) -> Result<(), String> {
        for which in SPECIAL {
            let name = format!("{which}_token_id");
            let Some(id) = keys.id(&name)? else { continue };
            let count = self.tokens.len();
            let kind = self.types.get_mut(id as usize).ok_or_else(|| {
                format!("`tokenizer.ggml.{name}` is {id}, which is none of the {count} tokens")
            })?;
            match which {
                "bos" => self.bos = Some(id),
                "eos" => self.eos = Some(id),
                "unknown" => self.unknown = Some(id),
                _ => {}
            }
            if matches!(
                kind,
                TokenType::Normal | TokenType::UserDefined | TokenType::Unused
            ) {
                *kind = if which == "unknown" {
                    TokenType::Unknown
                } else {
                    TokenType::Control
                };
            }
        }
        Ok(())
    }

    /// The score of every token.
    pub(super) fn scores(&self, keys: &Keys<'_>) -> Result<Vec<f64>, String> {
        let scores = keys.required("scores", numbers(keys, "scores", self.tokens.len())?)?;
        match scores.iter().position(|score| !score.is_finite()) {
            Some(at) => Err(format!(
                "`tokenizer.ggml.scores` has {} for token {at}",
                scores[at]
            )),
            None => Ok(scores),
        }
    }

    /// Makes `tokenizer` cut out the tokens that are no text of their own before it cuts the rest:
    /// those of control are left out of an answer, those that a user defined are not.
    pub(super) fn add_to(&self, tokenizer: &mut Tokenizer) -> Result<(), String> {
        tokenizer.with_added_vocabulary(AddedVocabulary::new());
        let added = self
            .tokens
            .iter()
            .zip(&self.types)
            .filter_map(|(token, kind)| match kind {
                TokenType::Unknown | TokenType::Control => {
                    Some(AddedToken::from(token.clone(), true))
                }
                TokenType::UserDefined => {
                    Some(AddedToken::from(token.clone(), false).normalized(false))
                }
                TokenType::Normal | TokenType::Unused | TokenType::Byte => None,
            });
        tokenizer
            .add_tokens(added)
            .map(|_| ())
            .map_err(|e| e.to_string())
    }

    /// What is added before and after a text; `bos` where the file does not say.
    pub(super) fn ends(
        &self,
        keys: &Keys<'_>,
        bos: bool,
    ) -> Result<Option<TemplateProcessing>, String> {
        let begins = keys
            .flag("add_bos_token")?
            .unwrap_or(bos && self.bos.is_some());
        let ends = keys.flag("add_eos_token")?.unwrap_or(false);
        let token = |wanted: bool, which: &str, id: Option<u32>| match id {
            _ if !wanted => Ok(None),
            Some(id) => Ok(Some((self.tokens[id as usize].clone(), id))),
            None => Err(format!(
                "`tokenizer.ggml.add_{which}_token` is true, and `{which}_token_id` is missing"
            )),
        };
        let (first, last) = (
            token(begins, "bos", self.bos)?,
            token(ends, "eos", self.eos)?,
        );
        if first.is_none() && last.is_none() {
            return Ok(None);
        }
        let piece = |token: &Option<(String, u32)>, part: &str| {
            token.as_ref().map(|(text, _)| format!("{text}:{part}"))
        };
        let around = |name: &str, part: &str| {
            [
                piece(&first, part),
                Some(format!("${name}:{part}")),
                piece(&last, part),
            ]
            .into_iter()
            .flatten()
        };
        let template = TemplateProcessing::builder()
            .try_single(around("A", "0").collect::<Vec<_>>())
            .and_then(|builder| {
                builder.try_pair(around("A", "0").chain(around("B", "1")).collect::<Vec<_>>())
            })
            .map_err(|e| e.to_string())?
            .special_tokens(first.iter().chain(&last).cloned().collect::<Vec<_>>())
            .build();
        template.map(Some).map_err(|e| e.to_string())
    }
}

/// # Errors
/// A token stands twice: its second id could never be found.
fn distinct(tokens: &[String]) -> Result<(), String> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if let Some(first) = ids.insert(token, id) {
            return Err(format!(
                "`tokenizer.ggml.tokens` has `{token}` twice, as {first} and {id}"
            ));
        }
    }
    Ok(())
}

fn known_type(number: f64) -> Result<TokenType, String> {
    TokenType::of(number).ok_or_else(|| {
        format!("`tokenizer.ggml.token_type` has {number}, which is not known; 1 to 6 are")
    })
}

/// The numbers under `name`, one for each of `count` tokens.
fn numbers(keys: &Keys<'_>, name: &str, count: usize) -> Result<Option<Vec<f64>>, String> {
    let Some(list) = keys.list(name)? else {
        return Ok(None);
    };
    if list.len() != count {
        return Err(format!(
            "`tokenizer.ggml.{name}` is of {} tokens, `tokenizer.ggml.tokens` of {count}",
            list.len()
        ));
    }
    let numbers = list.iter().map(as_number).collect::<Option<_>>();
    numbers
        .map(Some)
        .ok_or_else(|| format!("`tokenizer.ggml.{name}` holds other values than numbers"))
}
