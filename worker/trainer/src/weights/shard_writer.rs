//! A safetensors file written one tensor at a time, so that memory stays that of a tensor.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use half::{bf16, f16};
use serde_json::{Map, Value, json};

use super::safetensors::ShardEntry;
use crate::{Error, Result};

/// A file whose header is written and whose data are to follow.
pub(crate) struct ShardWriter {
    path: PathBuf,
    out: BufWriter<File>,
}

impl ShardWriter {
    /// Writes the header for tensors that will be written in the order of `entries`.
    pub(crate) fn create(path: &Path, entries: &[ShardEntry]) -> Result<Self> {
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({"format": "pt"}));
        let mut at = 0;
        for entry in entries {
            let offsets = [at, at + entry.bytes];
            let description = json!({"dtype": entry.dtype.to_string(), "shape": entry.shape, "data_offsets": offsets});
            header.insert(entry.name.clone(), description);
            at += entry.bytes;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut out = BufWriter::new(File::create(path).map_err(Error::io(path))?);
        out.write_all(&(text.len() as u64).to_le_bytes())
            .map_err(Error::io(path))?;
        out.write_all(&text).map_err(Error::io(path))?;
        Ok(Self {
            path: path.into(),
            out,
        })
    }

    /// Appends the next tensor and returns its size in bytes.
    pub(crate) fn write(&mut self, tensor: &Tensor) -> Result<u64> {
        let flat = tensor.flatten_all()?;
        let bytes: Vec<u8> = match tensor.dtype() {
            DType::F32 => flat
                .to_vec1::<f32>()?
                .into_iter()
                .flat_map(f32::to_le_bytes)
                .collect(),
            DType::BF16 => flat
                .to_vec1::<bf16>()?
                .into_iter()
                .flat_map(bf16::to_le_bytes)
                .collect(),
            DType::F16 => flat
                .to_vec1::<f16>()?
                .into_iter()
                .flat_map(f16::to_le_bytes)
                .collect(),
            other => {
                return Err(candle_core::Error::Msg(format!(
                    "element type {other:?} cannot be written"
                ))
                .into());
            }
        };
        self.write_bytes(&bytes)
    }

    /// Appends the next tensor as its bytes are, and returns how many.
    pub(crate) fn write_bytes(&mut self, bytes: &[u8]) -> Result<u64> {
        self.out.write_all(bytes).map_err(Error::io(&self.path))?;
        Ok(bytes.len() as u64)
    }

    /// Makes the file durable.
    pub(crate) fn finish(self) -> Result<()> {
        let io = Error::io(&self.path);
        self.out
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .map_err(io)
    }
}
