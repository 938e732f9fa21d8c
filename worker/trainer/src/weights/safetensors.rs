//! The safetensors files of a Hugging Face folder, read one tensor at a time: memory stays that of
//! a tensor.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use qlora_data::strict;
use qlora_planner::WeightFormat;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::finite::first_broken;
use super::index::{self, INDEX, ModelParts};
use super::plain;
use crate::{Error, Result};

/// Bytes of a tensor that are compared at a time.
const PART: usize = 1 << 20;

/// Tensors by name, over all files of a folder.
pub(crate) struct Shards {
    folder: PathBuf,
    files: Vec<Shard>,
    file_of: HashMap<String, usize>,
}

struct Shard {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    /// Byte at which tensor data begin.
    start: u64,
}

/// A file of a folder and what it holds.
pub(crate) struct ShardEntries {
    pub name: String,
    pub entries: Vec<ShardEntry>,
}

/// A tensor of a file, without its data.
#[derive(Clone)]
pub(crate) struct ShardEntry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: usize,
}

/// One tensor as it lies in its file.
pub(crate) struct Raw {
    dtype: Dtype,
    shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Shards {
    /// Opens the files of the model in `folder`, and checks that none is cut off and that each
    /// holds what the index says.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let ModelParts { paths, places } = index::parts(folder)?;
        let files = paths
            .into_iter()
            .map(Shard::open)
            .collect::<Result<Vec<_>>>()?;
        if let Some(places) = &places {
            agree_with_index(&files, places)?;
        }
        let names = |(i, shard): (usize, &Shard)| {
            shard
                .metadata
                .tensors()
                .into_keys()
                .map(move |name| (name, i))
                .collect::<Vec<_>>()
        };
        let file_of = files.iter().enumerate().flat_map(names).collect();
        Ok(Self {
            folder: folder.into(),
            files,
            file_of,
        })
    }

    /// Tensors over all files.
    pub(crate) fn count(&self) -> usize {
        self.file_of.len()
    }

    /// Each file with its tensors in the order in which they lie there.
    pub(crate) fn files(&self) -> impl Iterator<Item = ShardEntries> + '_ {
        self.files.iter().map(|shard| {
            let mut entries: Vec<_> = shard.metadata.tensors().into_iter().collect();
            entries.sort_by_key(|(_, info)| info.data_offsets);
            let entry = |(name, info): (String, &TensorInfo)| ShardEntry {
                name,
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes: info.data_offsets.1 - info.data_offsets.0,
            };
            ShardEntries {
                name: shard.name(),
                entries: entries.into_iter().map(entry).collect(),
            }
        })
    }

    /// Every tensor, without its data.
    pub(super) fn entries(&self) -> impl Iterator<Item = ShardEntry> + '_ {
        self.files().flat_map(|shard| shard.entries)
    }

    /// A tensor whose data are no weights, but part of a quantized layer.
    pub(crate) fn quantized(&self) -> Option<String> {
        self.entries()
            .find(|e| !matches!(e.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16))
            .map(|e| e.name)
    }

    /// Whether its linear layers are quantized already; others than NF4 are refused by name.
    pub(super) fn format(&self) -> WeightFormat {
        if self.quantized().is_some() {
            WeightFormat::Nf4
        } else {
            WeightFormat::Folder
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.file_of.contains_key(name)
    }

    /// The file that holds the tensor `name`, and what its header says of it.
    fn find(&self, name: &str) -> Result<(&Shard, &TensorInfo)> {
        let shard = self.file_of.get(name).map(|&i| &self.files[i]);
        let found = shard.and_then(|shard| Some((shard, shard.metadata.info(name)?)));
        found.ok_or_else(|| self.fault(name, "is missing"))
    }

    /// Whether two tensors are alike in type, dimensions and every byte; they are read in parts.
    pub(super) fn are_same(&self, one: &str, other: &str) -> Result<bool> {
        let ((a, one), (b, other)) = (self.find(one)?, self.find(other)?);
        if (one.dtype, &one.shape) != (other.dtype, &other.shape) {
            return Ok(false);
        }
        let size = one.data_offsets.1 - one.data_offsets.0;
        for from in (0..size).step_by(PART) {
            let part = from..(from + PART).min(size);
            if a.part(one, part.clone())? != b.part(other, part)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The bytes of the tensor `name`.
    pub(crate) fn raw(&self, name: &str) -> Result<Raw> {
        let (shard, info) = self.find(name)?;
        let raw = shard.read(info)?;
        match first_broken(raw.dtype, &raw.bytes) {
            None => Ok(raw),
            Some((index, value)) => {
                Err(self.fault(name, &format!("has {value} at element {index}; {BROKEN}")))
            }
        }
    }

    /// The dimensions of the tensor `name`.
    pub(crate) fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.find(name)?.1.shape.clone())
    }

    /// A fault of `tensor`, with the file that holds it, or the folder where none does.
    pub(crate) fn fault(&self, tensor: &str, fault: &str) -> Error {
        let path = self
            .file_of
            .get(tensor)
            .map_or(&self.folder, |&i| &self.files[i].path);
        Error::Tensor {
            path: path.clone(),
            tensor: tensor.into(),
            fault: fault.into(),
        }
    }

    /// The tensor `name` as `dtype` on `device`.
    pub(crate) fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        Ok(self
            .native(name, &Device::Cpu)?
            .to_dtype(dtype)?
            .to_device(device)?)
    }

    /// The tensor `name` in the element type of the file.
    pub(crate) fn native(&self, name: &str, device: &Device) -> Result<Tensor> {
        let raw = self.raw(name)?;
        let Some(dtype) = raw.candle_dtype() else {
            return Err(self.fault(
                name,
                &format!("has the element type {:?}, which is not read", raw.dtype),
            ));
        };
        Ok(
            Tensor::from_raw_buffer(&raw.bytes, dtype, &raw.shape, &Device::Cpu)?
                .to_device(device)?,
        )
    }
}

/// What helps against an element that is not finite.
pub(crate) const BROKEN: &str = "download the file again, or take another model";

/// Holds `files` against `places`: each tensor lies where the index says, and nowhere else.
fn agree_with_index(files: &[Shard], places: &BTreeMap<String, String>) -> Result<()> {
    let mut found = 0;
    for shard in files {
        let file = shard.name();
        for tensor in shard.metadata.tensors().into_keys() {
            let fault = match places.get(&tensor) {
                Some(place) if *place == file => {
                    found += 1;
                    continue;
                }
                Some(place) => {
                    format!("is in {file}, but {INDEX} places it in {place}; download both again")
                }
                None => format!("is in {file}, but {INDEX} does not name it; download both again"),
            };
            return Err(Error::Tensor {
                path: shard.path.clone(),
                tensor,
                fault,
            });
        }
    }
    if found == places.len() {
        return Ok(());
    }
    let lies = |(tensor, place): &(&String, &String)| {
        files
            .iter()
            .any(|shard| shard.name() == **place && shard.metadata.info(tensor).is_some())
    };
    let missing = places.iter().find(|place| !lies(place));
    missing.map_or(Ok(()), |(tensor, place)| {
        let path = files
            .iter()
            .find(|shard| shard.name() == *place)
            .map_or_else(PathBuf::new, |s| s.path.clone());
        let fault = format!("is missing, and {INDEX} places it there; download the file again");
        Err(Error::Tensor {
            path,
            tensor: tensor.clone(),
            fault,
        })
    })
}

/// The longest header that the safetensors library takes.
const LONGEST_HEADER: u64 = 100_000_000;

/// The header of a safetensors file. The library keeps the last of two tensors of one name; here
/// that is a fault, as are places that overlap or do not fit the shape.
pub(crate) fn metadata(header: &[u8]) -> Result<Metadata, String> {
    let text = std::str::from_utf8(header).map_err(|e| e.to_string())?;
    strict::parse_settings(text)
        .and_then(serde_json::from_value)
        .map_err(|e| e.to_string())
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self> {
        let fault = |fault: String| Error::Model {
            path: path.clone(),
            fault,
            help: "download the file again",
        };
        plain::check(&path)?;
        let mut file = File::open(&path).map_err(Error::io(&path))?;
        let length = file.metadata().map_err(Error::io(&path))?.len();
        let too_short = || fault("it is no safetensors file: it ends within its header".into());
        let mut size = [0u8; 8];
        file.read_exact(&mut size).map_err(|_| too_short())?;
        let header_length = u64::from_le_bytes(size);
        if header_length > length.saturating_sub(8) {
            return Err(too_short());
        }
        if header_length > LONGEST_HEADER {
            return Err(fault(format!(
                "its header is said to have {header_length} bytes, more than any model's"
            )));
        }
        let mut header = vec![0u8; header_length as usize];
        file.read_exact(&mut header).map_err(Error::io(&path))?;
        let metadata =
            metadata(&header).map_err(|e| fault(format!("its header is broken ({e})")))?;
        let start = 8 + header_length;
        let needed = metadata
            .tensors()
            .values()
            .map(|info| info.data_offsets.1 as u64)
            .max()
            .unwrap_or(0);
        let needed = start.saturating_add(needed);
        if needed > length {
            return Err(fault(format!(
                "it is cut off: its tensors need {needed} bytes, it has {length}"
            )));
        }
        if needed < length {
            let more = length - needed;
            return Err(fault(format!(
                "{more} bytes follow its tensors, which no tensor of its header explains"
            )));
        }
        Ok(Self {
            file,
            metadata,
            start,
            path,
        })
    }

    fn name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    fn read(&self, info: &TensorInfo) -> Result<Raw> {
        let (from, to) = info.data_offsets;
        Ok(Raw {
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes: self.part(info, 0..to - from)?,
        })
    }

    /// The bytes `part` of the tensor of `info`.
    fn part(&self, info: &TensorInfo, part: Range<usize>) -> Result<Vec<u8>> {
        let mut bytes = vec![0u8; part.len()];
        self.file
            .read_exact_at(
                &mut bytes,
                self.start + (info.data_offsets.0 + part.start) as u64,
            )
            .map_err(Error::io(&self.path))?;
        Ok(bytes)
    }
}

impl Raw {
    /// The element type in candle; none where it has no such type.
    fn candle_dtype(&self) -> Option<DType> {
        Some(match self.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::U8 => DType::U8,
            _ => return None,
        })
    }
}
