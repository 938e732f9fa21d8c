//! Which files of a Hugging Face folder are the model: those that its index names, or the one
//! without an index.
//!
//! Left-over files of another download look like parts of the model, so no file is taken by its
//! name alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use qlora_data::strict;
use serde::Deserialize;

use super::plain;
use crate::{Error, Result};

/// The file of a model that has no index.
pub const SINGLE: &str = "model.safetensors";
/// Says in which file of a folder each tensor lies.
pub const INDEX: &str = "model.safetensors.index.json";

/// The files of a model, and where its index says that each tensor lies.
pub(super) struct ModelParts {
    pub paths: Vec<PathBuf>,
    /// File name by tensor; none where the folder has no index.
    pub places: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Finds the files of the model in `folder`.
///
/// # Errors
/// There are none, the index cannot be read or names what is not there, or a second model lies
/// beside it.
pub(super) fn parts(folder: &Path) -> Result<ModelParts> {
    let index = folder.join(INDEX);
    plain::check(&index)?;
    plain::check(&folder.join(SINGLE))?;
    if !index.exists() {
        let single = folder.join(SINGLE);
        if single.exists() {
            return Ok(ModelParts {
                paths: vec![single],
                places: None,
            });
        }
        return Err(no_weights(folder));
    }
    let places = read(&index)?;
    let names: BTreeSet<&String> = places.values().collect();
    if folder.join(SINGLE).exists() && !names.iter().any(|name| *name == SINGLE) {
        return Err(Error::Model {
            path: folder.join(SINGLE),
            fault: format!(
                "it lies beside {INDEX}, which does not name it: the folder holds two models"
            ),
            help: "remove the file or the index, whichever is left over",
        });
    }
    let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
    paths.iter().try_for_each(|path| plain::check(path))?;
    match paths.iter().find(|path| !path.exists()) {
        Some(missing) => Err(Error::Model {
            path: missing.clone(),
            fault: format!("it is missing, and {INDEX} names it"),
            help: "download the file",
        }),
        None => Ok(ModelParts {
            paths,
            places: Some(places),
        }),
    }
}

/// The names of the files that the index at `path` names.
///
/// # Errors
/// It is no index, or names what is no file of its folder.
pub fn indexed_files(path: &Path) -> Result<BTreeSet<String>> {
    Ok(read(path)?.into_values().collect())
}

fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let fault = |fault: String| Error::Model {
        path: path.into(),
        fault,
        help: "download the file again",
    };
    let text = plain::text(path)?;
    let index: Index = strict::parse_settings(&text)
        .and_then(serde_json::from_value)
        .map_err(|e| fault(format!("it is no index of tensors: {e}")))?;
    // A path would lead out of the folder.
    let is_name = |name: &str| name.ends_with(".safetensors") && !name.contains(['/', '\\']);
    match index.weight_map.iter().find(|(_, name)| !is_name(name)) {
        Some((tensor, name)) => Err(fault(format!(
            "it places `{tensor}` in `{name}`, which is no .safetensors file"
        ))),
        None if index.weight_map.is_empty() => Err(fault("its weight_map is empty".into())),
        None => Ok(index.weight_map),
    }
}

fn no_weights(folder: &Path) -> Error {
    let has = |ending: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names.into_iter().find(|name| name.ends_with(ending))
    };
    let (fault, help) = if let Some(name) = has(".safetensors") {
        (
            format!("it holds {name}, but neither {SINGLE} nor {INDEX}"),
            "download the index, which says what belongs",
        )
    } else if let Some(name) = has(".bin") {
        return Error::Unsupported {
            path: folder.into(),
            fault: format!("it holds {name} and no .safetensors file"),
            help: "save the model with safetensors; pickles are not read",
        };
    } else {
        (
            format!("neither {SINGLE} nor {INDEX} lies there"),
            "download the weights, or give model.base the path of a .gguf file",
        )
    };
    Error::Model {
        path: folder.into(),
        fault,
        help,
    }
}
