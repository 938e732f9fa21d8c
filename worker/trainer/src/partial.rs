//! Files of tensors that get their final name only when they are complete.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use candle_core::Tensor;
use safetensors::SafeTensorError;

pub use qlora_files::{Begun, Partial, place, sweep, write, write_with};

/// Writes `tensors` to the file `path`, all of them or none; `metadata` are texts for whoever reads
/// it.
pub fn write_tensors(
    path: &Path,
    tensors: HashMap<String, Tensor>,
    metadata: Option<HashMap<String, String>>,
) -> io::Result<()> {
    write_with(path, |partial| {
        safetensors::serialize_to_file(tensors, metadata, partial).map_err(|e| match e {
            SafeTensorError::IoError(e) => e,
            other => io::Error::other(other),
        })
    })
}
