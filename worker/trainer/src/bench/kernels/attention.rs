//! Attention of the micro-batch's sequences: by what a run would take, and on a GPU by each form
//! that is there.

use candle_core::Tensor;
use qlora_kernels::types::options::WantedAttention;
use qlora_kernels::{AttentionSaved, AttentionShape, Backend, Span};
use qlora_planner::SavedActivations;

use super::setting::Setting;
use super::table::{Place, Table, Work};
use crate::Result;
use crate::device::attention_shape;
use crate::runtime::{Purpose, backend_with};

/// FLOPs of the backward pass over those of the forward pass, as in NVIDIA's figures for cuDNN.
const BACKWARD: f64 = 2.5;

/// Q, K, V and dO.
struct Heads([Tensor; 4]);

impl Heads {
    fn new(setting: &Setting<'_>) -> Result<Self> {
        let shape = setting.case.shape;
        let (width, kv_width) = (
            shape.heads * shape.head_dim,
            shape.kv_heads * shape.head_dim,
        );
        let make = |width| {
            setting
                .inputs
                .matrix((setting.case.tokens, width), setting.dtype)
        };
        Ok(Self([
            make(width)?,
            make(kv_width)?,
            make(kv_width)?,
            make(width)?,
        ]))
    }
}

pub(super) fn time(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let heads = Heads::new(setting)?;
    let case = &setting.case;
    let Some(chosen) = setting.backend.attention() else {
        return time_form(table, setting, &heads, &*setting.backend, ("", true));
    };
    let takes_cudnn = chosen.starts_with("cuDNN");
    let (own, cudnn) = (", own kernels", ", cuDNN");
    time_form(
        table,
        setting,
        &heads,
        &*setting.backend,
        (if takes_cudnn { cudnn } else { own }, true),
    )?;
    // The other form, beside the one that a step runs.
    let (wanted, label) = if takes_cudnn {
        (WantedAttention::Repeatable, own)
    } else {
        (WantedAttention::Cudnn, cudnn)
    };
    let purpose = Purpose::Training(case.config);
    match backend_with(case.device, case.shape, purpose, wanted, case.length) {
        Ok(other) => time_form(table, setting, &heads, &*other, (label, false)),
        // It is not there, or does not agree with our kernels; a run that asks for it says why.
        Err(_) => Ok(()),
    }
}

/// Times the attention of `backend`, which a step runs where `runs` says so: a row for each window
/// that blocks have.
fn time_form(
    table: &mut Table<'_>,
    setting: &Setting<'_>,
    heads: &Heads,
    backend: &dyn Backend,
    (label, runs): (&str, bool),
) -> Result<()> {
    let shape = setting.case.shape;
    let mut shapes: Vec<_> = (0..shape.layers)
        .map(|layer| attention_shape(shape, layer))
        .collect();
    shapes.sort_by_key(|sizes| sizes.window);
    shapes.dedup();
    let apart = shapes.len() > 1;
    for sizes in shapes {
        let window = match sizes.window {
            Some(window) if apart => format!(", window of {window}"),
            None if apart => ", no window".to_owned(),
            _ => String::new(),
        };
        let label = format!("{label}{window}");
        time_shape(table, setting, heads, (backend, &sizes), (&label, runs))?;
    }
    Ok(())
}

fn time_shape(
    table: &mut Table<'_>,
    setting: &Setting<'_>,
    Heads([q, k, v, d_o]): &Heads,
    (backend, sizes): (&dyn Backend, &AttentionShape),
    (label, runs): (&str, bool),
) -> Result<()> {
    let sequences = &backend.sequences(&Span::packed(&setting.lengths))?;
    let pairs = |&length: &usize| pairs(length, sizes.window);
    let pairs: f64 = setting.lengths.iter().map(pairs).sum();
    let work = 4.0 * (sizes.heads * sizes.head_dim) as f64 * pairs;
    let is_one = |layer: usize| runs && attention_shape(setting.case.shape, layer) == *sizes;
    let forward = || Ok(backend.attention_forward((q, k, v), sizes, sequences)?);
    let calls = setting
        .calls
        .forward_in(SavedActivations::Attention, is_one);
    let name = format!("attention forward{label}");
    table.add(Place::Attention, name, Work::Flops(work), calls, forward)?;
    let (o, lse) = forward()?;
    let saved = AttentionSaved {
        q,
        k,
        v,
        o: &o,
        lse: &lse,
    };
    let backward = || Ok(backend.attention_backward(d_o, &saved, sizes, sequences)?);
    let (name, work) = (
        format!("attention backward{label}"),
        Work::Flops(BACKWARD * work),
    );
    let calls = (0..setting.calls.layers)
        .filter(|&layer| is_one(layer))
        .count();
    table.add(Place::AttentionBackward, name, work, calls, backward)
}

/// Queries and keys that meet in a causal sequence.
fn pairs(length: usize, window: Option<usize>) -> f64 {
    let (length, window) = (length as f64, window.unwrap_or(length).min(length) as f64);
    length * window - window * window / 2.0
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
