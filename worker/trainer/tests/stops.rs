//! Runs that are stopped within a step or an evaluation: a run that resumes from their checkpoint
//! ends as if it had never been stopped.

mod toy;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Device;
use qlora_config::{DeviceKind, FlashAttention};
use qlora_data::{IGNORE, Sample};
use qlora_planner::LowMemory;
use qlora_testkit::resolved;
use qlora_trainer::Error;
use qlora_trainer::checkpoint::Manifest;
use qlora_trainer::lora::Adapters;
use qlora_trainer::model::Batch;
use qlora_trainer::process_group::Alone;
use qlora_trainer::report::{Event, Reporter};
use qlora_trainer::run::Run;
use qlora_trainer::runtime::{Purpose, Runtime};
use qlora_trainer::stop::StopSignal;
use qlora_trainer::weights::Checkpoint;
use serde_json::json;

const STEPS: u64 = 4;

/// Stops a run when its signal is asked for the `at`th time.
struct Listener {
    at: usize,
    asked: Arc<AtomicUsize>,
    /// How often the signal had been asked when each step was done.
    after: Vec<usize>,
    checkpoint: Option<(u64, PathBuf)>,
}

impl Listener {
    fn new(at: usize) -> Self {
        Self {
            at,
            asked: Arc::default(),
            after: Vec::new(),
            checkpoint: None,
        }
    }
}

impl Reporter for Listener {
    fn report(&mut self, event: Event) -> qlora_trainer::Result<()> {
        match event {
            Event::Step(_) => self.after.push(self.asked.load(Ordering::Relaxed)),
            Event::Checkpoint { step, folder } => self.checkpoint = Some((step, folder.into())),
            _ => {}
        }
        Ok(())
    }

    fn stop_signal(&self) -> StopSignal {
        let (at, asked) = (self.at, self.asked.clone());
        StopSignal::new(move || asked.fetch_add(1, Ordering::Relaxed) + 1 >= at)
    }
}

struct Home {
    folder: tempfile::TempDir,
    set: Vec<String>,
}

impl Home {
    fn new(set: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        toy::model(
            &folder.path().join("model"),
            &toy::config(),
            &toy::tensors(),
        );
        let row = |i: usize| {
            let said = "a b c d ".repeat(1 + i % 5);
            json!({"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": format!("{i}")}]})
        };
        let rows = |range: std::ops::Range<usize>| {
            range.map(|i| format!("{}\n", row(i))).collect::<String>()
        };
        fs::write(folder.path().join("train.jsonl"), rows(0..11)).expect("rows");
        fs::write(folder.path().join("eval.jsonl"), rows(11..14)).expect("rows");
        let common = [
            "model.base=toy",
            "data.train=train.jsonl",
            "data.eval=eval.jsonl",
            "data.template=chatml-tools",
            "data.max_seq_len=128",
            "model.compute=f32",
            "resources.device=cpu",
            "lora.dropout=0.2",
            "training.neftune_alpha=5",
            "training.micro_batch_size=2",
            "training.gradient_accumulation=2",
            "training.checkpoint_every=0",
            &format!("training.max_steps={STEPS}"),
        ];
        Self {
            folder,
            set: common.iter().chain(set).map(|s| (*s).to_owned()).collect(),
        }
    }

    /// Runs, from `resume` on where it is given, and says how it ended.
    fn run(
        &self,
        name: &str,
        resume: Option<PathBuf>,
        listener: &mut Listener,
    ) -> Result<Vec<u8>, Error> {
        let at = |name: &str| self.folder.path().join(name);
        let config = resolved(&[], &self.set);
        let output = at(name);
        let (train, eval, tokens) = (at("train.jsonl"), Some(at("eval.jsonl")), None);
        let run = Run {
            config,
            model: at("model"),
            train,
            eval,
            output: output.clone(),
            resume,
            tokens,
        };
        run.execute(&mut Alone, listener)?;
        Ok(fs::read(output.join("adapter/adapter_model.safetensors")).expect("an adapter"))
    }
}

fn manifest(checkpoint: &Path) -> Manifest {
    let text = fs::read_to_string(checkpoint.join("checkpoint.json")).expect("a manifest");
    serde_json::from_str(&text).expect("JSON")
}

/// Stops a run at every one of `stops`, counted from the end of the first step, and lets it go on.
fn bit_identical(set: &[&str], stops: impl Iterator<Item = usize>) {
    let home = Home::new(set);
    let mut listener = Listener::new(usize::MAX);
    let whole = home.run("whole", None, &mut listener).expect("a whole run");
    let (first, last) = (listener.after[0], listener.after[STEPS as usize - 1]);
    let each = listener.after[2] - listener.after[1];
    assert!(each > 20, "the signal is asked {each} times a step");
    for stop in stops
        .map(|stop| first + 1 + stop)
        .take_while(|&stop| stop <= last)
    {
        let mut listener = Listener::new(stop);
        let ended = home.run(&format!("stopped-{stop}"), None, &mut listener);
        assert!(matches!(ended, Err(Error::Stopped)), "{stop}: {ended:?}");
        let (step, checkpoint) = listener.checkpoint.expect("a checkpoint");
        assert_eq!(
            step as usize,
            listener.after.len(),
            "{stop}: the half step was counted"
        );
        assert_eq!(manifest(&checkpoint).step, step);
        let resumed = home.run(
            &format!("resumed-{stop}"),
            Some(checkpoint),
            &mut Listener::new(usize::MAX),
        );
        assert!(
            resumed.expect("the rest of the run") == whole,
            "stopped at {stop}, it ends with another adapter"
        );
    }
}

#[test]
fn a_run_that_is_stopped_within_a_step_resumes_bit_identically() {
    bit_identical(&["training.optimizer=adamw"], (0..).step_by(17));
}

#[test]
fn so_does_one_with_packed_rows_dora_and_evaluations_between() {
    let set = [
        "training.optimizer=adamw8bit",
        "data.batching=packed",
        "lora.dora=true",
        "training.eval_every=1",
        "training.keep_best=true",
    ];
    bit_identical(&set, (0..).step_by(23));
}

#[test]
fn a_stop_is_heard_between_chunks_of_the_output_layer() {
    let home = Home::new(&[]);
    let checkpoint = Checkpoint::open(&home.folder.path().join("model")).expect("a model");
    let (held, cpu) = (toy::held_as("none"), Device::Cpu);
    let purpose = Purpose::Inference {
        model: &held,
        attention: FlashAttention::Auto,
    };
    let runtime = Runtime::on(&cpu, &checkpoint.files.shape, purpose, 512).expect("a backend");
    let mut decoder = runtime.load(&checkpoint, 512, |_| {}).expect("a model");
    let adapters = Adapters::without_effect(&decoder.shape, &cpu).expect("adapters");
    let chunk = LowMemory::Off.logit_rows(DeviceKind::Cpu);
    let asked = Arc::new(AtomicUsize::new(0));
    // All batches have the same tokens; what differs is how many of them the loss is over.
    let batch = |targets: usize| {
        let rows: Vec<Sample> = (0..8)
            .map(|row| sample(row, targets.saturating_sub(row * 399).min(399)))
            .collect();
        Batch::pack(&rows)
    };
    let mut count = |targets: usize, at: usize| {
        asked.store(0, Ordering::Relaxed);
        let own = asked.clone();
        decoder.stop = StopSignal::new(move || own.fetch_add(1, Ordering::Relaxed) + 1 >= at);
        let batch = batch(targets);
        assert_eq!(batch.targets.len(), targets);
        let loss = decoder.loss(&batch, &adapters);
        (asked.load(Ordering::Relaxed), loss)
    };
    let (few, _) = count(1, usize::MAX);
    for targets in [chunk, chunk + 1, 3 * chunk, 7 * chunk + 5] {
        let chunks = targets.div_ceil(chunk);
        let (all, loss) = count(targets, usize::MAX);
        assert_eq!(all - few, chunks - 1, "{targets} rows");
        assert!(loss.expect("a loss").is_finite());
        for at in few..=all {
            let (heard, stopped) = count(targets, at);
            assert!(
                matches!(stopped, Err(Error::Stopped)) && heard == at,
                "{targets} rows, asked {heard} times"
            );
        }
    }
}

/// 400 tokens, of which the last `targets` are trained on.
fn sample(seed: usize, targets: usize) -> Sample {
    let ids: Vec<u32> = (0..400)
        .map(|i| ((i * 31 + seed * 7) % toy::VOCABULARY) as u32)
        .collect();
    let label = |(i, &id): (usize, &u32)| {
        if i >= 400 - targets {
            i64::from(id)
        } else {
            IGNORE
        }
    };
    let labels = ids.iter().enumerate().map(label).collect();
    Sample { ids, labels }
}

#[test]
fn a_stop_before_the_first_step_leaves_no_checkpoint() {
    let home = Home::new(&[]);
    let mut listener = Listener::new(1);
    assert!(matches!(
        home.run("stopped", None, &mut listener),
        Err(Error::Stopped)
    ));
    assert!(listener.checkpoint.is_none() && listener.after.is_empty());
}

#[test]
fn a_stop_while_the_last_answer_is_made_costs_the_answer_only() {
    let home = Home::new(&[]);
    let mut listener = Listener::new(usize::MAX);
    let whole = home.run("whole", None, &mut listener).expect("a whole run");
    let mut stopped = Listener::new(listener.asked.load(Ordering::Relaxed) - 1);
    assert!(home.run("stopped", None, &mut stopped).expect("an adapter") == whole);
}
