//! A folder with a tiny model and rows, and runs of the trainer in it.

use std::fs;
use std::path::{Path, PathBuf};

use qlora_testkit::resolved;
use qlora_tests::{conversations, tiny_model};
use qlora_trainer::Result;
use qlora_trainer::process_group::Alone;
use qlora_trainer::report::{ControlSignal, Event, Reporter};
use qlora_trainer::run::Run;
use tempfile::TempDir;

/// Everything that changes a step, switched on.
pub const EVERYTHING: [&str; 13] = [
    "lora.r=64",
    "lora.dora=true",
    "training.optimizer=adamw8bit",
    "data.batching=packed",
    "lora.dropout=0.1",
    "lora.rslora=true",
    "lora.loraplus_ratio=4",
    "training.neftune_alpha=5",
    "training.schedule=wsd",
    "training.decay_ratio=0.5",
    "training.weight_decay=0.01",
    "training.keep_best=true",
    "training.eval_every=2",
];

pub struct Listener {
    pub events: Vec<Event>,
    pub stop_at: Option<u64>,
}

impl Reporter for Listener {
    fn report(&mut self, event: Event) -> Result<()> {
        self.events.push(event);
        Ok(())
    }

    fn control_signal(&mut self) -> ControlSignal {
        let done = self
            .events
            .iter()
            .filter(|e| matches!(e, Event::Step(_)))
            .count() as u64;
        if self.stop_at == Some(done) {
            ControlSignal::Stop
        } else {
            ControlSignal::Continue
        }
    }
}

pub struct Place {
    home: TempDir,
    pub model: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let model = tiny_model(home.path());
        fs::write(home.path().join("train.jsonl"), conversations(12)).expect("rows");
        fs::write(home.path().join("eval.jsonl"), conversations(3)).expect("rows");
        Self { home, model }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn run(&self, output: &str, set: &[&str], resume: Option<PathBuf>) -> Run {
        let common = [
            "model.base=tiny",
            "data.train=train.jsonl",
            "data.eval=eval.jsonl",
            "data.max_seq_len=512",
            "lora.r=4",
            "lora.target_modules=all-linear",
            "training.max_steps=6",
            "training.warmup_steps=1",
            "training.learning_rate=5e-3",
            "training.micro_batch_size=2",
            "resources.device=cpu",
        ];
        let config = resolved(&common, set);
        let (train, eval) = (self.path("train.jsonl"), Some(self.path("eval.jsonl")));
        Run {
            config,
            model: self.model.clone(),
            train,
            eval,
            output: self.path(output),
            resume,
            tokens: None,
        }
    }
}

pub fn execute(run: &Run, stop_at: Option<u64>) -> (Result<()>, Vec<Event>) {
    let mut listener = Listener {
        events: Vec::new(),
        stop_at,
    };
    let result = run.execute(&mut Alone, &mut listener);
    (result, listener.events)
}

pub fn adapter(output: &Path) -> Vec<u8> {
    fs::read(output.join("adapter/adapter_model.safetensors")).expect("an adapter")
}
