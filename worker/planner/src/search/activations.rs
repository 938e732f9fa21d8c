//! Which activations each block saves.
//!
//! Whatever is not saved is computed again. Saving the output of a product with K inputs saves K
//! operations a byte, and K is the model's width nearly everywhere: what pays best is what is
//! easiest to save whole. The output of attention saves about as many as a sequence has tokens, at
//! the lower rate of attention, so for long sequences it comes first.

use qlora_config::Checkpointing;

use super::budget::Search;
use crate::policy::{LowMemory, MemoryPolicy};
use crate::run::Run;
use crate::saved::SavedActivations;

/// Tokens of a sequence from which on attention is what is dearest to compute again.
const LONG: usize = 3_500;

/// Blocks at the end whose inputs are never offloaded. No fewer, because two inputs are on the
/// device once blocks are run again whose inputs come back: that of the block at work, and the next
/// one's on its way.
const STAYING: usize = 2;

/// As little as the configuration allows.
pub(crate) fn least(run: &Run<'_>) -> Vec<SavedActivations> {
    match run.config.training.gradient_checkpointing {
        Checkpointing::Off => vec![SavedActivations::All; run.shape.layers],
        _ => offloaded(run, run.shape.layers),
    }
}

/// What the configuration asks for, and the budget has room for; on a CPU `auto` saves inputs only.
pub(super) fn saved(search: &Search<'_>, low_memory: LowMemory) -> Vec<SavedActivations> {
    match search.run.config.training.gradient_checkpointing {
        Checkpointing::Off => least(&search.run),
        Checkpointing::Auto if search.run.device.fills_memory => {
            as_memory_allows(search, low_memory)
        }
        _ => inputs(search, low_memory),
    }
}

/// The inputs of all blocks, of which the first `away` are offloaded where the configuration has it
/// so; the last ones are needed again before they could be brought back.
pub(crate) fn offloaded(run: &Run<'_>, away: usize) -> Vec<SavedActivations> {
    let layers = run.shape.layers;
    let away = if run.config.training.offload {
        away.min(layers.saturating_sub(STAYING))
    } else {
        0
    };
    (0..layers)
        .map(|i| {
            if i < away {
                SavedActivations::OffloadedInput
            } else {
                SavedActivations::Input
            }
        })
        .collect()
}

/// Inputs, with as few of them offloaded as let the run fit.
fn inputs(search: &Search<'_>, low_memory: LowMemory) -> Vec<SavedActivations> {
    let run = &search.run;
    let fits = |saved: &Vec<SavedActivations>| search.fits(&policy(low_memory, saved.clone()));
    let counts = 0..run.shape.layers;
    counts
        .map(|away| offloaded(run, away))
        .find(fits)
        .unwrap_or_else(|| offloaded(run, run.shape.layers))
}

fn as_memory_allows(search: &Search<'_>, low_memory: LowMemory) -> Vec<SavedActivations> {
    let fits = |saved: &[SavedActivations]| search.fits(&policy(low_memory, saved.to_vec()));
    let mut saved = inputs(search, low_memory);
    if saved.contains(&SavedActivations::OffloadedInput) {
        return saved;
    }
    if search.run.config.data.max_seq_len >= LONG {
        raise(&mut saved, SavedActivations::Attention, &fits);
    }
    raise(&mut saved, SavedActivations::All, &fits);
    // One block more than fits whole may still save a part.
    for part in [
        SavedActivations::Qkv,
        SavedActivations::Residual,
        SavedActivations::Attention,
    ] {
        raise(&mut saved, part, &fits);
    }
    saved
}

fn policy(low_memory: LowMemory, saved: Vec<SavedActivations>) -> MemoryPolicy {
    MemoryPolicy {
        low_memory,
        saved,
        dequantized: 0,
    }
}

/// Lets block after block save `more`, as long as it fits. The last blocks come first: they are the
/// first to be freed.
fn raise(
    saved: &mut [SavedActivations],
    more: SavedActivations,
    fits: &impl Fn(&[SavedActivations]) -> bool,
) {
    for i in (0..saved.len()).rev() {
        let before = saved[i];
        if before >= more {
            continue;
        }
        saved[i] = more;
        if !fits(saved) {
            saved[i] = before;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use qlora_config::{DeviceKind, TrainingConfig};
    use qlora_testkit::resolved;

    use super::*;
    use crate::{CatalogueEntry, DeviceBudget, ModelShape, estimate, find, search};

    fn llama() -> CatalogueEntry {
        find("llama-3.1-8b-instruct").expect("an entry of the catalogue")
    }

    fn config(set: &[&str]) -> TrainingConfig {
        let common = [
            "model.base=llama-3.1-8b-instruct",
            "model.quantization=nf4",
            "data.train=rows.jsonl",
        ];
        resolved(&common, set).config().clone()
    }

    fn on_gpu(config: &TrainingConfig, gigabytes: u64) -> (Vec<SavedActivations>, f64) {
        let (shape, bytes) = (llama().shape, gigabytes * 1_000_000_000);
        let budget = Some(DeviceBudget {
            kind: DeviceKind::Cuda,
            bytes,
        });
        let policy = MemoryPolicy {
            dequantized: 0,
            ..search(&shape, config, budget)
        };
        let total = estimate(&shape, config, DeviceKind::Cuda, &policy).total();
        (policy.saved, total as f64 / 1e9)
    }

    #[test]
    fn everything_is_saved_where_it_fits_and_inputs_where_little_does() {
        let two_rows = config(&["data.max_seq_len=4096", "training.micro_batch_size=2"]);
        assert_eq!(on_gpu(&two_rows, 80).0, vec![SavedActivations::All; 32]);
        let (saved, total) = on_gpu(&two_rows, 12);
        assert!(
            saved
                .iter()
                .filter(|&&saved| saved == SavedActivations::Input)
                .count()
                >= 16,
            "{saved:?}"
        );
        assert!(
            total <= 12.0 * two_rows.resources.memory_fraction,
            "{total}"
        );
    }

    #[test]
    fn between_the_two_the_last_blocks_save_most_and_attention_comes_first() {
        let long = config(&["data.max_seq_len=32768", "training.micro_batch_size=1"]);
        let (saved, total) = on_gpu(&long, 80);
        assert!(saved.is_sorted(), "{saved:?}");
        assert_eq!(
            (saved[0], saved[31]),
            (SavedActivations::Attention, SavedActivations::All)
        );
        let room = 80.0 * long.resources.memory_fraction - total;
        let one_more =
            32_768.0 * 2.0 * SavedActivations::All.per_token(&llama().shape, &long) as f64 / 1e9;
        assert!(
            (0.0..one_more).contains(&room),
            "{room} GB of room, a block takes {one_more}"
        );
    }

    #[test]
    fn the_plan_of_a_long_context_is_what_an_h100_took() {
        let config = config(&[
            "data.max_seq_len=350000",
            "training.micro_batch_size=1",
            "training.offload=true",
        ]);
        let took = |layers: usize, away: usize| {
            let shape = ModelShape {
                layers,
                ..llama().shape
            };
            let run = Run::new(&shape, &config, DeviceKind::Cuda);
            let policy = policy(LowMemory::Off, offloaded(&run, away));
            estimate(&shape, &config, DeviceKind::Cuda, &policy).total() as f64 / 1e9
        };
        // docs/benchmarks/h100.md: all blocks, and six of them.
        let off = [took(32, 29) / 69.41, took(6, 4) / 62.25];
        assert!(off.iter().all(|off| (0.99..1.02).contains(off)), "{off:?}");
    }

    #[test]
    fn a_context_of_350_000_tokens_fits_80_gb_with_inputs_in_host_memory() {
        let set = [
            "data.max_seq_len=350000",
            "training.micro_batch_size=1",
            "resources.memory_fraction=0.95",
        ];
        let (saved, total) = on_gpu(
            &config(&[&set[..], &["training.offload=true"]].concat()),
            80,
        );
        println!("{total:.1} GB, {:?}", SavedActivations::counted(&saved));
        assert!(total <= 76.0, "{total}");
        assert!(
            saved.is_sorted()
                && saved.contains(&SavedActivations::OffloadedInput)
                && saved[30..] == [SavedActivations::Input; 2],
            "{saved:?}"
        );
        let (saved, total) = on_gpu(&config(&set), 80);
        assert!(
            total > 76.0 && saved == [SavedActivations::Input; 32],
            "{total}"
        );
        let (short, _) = on_gpu(&config(&["training.offload=true"]), 80);
        assert_eq!(
            short,
            [SavedActivations::All; 32],
            "nothing is offloaded where there is room"
        );
        let on_cpu = |set: &[&str]| crate::plan(&llama().shape, &config(set), DeviceKind::Cpu);
        assert_eq!(
            on_cpu(&["training.offload=true"]),
            on_cpu(&[]),
            "there is nowhere to send it"
        );
    }

    #[test]
    fn what_is_asked_for_is_done() {
        let all = config(&["training.gradient_checkpointing=false"]);
        assert_eq!(on_gpu(&all, 1).0, vec![SavedActivations::All; 32]);
        let inputs = config(&["training.gradient_checkpointing=true"]);
        assert_eq!(on_gpu(&inputs, 1_000).0, vec![SavedActivations::Input; 32]);
        assert_eq!(
            search(&llama().shape, &config(&[]), None).saved,
            vec![SavedActivations::Input; 32]
        );
    }
}
