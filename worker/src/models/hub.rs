//! The Hugging Face hub: a file by its address, and a whole repository with the hub's own checksums.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;

use super::fetch::{self, Progress, Wanted, agent};
use super::{Cache, ModelError};

/// Stands in a folder when all of its files are there.
pub(super) const COMPLETE: &str = ".complete";

/// `HF_ENDPOINT` names a mirror.
fn endpoint() -> String {
    let set = std::env::var("HF_ENDPOINT").ok().filter(|v| !v.is_empty());
    set.unwrap_or_else(|| "https://huggingface.co".into()).trim_end_matches('/').to_owned()
}

/// The token for models whose licence must be accepted.
pub(super) fn token() -> Option<String> {
    std::env::var("HF_TOKEN").ok().filter(|v| !v.is_empty())
}

pub(super) fn url(repository: &str, revision: &str, file: &str) -> String {
    format!("{}/{repository}/resolve/{revision}/{file}", endpoint())
}

#[derive(Deserialize)]
struct Entry {
    path: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
}

/// The files of a repository that training needs, in the user's cache.
pub(super) fn folder(
    cache: &Cache,
    repository: &str,
    gated: bool,
    progress: &dyn Progress,
) -> Result<PathBuf, ModelError> {
    let folder = cache.repository(repository);
    if folder.join(COMPLETE).exists() {
        return Ok(folder);
    }
    fs::create_dir_all(&folder).map_err(ModelError::io(&folder))?;
    let token = token();
    let entries = list(repository, token.as_deref(), gated)?;
    for entry in entries.iter().filter(|e| is_needed(&e.path)) {
        let url = url(repository, "main", &entry.path);
        let sha256 = entry.lfs.as_ref().map(|l| l.oid.as_str());
        let wanted = Wanted { what: &entry.path, url: &url, bytes: entry.size, sha256, token: token.as_deref() };
        fetch::file(&wanted, &folder.join(&entry.path), progress)?;
    }
    fs::write(folder.join(COMPLETE), b"").map_err(ModelError::io(&folder))?;
    Ok(folder)
}

/// Weights, configuration and tokenizer at the top of the repository; not the copies in other formats.
fn is_needed(path: &str) -> bool {
    let weights = path.starts_with("model") && (path.ends_with(".safetensors") || path.ends_with(".index.json"));
    let beside = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
    ];
    !path.contains('/') && (weights || beside.contains(&path))
}

fn list(repository: &str, token: Option<&str>, gated: bool) -> Result<Vec<Entry>, ModelError> {
    let mut request = agent().get(format!("{}/api/models/{repository}/tree/main", endpoint()));
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let fault = |fault: String| {
        let accept = format!("accept its licence at {}/{repository} and set HF_TOKEN", endpoint());
        let help = if gated && token.is_none() {
            accept
        } else {
            "check the name and the connection, or give model.base the path of a folder".into()
        };
        ModelError::Fetch { what: repository.into(), fault, help }
    };
    let mut response = request.call().map_err(|e| fault(e.to_string()))?;
    let text = response.body_mut().read_to_string().map_err(|e| fault(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| fault(format!("the list of its files cannot be read: {e}")))
}
