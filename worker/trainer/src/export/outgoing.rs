//! Tensors on their way into a file. Checks that the element type holds their values: an element
//! beyond its range would become infinite, and a matrix below it zero, both without an error.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};

use crate::weights::first_broken_in_blocks;
use crate::{Error, Result};

/// No element type of an export makes zero of a matrix with an element as large as this.
const NEVER_ZERO: f32 = 1e-3;

/// A tensor on its way into a file.
pub(super) struct Outgoing<'a> {
    /// The source, for messages.
    pub path: &'a std::path::Path,
    pub name: &'a str,
    pub tensor: &'a Tensor,
}

/// What became of it.
pub(super) struct Encoded {
    pub bytes: Vec<u8>,
    /// What a person should hear.
    pub note: Option<String>,
}

impl Outgoing<'_> {
    fn fault(&self, fault: String) -> Error {
        Error::Tensor {
            path: self.path.into(),
            tensor: self.name.into(),
            fault,
        }
    }

    /// The largest magnitude, in `f32`.
    ///
    /// # Errors
    /// An element is not finite. Sources are looked at when they are read, so the adapter has made it
    /// so.
    fn largest(&self) -> Result<f32> {
        let values = self
            .tensor
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(self.fault(format!(
                "becomes {value} with the adapter, which is too strong for this base"
            ))),
            None => Ok(values
                .iter()
                .fold(0f32, |largest, value| largest.max(value.abs()))),
        }
    }

    fn beyond(&self, largest: f32, dtype: &str, help: &str) -> Error {
        self.fault(format!(
            "has elements up to {largest:.3e}, beyond the range of {dtype}; {help}"
        ))
    }

    fn became_zero(&self, largest: f32, dtype: &str) -> String {
        let name = self.name;
        format!(
            "`{name}`, whose elements are at most {largest:.1e}, becomes zero in {dtype}; bf16 and f32 hold it"
        )
    }

    /// The blocks of `dtype`.
    pub(super) fn blocks(&self, dtype: GgmlDType) -> Result<Encoded> {
        let largest = self.largest()?;
        let blocks = QTensor::quantize(&self.tensor.contiguous()?, dtype)?;
        let bytes = blocks.data()?.into_owned();
        let word = format!("{dtype:?}").to_lowercase();
        if first_broken_in_blocks(dtype, &bytes).is_some() {
            return Err(self.beyond(largest, &word, "write it with --type bf16 or f32"));
        }
        let lost = largest > 0.0
            && largest < NEVER_ZERO
            && is_zero(&blocks.dequantize(&candle_core::Device::Cpu)?)?;
        Ok(Encoded {
            bytes,
            note: lost.then(|| self.became_zero(largest, &word)),
        })
    }

    /// The tensor as `dtype`.
    pub(super) fn cast(&self, dtype: DType) -> Result<(Tensor, Option<String>)> {
        let largest = self.largest()?;
        let cast = self.tensor.to_dtype(dtype)?;
        let word = dtype.as_str();
        let values = cast.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(self.beyond(
                largest,
                word,
                "merge into a .gguf file with --type bf16 or f32",
            ));
        }
        let lost = largest > 0.0 && values.iter().all(|value| *value == 0.0);
        Ok((cast, lost.then(|| self.became_zero(largest, word))))
    }
}

fn is_zero(tensor: &Tensor) -> Result<bool> {
    Ok(tensor
        .flatten_all()?
        .to_vec1::<f32>()?
        .iter()
        .all(|value| *value == 0.0))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn outgoing(tensor: &Tensor) -> Outgoing<'_> {
        Outgoing {
            path: std::path::Path::new("base"),
            name: "t.weight",
            tensor,
        }
    }

    fn matrix(value: f32) -> Tensor {
        let mut values = vec![0.0f32; 128];
        values[5] = value;
        Tensor::from_vec(values, (2, 64), &Device::Cpu).expect("a matrix")
    }

    #[test]
    fn what_an_element_type_cannot_hold_is_refused_or_told() {
        use GgmlDType::{BF16, F16, F32, Q8_0};
        for (value, dtype, ends) in [
            (1e5, F16, "refused"),
            (-65_520.0, F16, "refused"),
            (65_504.0, F16, "kept"),
            (1e5, Q8_0, "kept"),
            (1e7, Q8_0, "refused"),
            (1e5, BF16, "kept"),
            (f32::MAX, BF16, "refused"),
            (f32::MAX, F32, "kept"),
            (1e-9, F16, "zero"),
            (1e-9, Q8_0, "zero"),
            (1e-9, BF16, "kept"),
            (0.0, F16, "kept"),
        ] {
            let tensor = matrix(value);
            let found = match outgoing(&tensor).blocks(dtype) {
                Err(e) => {
                    assert!(
                        e.to_string().contains("t.weight") && e.to_string().contains("--type"),
                        "{e}"
                    );
                    "refused"
                }
                Ok(Encoded {
                    note: Some(note), ..
                }) => {
                    assert!(note.contains("t.weight"), "{note}");
                    "zero"
                }
                Ok(_) => "kept",
            };
            assert_eq!(found, ends, "{value} as {dtype:?}");
        }
        let infinite = matrix(f32::INFINITY);
        let fault = outgoing(&infinite)
            .blocks(F32)
            .map(|_| ())
            .expect_err("an infinity was written");
        assert!(fault.to_string().contains("adapter"), "{fault}");
    }

    #[test]
    fn the_same_holds_for_the_element_type_of_a_folder() {
        assert!(outgoing(&matrix(1e5)).cast(DType::F16).is_err());
        assert!(
            outgoing(&matrix(1e5))
                .cast(DType::BF16)
                .is_ok_and(|(_, note)| note.is_none())
        );
        assert!(
            outgoing(&matrix(1e-9))
                .cast(DType::F16)
                .is_ok_and(|(_, note)| note.is_some())
        );
    }
}
