//! Tiny models of other families: logits of transformers, logits over bitsandbytes' NF4, and
//! eight steps of PEFT on all linear layers.

use candle_core::{Device, Tensor};
use qlora_config::ResolvedConfig;
use qlora_trainer::model::{Batch, Decoder, shape_from_json};
use qlora_trainer::process_group::Alone;
use qlora_trainer::step::Trainer;
use serde_json::Value;

use crate::{
    Recorded, config, decoder, decoder_on, golden, golden_json, gradients, initial_adapters,
    largest_difference, peft_adapter, row, samples, tensors, trainer_of, unlabeled, untrained,
};

/// Steps of a recorded run.
const STEPS: u64 = 8;

fn of(family: &str, file: &str) -> String {
    format!("families/{family}/{file}")
}

fn json(family: &str, file: &str) -> Value {
    golden_json(&of(family, file))
}

/// The difference to `wanted` of the logits of `decoder` with `adapters` of its own.
fn difference_of(decoder: &Decoder, config: &ResolvedConfig, ids: &Tensor, wanted: &Tensor) -> f32 {
    let adapters = untrained(decoder, config);
    let sample = unlabeled(&row(ids, 0));
    let logits = decoder
        .logits(&Batch::pack([&sample]), &adapters)
        .expect("logits");
    largest_difference(&logits, &wanted.get(0).expect("a row"))
}

fn logits_agree(family: &str) {
    let recorded = tensors(&of(family, "logits.safetensors"));
    for (quantization, wanted) in [("none", "logits"), ("nf4", "nf4_logits")] {
        let config = config(&[
            &format!("model.quantization={quantization}"),
            "lora.target_modules=all-linear",
        ]);
        let decoder = decoder(&of(family, ""), &config);
        let ids = &recorded["input_ids"];
        let difference = difference_of(&decoder, &config, ids, &recorded[wanted]);
        println!("parity: {family}, {wanted} {difference:.1e}");
        assert!(difference < 5e-5, "{family}, {wanted}: {difference}");
    }
}

pub fn recorded_run(family: &str, checkpointing: bool, compute: &str) -> Recorded {
    let steps = json(family, "run/steps.json");
    let config = config(&[
        "model.quantization=nf4",
        "lora.r=4",
        "lora.alpha=8",
        "lora.dropout=0",
        "lora.target_modules=all-linear",
        "training.learning_rate=1e-3",
        "training.weight_decay=0",
        "training.warmup_ratio=0.25",
        "training.gradient_accumulation=2",
        &format!("training.gradient_checkpointing={checkpointing}"),
        &format!("model.compute={compute}"),
    ]);
    Recorded {
        folder: of(family, "run"),
        steps,
        config,
    }
}

/// Runs the recorded steps; the largest differences of a loss, and of a gradient norm over itself.
pub fn run(trainer: &mut Trainer<'_>, steps: &Value) -> (f64, f64) {
    let batches = tensors("families/batches.safetensors");
    let (mut loss, mut norm) = (0f64, 0f64);
    for i in 0..STEPS {
        let wanted = &steps["steps"][i as usize];
        let micro = [2 * i, 2 * i + 1].map(|n| Batch::pack(&samples(&batches, n as usize)));
        let outcome = trainer.step(i, &micro, &mut Alone).expect("a step");
        let number = |key: &str| wanted[key].as_f64().expect("a number");
        assert!((outcome.learning_rate - number("lr")).abs() < 1e-12);
        loss = loss.max((outcome.loss - number("loss")).abs());
        norm = norm.max((outcome.grad_norm / number("grad_norm") - 1.0).abs());
    }
    (loss, norm)
}

fn training_agrees(family: &str, checkpointing: bool) {
    let recorded = recorded_run(family, checkpointing, "f32");
    let decoder = decoder(&of(family, ""), &recorded.config);
    let adapters = initial_adapters(&recorded, &decoder);
    let mut trainer = trainer_of(&decoder, adapters, &recorded.config, STEPS);
    gradients::first_agree(&trainer, &first_batches(), &recorded.folder);
    let (loss, norm) = run(&mut trainer, &recorded.steps);
    println!("parity: {family}, 8 steps, loss {loss:.1e}, gradient norm (relative) {norm:.1e}");
    assert!(loss < 1e-4 && norm < 1e-3, "{family}: {loss} {norm}");
    let wanted = peft_adapter(&golden(&recorded.folder).join("final_adapter"), &decoder);
    assert_eq!(wanted.sites, trainer.adapters.sites);
    let factors = trainer.adapters.factors.iter().zip(&wanted.factors);
    let pairs = factors.flat_map(|(ours, theirs)| ours.tensors().zip(theirs.tensors()));
    let weights = pairs.fold(0f32, |largest, (ours, theirs)| {
        largest.max(largest_difference(ours, theirs))
    });
    let last = tensors(&format!("{}/final_logits.safetensors", recorded.folder));
    let sample = unlabeled(&row(&last["input_ids"], 0));
    let logits = decoder
        .logits(&Batch::pack([&sample]), &trainer.adapters)
        .expect("logits");
    let logits = largest_difference(&logits, &last["logits"].get(0).expect("a row"));
    println!("parity: {family}, final adapter {weights:.1e}, final logits {logits:.1e}");
    assert!(
        weights < 2e-4 && logits < 2e-3,
        "{family}: {weights} {logits}"
    );
}

/// The micro-batches of the first step.
fn first_batches() -> [Batch; 2] {
    let batches = tensors("families/batches.safetensors");
    [0, 1].map(|n| Batch::pack(&samples(&batches, n)))
}

/// In bf16 with f32 sums losses and gradients stay within what rounding to eight bits does to them.
pub fn bf16_agrees(family: &str, device: &Device) {
    let recorded = recorded_run(family, true, "bf16");
    let decoder = decoder_on(device, &of(family, ""), &recorded.config);
    let adapters = initial_adapters(&recorded, &decoder);
    let mut trainer = trainer_of(&decoder, adapters, &recorded.config, STEPS);
    let first = first_batches();
    gradients::first_agree_within_bf16(&trainer, &first, &recorded.folder);
    let (loss, norm) = run(&mut trainer, &recorded.steps);
    println!(
        "parity: {family} in bf16 on {device:?}, 8 steps, loss {loss:.1e}, gradient norm (relative) {norm:.1e}"
    );
    assert!(loss < 1e-2 && norm < 5e-2, "{family}: {loss} {norm}");
    let exact = recorded_run(family, true, "f32");
    gradients::last_agree_within_bf16(&trainer, &first, &exact, &of(family, ""));
}

fn spellings_agree(family: &str) {
    let shape = |file: &str| shape_from_json(&json(family, file)).expect("a shape");
    assert_eq!(
        shape("config.json"),
        shape("config.pre_v5.json"),
        "{family}"
    );
}

/// Tokens one after another, with keys and values from before, against all at one time.
fn generation_agrees(family: &str) {
    let config = config(&["model.quantization=none", "lora.target_modules=all-linear"]);
    let decoder = decoder(&of(family, ""), &config);
    let adapters = untrained(&decoder, &config);
    let recorded = tensors(&of(family, "logits.safetensors"));
    let ids: Vec<u32> = row(&recorded["input_ids"], 0)[..24]
        .iter()
        .map(|&id| id as u32)
        .collect();
    let mut cache = Vec::new();
    let mut extend = |ids: &[u32]| decoder.extend(ids, &adapters, &mut cache).expect("logits");
    extend(&ids[..5]);
    for (at, id) in ids.iter().enumerate().skip(5) {
        let logits = extend(&[*id]);
        let wanted = recorded["logits"].get(0).and_then(|all| all.get(at));
        let difference = largest_difference(&logits, &wanted.expect("a row"));
        assert!(difference < 5e-5, "{family}, token {at}: {difference}");
    }
}

macro_rules! families {
    ($($family:ident,)*) => {
        #[cfg(feature = "cuda")]
        pub const ALL: &[&str] = &[$(stringify!($family)),*];

        $(
        mod $family {
            const NAME: &str = stringify!($family);

            #[test]
            fn both_spellings_of_its_configuration_mean_the_same() {
                super::spellings_agree(NAME);
            }

            #[test]
            fn it_gives_the_logits_of_transformers_and_of_bitsandbytes() {
                super::logits_agree(NAME);
            }

            #[test]
            fn it_generates_what_the_whole_pass_gives() {
                super::generation_agrees(NAME);
            }

            #[test]
            fn it_trains_as_with_peft() {
                super::training_agrees(NAME, true);
                super::training_agrees(NAME, false);
            }

            #[test]
            fn it_trains_in_bf16_within_its_rounding() {
                super::bf16_agrees(NAME, &candle_core::Device::Cpu);
            }
        }
    )*};
}

families! {
    llama_tied,
    llama_biases,
    mistral_head_dim,
    qwen2,
    qwen2_yarn,
    qwen3,
    phi3,
    phi3_partial,
    gemma2,
    gemma3,
    smollm3,
    granite,
}

/// A Phi-3 of the given rotary settings, with the weights of the recorded one.
fn phi_with(scaling: Value) -> (tempfile::TempDir, Decoder) {
    let home = tempfile::tempdir().expect("a folder");
    let mut settings = json("phi3", "config.pre_v5.json");
    settings["rope_scaling"] = scaling;
    settings["original_max_position_embeddings"] = 16.into();
    std::fs::write(home.path().join("config.json"), settings.to_string()).expect("a file");
    let weights = golden(&of("phi3", "model.safetensors"));
    std::fs::copy(weights, home.path().join("model.safetensors")).expect("a copy");
    let config = config(&["model.quantization=none"]);
    let folder = home.path().display().to_string();
    let decoder = decoder(&folder, &config);
    (home, decoder)
}

#[test]
fn a_batch_beyond_the_original_positions_takes_the_long_factors_as_a_whole() {
    let pairs = 8;
    let (_long, long) = phi_with(serde_json::json!({
        "type": "longrope", "attention_factor": 1.0,
        "short_factor": vec![1.0; pairs], "long_factor": vec![2.0; pairs]}));
    let (_plain, plain) = phi_with(Value::Null);
    let (_half, half) = phi_with(serde_json::json!({"type": "linear", "factor": 2.0}));
    let config = config(&["model.quantization=none"]);
    let adapters = untrained(&long, &config);
    let ids: Vec<i64> = (0..24).map(|i| 3 + 7 * i).collect();
    let logits = |decoder: &Decoder, count: usize| {
        let batch = Batch::pack([&unlabeled(&ids[..count])]);
        decoder.logits(&batch, &adapters).expect("logits")
    };
    for count in [1, 15, 16] {
        assert_eq!(
            largest_difference(&logits(&long, count), &logits(&plain, count)),
            0.0
        );
    }
    for count in [17, 24] {
        assert_eq!(
            largest_difference(&logits(&long, count), &logits(&half, count)),
            0.0
        );
        assert!(largest_difference(&logits(&long, count), &logits(&plain, count)) > 0.0);
    }
    // Keys of one set of angles do not go with queries of the other.
    let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    let mut cache = Vec::new();
    long.extend(&ids[..15], &adapters, &mut cache)
        .expect("logits");
    long.extend(&ids[15..16], &adapters, &mut cache)
        .expect("the last position");
    assert_eq!(long.positions_after(15), 16);
    long.extend(&ids[16..17], &adapters, &mut cache)
        .expect_err("a position of the other angles");
    let mut cache = Vec::new();
    long.extend(&ids[..17], &adapters, &mut cache)
        .expect("logits");
    long.extend(&ids[17..18], &adapters, &mut cache)
        .expect("more of the same");
}
