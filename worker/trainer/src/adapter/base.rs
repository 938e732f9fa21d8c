//! Checks that an adapter is used on its own base. PEFT writes a name only, so names are compared
//! when there is no fingerprint. When there is one, constants are compared, which a fingerprint of
//! weights does not cover.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use qlora_planner::ModelShape;
use serde_json::Value;

use super::{CONFIG, FINGERPRINT, WEIGHTS, constants, files};
use crate::weights::{ModelFiles, metadata};
use crate::{Error, Result};

/// What a person should hear of the adapter in `folder`, which [`super::load`] takes for the model
/// of `files`.
pub fn notes_of_base(folder: &Path, files: &ModelFiles) -> Result<Vec<String>> {
    let named = another_base(folder, files)?;
    let constants = other_constants(folder, &files.path, &files.shape)?;
    Ok(named.into_iter().chain(constants).collect())
}

/// The note where the adapter in `folder` was trained with other constants than the model at
/// `path`, which is of `shape`, computes with.
pub(crate) fn other_constants(
    folder: &Path,
    path: &Path,
    shape: &ModelShape,
) -> Result<Option<String>> {
    let differing = constants::differing(folder, shape)?;
    Ok((!differing.is_empty()).then(|| {
        format!(
            "the adapter was trained on these weights with other constants than {} gives: {}; its answers are poorer unless the change is meant, as of a longer context",
            path.display(),
            differing.join(", ")
        )
    }))
}

/// The note where the base is named and is another one than the model of `files`.
fn another_base(folder: &Path, files: &ModelFiles) -> Result<Option<String>> {
    let Some(base) = named_base(folder)? else {
        return Ok(None);
    };
    if is_named(&base, files) || has_fingerprint(folder)? {
        return Ok(None);
    }
    let model = files.path.display();
    Ok(Some(format!(
        "the adapter names the base `{base}` (`base_model_name_or_path`) and the model is {model}; on another base it gives poor answers"
    )))
}

fn named_base(folder: &Path) -> Result<Option<String>> {
    let Some(text) = files::text(folder, CONFIG)? else {
        return Ok(None);
    };
    let settings: Value =
        qlora_data::strict::parse_settings(&text).map_err(|e| Error::Adapter {
            path: folder.into(),
            fault: format!("has an unreadable {CONFIG}: {e}"),
        })?;
    let base = settings["base_model_name_or_path"]
        .as_str()
        .map(str::trim)
        .filter(|base| !base.is_empty());
    Ok(base.map(str::to_owned))
}

/// Whether the weights say which base they were trained on, which loading has then looked at.
fn has_fingerprint(folder: &Path) -> Result<bool> {
    let path = folder.join(WEIGHTS);
    let mut file = File::open(&path).map_err(Error::io(&path))?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(Error::io(&path))?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length))
        .read_to_end(&mut header)
        .map_err(Error::io(&path))?;
    let header = metadata(&header).map_err(|e| Error::Adapter {
        path: folder.into(),
        fault: format!("has an unreadable {WEIGHTS}: {e}"),
    })?;
    Ok(header
        .metadata()
        .as_ref()
        .is_some_and(|texts| texts.contains_key(FINGERPRINT)))
}

/// Whether the name on the hub, or a part of the path, of `files` is that of `base`.
fn is_named(base: &str, files: &ModelFiles) -> bool {
    let own = base
        .trim_end_matches(['/', '\\'])
        .rsplit(['/', '\\'])
        .next()
        .unwrap_or(base);
    let whole = files
        .path
        .canonicalize()
        .unwrap_or_else(|_| files.path.clone());
    let parts = whole.components().chain(files.path.components());
    let mut parts = parts.filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    let hub = files
        .hub_name
        .as_deref()
        .and_then(|name| name.rsplit('/').next());
    hub.is_some_and(|hub| hub.eq_ignore_ascii_case(own)) || parts.any(|part| is_same(own, &part))
}

/// Whether `part` of a path is the model `own`: `owner--own` in a cache, or a GGUF file of it in
/// some element type.
fn is_same(own: &str, part: &str) -> bool {
    let part = part.rsplit("--").next().unwrap_or(part);
    if part.eq_ignore_ascii_case(own) {
        return true;
    }
    let Some(stem) = part
        .to_ascii_lowercase()
        .strip_suffix(".gguf")
        .map(str::to_owned)
    else {
        return false;
    };
    stem.strip_prefix(&own.to_ascii_lowercase())
        .is_some_and(|rest| {
            let rest = rest.trim_start_matches(['-', '.', '_']);
            let kinds = [
                "q1", "q2", "q3", "q4", "q5", "q6", "q8", "iq", "f16", "f32", "bf16", "fp16", "ud-",
            ];
            rest.is_empty() || kinds.iter().any(|kind| rest.starts_with(kind))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_same_model_are_told_from_those_of_others() {
        for (own, part, wanted) in [
            ("Mistral-7B-v0.1", "Mistral-7B-v0.1", true),
            ("Mistral-7B-v0.1", "mistral-7b-v0.1", true),
            (
                "Mistral-7B-v0.1",
                "models--mistralai--Mistral-7B-v0.1",
                true,
            ),
            ("Mistral-7B-v0.1", "mistral-7b-v0.1.Q4_K_M.gguf", true),
            ("Mistral-7B-v0.1", "Mistral-7B-v0.1.gguf", true),
            ("Mistral-7B-v0.1", "Mistral-7B-v0.1-f16.gguf", true),
            ("Mistral-7B-v0.1", "Mistral-7B-Instruct-v0.1", false),
            ("Llama-2-7b", "Llama-2-7b-chat", false),
            ("Llama-2-7b", "llama-2-7b-chat.Q4_0.gguf", false),
            ("Llama-2-7b", "Llama-2-70b.Q4_0.gguf", false),
            ("Llama-2-7b", "llama", false),
        ] {
            assert_eq!(is_same(own, part), wanted, "{own} {part}");
        }
    }
}
