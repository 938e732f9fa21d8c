//! What GGUF and llama.cpp cannot say is refused by name, in both directions; for what a file does
//! not say, llama.cpp's default is taken.

use candle_core::quantized::gguf_file::Value as Meta;
use serde_json::{Value, json};

use crate::home::{Home, family_tensors};
use crate::toy::gguf::Gguf;
use crate::toy::{ones, refused, values};

/// Every value that llama.cpp cannot compute, by its key.
#[test]
fn what_llama_cpp_does_not_compute_is_refused_by_its_key() {
    let yarn = |key: &str, value: Value| {
        let mut rope = json!({"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6,
            "original_max_position_embeddings": 64});
        rope[key] = value;
        json!({"rope_parameters": rope})
    };
    let llama3 = json!({"rope_parameters": {"rope_type": "llama3", "factor": 8.0,
        "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_theta": 1e6,
        "original_max_position_embeddings": 64}});
    let global = json!({"query_pre_attn_scalar": 32, "rope_parameters": {"full_attention":
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}});
    for (family, changes, words) in [
        ("gemma2", json!({}), ["query_pre_attn_scalar", "gemma2"]),
        ("gemma3", json!({}), ["query_pre_attn_scalar", "gemma3"]),
        (
            "gemma2",
            json!({"query_pre_attn_scalar": 32, "attn_logit_softcapping": null}),
            ["attn_logit_softcapping", "gemma2"],
        ),
        (
            "gemma2",
            json!({"query_pre_attn_scalar": 32, "final_logit_softcapping": null}),
            ["final_logit_softcapping", "gemma2"],
        ),
        ("gemma3", global, ["yarn", "gemma3"]),
        (
            "smollm3",
            json!({"no_rope_layers": [1, 0, 1, 0]}),
            ["no_rope_layers", "smollm3"],
        ),
        (
            "smollm3",
            json!({"no_rope_layers": [1, 1, 1, 1]}),
            ["no_rope_layers", "smollm3"],
        ),
        (
            "qwen2_yarn",
            yarn("beta_fast", json!(16.0)),
            ["beta_fast", "qwen2"],
        ),
        (
            "qwen2_yarn",
            yarn("beta_slow", json!(2.0)),
            ["beta_slow", "qwen2"],
        ),
        (
            "qwen2_yarn",
            yarn("truncate", json!(false)),
            ["truncate", "qwen2"],
        ),
        ("qwen3", llama3, ["rope_scaling", "qwen3"]),
    ] {
        let home = Home::new(family, changes);
        let way_out = "an --out without .gguf";
        for fault in [
            home.try_convert().expect_err("it was written"),
            home.convert_adapter(&home.adapter())
                .expect_err("it was written"),
        ] {
            let has = |word: &&str| fault.contains(*word);
            assert!(words.iter().all(has) && fault.contains(way_out), "{fault}");
        }
    }
}

#[test]
fn sizes_that_llama_cpp_cannot_load_are_refused_by_their_key() {
    let mut tensors = family_tensors("qwen2");
    let mut wider = |name: &str, dims: &[usize]| {
        for layer in 0..2 {
            let name = format!("model.layers.{layer}.self_attn.{name}");
            tensors.insert(name, ones(dims, 0.01));
        }
    };
    for (name, rows) in [("q_proj", 192), ("k_proj", 96), ("v_proj", 96)] {
        wider(&format!("{name}.weight"), &[rows, 64]);
        wider(&format!("{name}.bias"), &[rows]);
    }
    wider("o_proj.weight", &[64, 192]);
    let home = Home::of("qwen2", json!({"head_dim": 48}), &tensors);
    let fault = home.try_convert().expect_err("it was written");
    assert!(fault.contains("`head_dim`"), "{fault}");
    let mut tensors = family_tensors("gemma2");
    let head = tensors["model.embed_tokens.weight"].clone();
    tensors.insert("lm_head.weight".into(), head);
    let changes = json!({"tie_word_embeddings": false, "query_pre_attn_scalar": 32});
    let home = Home::of("gemma2", changes, &tensors);
    let fault = home.try_convert().expect_err("it was written");
    assert!(fault.contains("`tie_word_embeddings`"), "{fault}");
}

/// What a file does not say is what llama.cpp takes.
#[test]
fn keys_that_a_file_lacks_have_the_defaults_of_llama_cpp() {
    let same = |home: &Home, change: &dyn Fn(Gguf) -> Gguf| {
        let (file, changed) = (home.convert(), home.path("changed.gguf"));
        change(Gguf::of(&file)).write(&changed);
        assert_eq!(values(&changed, None), values(&file, None));
    };
    let gemma2 = json!({"query_pre_attn_scalar": 32, "sliding_window": 4096});
    same(&Home::new("gemma2", gemma2), &|file| {
        file.lacking("gemma2.attn_logit_softcapping")
            .lacking("gemma2.final_logit_softcapping")
            .lacking("gemma2.attention.sliding_window")
            .lacking("gemma2.rope.freq_base")
    });
    let gemma3 = Home::new("gemma3", json!({"query_pre_attn_scalar": 32}));
    same(&gemma3, &|file| {
        let flags = [true, true, true, false].map(Meta::Bool).to_vec();
        let key = "gemma3.attention.sliding_window_pattern";
        let (_, found) = file.metadata.iter().find(|(k, _)| k == key).expect("a key");
        assert_eq!(format!("{found:?}"), format!("{:?}", Meta::Array(flags)));
        file.with(key, Meta::U32(4))
            .lacking("gemma3.rope.freq_base_swa")
    });
    let linear = json!({"rope_parameters":
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}});
    same(&Home::new("qwen3", linear), &|file| {
        file.lacking("qwen3.rope.scaling.type")
            .lacking("qwen3.rope.scaling.factor")
            .with("qwen3.rope.scale_linear", Meta::F32(4.0))
            .with("qwen3.rope.scaling.finetuned", Meta::Bool(false))
    });
    same(&Home::new("qwen2_yarn", json!({})), &|file| {
        file.lacking("qwen2.rope.scaling.attn_factor")
            .with("qwen2.rope.scaling.yarn_beta_fast", Meta::F32(32.0))
    });
}

#[test]
fn keys_and_tensors_that_an_architecture_does_not_have_are_refused_by_name() {
    let text = |text: &str| Meta::String(text.into());
    let gemma = json!({"query_pre_attn_scalar": 32});
    let flags = Meta::Array(vec![Meta::Bool(true)]);
    for (family, changes, key, value, word) in [
        (
            "qwen2",
            json!({}),
            "qwen2.attention.sliding_window",
            Meta::U32(8),
            "",
        ),
        (
            "qwen2",
            json!({}),
            "qwen2.rope.scaling.yarn_beta_fast",
            Meta::F32(16.0),
            "",
        ),
        (
            "qwen2",
            json!({}),
            "qwen2.rope.scaling.attn_factor",
            Meta::F32(1.2),
            "yarn",
        ),
        (
            "qwen2",
            json!({}),
            "qwen2.rope.dimension_count",
            Meta::U32(8),
            "8",
        ),
        (
            "smollm3",
            json!({}),
            "smollm3.rope.scaling.type",
            text("longrope"),
            "longrope",
        ),
        (
            "phi3",
            json!({}),
            "phi3.rope.scaling.type",
            text("yarn"),
            "yarn",
        ),
        (
            "phi3",
            json!({}),
            "phi3.rope.scaling.type",
            text("longrope"),
            "rope_factors_long",
        ),
        (
            "gemma2",
            gemma.clone(),
            "gemma2.attention.scale",
            Meta::F32(0.1),
            "",
        ),
        (
            "gemma2",
            gemma.clone(),
            "gemma2.rope.freq_base_swa",
            Meta::F32(1e4),
            "",
        ),
        (
            "gemma2",
            gemma.clone(),
            "gemma2.attention.sliding_window",
            Meta::U32(0),
            "0",
        ),
        (
            "gemma2",
            gemma.clone(),
            "gemma2.attention.sliding_window_pattern",
            flags,
            "1 blocks",
        ),
        (
            "gemma3",
            gemma,
            "gemma3.attn_logit_softcapping",
            Meta::F32(50.0),
            "",
        ),
        (
            "granite",
            json!({}),
            "granite.logit_scale",
            Meta::F32(0.0),
            "0",
        ),
    ] {
        let home = Home::new(family, changes);
        let changed = home.path("changed.gguf");
        Gguf::of(&home.convert()).with(key, value).write(&changed);
        refused(&changed, None, &[key, word, "changed.gguf"]);
    }
    let granite = Home::new("granite", json!({}));
    let changed = granite.path("changed.gguf");
    let lacking = Gguf::of(&granite.convert()).lacking("granite.logit_scale");
    lacking.write(&changed);
    refused(&changed, None, &["lack `granite.logit_scale`"]);
    for (family, tensor, size, word) in [
        ("smollm3", "rope_freqs.weight", 8, "no part of"),
        ("qwen2", "blk.0.attn_q_norm.weight", 16, "no part of"),
        ("qwen3", "blk.0.attn_q.bias", 128, "bias"),
        (
            "phi3",
            "rope_factors_long.weight",
            8,
            "rope_factors_short.weight",
        ),
        (
            "phi3",
            "rope_factors_short.weight",
            8,
            "rope_factors_long.weight",
        ),
        ("phi3", "blk.0.ffn_gate.weight", 64, "no part of"),
    ] {
        let home = Home::new(family, json!({}));
        let changed = home.path("changed.gguf");
        let more = Gguf::of(&home.convert()).and(tensor, &ones(&[size], 1.0));
        more.write(&changed);
        refused(&changed, None, &[tensor, word]);
    }
}
