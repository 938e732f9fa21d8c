//! Which activations each block keeps between forward and backward.
//!
//! Whatever is not kept is computed again. Keeping the output of a product with K inputs saves K operations a byte, and
//! K is the model's width nearly everywhere: what pays best is what is easiest to keep whole. The output of attention
//! saves about as many as a sequence has tokens, at the lower rate of attention, so for long sequences it comes first.

use std::collections::BTreeMap;
use std::fmt;

use qlora_config::{Checkpointing, DeviceKind, TrainingConfig};
use serde::{Deserialize, Serialize};

use crate::memory::{DeviceBudget, plan_with};
use crate::shape::ModelShape;
use crate::thrift::Thrift;

/// Tokens of a sequence from which on attention is what is dearest to compute again.
const LONG: usize = 3_500;

/// Blocks at the end whose inputs are never sent away. No fewer, because two inputs are on the device once blocks are run
/// again whose inputs come back: that of the block at work, and the next one's on its way.
const STAYING: usize = 2;

/// What is kept of a block, each with all that stands before it; what adapters leave and the norms' sums always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Its input, in the machine's memory.
    Host,
    /// Its input.
    Input,
    /// The output of attention, and its sums.
    Attention,
    /// The residual stream after attention.
    Middle,
    /// Queries, keys and values.
    Heads,
    /// Gate and up: nothing is computed again.
    All,
}

impl Keep {
    pub const EVERY: [Self; 6] = [Self::Host, Self::Input, Self::Attention, Self::Middle, Self::Heads, Self::All];

    /// How many blocks keep what.
    pub fn counted(keeps: &[Self]) -> BTreeMap<Self, usize> {
        let mut counts = BTreeMap::new();
        keeps.iter().for_each(|&keep| *counts.entry(keep).or_insert(0) += 1);
        counts
    }

    /// Numbers that are kept on the device for each token.
    pub fn per_token(self, shape: &ModelShape, config: &TrainingConfig) -> usize {
        self.widths(shape, config).iter().sum()
    }

    /// Widths of the tensors that are kept on the device, each of which has a row for each token.
    pub(crate) fn widths(self, shape: &ModelShape, config: &TrainingConfig) -> Vec<usize> {
        let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let unscaled = config.lora.target_modules.iter().filter(|_| config.lora.dora).map(|&m| shape.projection(m).0);
        let gates = [shape.ffn; 2].into_iter().chain(unscaled).collect();
        let parts = [vec![shape.hidden], vec![q], vec![shape.hidden], vec![q, kv, kv], gates];
        parts.into_iter().take(self as usize).flatten().collect()
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "the input, in the machine's memory,",
            Self::Input => "the input",
            Self::Attention => "the output of attention",
            Self::Middle => "the middle",
            Self::Heads => "queries, keys and values",
            Self::All => "everything",
        })
    }
}

/// What to keep of each block.
///
/// Without a budget, and on a processor, `auto` keeps inputs only.
pub fn keeps(shape: &ModelShape, config: &TrainingConfig, budget: Option<DeviceBudget>, thrift: Thrift) -> Vec<Keep> {
    match (config.training.gradient_checkpointing, budget) {
        (Checkpointing::Off, _) => vec![Keep::All; shape.layers],
        (Checkpointing::Auto, Some(budget)) if budget.kind != DeviceKind::Cpu => {
            as_memory_allows(shape, config, budget, thrift)
        }
        (_, Some(budget)) => inputs(shape, config, budget, thrift),
        (_, None) => offloaded(shape, config, shape.layers),
    }
}

/// The inputs of all blocks, of which the first `away` are in the machine's memory where the configuration has it so; the
/// last ones are needed again before they could be brought back.
fn offloaded(shape: &ModelShape, config: &TrainingConfig, away: usize) -> Vec<Keep> {
    let away = if config.training.offload { away.min(shape.layers.saturating_sub(STAYING)) } else { 0 };
    (0..shape.layers).map(|i| if i < away { Keep::Host } else { Keep::Input }).collect()
}

/// Inputs, with as few of them in the machine's memory as let the run fit.
fn inputs(shape: &ModelShape, config: &TrainingConfig, budget: DeviceBudget, thrift: Thrift) -> Vec<Keep> {
    let available = (budget.bytes as f64 * config.resources.memory_fraction) as u64;
    let fits = |keeps: &Vec<Keep>| plan_with(shape, config, budget.kind, keeps, thrift).total() <= available;
    let least = offloaded(shape, config, shape.layers);
    (0..shape.layers).map(|away| offloaded(shape, config, away)).find(fits).unwrap_or(least)
}

fn as_memory_allows(shape: &ModelShape, config: &TrainingConfig, budget: DeviceBudget, thrift: Thrift) -> Vec<Keep> {
    let available = (budget.bytes as f64 * config.resources.memory_fraction) as u64;
    let fits = |keeps: &[Keep]| plan_with(shape, config, budget.kind, keeps, thrift).total() <= available;
    let mut keeps = inputs(shape, config, budget, thrift);
    if keeps.contains(&Keep::Host) {
        return keeps;
    }
    if config.data.max_seq_len >= LONG {
        raise(&mut keeps, Keep::Attention, &fits);
    }
    raise(&mut keeps, Keep::All, &fits);
    // One block more than fits whole may still keep a part.
    for keep in [Keep::Heads, Keep::Middle, Keep::Attention] {
        raise(&mut keeps, keep, &fits);
    }
    keeps
}

/// Lets block after block keep `more`, as long as it fits. The last blocks come first: they are the first to be freed.
fn raise(keeps: &mut [Keep], more: Keep, fits: &impl Fn(&[Keep]) -> bool) {
    for i in (0..keeps.len()).rev() {
        let before = keeps[i];
        if before >= more {
            continue;
        }
        keeps[i] = more;
        if !fits(keeps) {
            keeps[i] = before;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use qlora_config::Layers;

    use super::*;
    use crate::{CatalogueEntry, find, thrift};

    fn llama() -> CatalogueEntry {
        find("llama-3.1-8b-instruct").expect("an entry of the catalogue")
    }

    fn config(set: &[&str]) -> TrainingConfig {
        let common = ["model.base=llama-3.1-8b-instruct", "model.quantization=nf4", "data.train=rows.jsonl"];
        let set = common.iter().chain(set).map(|s| (*s).to_owned()).collect();
        Layers { set, ..Layers::default() }.resolve().expect("a configuration").config().clone()
    }

    fn on_gpu(config: &TrainingConfig, gigabytes: u64) -> (Vec<Keep>, f64) {
        let (shape, bytes) = (llama().shape, gigabytes * 1_000_000_000);
        let budget = Some(DeviceBudget { kind: DeviceKind::Cuda, bytes });
        let thrift = thrift(&shape, config, budget);
        let keeps = keeps(&shape, config, budget, thrift);
        let total = plan_with(&shape, config, DeviceKind::Cuda, &keeps, thrift).total();
        (keeps, total as f64 / 1e9)
    }

    #[test]
    fn everything_is_kept_where_it_fits_and_inputs_where_little_does() {
        let two_rows = config(&["data.max_seq_len=4096", "training.micro_batch_size=2"]);
        assert_eq!(on_gpu(&two_rows, 80).0, vec![Keep::All; 32]);
        let (keeps, total) = on_gpu(&two_rows, 12);
        assert!(keeps.iter().filter(|&&keep| keep == Keep::Input).count() >= 16, "{keeps:?}");
        assert!(total <= 12.0 * two_rows.resources.memory_fraction, "{total}");
    }

    #[test]
    fn between_the_two_the_last_blocks_keep_most_and_attention_comes_first() {
        let long = config(&["data.max_seq_len=32768", "training.micro_batch_size=1"]);
        let (keeps, total) = on_gpu(&long, 80);
        assert!(keeps.is_sorted(), "{keeps:?}");
        assert_eq!((keeps[0], keeps[31]), (Keep::Attention, Keep::All));
        let room = 80.0 * long.resources.memory_fraction - total;
        let one_more = 32_768.0 * 2.0 * Keep::All.per_token(&llama().shape, &long) as f64 / 1e9;
        assert!((0.0..one_more).contains(&room), "{room} GB of room, a block takes {one_more}");
    }

    #[test]
    fn the_plan_of_a_long_context_is_what_an_h100_took() {
        let config = config(&["data.max_seq_len=350000", "training.micro_batch_size=1", "training.offload=true"]);
        let took = |layers: usize, away: usize| {
            let shape = ModelShape { layers, ..llama().shape };
            let keeps = offloaded(&shape, &config, away);
            plan_with(&shape, &config, DeviceKind::Cuda, &keeps, Thrift::Nothing).total() as f64 / 1e9
        };
        // docs/benchmarks/h100.md: all blocks, and six of them.
        let off = [took(32, 29) / 69.41, took(6, 4) / 62.25];
        assert!(off.iter().all(|off| (0.99..1.02).contains(off)), "{off:?}");
    }

    #[test]
    fn a_context_of_350_000_tokens_fits_80_gb_with_inputs_in_the_machines_memory() {
        let set = ["data.max_seq_len=350000", "training.micro_batch_size=1", "resources.memory_fraction=0.95"];
        let (keeps, total) = on_gpu(&config(&[&set[..], &["training.offload=true"]].concat()), 80);
        println!("{total:.1} GB, {:?}", Keep::counted(&keeps));
        assert!(total <= 76.0, "{total}");
        assert!(keeps.is_sorted() && keeps.contains(&Keep::Host) && keeps[30..] == [Keep::Input; 2], "{keeps:?}");
        let (keeps, total) = on_gpu(&config(&set), 80);
        assert!(total > 76.0 && keeps == [Keep::Input; 32], "{total}");
        let (short, _) = on_gpu(&config(&["training.offload=true"]), 80);
        assert_eq!(short, [Keep::All; 32], "nothing is sent away where there is room");
        let on_processor = |set: &[&str]| crate::plan(&llama().shape, &config(set), DeviceKind::Cpu);
        assert_eq!(on_processor(&["training.offload=true"]), on_processor(&[]), "there is nowhere to send it");
    }

    #[test]
    fn what_is_asked_for_is_done() {
        let all = config(&["training.gradient_checkpointing=false"]);
        assert_eq!(on_gpu(&all, 1).0, vec![Keep::All; 32]);
        let inputs = config(&["training.gradient_checkpointing=true"]);
        assert_eq!(on_gpu(&inputs, 1_000).0, vec![Keep::Input; 32]);
        assert_eq!(super::keeps(&llama().shape, &config(&[]), None, Thrift::Nothing), vec![Keep::Input; 32]);
    }
}
