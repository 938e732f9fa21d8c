//! Samples kept between runs: a file of token ids whose name is the hash of everything that they
//! follow from.
//!
//! A run that is resumed, retried, or repeated with another learning rate reads its tokens instead
//! of making them again. The name covers the bytes of the rows, the tokenizer, the template and the
//! limits, so a file is never out of date; it ends with a checksum, and a file that does not match
//! its checksum is written again. This module removes nothing: the owner of the folder does that.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use crate::dataset::{self, DatasetError, Policy};
use crate::encode::{IGNORE, Sample};
use crate::rows;
use crate::statistics::Statistics;
use crate::template::ChatTemplate;

/// Changes with the layout of the file and with how tokens and labels are made.
const VERSION: &str = "qlora-tokens-8";
const CHECKSUM: usize = 32;

/// [`dataset::load`], through the files in `folder`.
///
/// A folder that cannot be read or written makes loading slower, not wrong.
///
/// # Errors
/// Those of [`dataset::load`].
pub fn load_cached(
    folder: &Path,
    path: &Path,
    name: &str,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    policy: Policy,
) -> Result<(Vec<Sample>, Statistics), DatasetError> {
    let file = key(path, name, tokenizer, template, policy)
        .ok()
        .map(|key| folder.join(format!("{key}.tokens")));
    if let Some(found) = file.as_deref().and_then(read) {
        return Ok(found);
    }
    let (samples, statistics) = dataset::load(path, name, tokenizer, template, policy)?;
    if let Some(file) = file {
        // The samples are there; that they could not be kept is no reason to stop.
        drop(write(&file, &samples, &statistics));
    }
    Ok((samples, statistics))
}

fn key(
    path: &Path,
    name: &str,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    policy: Policy,
) -> io::Result<String> {
    let mut hash = Hash(Sha256::new());
    hash.part(VERSION.as_bytes());
    hash.part(env!("CARGO_PKG_VERSION").as_bytes());
    let tokenizer = tokenizer.to_string(false).map_err(io::Error::other)?;
    hash.part(tokenizer.as_bytes());
    template
        .identity()
        .for_each(|part| hash.part(part.as_bytes()));
    hash.part(format!("{policy:?}").as_bytes());
    // Statistics name rows by their places.
    hash.part(name.as_bytes());
    for file in rows::files(path).map_err(io::Error::other)? {
        hash.part(file.file_name().unwrap_or_default().as_encoded_bytes());
        io::copy(&mut File::open(file)?, &mut hash.0)?;
    }
    Ok(hex::encode(hash.0.finalize()))
}

struct Hash(Sha256);

impl Hash {
    /// Hashes `bytes` so that no two lists of parts give the same input.
    fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

/// What lies in `file`; none where it is missing, of another version, or damaged.
fn read(file: &Path) -> Option<(Vec<Sample>, Statistics)> {
    let mut bytes = Vec::new();
    File::open(file).ok()?.read_to_end(&mut bytes).ok()?;
    let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    if Sha256::digest(body)[..] != *checksum {
        return None;
    }
    let mut rest = body;
    let head = take(&mut rest, 8)?;
    let length = u64::from_le_bytes(head.try_into().ok()?) as usize;
    let statistics: Statistics = serde_json::from_slice(take(&mut rest, length)?).ok()?;
    let mut samples = Vec::with_capacity(statistics.kept);
    while !rest.is_empty() {
        let tokens = u32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?) as usize;
        let ids = take(&mut rest, 4 * tokens)?.chunks_exact(4);
        let ids: Vec<u32> = ids
            .map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]))
            .collect();
        let supervised = take(&mut rest, tokens.div_ceil(8))?;
        let label = |(i, &id): (usize, &u32)| {
            if supervised[i / 8] >> (i % 8) & 1 == 1 {
                i64::from(id)
            } else {
                IGNORE
            }
        };
        let labels = ids.iter().enumerate().map(label).collect();
        samples.push(Sample { ids, labels });
    }
    (samples.len() == statistics.kept).then_some((samples, statistics))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn write(file: &Path, samples: &[Sample], statistics: &Statistics) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    qlora_files::write_with(file, |partial| write_to(partial, samples, statistics))
}

fn write_to(path: &Path, samples: &[Sample], statistics: &Statistics) -> io::Result<()> {
    let mut out = Summed {
        out: BufWriter::new(File::create(path)?),
        hash: Sha256::new(),
    };
    let head = serde_json::to_vec(statistics)?;
    out.write_all(&(head.len() as u64).to_le_bytes())?;
    out.write_all(&head)?;
    for sample in samples {
        out.write_all(&(sample.ids.len() as u32).to_le_bytes())?;
        for id in &sample.ids {
            out.write_all(&id.to_le_bytes())?;
        }
        let mut supervised = vec![0u8; sample.labels.len().div_ceil(8)];
        for (i, _) in sample
            .labels
            .iter()
            .enumerate()
            .filter(|&(_, &label)| label != IGNORE)
        {
            supervised[i / 8] |= 1 << (i % 8);
        }
        out.write_all(&supervised)?;
    }
    let checksum = out.hash.finalize();
    out.out.write_all(&checksum)?;
    out.out.flush()
}

/// A writer that hashes what it writes.
struct Summed<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
