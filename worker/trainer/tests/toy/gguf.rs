//! A GGUF file whose keys and tensors tests change.

use std::fs;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Content, Value as Meta};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

/// A GGUF file of the toy model with other metadata and tensors.
pub struct Gguf {
    pub metadata: Vec<(String, Meta)>,
    pub tensors: Vec<(String, QTensor)>,
}

impl Gguf {
    pub fn of(path: &Path) -> Self {
        let mut file = fs::File::open(path).expect("a file");
        let content = Content::read(&mut file).expect("a header");
        let metadata = content
            .metadata
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let read = |name: &String| {
            (
                name.clone(),
                content
                    .tensor(
                        &mut fs::File::open(path).expect("a file"),
                        name,
                        &Device::Cpu,
                    )
                    .expect("a tensor"),
            )
        };
        let mut names: Vec<&String> = content.tensor_infos.keys().collect();
        names.sort();
        Self {
            metadata,
            tensors: names.into_iter().map(read).collect(),
        }
    }

    pub fn write(&self, path: &Path) {
        let metadata: Vec<(&str, &Meta)> =
            self.metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let tensors: Vec<(&str, &QTensor)> =
            self.tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let mut file = fs::File::create(path).expect("a file");
        gguf_file::write(&mut file, &metadata, &tensors).expect("a GGUF file");
    }

    pub fn with(mut self, key: &str, value: Meta) -> Self {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.into(), value));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|(n, _)| n != name);
        self
    }

    pub fn and(mut self, name: &str, tensor: &Tensor) -> Self {
        self.tensors.retain(|(n, _)| n != name);
        self.tensors.push((
            name.into(),
            QTensor::quantize(tensor, GgmlDType::F32).expect("a tensor"),
        ));
        self
    }

    pub fn lacking(mut self, key: &str) -> Self {
        let before = self.metadata.len();
        self.metadata.retain(|(k, _)| k != key);
        assert_eq!(self.metadata.len() + 1, before, "{key}");
        self
    }
}
