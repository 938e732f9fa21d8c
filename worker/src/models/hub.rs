//! The Hugging Face hub: a file by its address, and a whole repository with the hub's own
//! checksums.

use std::fs;
use std::path::{Path, PathBuf};

use qlora_trainer::weights::{INDEX, SINGLE, indexed_files};
use serde::Deserialize;

use super::cache::Cache;
use super::download::{self, Wanted, agent};
use super::error::ModelError;
use super::progress::Progress;

/// `HF_ENDPOINT` names a mirror.
fn endpoint() -> String {
    let set = std::env::var("HF_ENDPOINT").ok().filter(|v| !v.is_empty());
    set.unwrap_or_else(|| "https://huggingface.co".into())
        .trim_end_matches('/')
        .to_owned()
}

/// The token for models whose license must be accepted.
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
    if cache.has_repository(repository) {
        return Ok(folder);
    }
    fs::create_dir_all(&folder).map_err(ModelError::io(&folder))?;
    let token = token();
    let entries = list(repository, token.as_deref(), gated)?;
    let fetch = |entry: &Entry| {
        let url = url(repository, "main", &entry.path);
        let sha256 = entry.lfs.as_ref().map(|l| l.oid.as_str());
        let wanted = Wanted {
            what: &entry.path,
            url: &url,
            bytes: entry.size,
            sha256,
            token: token.as_deref(),
        };
        download::file(&wanted, &folder.join(&entry.path), progress)
    };
    entries
        .iter()
        .filter(|e| BESIDE.contains(&e.path.as_str()))
        .try_for_each(fetch)?;
    weights(repository, &entries, &folder)?
        .into_iter()
        .try_for_each(fetch)?;
    cache.complete(repository)?;
    Ok(folder)
}

/// Files at the top of a repository that training needs besides the weights.
const BESIDE: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    INDEX,
];

/// The files of the model among `entries`: those that the index in `folder` names, or the one that
/// needs none. The copies in other formats are left where they are.
fn weights<'a>(
    repository: &str,
    entries: &'a [Entry],
    folder: &Path,
) -> Result<Vec<&'a Entry>, ModelError> {
    let fault = |fault: String| ModelError::Fetch {
        what: repository.into(),
        fault,
        help: "take a repository with safetensors that are complete".into(),
    };
    let index = folder.join(INDEX);
    let names = if index.exists() {
        indexed_files(&index).map_err(|e| fault(e.to_string()))?
    } else {
        [SINGLE.to_owned()].into()
    };
    let entry = |name: &String| {
        let found = entries.iter().find(|entry| entry.path == *name);
        found.ok_or_else(|| fault(format!("it does not hold {name}, which its model needs")))
    };
    names.iter().map(entry).collect()
}

const UNREACHED: &str =
    "check the name and the connection, or give model.base the path of a folder";

fn list(repository: &str, token: Option<&str>, gated: bool) -> Result<Vec<Entry>, ModelError> {
    let mut request = agent().get(format!("{}/api/models/{repository}/tree/main", endpoint()));
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let fetch = |fault: String, help: String| ModelError::Fetch {
        what: repository.into(),
        fault,
        help,
    };
    let fault = |fault: String| fetch(fault, UNREACHED.into());
    let mut response = request.call().map_err(|e| match e {
        // Trouble on the way says nothing of a license.
        ureq::Error::StatusCode(401 | 403) if gated => fetch(
            e.to_string(),
            format!(
                "accept its license at {}/{repository} and set HF_TOKEN",
                endpoint()
            ),
        ),
        other => fault(other.to_string()),
    })?;
    let text = response
        .body_mut()
        .read_to_string()
        .map_err(|e| fault(e.to_string()))?;
    serde_json::from_str(&text)
        .map_err(|e| fault(format!("the list of its files cannot be read: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(index: Option<&str>, held: &[&str]) -> Result<Vec<String>, String> {
        let home = tempfile::tempdir().expect("a folder");
        if let Some(index) = index {
            fs::write(home.path().join(INDEX), index).expect("an index");
        }
        let entry = |path: &&str| Entry {
            path: (*path).into(),
            size: 1,
            lfs: None,
        };
        let entries: Vec<Entry> = held.iter().map(entry).collect();
        let found = weights("owner/name", &entries, home.path()).map_err(|e| e.to_string())?;
        Ok(found.iter().map(|entry| entry.path.clone()).collect())
    }

    #[test]
    fn what_the_index_names_is_fetched_and_nothing_that_looks_like_it() {
        let held = [
            "weights-1.safetensors",
            "weights-2.safetensors",
            "model-00001-of-00003.safetensors",
            SINGLE,
        ];
        let index =
            r#"{"weight_map": {"a": "weights-1.safetensors", "b": "weights-2.safetensors"}}"#;
        assert_eq!(
            chosen(Some(index), &held),
            Ok(held[..2].iter().map(|&name| name.into()).collect())
        );
        assert_eq!(chosen(None, &held), Ok(vec![SINGLE.to_owned()]));
        let missing = chosen(Some(index), &held[..1]).expect_err("a part is missing");
        assert!(missing.contains("weights-2.safetensors"), "{missing}");
        let none = chosen(None, &["pytorch_model.bin"]).expect_err("no safetensors");
        assert!(none.contains(SINGLE), "{none}");
        let outside = chosen(Some(r#"{"weight_map": {"a": "../x.safetensors"}}"#), &held)
            .expect_err("a path");
        assert!(outside.contains("../x.safetensors"), "{outside}");
    }
}
