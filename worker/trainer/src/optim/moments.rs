//! Moments as tensors of a file, by the place of the parameter: `3.first`, or `3.first.codes` and
//! `3.first.scales`.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use qlora_kernels::types::adamw::{Coded, Moments};

use crate::Result;

/// The tensors of `moments`, on the CPU.
pub(crate) fn to_tensors(moments: &[Moments]) -> Result<HashMap<String, Tensor>> {
    let mut tensors = HashMap::new();
    let mut add = |name: String, tensor: &Tensor| -> Result<()> {
        tensors.insert(name, tensor.to_device(&Device::Cpu)?);
        Ok(())
    };
    for (i, moments) in moments.iter().enumerate() {
        match moments {
            Moments::Full { first, second } => {
                add(format!("{i}.first"), first)?;
                add(format!("{i}.second"), second)?;
            }
            Moments::Coded { first, second } => {
                for (which, coded) in [("first", first), ("second", second)] {
                    add(format!("{i}.{which}.codes"), &coded.codes)?;
                    add(format!("{i}.{which}.scales"), &coded.scales)?;
                }
            }
        }
    }
    Ok(tensors)
}

/// Moments of `count` parameters; the error is the name of a tensor that is missing.
pub(crate) fn from_tensors(
    tensors: &HashMap<String, Tensor>,
    count: usize,
) -> Result<Vec<Moments>, String> {
    let take = |name: String| tensors.get(&name).cloned().ok_or(name);
    let coded = |name: String| {
        Ok::<_, String>(Coded {
            codes: take(format!("{name}.codes"))?,
            scales: take(format!("{name}.scales"))?,
        })
    };
    (0..count)
        .map(|i| {
            let (first, second) = (format!("{i}.first"), format!("{i}.second"));
            Ok(if tensors.contains_key(&format!("{first}.codes")) {
                Moments::Coded {
                    first: coded(first)?,
                    second: coded(second)?,
                }
            } else {
                Moments::Full {
                    first: take(first)?,
                    second: take(second)?,
                }
            })
        })
        .collect()
}
