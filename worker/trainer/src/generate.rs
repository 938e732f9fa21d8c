//! Answers, token by token, with cached keys and values.

use candle_core::{DType, Device};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use qlora_data::{ChatTemplate, Conversation, IGNORE};
use serde_json::json;
use tokenizers::Tokenizer;

use crate::lora::Adapters;
use crate::model::{Batch, Decoder};
use crate::weights::ModelFiles;
use crate::{Error, Result, metal};

/// How an answer is made.
#[derive(Debug, Clone)]
pub struct Generation {
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token every time.
    pub temperature: f64,
    pub seed: u64,
    /// Ids that end the answer.
    pub end_ids: Vec<u32>,
}

/// Ids that end an answer: the checkpoint's own, and the ends of turn that its tokenizer knows.
pub fn end_ids(files: &ModelFiles, tokenizer: &Tokenizer) -> Vec<u32> {
    let ends = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>"]
        .iter()
        .filter_map(|token| tokenizer.token_to_id(token));
    files.end_ids.iter().copied().chain(ends).collect()
}

/// The added token that ends the assistant's turn in `template`, where it has one: the one that a
/// training with it teaches to end an answer with.
pub fn end_of_turn(tokenizer: &Tokenizer, template: &ChatTemplate) -> Option<u32> {
    let messages = vec![
        json!({"role": "user", "content": "Hello"}),
        json!({"role": "assistant", "content": "Hello"}),
    ];
    let sample = qlora_data::encode(
        tokenizer,
        template,
        &Conversation {
            messages,
            tools: Vec::new(),
        },
    )
    .ok()?;
    let added = tokenizer.get_added_tokens_decoder();
    let from_the_end = sample.ids.iter().zip(&sample.labels).rev();
    let mut supervised = from_the_end
        .filter(|(_, label)| **label != IGNORE)
        .map(|(id, _)| *id);
    // White space may follow the end.
    let is_space = |id: &u32| {
        tokenizer
            .decode(&[*id], false)
            .is_ok_and(|text| text.trim().is_empty())
    };
    let last = supervised.find(|id| !is_space(id))?;
    added.contains_key(&last).then_some(last)
}

/// The model's answer to `conversation`, without special tokens.
///
/// # Errors
/// [`Error::NoPrompt`] where the template writes nothing, besides those of [`tokens`].
pub fn answer(
    decoder: &Decoder,
    adapters: &Adapters,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    conversation: &Conversation,
    how: &Generation,
) -> Result<String> {
    let prompt = template.text(conversation, true)?;
    let fault =
        |e: tokenizers::Error| Error::Encode(qlora_data::EncodeError::Tokenizer(e.to_string()));
    let encoding = tokenizer.encode(prompt.as_str(), false).map_err(fault)?;
    if encoding.get_ids().is_empty() {
        return Err(Error::NoPrompt);
    }
    let ids = tokens(decoder, adapters, encoding.get_ids(), how)?;
    Ok(tokenizer
        .decode(&ids, true)
        .map_err(fault)?
        .trim()
        .to_owned())
}

/// New tokens after `prompt`, up to an end token, the limit or the model's last position; made on a
/// thread of the pool, as a training step is.
pub fn tokens(
    decoder: &Decoder,
    adapters: &Adapters,
    prompt: &[u32],
    how: &Generation,
) -> Result<Vec<u32>> {
    rayon::scope(|_| metal::autoreleased(|| tokens_on_this_thread(decoder, adapters, prompt, how)))
}

fn tokens_on_this_thread(
    decoder: &Decoder,
    adapters: &Adapters,
    prompt: &[u32],
    how: &Generation,
) -> Result<Vec<u32>> {
    let sampling = if how.temperature > 0.0 {
        Sampling::All {
            temperature: how.temperature,
        }
    } else {
        Sampling::ArgMax
    };
    let mut sampler = LogitsProcessor::from_sampling(how.seed, sampling);
    let mut cache = Vec::new();
    let mut out = Vec::new();
    let mut logits = decoder.extend(prompt, adapters, &mut cache)?;
    // Nothing is computed from the last token, so it needs no position.
    let limit = how.max_new_tokens.min(
        decoder
            .positions_after(prompt.len())
            .saturating_sub(prompt.len())
            + 1,
    );
    while out.len() < limit {
        // One row: the CPU picks from it.
        let row = logits.to_device(&Device::Cpu)?;
        if row
            .to_dtype(DType::F32)?
            .to_vec1::<f32>()?
            .iter()
            .any(|logit| !logit.is_finite())
        {
            let ids: Vec<u32> = prompt.iter().chain(&out).copied().collect();
            let origin = decoder.origin(&Batch::plain(&ids), adapters)?;
            return Err(Error::Result {
                what: format!("a logit for token {} of the answer", out.len() + 1),
                origin,
            });
        }
        let next = sampler.sample(&row)?;
        if how.end_ids.contains(&next) {
            break;
        }
        out.push(next);
        if out.len() < limit {
            logits = metal::autoreleased(|| decoder.extend(&[next], adapters, &mut cache))?;
        }
    }
    Ok(out)
}
