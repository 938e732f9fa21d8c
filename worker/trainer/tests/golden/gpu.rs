//! The same on a GPU of CUDA.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use qlora_planner::{LowMemory, MemoryPolicy};
use qlora_trainer::device;
use qlora_trainer::export::{self, ElementType};
use qlora_trainer::model::Batch;
use qlora_trainer::process_group::Alone;
use qlora_trainer::runtime::{Purpose, Runtime};
use qlora_trainer::weights::Checkpoint;
use serde_json::Value;

use crate::invariance::gradients_do_not_depend_on_what_is_kept;
use crate::training::bf16_agrees;
use crate::{config, decoder_under, golden, loaded, samples, tensors, trainer, untrained};
use qlora_testkit::skip;

/// Needs a GPU, or the emulated one of the kernels' tests.
#[test]
fn a_gpu_gives_the_recorded_losses_within_their_rounding() {
    let device = device::open(qlora_config::DeviceKind::Cuda).expect("a GPU");
    bf16_agrees("attn_r8", &device, true);
    bf16_agrees("all_linear_r8", &device, false);
    gradients_do_not_depend_on_what_is_kept(&device, "bf16", false);
    gradients_do_not_depend_on_the_memory_policy(&device);
    if std::env::var_os("QLORA_EMULATED_GPU").is_some() {
        return skip("DoRA takes candle's kernels, which the emulated GPU lacks");
    }
    bf16_agrees("dora_r8", &device, true);
}

/// Norms over heads, fused layers, soft caps, windows, gates and constants, in the GPU's own forms.
#[test]
fn a_gpu_trains_every_architecture_within_its_rounding() {
    let device = device::open(qlora_config::DeviceKind::Cuda).expect("a GPU");
    for family in crate::families::ALL {
        crate::families::bf16_agrees(family, &device);
    }
}

/// What is asked for and not there is refused by both, and not taken for something else.
#[test]
fn a_gpu_scores_with_the_attention_that_it_trains_with() {
    let device = device::open(qlora_config::DeviceKind::Cuda).expect("a GPU");
    let shape = Checkpoint::open(&golden("tiny_llama"))
        .expect("a checkpoint")
        .files
        .shape;
    for word in ["repeatable", "cudnn"] {
        let asked = format!("training.flash_attention={word}");
        let config = config(&["resources.device=cuda", &asked]);
        let config = config.config();
        let inference = Purpose::Inference {
            model: &config.model,
            attention: config.training.flash_attention,
        };
        let [trained, scored] = [Purpose::Training(config), inference].map(|purpose| {
            Runtime::on(&device, &shape, purpose, 300)
                .map(|runtime| runtime.backend.attention())
                .map_err(|fault| fault.to_string())
        });
        assert_eq!(trained, scored, "{word}");
    }
}

/// A Llama of 2 blocks in q8_0, as a GGUF file in `home`.
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
        let longer =
            Tensor::cat(&[table, table, table, table], 0).and_then(|t| t.narrow(0, 0, 900));
        weights.insert(
            name.into(),
            longer.and_then(|t| t.contiguous()).expect("a table"),
        );
    }
    candle_core::safetensors::save(&weights, folder.join("model.safetensors")).expect("a model");
    let out = home.join("model.gguf");
    let config = config(&[]);
    export::convert(
        &folder,
        &out,
        &config.config().model,
        ElementType::Q8_0,
        &mut |_, _| Ok(()),
    )
    .expect("a GGUF file");
    out
}

/// Blocks of GGUF are dequantized by candle's kernels, which the emulated GPU lacks.
#[test]
fn a_gpu_trains_a_gguf_base_as_the_cpu_does() {
    if std::env::var_os("QLORA_EMULATED_GPU").is_some() {
        return skip("GGUF takes candle's kernels, which the emulated GPU lacks");
    }
    let home = tempfile::tempdir().expect("a folder");
    let model = gguf_model(home.path());
    let config = config(&[
        "model.compute=bf16",
        "model.quantization=gguf",
        "lora.dropout=0.1",
    ]);
    let batches = tensors("qlora_run/batches.safetensors");
    let gpu = device::open(qlora_config::DeviceKind::Cuda).expect("a GPU");
    let steps = |device: &Device| -> Vec<(f64, f64)> {
        let checkpoint = Checkpoint::open(&model).expect("the GGUF file");
        let decoder = loaded(device, &checkpoint, &config, &MemoryPolicy::default());
        let mut trainer = trainer(&decoder, untrained(&decoder, &config), &config);
        let mut step =
            |i: usize| trainer.step(i as u64, &[Batch::pack(&samples(&batches, i))], &mut Alone);
        (0..6)
            .map(|i| {
                step(i)
                    .map(|outcome| (outcome.loss, outcome.grad_norm))
                    .expect("a step")
            })
            .collect()
    };
    let (here, there) = (steps(&Device::Cpu), steps(&gpu));
    println!("parity: a GGUF base on the CPU and on a GPU: {here:?} and {there:?}");
    let close = |(a, b): (&(f64, f64), &(f64, f64))| {
        (a.0 - b.0).abs() < 1e-2 && (a.1 / b.1 - 1.0).abs() < 3e-2
    };
    assert!(here.iter().zip(&there).all(close));
}

/// With the embedding in host memory, or weights that stay dequantized, losses and gradients are
/// bit-identical.
fn gradients_do_not_depend_on_the_memory_policy(device: &Device) {
    let config = config(&["lora.dropout=0.2", "model.compute=bf16"]);
    let batch = [Batch::pack(&samples(
        &tensors("qlora_run/batches.safetensors"),
        0,
    ))];
    let frugal = LowMemory::ALL.map(|low_memory| MemoryPolicy {
        low_memory,
        ..MemoryPolicy::default()
    });
    let lavish = [1, 2].map(|dequantized| MemoryPolicy {
        dequantized,
        ..MemoryPolicy::default()
    });
    let mut bytes = Vec::new();
    let found = frugal.into_iter().chain(lavish).map(|policy| {
        let decoder = decoder_under(&policy, device, "tiny_llama", &config);
        assert!(!decoder.shape.tied_embeddings);
        bytes.push(decoder.bytes());
        let (loss, gradients) = trainer(&decoder, untrained(&decoder, &config), &config)
            .gradients(3, &batch)
            .expect("a pass");
        let tensors = gradients
            .entries()
            .iter()
            .flatten()
            .flat_map(|g| g.tensors());
        let numbers: Vec<Vec<f32>> = tensors
            .map(|t| t.flatten_all().and_then(|t| t.to_vec1()).expect("f32"))
            .collect();
        (loss, numbers)
    });
    let found: Vec<_> = found.collect();
    assert!(found.iter().all(|other| *other == found[0]));
    assert!(bytes[0] < bytes[3] && bytes[3] < bytes[4], "{bytes:?}");
}
