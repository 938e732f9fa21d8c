//! Attention of the micro-batch's sequences: by what a run would take, and on a GPU by each form that is there.

use candle_core::Tensor;
use qlora_kernels::ops::attention::{self, Saved};

use super::Setting;
use super::table::{Place, Table, Work};
use crate::Result;
use crate::device::attention_shape;

/// FLOPs of the backward pass over those of the forward pass, as in NVIDIA's figures for cuDNN.
const BACKWARD: f64 = 2.5;

/// Q, K, V and dO.
struct Heads([Tensor; 4]);

impl Heads {
    fn new(setting: &Setting<'_>) -> Result<Self> {
        let shape = setting.case.shape;
        let (width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let make = |width| setting.inputs.matrix((setting.case.tokens, width), setting.dtype);
        Ok(Self([make(width)?, make(kv_width)?, make(kv_width)?, make(width)?]))
    }
}

pub(super) fn time(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let heads = Heads::new(setting)?;
    #[cfg(feature = "cuda")]
    if setting.case.device.is_cuda() {
        return on_gpu::time(table, setting, &heads);
    }
    time_chosen(table, setting, &heads, "", true)
}

/// Times the form that is chosen at present, which a step runs where `runs` says so.
fn time_chosen(
    table: &mut Table<'_>,
    setting: &Setting<'_>,
    Heads([q, k, v, d_o]): &Heads,
    form: &str,
    runs: bool,
) -> Result<()> {
    let (sizes, sequences, products) = (attention_shape(setting.case.shape), &setting.sequences, setting.products);
    let pairs: f64 = setting.lengths.iter().map(|&length| pairs(length, sizes.window)).sum();
    let work = 4.0 * (sizes.heads * sizes.head_dim) as f64 * pairs;
    let counted = |calls| if runs { calls } else { 0 };
    let forward = || Ok(attention::forward((q, k, v), &sizes, sequences, products)?);
    let (name, calls) = (format!("attention forward{form}"), counted(setting.calls.parts.attention));
    table.add(Place::Attention, name, Work::Flops(work), calls, forward)?;
    let (o, lse) = forward()?;
    let saved = Saved { q, k, v, o: &o, lse: &lse };
    let backward = || Ok(attention::backward(d_o, &saved, &sizes, sequences, products)?);
    let (name, calls) = (format!("attention backward{form}"), counted(setting.calls.layers));
    table.add(Place::AttentionBackward, name, Work::Flops(BACKWARD * work), calls, backward)
}

/// Queries and keys that meet in a causal sequence.
fn pairs(length: usize, window: Option<usize>) -> f64 {
    let (length, window) = (length as f64, window.unwrap_or(length).min(length) as f64);
    length * window - window * window / 2.0
}

/// Our kernels beside cuDNN. The choice is one of the process, and is the run's again when both were timed.
#[cfg(feature = "cuda")]
mod on_gpu {
    use qlora_kernels::cuda::choice::{Wanted, choose};

    use super::{Heads, Setting, Table, attention_shape, time_chosen};
    use crate::Result;

    const OWN: &str = ", own kernels";
    const CUDNN: &str = ", cuDNN";

    pub(super) fn time(table: &mut Table<'_>, setting: &Setting<'_>, heads: &Heads) -> Result<()> {
        let case = &setting.case;
        let take = |wanted| choose(case.device, wanted, &attention_shape(case.shape), case.length);
        if case.attention.is_some_and(|chosen| chosen.starts_with("cuDNN")) {
            time_chosen(table, setting, heads, CUDNN, true)?;
            take(Wanted::Repeatable)?;
            let timed = time_chosen(table, setting, heads, OWN, false);
            take(Wanted::Cudnn)?;
            return timed;
        }
        time_chosen(table, setting, heads, OWN, true)?;
        if take(Wanted::Cudnn).is_err() {
            // It is not there, or does not agree with our kernels; a run that asks for it says why.
            return Ok(());
        }
        let timed = time_chosen(table, setting, heads, CUDNN, false);
        take(Wanted::Repeatable)?;
        timed
    }
}

#[cfg(test)]
mod tests {
    use super::pairs;

    #[test]
    fn a_window_cuts_the_pairs_of_a_sequence() {
        assert_eq!(pairs(8, None), 32.0);
        assert_eq!(pairs(8, Some(100)), 32.0);
        assert_eq!(pairs(8, Some(2)), 14.0);
    }
}
