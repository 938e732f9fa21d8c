//! What llama.cpp makes of an architecture: its name, its keys in both directions, and what its
//! graph computes (`src/models/` of llama.cpp).
//!
//! `weights::gguf` and `export::gguf` handle the keys that all architectures share.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use qlora_planner::ModelShape;

/// An architecture in GGUF files.
pub struct GgufForm {
    /// What `general.architecture` calls it; the first is written.
    pub names: &'static [&'static str],
    /// The halves of each head of queries and keys lie interleaved: the graph rotates neighboring
    /// elements.
    pub interleaved: bool,
    /// Keys after its name that [`Self::read`] carries out.
    pub keys: &'static [&'static str],
    /// The rotary embeddings that its graph computes beside the plain one.
    pub rope: &'static [RopeForm],
    /// The output layer can be another matrix than the embedding.
    pub untied: bool,
    /// The heads of queries are together as wide as the model.
    pub square: bool,
    /// Linear layers may have biases: which do, the tensors say.
    pub biased: bool,
    /// What sets its decoder apart; sizes and the rotary embedding are in the shape already.
    pub read: fn(&GgufKeys<'_>, &mut ModelShape) -> Result<(), String>,
    /// Values of [`Self::keys`]. Of a form that those cannot express, they are of one that comes
    /// near.
    pub write: fn(&ModelShape) -> Vec<(&'static str, Value)>,
}

/// A kind of rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeForm {
    Linear,
    Yarn,
    /// One divisor a frequency, in `rope_freqs.weight`.
    Divisors,
    /// Divisors for short and for long sequences, in `rope_factors_short.weight` and
    /// `rope_factors_long.weight`.
    Long,
    /// Of the first elements of a head only.
    Partial,
}

impl GgufForm {
    /// The name that is written.
    pub fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }

    pub fn has(&self, rope: RopeForm) -> bool {
        self.rope.contains(&rope)
    }
}

/// No size of a model is larger.
const LARGEST: f64 = u32::MAX as f64;
/// Items of a list that are printed.
const LISTED: usize = 8;

/// The metadata of a file whose names begin with `prefix`, read by type: a value of another type is
/// a fault that names its key.
pub struct GgufKeys<'a> {
    pub metadata: &'a HashMap<String, Value>,
    pub prefix: String,
}

impl<'a> GgufKeys<'a> {
    /// The full name of `key`.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.metadata.get(&self.name(key))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        let text = self
            .value(key)
            .map(|value| value.to_string().map(String::as_str));
        text.transpose()
            .map_err(|_| format!("`{}` is no text", self.name(key)))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, String> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let fault = || {
            let name = self.name(key);
            format!("`{name}` is no number, or a number for each block")
        };
        as_number(value).map(Some).ok_or_else(fault)
    }

    /// A number above 0.
    pub fn positive(&self, key: &str) -> Result<Option<f64>, String> {
        match self.number(key)? {
            Some(value) if !(value > 0.0 && value.is_finite()) => Err(format!(
                "`{}` is {value}, not a number above 0",
                self.name(key)
            )),
            value => Ok(value),
        }
    }

    /// The same where 0 stands for none, as it does in llama.cpp.
    pub fn optional(&self, key: &str) -> Result<Option<f64>, String> {
        match self.number(key)? {
            Some(0.0) => Ok(None),
            _ => self.positive(key),
        }
    }

    /// A whole number; 0 is none.
    pub fn size(&self, key: &str) -> Result<Option<usize>, String> {
        if let Some(value @ (Value::F32(_) | Value::F64(_))) = self.value(key) {
            let name = self.name(key);
            return Err(format!(
                "`{name}` is {value:?}, not of a type of whole numbers"
            ));
        }
        let value = self.number(key)?.filter(|&value| value != 0.0);
        match value {
            Some(value) if !(0.0..=LARGEST).contains(&value) || value.fract() != 0.0 => {
                Err(format!("`{}` is {value}", self.name(key)))
            }
            value => Ok(value.map(|value| value as usize)),
        }
    }

    /// A truth value for each of `count` blocks, where the key has a list.
    pub fn flags(&self, key: &str, count: usize) -> Result<Option<Vec<bool>>, String> {
        let Some(Value::Array(list)) = self.value(key) else {
            return Ok(None);
        };
        let flag = |value: &Value| match value {
            Value::Bool(flag) => Some(*flag),
            other => as_number(other).map(|number| number != 0.0),
        };
        let flags: Option<Vec<bool>> = list.iter().map(flag).collect();
        match flags {
            Some(flags) if flags.len() == count => Ok(Some(flags)),
            Some(flags) => Err(format!(
                "`{}` is of {} blocks, the model has {count}",
                self.name(key),
                flags.len()
            )),
            None => Err(format!("`{}` holds other than truth", self.name(key))),
        }
    }

    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, String> {
        let name = self.name(key);
        value.ok_or_else(|| match self.value(key) {
            Some(_) => format!("`{name}` is 0"),
            None => format!("the metadata lack `{name}`"),
        })
    }
}

/// None of a text, a list or a truth value.
pub fn as_number(value: &Value) -> Option<f64> {
    Some(match value {
        Value::U8(v) => f64::from(*v),
        Value::I8(v) => f64::from(*v),
        Value::U16(v) => f64::from(*v),
        Value::I16(v) => f64::from(*v),
        Value::U32(v) => f64::from(*v),
        Value::I32(v) => f64::from(*v),
        Value::U64(v) => *v as f64,
        Value::I64(v) => *v as f64,
        Value::F32(v) => f64::from(*v),
        Value::F64(v) => *v,
        Value::Bool(_) | Value::String(_) | Value::Array(_) => return None,
    })
}

/// `value` as a person would write it.
pub fn as_written(value: &Value) -> String {
    match value {
        Value::Bool(v) => v.to_string(),
        Value::String(v) => v.clone(),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().take(LISTED).map(as_written).collect();
            let more = if list.len() > LISTED { ", ..." } else { "" };
            format!("[{}{more}]", items.join(", "))
        }
        // The shortest digits that stand for it, not those of the f64 next to it.
        Value::F32(v) => v.to_string(),
        // A number of f64 has not all digits of these.
        Value::U64(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        other => as_number(other).unwrap_or_default().to_string(),
    }
}

/// `number` as files hold it.
pub(super) fn float(number: f64) -> Value {
    Value::F32(number as f32)
}

/// `size` as files hold it; none is 0.
pub(super) fn count(size: impl Into<Option<usize>>) -> Value {
    Value::U32(size.into().unwrap_or_default() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_as_a_person_writes_them() {
        for (value, wanted) in [
            (Value::U32(8), "8"),
            (Value::I8(-3), "-3"),
            (Value::F32(0.1), "0.1"),
            (Value::U64(u64::MAX), "18446744073709551615"),
            (Value::Bool(true), "true"),
            (Value::String("yarn".into()), "yarn"),
            (Value::Array(vec![Value::U32(2), Value::U32(0)]), "[2, 0]"),
            (
                Value::Array(vec![Value::U8(1); LISTED + 1]),
                "[1, 1, 1, 1, 1, 1, 1, 1, ...]",
            ),
        ] {
            assert_eq!(as_written(&value), wanted);
        }
    }
}
