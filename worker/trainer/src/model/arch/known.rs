//! Which keys of a `config.json` are carried out for every architecture, which change no number,
//! and which must have the value that turns them off. Any other key is refused: nobody knows what
//! it would do.

use serde_json::Value;

use super::keys::Keys;

/// Keys that [`super::sizes`] and the readers of tokens carry out.
const DONE: &[&str] = &[
    "architectures",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
];

/// Keys that say where a model comes from, how it was initialized, stored or run, or how text is
/// sampled from it.
const INERT: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_flash_attn_2_enabled",
    "_from_model_config",
    "_name_or_path",
    "_output_attentions",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "max_sequence_length",
    "min_length",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

/// Whether `value` of `key` asks for nothing that is not implemented; none where the key is not
/// known.
fn turned_off(key: &str, value: &Value) -> Option<bool> {
    let is = |wanted: f64| value.as_f64() == Some(wanted);
    Some(match key {
        "attention_bias"
        | "mlp_bias"
        | "rope_interleaved"
        | "use_sliding_window"
        | "is_encoder_decoder"
        | "add_cross_attention" => *value == Value::Bool(false),
        "attention_dropout" => is(0.0),
        // `null` would turn it off, and counts as no key.
        "sliding_window" => false,
        "partial_rotary_factor" => is(1.0),
        "pruned_heads" => value.as_object().is_some_and(serde_json::Map::is_empty),
        "layer_types" => value
            .as_array()
            .is_some_and(|all| all.iter().all(|kind| kind == "full_attention")),
        _ => return None,
    })
}

/// Refuses the first key of `config` that asks for what is not implemented; the architecture
/// carries out `own` as well.
pub(super) fn check(config: &Keys<'_>, own: &[&str]) -> Result<(), String> {
    for (key, value) in config.entries() {
        if DONE.contains(&key) || INERT.contains(&key) || own.contains(&key) {
            continue;
        }
        match turned_off(key, value) {
            Some(true) => {}
            Some(false) => return Err(format!("`{key}: {}` is not implemented", short(value))),
            None => {
                let value = short(value);
                return Err(format!(
                    "`{key}: {value}` is not known; remove the key if it changes no computation"
                ));
            }
        }
    }
    Ok(())
}

/// `value` as a message shows it.
fn short(value: &Value) -> String {
    let text = value.to_string();
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}
