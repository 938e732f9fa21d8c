//! Models quantized once: a large base that is loaded as NF4 is written as such beside the models,
//! and the next start reads a third of the bytes and quantizes nothing.
//!
//! A folder under its final name is complete. Its name follows from the files that it was made of
//! and from how they were quantized. Two processes that want the same one make it once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs4::fs_std::FileExt;
use qlora_config::{ModelConfig, Quantization};
use qlora_trainer::export::{self, ElementType};
use sha2::{Digest, Sha256};

use super::cache::Cache;
use super::error::ModelError;

/// Smaller models are quantized faster than they are worth the space.
const SMALLEST: u64 = 2 << 30;
/// Bytes that all folders may take together before the one that was used longest ago goes.
const LIMIT: u64 = 64 << 30;
/// Changes when the same files would give another folder.
const VERSION: &str = "2";

/// What to load for `model`: its quantized form where that is here or can be made, else `model`
/// itself.
///
/// `progress` hears the tensors that are written, and of how many.
pub fn prepared(model: &Path, config: &ModelConfig, progress: export::Progress<'_>) -> PathBuf {
    let folder = Cache::open().map(|cache| cache.folder().join("quantized"));
    let made = folder.map_err(|e| e.to_string()).and_then(|folder| {
        Store {
            folder,
            smallest: SMALLEST,
            limit: LIMIT,
        }
        .prepared(model, config, progress)
        .map_err(|e| e.to_string())
    });
    made.unwrap_or_else(|fault| {
        tracing::warn!("the quantized model is not kept: {fault}");
        None
    })
    .unwrap_or_else(|| model.into())
}

struct Store {
    folder: PathBuf,
    smallest: u64,
    limit: u64,
}

impl Store {
    fn prepared(
        &self,
        model: &Path,
        config: &ModelConfig,
        progress: export::Progress<'_>,
    ) -> Result<Option<PathBuf>, ModelError> {
        let Some((key, bytes)) = key(model, config).map_err(ModelError::io(model))? else {
            return Ok(None);
        };
        if bytes < self.smallest
            || !matches!(config.quantization, Quantization::Auto | Quantization::Nf4)
            || !export::can_be_quantized(model)
        {
            return Ok(None);
        }
        fs::create_dir_all(&self.folder).map_err(ModelError::io(&self.folder))?;
        let out = self.folder.join(&key);
        let lock_path = self.folder.join(format!("{key}.lock"));
        let lock = File::create(&lock_path).map_err(ModelError::io(&lock_path))?;
        FileExt::lock_exclusive(&lock).map_err(ModelError::io(&lock_path))?;
        if !out.exists() {
            self.trim(bytes / 2);
            export::convert(model, &out, config, ElementType::F16, progress).map_err(|e| {
                ModelError::Io {
                    path: out.clone(),
                    source: std::io::Error::other(e),
                }
            })?;
        }
        // The time of the last use; where it cannot be set, the folder is only taken for older than
        // it is.
        drop(File::open(&out).and_then(|folder| folder.set_modified(SystemTime::now())));
        Ok(Some(out))
    }

    /// Removes what was used longest ago, so that `room` more bytes stay within the limit.
    fn trim(&self, room: u64) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut folders: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter_map(|entry| {
                let (about, path) = (entry.metadata().ok()?, entry.path());
                // What another process is writing has an ending.
                let complete = about.is_dir() && path.extension().is_none();
                complete
                    .then(|| Some((about.modified().ok()?, size(&path), path)))
                    .flatten()
            })
            .collect();
        folders.sort();
        let mut total: u64 = folders.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in folders {
            if total + room <= self.limit {
                return;
            }
            tracing::info!("removing {}, unused for the longest time", path.display());
            match fs::remove_dir_all(&path) {
                Ok(()) => total -= size,
                Err(e) => tracing::warn!("{}: {e}", path.display()),
            }
        }
    }
}

fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .map(|file| file.len())
        .sum()
}

/// A name for what `config` makes of the weights in the folder `model`, and their size; none where
/// it is no folder.
fn key(model: &Path, config: &ModelConfig) -> std::io::Result<Option<(String, u64)>> {
    if !model.is_dir() {
        return Ok(None);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(model)? {
        let (entry, name) = entry.map(|e| (e.path(), e.file_name()))?;
        let known = entry.extension().is_some_and(|e| {
            ["safetensors", "json", "jinja", "model"]
                .map(Into::into)
                .contains(&e.to_owned())
        });
        // A link leads to the file of the hub's own cache.
        let about = fs::metadata(&entry)?;
        if known && about.is_file() {
            files.push((name, about.len(), about.modified()?));
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    let how = format!("{VERSION} {} {}", config.block_size, config.double_quant);
    hash.update(how);
    hash.update(fs::canonicalize(model)?.as_os_str().as_encoded_bytes());
    let mut bytes = 0;
    for (name, length, modified) in files {
        let since = modified
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        hash.update(name.as_encoded_bytes());
        hash.update(format!(" {length} {since} "));
        bytes += length;
    }
    Ok(Some((hex::encode(hash.finalize())[..32].to_owned(), bytes)))
}

#[cfg(test)]
mod tests {
    use qlora_testkit::{golden, resolved};

    use super::*;

    fn config(set: &str) -> ModelConfig {
        let common = ["model.base=tiny", "data.train=rows.jsonl"];
        resolved(&common, &[set]).config().model.clone()
    }

    #[test]
    fn a_model_is_quantized_once_and_anew_when_it_should_be_another() {
        let home = tempfile::tempdir().expect("a folder");
        let store = Store {
            folder: home.path().join("quantized"),
            smallest: 0,
            limit: u64::MAX,
        };
        let mut written = 0;
        let mut get = |set: &str| {
            let found = store.prepared(&golden("tiny_llama"), &config(set), &mut |_, _| {
                written += 1;
                Ok(())
            });
            (found.expect("a folder"), written)
        };
        let (first, count) = get("model.double_quant=true");
        let first = first.expect("a quantized model");
        assert!(count > 0 && first.join("model.safetensors").exists());
        assert_eq!(
            get("model.double_quant=true"),
            (Some(first.clone()), count),
            "it was made again"
        );
        let (other, more) = get("model.double_quant=false");
        assert!(other.is_some_and(|other| other != first) && more > count);
        assert_eq!(get("model.quantization=none").0, None);
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_makes_room() {
        let home = tempfile::tempdir().expect("a folder");
        let store = Store {
            folder: home.path().into(),
            smallest: 0,
            limit: 30,
        };
        for (age, name) in [(3, "old"), (1, "new")] {
            let folder = home.path().join(name);
            fs::create_dir(&folder).expect("a folder");
            fs::write(folder.join("weights"), [0; 12]).expect("a file");
            let used = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(100 - age);
            File::open(&folder)
                .and_then(|f| f.set_modified(used))
                .expect("a time");
        }
        store.trim(6);
        assert!(home.path().join("old").exists());
        store.trim(7);
        assert!(!home.path().join("old").exists() && home.path().join("new").exists());
    }
}
