//! Models and whole training runs against those of transformers, PEFT and bitsandbytes (`tests/golden`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use qlora_config::{Layers, ResolvedConfig};
use qlora_data::{IGNORE, Sample};
#[cfg(feature = "cuda")]
use qlora_planner::LowMemory;
use qlora_planner::{MemoryPolicy, SavedActivations};
use qlora_trainer::adapter;
use qlora_trainer::export::{self, Base, ElementType};
use qlora_trainer::group::Alone;
use qlora_trainer::lora::{Adapters, NAMES};
use qlora_trainer::model::{Batch, Decoder};
use qlora_trainer::optim::{LearningRate, Optimizer};
use qlora_trainer::step::Trainer;
use qlora_trainer::weights::Checkpoint;
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(name), &Device::Cpu).expect("golden tensors")
}

fn config(set: &[&str]) -> ResolvedConfig {
    let common = ["model.base=tiny", "data.train=rows.jsonl", "resources.device=cpu", "model.compute=f32"];
    let set = common.iter().chain(set).map(|s| (*s).to_owned()).collect();
    Layers { set, ..Layers::default() }.resolve().expect("a valid configuration")
}

fn decoder(folder: &str, config: &ResolvedConfig) -> Decoder {
    decoder_on(&Device::Cpu, folder, config)
}

fn decoder_on(device: &Device, folder: &str, config: &ResolvedConfig) -> Decoder {
    decoder_under(&MemoryPolicy::default(), device, folder, config)
}

fn decoder_under(to: &MemoryPolicy, device: &Device, folder: &str, config: &ResolvedConfig) -> Decoder {
    let checkpoint = Checkpoint::open(&golden(folder)).expect("a checkpoint");
    Decoder::load(&checkpoint, &config.config().model, 512, to, device, |_| {}).expect("a model")
}

fn untrained(decoder: &Decoder, config: &ResolvedConfig) -> Adapters {
    decoder.adapters(&config.config().lora, 1).expect("adapters")
}

fn peft_adapter(folder: &Path, decoder: &Decoder) -> Adapters {
    adapter::load(folder, &decoder.shape, &decoder.fingerprint, 1, &Device::Cpu).expect("PEFT's adapter")
}

/// A trainer of 20 steps.
fn trainer<'a>(decoder: &'a Decoder, adapters: Adapters, config: &'a ResolvedConfig) -> Trainer<'a> {
    let training = &config.config().training;
    let optimizer = Optimizer::new(&adapters, training.optimizer).expect("an optimizer");
    let saved = qlora_planner::search(&decoder.shape, config.config(), None).saved;
    Trainer { decoder, adapters, optimizer, training, learning_rate: LearningRate::new(training, 20), saved }
}

fn row(tensor: &Tensor, i: usize) -> Vec<i64> {
    tensor.get(i).and_then(|t| t.to_dtype(DType::I64)?.to_vec1()).expect("integers")
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).and_then(|d| d.abs()?.flatten_all()?.max(0)?.to_scalar()).expect("comparable tensors")
}

fn unlabelled(ids: &[i64]) -> Sample {
    Sample { ids: ids.iter().map(|&id| id as u32).collect(), labels: vec![IGNORE; ids.len()] }
}

fn logits_agree(folder: &str) {
    let config = config(&["model.quantization=none"]);
    let decoder = decoder(folder, &config);
    let adapters = untrained(&decoder, &config);
    let wanted = tensors(&format!("{folder}/logits.safetensors"));
    for i in 0..2 {
        let sample = unlabelled(&row(&wanted["full.input_ids"], i));
        let logits = decoder.logits(&Batch::pack([&sample]), &adapters).expect("logits");
        let difference = largest_difference(&logits, &wanted["full.logits"].get(i).expect("a row"));
        println!("parity: {folder} row {i}, logits {difference:.1e}");
        assert!(difference < 5e-5, "{folder} row {i}: {difference}");
    }
    for side in ["left_pad", "right_pad"] {
        padded_row_agrees(&decoder, &adapters, &wanted, side);
    }
}

/// Only row 1 is padded; its real tokens are compared.
fn padded_row_agrees(decoder: &Decoder, adapters: &Adapters, wanted: &HashMap<String, Tensor>, side: &str) {
    let mask = row(&wanted[&format!("{side}.attention_mask")], 1);
    let ids = row(&wanted[&format!("{side}.input_ids")], 1);
    let start = mask.iter().position(|&m| m == 1).expect("a real token");
    let length = mask.iter().filter(|&&m| m == 1).count();
    let sample = unlabelled(&ids[start..start + length]);
    let logits = decoder.logits(&Batch::pack([&sample]), adapters).expect("logits");
    let reference = wanted[&format!("{side}.logits")].narrow(0, start, length).expect("real rows");
    let difference = largest_difference(&logits, &reference);
    assert!(difference < 5e-5, "{side}: {difference}");
}

#[test]
fn tiny_llama_gives_the_logits_of_transformers() {
    logits_agree("tiny_llama");
}

#[test]
fn tiny_mistral_gives_the_logits_of_transformers() {
    logits_agree("tiny_mistral");
}

#[test]
fn tiny_mistral_with_a_window_gives_the_logits_of_transformers() {
    // The folder holds only a configuration; its weights are tiny_mistral's.
    let folder = tempfile::tempdir().expect("a folder");
    for (from, name) in [("tiny_mistral_sw8", "config.json"), ("tiny_mistral", "model.safetensors")] {
        std::fs::copy(golden(from).join(name), folder.path().join(name)).expect("a copy");
    }
    let config = config(&["model.quantization=none"]);
    let checkpoint = Checkpoint::open(folder.path()).expect("a checkpoint");
    assert_eq!(checkpoint.files.shape.sliding_window, Some(8));
    let decoder =
        Decoder::load(&checkpoint, &config.config().model, 64, &MemoryPolicy::default(), &Device::Cpu, |_| {})
            .expect("a model");
    let adapters = untrained(&decoder, &config);
    let wanted = tensors("tiny_mistral_sw8/logits.safetensors");
    let sample = unlabelled(&row(&wanted["full.input_ids"], 0));
    let logits = decoder.logits(&Batch::pack([&sample]), &adapters).expect("logits");
    let difference = largest_difference(&logits, &wanted["full.logits"].get(0).expect("a row"));
    assert!(difference < 5e-5, "{difference}");
}

#[test]
fn both_spellings_of_rope_parameters_mean_the_same() {
    let shape = |name: &str| {
        let text = std::fs::read_to_string(golden("tiny_llama").join(name)).expect("a configuration");
        qlora_trainer::model::shape_from_json(&serde_json::from_str(&text).expect("JSON")).expect("a shape")
    };
    assert_eq!(shape("config.json"), shape("config.pre_v5.json"));
}

struct Recorded {
    folder: String,
    steps: Value,
    config: ResolvedConfig,
}

fn recorded(run: &str, checkpointing: bool, compute: &str) -> Recorded {
    let folder = format!("qlora_run/{run}");
    let text = std::fs::read_to_string(golden(&folder).join("steps.json")).expect("steps");
    let steps: Value = serde_json::from_str(&text).expect("JSON");
    let every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let targets: Vec<_> = match steps["lora"]["targets"].as_array() {
        Some(targets) => targets.iter().filter_map(Value::as_str).collect(),
        None => every.to_vec(),
    };
    let config = config(&[
        "lora.r=8",
        "lora.alpha=16",
        "lora.dropout=0",
        &format!("lora.target_modules=[{}]", targets.join(", ")),
        "training.learning_rate=1e-3",
        "training.warmup_ratio=0.2",
        "training.gradient_accumulation=2",
        &format!("training.gradient_checkpointing={checkpointing}"),
        &format!("model.compute={compute}"),
        &format!("lora.dora={}", run.starts_with("dora")),
    ]);
    Recorded { folder, steps, config }
}

/// Micro-batch `index` of the recording, its right padding taken off.
fn samples(all: &HashMap<String, Tensor>, index: usize) -> Vec<Sample> {
    let part = |name: &str| &all[&format!("{index:02}.{name}")];
    let rows = part("input_ids").dims()[0];
    let sample = |i| {
        let length = row(part("attention_mask"), i).iter().filter(|&&m| m == 1).count();
        let ids = row(part("input_ids"), i)[..length].iter().map(|&id| id as u32).collect();
        Sample { ids, labels: row(part("labels"), i)[..length].to_vec() }
    };
    (0..rows).map(sample).collect()
}

/// The recorded run's model, with the adapters that it began with.
fn initial_adapters(recorded: &Recorded, decoder: &Decoder) -> Adapters {
    let initial = tensors(&format!("{}/initial_adapter.safetensors", recorded.folder));
    let mut adapters = untrained(decoder, &recorded.config);
    for (site, factors) in adapters.sites.clone().iter().zip(&mut adapters.factors) {
        let find = |i: usize, ours: &Tensor| {
            let suffix = format!("{}.{}", site.module_path(), NAMES[i]);
            let found = initial.iter().find(|(name, _)| name.ends_with(&suffix));
            let found = found.map(|(_, t)| t.clone()).unwrap_or_else(|| panic!("no initial {suffix}"));
            // Magnitudes follow from the weights: ours must be PEFT's.
            let on_cpu = ours.to_device(&Device::Cpu)?;
            assert!(i < 2 || largest_difference(&found, &on_cpu) < 1e-6, "{suffix}");
            Ok(found.to_device(ours.device())?)
        };
        *factors = factors.map(find).expect("the recorded factors");
    }
    adapters
}

/// In bf16 with f32 sums the losses stay within what rounding to eight bits does to them.
fn bf16_agrees(run: &str, device: &Device, checkpointing: bool) {
    let recorded = recorded(run, checkpointing, "bf16");
    let decoder = decoder_on(device, "qlora_run/base_bnb4bit", &recorded.config);
    let batches = tensors("qlora_run/batches.safetensors");
    let adapters = initial_adapters(&recorded, &decoder);
    let mut trainer = trainer(&decoder, adapters, &recorded.config);
    let (mut loss, mut norm) = (0f64, 0f64);
    for (i, wanted) in recorded.steps["steps"].as_array().expect("steps").iter().enumerate() {
        let micro: Vec<Batch> = [2 * i, 2 * i + 1].iter().map(|&n| Batch::pack(&samples(&batches, n))).collect();
        let outcome = trainer.step(i as u64, &micro, &mut Alone).expect("a step");
        let number = |key: &str| wanted[key].as_f64().expect("a number");
        loss = loss.max((outcome.loss - number("loss")).abs());
        norm = norm.max((outcome.grad_norm / number("grad_norm") - 1.0).abs());
    }
    println!("parity: {run} in bf16 on {device:?}, 20 steps, loss {loss:.1e}, gradient norm (relative) {norm:.1e}");
    assert!(loss < 5e-3, "{run}: {loss}");
    assert!(norm < 3e-2, "{run}: {norm}");
}

#[test]
fn products_in_bf16_give_the_recorded_losses_within_their_rounding() {
    for run in ["attn_r8", "all_linear_r8", "dora_r8"] {
        bf16_agrees(run, &Device::Cpu, true);
    }
}

/// Needs a GPU, or the emulated one of the kernels' tests.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_gives_the_recorded_losses_within_their_rounding() {
    let device = qlora_kernels::cuda::open(0).expect("a GPU");
    bf16_agrees("attn_r8", &device, true);
    bf16_agrees("all_linear_r8", &device, false);
    gradients_do_not_depend_on_what_is_kept(&device, "bf16", false);
    gradients_do_not_depend_on_the_memory_policy(&device);
    // DoRA is made of candle's operations, for which the emulated GPU has no kernels.
    if std::env::var_os("QLORA_EMULATED_GPU").is_none() {
        bf16_agrees("dora_r8", &device, true);
    }
}

/// A Llama of 2 blocks in q8_0, as a GGUF file in `home`.
#[cfg(feature = "cuda")]
fn gguf_model(home: &Path) -> PathBuf {
    let folder = home.join("model");
    std::fs::create_dir(&folder).expect("a folder");
    let text = std::fs::read_to_string(golden("tiny_llama/config.json")).expect("a configuration");
    let mut shape: Value = serde_json::from_str(&text).expect("JSON");
    // That of the tokenizer.
    shape["vocab_size"] = 900.into();
    std::fs::write(folder.join("config.json"), shape.to_string()).expect("a configuration");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden("chat/tokenizer").join(name), folder.join(name)).expect("a tokenizer");
    }
    let mut weights = tensors("tiny_llama/model.safetensors");
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let table = &weights[name];
        let longer = Tensor::cat(&[table, table, table, table], 0).and_then(|t| t.narrow(0, 0, 900));
        weights.insert(name.into(), longer.and_then(|t| t.contiguous()).expect("a table"));
    }
    candle_core::safetensors::save(&weights, folder.join("model.safetensors")).expect("a model");
    let out = home.join("model.gguf");
    let config = config(&[]);
    export::convert(&folder, &out, &config.config().model, ElementType::Q8_0, &mut |_, _| {}).expect("a GGUF file");
    out
}

/// Blocks of GGUF are dequantised by candle's kernels, which the emulated GPU lacks.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_trains_a_gguf_base_as_the_cpu_does() {
    if std::env::var_os("QLORA_EMULATED_GPU").is_some() {
        return eprintln!("not run: the emulated GPU has none of candle's kernels");
    }
    let home = tempfile::tempdir().expect("a folder");
    let model = gguf_model(home.path());
    let config = config(&["model.compute=bf16", "model.quantization=gguf", "lora.dropout=0.1"]);
    let batches = tensors("qlora_run/batches.safetensors");
    let gpu = qlora_kernels::cuda::open(0).expect("a GPU");
    let steps = |device: &Device| -> Vec<(f64, f64)> {
        let checkpoint = Checkpoint::open(&model).expect("the GGUF file");
        let to = MemoryPolicy::default();
        let decoder = Decoder::load(&checkpoint, &config.config().model, 512, &to, device, |_| {}).expect("a model");
        let mut trainer = trainer(&decoder, untrained(&decoder, &config), &config);
        let mut step = |i: usize| trainer.step(i as u64, &[Batch::pack(&samples(&batches, i))], &mut Alone);
        (0..6).map(|i| step(i).map(|outcome| (outcome.loss, outcome.grad_norm)).expect("a step")).collect()
    };
    let (here, there) = (steps(&Device::Cpu), steps(&gpu));
    println!("parity: a GGUF base on the CPU and on a GPU: {here:?} and {there:?}");
    let close = |(a, b): (&(f64, f64), &(f64, f64))| (a.0 - b.0).abs() < 1e-2 && (a.1 / b.1 - 1.0).abs() < 3e-2;
    assert!(here.iter().zip(&there).all(close));
}

/// With the embedding in the machine's memory, or weights that stay dequantised, losses and gradients are the same to the
/// bit.
#[cfg(feature = "cuda")]
fn gradients_do_not_depend_on_the_memory_policy(device: &Device) {
    let config = config(&["lora.dropout=0.2", "model.compute=bf16"]);
    let batch = [Batch::pack(&samples(&tensors("qlora_run/batches.safetensors"), 0))];
    let thrifty = LowMemory::ALL.map(|low_memory| MemoryPolicy { low_memory, ..MemoryPolicy::default() });
    let lavish = [1, 2].map(|dequantized| MemoryPolicy { dequantized, ..MemoryPolicy::default() });
    let mut bytes = Vec::new();
    let found = thrifty.into_iter().chain(lavish).map(|policy| {
        let decoder = decoder_under(&policy, device, "tiny_llama", &config);
        assert!(!decoder.shape.tied_embeddings);
        bytes.push(decoder.bytes());
        let (loss, gradients) =
            trainer(&decoder, untrained(&decoder, &config), &config).gradients(3, &batch).expect("a pass");
        let tensors = gradients.entries().iter().flatten().flat_map(|g| g.tensors());
        let numbers: Vec<Vec<f32>> = tensors.map(|t| t.flatten_all().and_then(|t| t.to_vec1()).expect("f32")).collect();
        (loss, numbers)
    });
    let found: Vec<_> = found.collect();
    assert!(found.iter().all(|other| *other == found[0]));
    assert!(bytes[0] < bytes[3] && bytes[3] < bytes[4], "{bytes:?}");
}

fn training_agrees(run: &str, checkpointing: bool) {
    let recorded = recorded(run, checkpointing, "f32");
    let decoder = decoder("qlora_run/base_bnb4bit", &recorded.config);
    let batches = tensors("qlora_run/batches.safetensors");
    let adapters = initial_adapters(&recorded, &decoder);
    let mut trainer = trainer(&decoder, adapters, &recorded.config);
    let (mut loss, mut norm, mut rate) = (0f64, 0f64, 0f64);
    for (i, wanted) in recorded.steps["steps"].as_array().expect("steps").iter().enumerate() {
        let micro: Vec<Batch> = [2 * i, 2 * i + 1].iter().map(|&n| Batch::pack(&samples(&batches, n))).collect();
        if i == 0 {
            first_gradients_agree(&trainer, &micro, &recorded.folder);
        }
        let outcome = trainer.step(i as u64, &micro, &mut Alone).expect("a step");
        let number = |key: &str| wanted[key].as_f64().expect("a number");
        assert!((outcome.loss - number("loss")).abs() < 1e-4, "step {i}: loss {} and {}", outcome.loss, number("loss"));
        let ratio = outcome.grad_norm / number("grad_norm");
        assert!(
            (ratio - 1.0).abs() < 1e-3,
            "step {i}: gradient norm {} and {}",
            outcome.grad_norm,
            number("grad_norm")
        );
        assert!((outcome.learning_rate - number("lr")).abs() < 1e-12, "step {i}: rate {}", outcome.learning_rate);
        loss = loss.max((outcome.loss - number("loss")).abs());
        norm = norm.max((ratio - 1.0).abs());
        rate = rate.max((outcome.learning_rate - number("lr")).abs());
    }
    println!("parity: {run}, 20 steps, loss {loss:.1e}, gradient norm (relative) {norm:.1e}, rate {rate:.1e}");
    let wanted = peft_adapter(&golden(&recorded.folder).join("final_adapter"), &decoder);
    assert_eq!(wanted.sites, trainer.adapters.sites);
    let mut weights = 0f32;
    for (ours, theirs) in trainer.adapters.factors.iter().zip(&wanted.factors) {
        assert_eq!(ours.tensors().count(), theirs.tensors().count());
        for (ours, theirs) in ours.tensors().zip(theirs.tensors()) {
            weights = weights.max(largest_difference(ours, theirs));
        }
    }
    assert!(weights < 2e-4, "adapter: {weights}");
    let last = tensors(&format!("{}/final_logits.safetensors", recorded.folder));
    let sample = unlabelled(&row(&last["input_ids"], 0));
    let logits = decoder.logits(&Batch::pack([&sample]), &trainer.adapters).expect("logits");
    let difference = largest_difference(&logits, &last["logits"].get(0).expect("a row"));
    println!("parity: {run}, final adapter {weights:.1e}, final logits {difference:.1e}");
    assert!(difference < 2e-3, "final logits: {difference}");
}

fn first_gradients_agree(trainer: &Trainer<'_>, micro: &[Batch], folder: &str) {
    let wanted = tensors(&format!("{folder}/step1_grads_before_clip.safetensors"));
    let (_, gradients) = trainer.gradients(0, micro).expect("gradients");
    let mut largest = 0f32;
    for (site, grad) in trainer.adapters.sites.iter().zip(gradients.entries()) {
        let grad = grad.as_ref().expect("a gradient for every site");
        for (which, ours) in ["lora_A", "lora_B", "lora_magnitude_vector"].iter().zip(grad.tensors()) {
            let name = format!("{}.{which}.weight", site.module_path());
            let difference = largest_difference(ours, &wanted[&name]);
            assert!(difference < 1e-5, "{name}: {difference}");
            largest = largest.max(difference);
        }
    }
    println!("parity: {folder}, gradients of the first step {largest:.1e}");
}

#[test]
fn attention_adapters_train_as_with_peft() {
    training_agrees("attn_r8", true);
}

#[test]
fn attention_adapters_train_as_with_peft_without_checkpointing() {
    training_agrees("attn_r8", false);
}

#[test]
fn adapters_on_all_linears_train_as_with_peft() {
    training_agrees("all_linear_r8", true);
}

#[test]
fn adapters_on_all_linears_train_as_with_peft_without_checkpointing() {
    training_agrees("all_linear_r8", false);
}

#[test]
fn dora_trains_as_with_peft() {
    training_agrees("dora_r8", true);
}

#[test]
fn dora_trains_as_with_peft_without_checkpointing() {
    training_agrees("dora_r8", false);
}

/// Dropout masks and sums must not depend on how a step is cut into micro-batches.
#[test]
fn a_step_does_not_depend_on_how_it_is_split() {
    for dora in [false, true] {
        step_does_not_depend_on_splits(dora);
    }
}

fn step_does_not_depend_on_splits(dora: bool) {
    let config = config(&["lora.dropout=0.2", "model.quantization=nf4", &format!("lora.dora={dora}")]);
    let decoder = decoder("tiny_llama", &config);
    let batches = tensors("qlora_run/batches.safetensors");
    let all: Vec<Sample> = (0..3).flat_map(|i| samples(&batches, i)).collect();
    let gradients = |cuts: &[usize]| {
        let mut adapters = untrained(&decoder, &config);
        for factors in &mut adapters.factors {
            factors.b = (factors.b.ones_like().expect("ones") * 0.02).expect("a value");
        }
        let trainer = trainer(&decoder, adapters, &config);
        let mut rest = all.as_slice();
        let micro: Vec<Batch> = cuts
            .iter()
            .map(|&n| {
                let (now, later) = rest.split_at(n);
                rest = later;
                Batch::pack(now)
            })
            .collect();
        trainer.gradients(5, &micro).expect("gradients")
    };
    let (whole, parts) = (gradients(&[6]), gradients(&[1, 2, 3]));
    assert!((whole.0 - parts.0).abs() < 1e-5, "{} and {}", whole.0, parts.0);
    for (a, b) in whole.1.entries().iter().zip(parts.1.entries()) {
        let (a, b) = (a.as_ref().expect("a gradient"), b.as_ref().expect("a gradient"));
        for (a, b) in a.tensors().zip(b.tensors()) {
            assert!(largest_difference(a, b) < 1e-5);
        }
    }
}

/// Whatever is kept of a block, what is computed again is what was computed: gradients are equal to the bit.
fn gradients_do_not_depend_on_what_is_kept(device: &Device, compute: &str, dora: bool) {
    let compute = format!("model.compute={compute}");
    let config =
        config(&["lora.dropout=0.2", "lora.target_modules=all-linear", &compute, &format!("lora.dora={dora}")]);
    let decoder = decoder_on(device, "tiny_llama", &config);
    let batch = [Batch::pack(&samples(&tensors("qlora_run/batches.safetensors"), 0))];
    let mut trainer = trainer(&decoder, untrained(&decoder, &config), &config);
    let mut wanted: Option<Vec<Vec<f32>>> = None;
    for keep in SavedActivations::EVERY {
        trainer.saved = vec![keep; decoder.shape.layers];
        let (_, gradients) = trainer.gradients(3, &batch).expect("gradients");
        let tensors = gradients.entries().iter().flatten().flat_map(|g| g.tensors());
        let found: Vec<Vec<f32>> = tensors.map(|t| t.flatten_all().and_then(|t| t.to_vec1()).expect("f32")).collect();
        assert!(found.iter().flatten().any(|&v| v != 0.0));
        assert!(*wanted.get_or_insert_with(|| found.clone()) == found, "{keep:?}");
    }
}

#[test]
fn what_is_kept_of_a_block_does_not_change_a_gradient() {
    for (compute, dora) in [("f32", false), ("bf16", false), ("f32", true)] {
        gradients_do_not_depend_on_what_is_kept(&Device::Cpu, compute, dora);
    }
}

/// PEFT's adapter merged into the weights gives the logits of base and adapter together.
fn merged_agrees(run: &str, base: Base, quantization: &str) {
    let config = config(&[&format!("model.quantization={quantization}")]);
    let home = tempfile::tempdir().expect("a folder");
    let (adapter, out) = (golden(&format!("qlora_run/{run}/final_adapter")), home.path().join("merged"));
    let model = &config.config().model;
    let merge = || export::merge(&golden("tiny_llama"), &adapter, &out, base, model, ElementType::F16, &mut |_, _| {});
    let merged = merge();
    let merged = merged.expect("a merged model");
    assert!(merged.adapted > 0 && merged.update > 0.0 && merged.quantisation > 0.0);
    let sample = unlabelled(&row(&tensors("tiny_llama/logits.safetensors")["full.input_ids"], 0));
    let batch = Batch::pack([&sample]);
    let decoder = decoder("tiny_llama", &config);
    let adapters = peft_adapter(&adapter, &decoder);
    let together = decoder.logits(&batch, &adapters).expect("logits");
    let plain = crate::config(&["model.quantization=none"]);
    let checkpoint = Checkpoint::open(&out).expect("the merged model");
    let alone = Decoder::load(&checkpoint, &plain.config().model, 512, &MemoryPolicy::default(), &Device::Cpu, |_| {})
        .expect("a model");
    let logits = alone.logits(&batch, &untrained(&alone, &plain)).expect("logits");
    let difference = largest_difference(&logits, &together);
    println!("parity: {run} merged into {base:?}, logits {difference:.1e}");
    assert!(difference < 5e-5, "{difference}");
    let again = merge();
    assert!(again.expect_err("the folder exists").to_string().contains("exists already"));
}

#[test]
fn an_adapter_merged_into_the_original_weights_gives_the_same_logits() {
    for run in ["attn_r8", "all_linear_r8", "dora_r8"] {
        merged_agrees(run, Base::Original, "none");
    }
}

#[test]
fn an_adapter_merged_into_the_dequantised_weights_gives_those_of_training() {
    for run in ["attn_r8", "all_linear_r8", "dora_r8"] {
        merged_agrees(run, Base::Dequantised, "nf4");
    }
}

#[test]
fn quantised_weights_are_no_base_to_merge_into() {
    let config = config(&[]);
    let home = tempfile::tempdir().expect("a folder");
    let (adapter, out) = (golden("qlora_run/attn_r8/final_adapter"), home.path().join("merged"));
    let model = &config.config().model;
    let base = golden("qlora_run/base_bnb4bit");
    let fault = export::merge(&base, &adapter, &out, Base::Original, model, ElementType::F16, &mut |_, _| {});
    assert!(fault.expect_err("a refusal").to_string().contains("holds quantised weights"));
    assert!(!out.exists());
}

/// Quantised here, written as bitsandbytes does, and read back: the same model as the one that transformers wrote.
#[test]
fn a_model_written_in_bitsandbytes_layout_is_the_one_that_bitsandbytes_writes() {
    let config = config(&[]);
    let home = tempfile::tempdir().expect("a folder");
    let out = home.path().join("nf4");
    let model = &config.config().model;
    let written = export::convert(&golden("tiny_llama"), &out, model, ElementType::F16, &mut |_, _| {});
    assert_eq!(written.expect("a model").tensors, 21);
    let load = |folder: &Path| {
        candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).expect("tensors")
    };
    let (ours, theirs) = (load(&out), load(&golden("qlora_run/base_bnb4bit")));
    let names = |tensors: &HashMap<String, Tensor>| {
        let mut names: Vec<String> = tensors.keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&ours), names(&theirs));
    let state =
        |tensor: &Tensor| -> Value { serde_json::from_slice(&tensor.to_vec1::<u8>().expect("bytes")).expect("JSON") };
    for (name, tensor) in &theirs {
        if name.contains("quant_state") {
            let (found, wanted) = (state(&ours[name]), state(tensor));
            assert_eq!(found, wanted, "{name}");
        } else {
            assert_eq!(ours[name].dims(), tensor.dims(), "{name}");
            let floats = |t: &Tensor| t.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
            assert_eq!(floats(&ours[name]).expect("values"), floats(tensor).expect("values"), "{name}");
        }
    }
    let text = std::fs::read_to_string(out.join("config.json")).expect("a configuration");
    let described: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(described["quantization_config"]["bnb_4bit_quant_type"], "nf4");
}
