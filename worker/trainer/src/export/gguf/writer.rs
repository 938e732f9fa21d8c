//! A GGUF file, version 3, written one tensor at a time (ggml's `docs/gguf.md`).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;

use crate::export::publish::publish;
use crate::export::report::Progress;
use crate::partial::Partial;
use crate::{Error, Result};

const VERSION: u32 = 3;
/// Tensors begin at multiples of this many bytes.
const ALIGNMENT: usize = 32;

/// A tensor that is to follow.
pub(super) struct Entry {
    pub name: String,
    /// The slowest first, as everywhere here; the file has them the other way round.
    pub dims: Vec<usize>,
    pub dtype: GgmlDType,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.dims.iter().product::<usize>() / self.dtype.block_size() * self.dtype.type_size()
    }
}

/// A file whose header is written and whose data are to follow.
pub(super) struct Writer {
    path: PathBuf,
    partial: Partial,
    out: BufWriter<File>,
    /// All tensors of the file.
    total: usize,
    /// Sizes of the tensors that are still to come, the next one last.
    left: Vec<usize>,
}

impl Writer {
    /// Writes the header of a file at `path` for tensors in the order of `entries`.
    ///
    /// # Errors
    /// The rows of a matrix do not hold whole blocks of its element type, or the file cannot be
    /// written.
    pub(super) fn create(
        path: &Path,
        metadata: &[(String, Value)],
        entries: Vec<Entry>,
    ) -> Result<Self> {
        for entry in &entries {
            if !entry
                .dims
                .last()
                .is_some_and(|cols| cols.is_multiple_of(entry.dtype.block_size()))
            {
                let fault = format!(
                    "`{}` {:?} is not made of whole {:?} blocks",
                    entry.name, entry.dims, entry.dtype
                );
                return Err(Error::Export {
                    path: path.into(),
                    fault: format!("cannot be written: {fault}"),
                });
            }
        }
        let mut header = Vec::new();
        header.extend(b"GGUF");
        header.extend(VERSION.to_le_bytes());
        header.extend((entries.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            text(&mut header, key);
            header.extend(type_number(value).to_le_bytes());
            put(&mut header, value);
        }
        let mut offset = 0;
        for entry in &entries {
            text(&mut header, &entry.name);
            header.extend((entry.dims.len() as u32).to_le_bytes());
            entry
                .dims
                .iter()
                .rev()
                .for_each(|&dim| header.extend((dim as u64).to_le_bytes()));
            header.extend(dtype_number(entry.dtype).to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            offset += entry.bytes().next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        let partial = Partial::file(path).map_err(Error::io(path))?;
        let mut out =
            BufWriter::new(File::create(partial.path()).map_err(Error::io(partial.path()))?);
        out.write_all(&header).map_err(Error::io(partial.path()))?;
        let left = entries.iter().rev().map(Entry::bytes).collect();
        Ok(Self {
            path: path.into(),
            partial,
            out,
            total: entries.len(),
            left,
        })
    }

    /// Appends the next tensor, and returns its size in bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<u64> {
        if self.left.pop() != Some(bytes.len()) {
            return Err(candle_core::Error::Msg(format!(
                "{} bytes are not the next tensor",
                bytes.len()
            ))
            .into());
        }
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        let written = self
            .out
            .write_all(bytes)
            .and_then(|()| self.out.write_all(&[0; ALIGNMENT][..padding]));
        written.map_err(Error::io(self.partial.path()))?;
        Ok(bytes.len() as u64)
    }

    /// Makes the file durable and gives it its name.
    pub(super) fn finish(mut self, progress: Progress<'_>) -> Result<()> {
        self.out.flush().map_err(Error::io(self.partial.path()))?;
        publish(self.partial, &self.path, self.total, progress)
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn type_number(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => text(out, v),
        Value::Array(values) => {
            // All values of an array are of one type; an empty one is of any.
            out.extend(values.first().map_or(4, type_number).to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| put(out, value));
        }
    }
}

/// The numbers of ggml's `ggml_type`.
fn dtype_number(dtype: GgmlDType) -> u32 {
    match dtype {
        GgmlDType::F32 => 0,
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q4_1 => 3,
        GgmlDType::Q5_0 => 6,
        GgmlDType::Q5_1 => 7,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q8_1 => 9,
        GgmlDType::Q2K => 10,
        GgmlDType::Q3K => 11,
        GgmlDType::Q4K => 12,
        GgmlDType::Q5K => 13,
        GgmlDType::Q6K => 14,
        GgmlDType::Q8K => 15,
        GgmlDType::BF16 => 30,
    }
}
