//! Runs whose weights stop being finite: they fail at once, nothing of those weights is saved, and
//! what was saved before stays.

mod toy;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use qlora_testkit::resolved;
use qlora_trainer::checkpoint::Manifest;
use qlora_trainer::process_group::Alone;
use qlora_trainer::report::{Event, Reporter};
use qlora_trainer::run::Run;
use qlora_trainer::{Error, FailureClass};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Keeps the steps that were skipped.
#[derive(Default)]
struct Listener {
    skipped: Vec<u64>,
}

impl Reporter for Listener {
    fn report(&mut self, event: Event) -> qlora_trainer::Result<()> {
        if let Event::Step(step) = event
            && step.skipped
        {
            self.skipped.push(step.step);
        }
        Ok(())
    }
}

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self::of(&toy::tensors())
    }

    fn of(tensors: &toy::Tensors) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        toy::model(&folder.path().join("model"), &toy::config(), tensors);
        let row = |i: usize| json!({"messages": [{"role": "user", "content": format!("{i}")}, {"role": "assistant", "content": "a b"}]});
        let rows: String = (0..7).map(|i| format!("{}\n", row(i))).collect();
        fs::write(folder.path().join("train.jsonl"), rows).expect("rows");
        fs::write(folder.path().join("eval.jsonl"), format!("{}\n", row(8))).expect("rows");
        Self(folder)
    }

    fn run(
        &self,
        name: &str,
        set: &[String],
        resume: Option<PathBuf>,
    ) -> (Result<(), Error>, Vec<u64>) {
        let common = [
            "model.base=toy",
            "data.train=train.jsonl",
            "data.template=chatml-tools",
            "data.max_seq_len=128",
            "model.compute=f32",
            "resources.device=cpu",
        ];
        let at = |name: &str| self.0.path().join(name);
        let config = resolved(&common, set);
        let run = Run {
            eval: config.config().data.eval.as_ref().map(|_| at("eval.jsonl")),
            config,
            model: at("model"),
            train: at("train.jsonl"),
            output: at(name),
            resume,
            tokens: None,
        };
        let mut listener = Listener::default();
        let ended = run.execute(&mut Alone, &mut listener);
        (ended, listener.skipped)
    }
}

fn copy(folder: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, to).expect("a copy");
        }
    }
}

/// A copy of `checkpoint` with moments that make the next update infinite.
fn with_huge_moments(checkpoint: &Path, to: &Path) -> PathBuf {
    copy(checkpoint, to);
    let path = to.join("optimizer.safetensors");
    let mut moments = candle_core::safetensors::load(&path, &Device::Cpu).expect("moments");
    for (name, tensor) in &mut moments {
        let value = if name.ends_with(".first") { 3e38 } else { 0.0 };
        *tensor = tensor
            .zeros_like()
            .and_then(|t| t + value)
            .expect("a tensor");
    }
    candle_core::safetensors::save(&moments, &path).expect("moments");
    let manifest = to.join("checkpoint.json");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    let mut known: Manifest = serde_json::from_str(&text).expect("JSON");
    for (name, sum) in &mut known.files {
        *sum = hex::encode(Sha256::digest(fs::read(to.join(name)).expect("a file")));
    }
    let text = serde_json::to_string(&known).expect("JSON");
    fs::write(manifest, text).expect("a manifest");
    to.into()
}

#[test]
fn weights_that_are_not_finite_fail_the_run_at_once_and_are_not_saved() {
    // Before a checkpoint, before the adapter, and where the step after it is skipped.
    for (every, steps, from, fails, skipped) in [
        (1, 3, 1, 2, &[][..]),
        (1, 2, 1, 2, &[]),
        (2, 4, 2, 4, &[4u64]),
    ] {
        let home = Home::new();
        let set = [
            format!("training.checkpoint_every={every}"),
            format!("training.max_steps={steps}"),
        ];
        home.run("whole", &set, None).0.expect("a run");
        let whole = home.0.path().join("whole");
        let good = whole.join(format!("checkpoint-{from:06}"));
        let bad = with_huge_moments(&good, &home.0.path().join("bad"));
        let (ended, seen) = home.run("broken", &set, Some(bad));
        let fault = ended.expect_err("weights without bounds");
        let told = fault.to_string();
        assert!(
            matches!(fault, Error::Weights { step, .. } if step == fails),
            "{told}"
        );
        assert_eq!(
            (fault.code().id(), fault.failure_class()),
            ("Q0515", FailureClass::Input)
        );
        assert!(told.contains("lora_") && told.contains("layers."), "{told}");
        assert_eq!(seen, skipped);
        let left = fs::read_dir(home.0.path().join("broken"))
            .into_iter()
            .flatten();
        let left: Vec<_> = left.map(|entry| entry.expect("an entry").path()).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(good.join("checkpoint.json").exists());
    }
}

#[test]
fn the_best_adapter_is_kept_where_the_last_step_breaks_the_weights() {
    let home = Home::new();
    let set = [
        "data.eval=eval.jsonl",
        "training.eval_every=1",
        "training.keep_best=true",
        "training.checkpoint_every=1",
        "training.max_steps=2",
    ];
    let set = set.map(str::to_owned);
    home.run("whole", &set, None).0.expect("a run");
    let good = home.0.path().join("whole/checkpoint-000001");
    let bad = with_huge_moments(&good, &home.0.path().join("bad"));
    home.run("broken", &set, Some(bad)).0.expect("the best");
    let weights = |folder: PathBuf| fs::read(folder.join("adapter_model.safetensors"));
    let kept = weights(home.0.path().join("broken/adapter")).expect("an adapter");
    assert!(kept == weights(good.join("best")).expect("the best"));
}

/// Toy weights whose feed-forward layers give nothing, and infinite numbers once an update opens
/// their gates: norms make their inputs so large that the product of two is beyond `f32`.
fn with_closed_gates() -> toy::Tensors {
    let mut tensors = toy::tensors();
    for (name, tensor) in &mut tensors {
        let value = if name.ends_with("gate_proj.weight") {
            0.0
        } else if name.ends_with("post_attention_layernorm.weight") {
            1e18
        } else {
            continue;
        };
        *tensor = toy::ones(tensor.dims(), value);
    }
    tensors
}

#[test]
fn an_update_that_is_too_large_is_not_laid_at_the_model() {
    let home = Home::of(&with_closed_gates());
    let set = [
        "model.quantization=none",
        "lora.alpha=1000000",
        "lora.r=1",
        "lora.target_modules=all-linear",
    ];
    let set = set.map(str::to_owned);
    let fault = home.run("large", &set, None).0;
    let fault = fault.expect_err("an update without bounds");
    let told = fault.to_string();
    assert!(matches!(fault, Error::FirstUpdate { .. }), "{told}");
    assert_eq!(fault.code().id(), "Q0515", "{told}");
    assert!(told.contains("lower lora.alpha"), "{told}");
}
