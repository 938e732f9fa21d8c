//! The safetensors files of a Hugging Face folder, read one tensor at a time: memory stays that of a tensor.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::{Error, Result};

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
    /// Opens every `model*.safetensors` of `folder` and checks that none is cut off.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let is_shard = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("model") && name.ends_with(".safetensors")
        };
        let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_shard).collect();
        paths.sort();
        if paths.is_empty() {
            return Err(Error::Model {
                path: folder.into(),
                fault: "no model*.safetensors file lies there".into(),
                help: "download the weights, or give model.base the path of a .gguf file",
            });
        }
        let files = paths.into_iter().map(Shard::open).collect::<Result<Vec<_>>>()?;
        let names = |(i, shard): (usize, &Shard)| {
            shard.metadata.tensors().into_keys().map(move |name| (name, i)).collect::<Vec<_>>()
        };
        let file_of = files.iter().enumerate().flat_map(names).collect();
        Ok(Self { folder: folder.into(), files, file_of })
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
            let name = shard.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            ShardEntries { name, entries: entries.into_iter().map(entry).collect() }
        })
    }

    /// A tensor whose data are no weights, but part of a quantised layer.
    pub(crate) fn quantised(&self) -> Option<String> {
        let entries = self.files().flat_map(|shard| shard.entries);
        entries.into_iter().find(|e| !matches!(e.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)).map(|e| e.name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.file_of.contains_key(name)
    }

    /// The bytes of the tensor `name`.
    pub(crate) fn raw(&self, name: &str) -> Result<Raw> {
        let shard = self.file_of.get(name).map(|&i| &self.files[i]);
        let info = shard.and_then(|shard| Some((shard, shard.metadata.info(name)?)));
        let Some((shard, info)) = info else { return Err(self.fault(name, "is missing")) };
        shard.read(info)
    }

    /// The dimensions of the tensor `name`.
    pub(crate) fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let info = self.file_of.get(name).and_then(|&i| self.files[i].metadata.info(name));
        info.map(|info| info.shape.clone()).ok_or_else(|| self.fault(name, "is missing"))
    }

    pub(crate) fn fault(&self, tensor: &str, fault: &str) -> Error {
        Error::Tensor { path: self.folder.clone(), tensor: tensor.into(), fault: fault.into() }
    }

    /// The tensor `name` as `dtype` on `device`.
    pub(crate) fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        Ok(self.raw(name)?.tensor()?.to_dtype(dtype)?.to_device(device)?)
    }

    /// The tensor `name` in the element type of the file.
    pub(crate) fn native(&self, name: &str, device: &Device) -> Result<Tensor> {
        Ok(self.raw(name)?.tensor()?.to_device(device)?)
    }
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self> {
        let fault = |fault: String| Error::Model { path: path.clone(), fault, help: "download the file again" };
        let mut file = File::open(&path).map_err(Error::io(&path))?;
        let length = file.metadata().map_err(Error::io(&path))?.len();
        let too_short = || fault("it is no safetensors file: it ends within its header".into());
        let mut size = [0u8; 8];
        file.read_exact(&mut size).map_err(|_| too_short())?;
        let header_length = u64::from_le_bytes(size);
        if header_length > length.saturating_sub(8) {
            return Err(too_short());
        }
        let mut header = vec![0u8; header_length as usize];
        file.read_exact(&mut header).map_err(Error::io(&path))?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| fault(format!("its header is broken ({e})")))?;
        let start = 8 + header_length;
        let needed = start + metadata.tensors().values().map(|info| info.data_offsets.1 as u64).max().unwrap_or(0);
        if needed > length {
            return Err(fault(format!("it is cut off: its tensors need {needed} bytes, it has {length}")));
        }
        Ok(Self { file, metadata, start, path })
    }

    fn read(&self, info: &TensorInfo) -> Result<Raw> {
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0u8; to - from];
        self.file.read_exact_at(&mut bytes, self.start + from as u64).map_err(Error::io(&self.path))?;
        Ok(Raw { dtype: info.dtype, shape: info.shape.clone(), bytes })
    }
}

impl Raw {
    fn tensor(&self) -> Result<Tensor> {
        let dtype = match self.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::U8 => DType::U8,
            Dtype::I64 => DType::I64,
            Dtype::U32 => DType::U32,
            other => return Err(candle_core::Error::Msg(format!("element type {other:?} is not supported")).into()),
        };
        Ok(Tensor::from_raw_buffer(&self.bytes, dtype, &self.shape, &Device::Cpu)?)
    }
}
