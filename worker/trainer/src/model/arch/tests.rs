use qlora_planner::{LayerRope, RopeScaling};
use serde_json::json;

use super::*;

fn llama(change: &Value) -> Result<ModelShape, String> {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 264,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 256, "torch_dtype": "float32",
        "transformers.js_config": {"dtype": "q4"}, "_attn_implementation_autoset": true, "rope_scaling": null
    });
    for (key, value) in change.as_object().expect("an object") {
        // A text "..." takes the key away.
        match value.as_str() {
            Some("...") => drop(config.as_object_mut().expect("an object").remove(key)),
            _ => config[key] = value.clone(),
        }
    }
    shape_from_json(&config).map_err(|fault| fault.to_string())
}

#[track_caller]
fn refused(change: Value, words: &[&str]) {
    let fault = llama(&change).expect_err(&format!("{change} was taken"));
    assert!(
        words.iter().all(|word| fault.contains(word)),
        "{change}: {fault}"
    );
}

#[test]
fn keys_that_ask_for_what_is_not_implemented_are_refused_by_name() {
    for (key, value) in [
        ("attention_dropout", json!(0.1)),
        ("partial_rotary_factor", json!(0.25)),
        ("rope_interleaved", json!(true)),
        ("sliding_window", json!(128)),
        (
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
        ),
        ("final_logit_softcapping", json!(30.0)),
        ("attention_multiplier", json!(0.5)),
        ("num_local_experts", json!(8)),
        ("use_qk_norm", json!(true)),
        ("use_rope", json!(false)),
        ("auto_map", json!({"AutoModelForCausalLM": "modeling.Own"})),
        ("hidden_act", json!("gelu")),
        ("architectures", json!(["LlamaForSequenceClassification"])),
        ("model_type", json!("mixtral")),
    ] {
        refused(
            json!({ key: value }),
            &[if key == "model_type" { "mixtral" } else { key }],
        );
    }
}

#[test]
fn keys_that_are_turned_off_or_change_nothing_are_taken() {
    let plain = llama(&json!({})).expect("a shape");
    for change in [
        json!({"attention_bias": false, "mlp_bias": false, "attention_dropout": 0, "partial_rotary_factor": 1.0}),
        json!({"layer_types": ["full_attention", "full_attention"], "sliding_window": null, "new_thing": null}),
        json!({"pretraining_tp": 4, "use_cache": false, "temperature": 0.7, "hidden_act": "swish", "head_dim": 8}),
        json!({"rope_theta": "...", "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}),
    ] {
        assert_eq!(llama(&change).expect("a shape"), plain, "{change}");
    }
}

#[test]
fn a_value_of_another_type_is_named_with_its_key() {
    for key in [
        "hidden_size",
        "vocab_size",
        "num_hidden_layers",
        "max_position_embeddings",
    ] {
        refused(
            json!({ key: "264" }),
            &[key, "\"264\"", "not a whole number"],
        );
        refused(json!({ key: 0 }), &[key, "above 0"]);
        refused(json!({ key: "..." }), &[key, "is missing"]);
    }
    refused(
        json!({"tie_word_embeddings": "yes"}),
        &["tie_word_embeddings", "not true or false"],
    );
    refused(
        json!({"rope_scaling": [1]}),
        &["rope_scaling", "not an object"],
    );
    refused(json!({"head_dim": 7}), &["heads of 7"]);
    refused(
        json!({"num_attention_heads": 3, "num_key_value_heads": 3}),
        &["head_dim", "32"],
    );
}

#[test]
fn sizes_that_no_model_has_are_refused_before_anything_is_made_of_them() {
    for key in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "vocab_size",
        "head_dim",
    ] {
        for size in [u32::MAX - 1, 1 << 31] {
            let change = json!({ "head_dim": 8, key: size });
            let named = if key == "head_dim" {
                "num_attention_heads"
            } else {
                key
            };
            refused(change, &[named, "at the most"]);
        }
    }
    let heads = json!({"num_attention_heads": 1u32 << 31, "num_key_value_heads": 1, "head_dim": 1u32 << 31});
    refused(heads, &["num_attention_heads", "4611686018427387904"]);
}

fn scaling() -> Value {
    json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 32})
}

#[test]
fn both_spellings_of_rotary_settings_give_one_reading() {
    let scaled = llama(&json!({"rope_scaling": scaling()})).expect("a shape");
    assert!(scaled.rope_scaling.is_some());
    let mut older = scaling();
    older["type"] = "llama3".into();
    older
        .as_object_mut()
        .expect("an object")
        .remove("rope_type");
    let mut newer = scaling();
    newer["rope_theta"] = 10000.0.into();
    for change in [
        json!({"rope_theta": "...", "rope_parameters": {"rope_theta": 10000.0}, "rope_scaling": scaling()}),
        json!({"rope_parameters": {"rope_type": "default"}, "rope_scaling": scaling()}),
        json!({"rope_theta": "...", "rope_parameters": newer}),
        json!({"rope_parameters": newer, "rope_scaling": scaling()}),
        json!({"rope_scaling": older}),
    ] {
        assert_eq!(llama(&change).expect("a shape"), scaled, "{change}");
    }
}

#[test]
fn rotary_settings_that_are_not_understood_are_refused() {
    let with = |key: &str, value: Value| {
        let mut changed = scaling();
        changed[key] = value;
        json!({ "rope_scaling": changed })
    };
    refused(
        json!({"rope_scaling": {"factor": 4.0}}),
        &["rope_scaling.rope_type", "missing", "factor"],
    );
    refused(
        json!({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
        &["partial_rotary_factor"],
    );
    refused(
        json!({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}),
        &["full_attention"],
    );
    for kind in ["dynamic", "longrope", "su", "mrope"] {
        refused(
            json!({"rope_scaling": {"type": kind, "factor": 2.0}}),
            &["rope_scaling", kind],
        );
    }
    refused(
        with("factor", json!("8.0")),
        &["rope_scaling.factor", "\"8.0\"", "not a number"],
    );
    refused(
        with("factor", json!(null)),
        &["rope_scaling.factor", "missing"],
    );
    refused(
        with("attention_factor", json!(1.2)),
        &["rope_scaling.attention_factor"],
    );
    refused(
        with("high_freq_factor", json!(1.0)),
        &["high_freq_factor", "low_freq_factor"],
    );
    refused(with("type", json!("yarn")), &["rope_type", "yarn"]);
    let other = with("factor", json!(2.0))["rope_scaling"].clone();
    refused(
        json!({"rope_parameters": other, "rope_scaling": scaling()}),
        &["rope_parameters", "different"],
    );
    refused(
        json!({"rope_parameters": {"rope_theta": 5e5}}),
        &["rope_theta", "10000", "500000"],
    );
    let hidden = json!({"rope_theta": "...", "rope_parameters": {"rope_theta": 5e5}, "rope_scaling": scaling()});
    refused(hidden, &["rope_parameters.rope_theta", "hides"]);
}

#[test]
fn weights_of_other_quantizations_are_refused_by_method() {
    for (settings, word) in [
        (json!({"quant_method": "gptq", "bits": 4}), "gptq"),
        (json!({"quant_method": "awq"}), "awq"),
        (
            json!({"quant_method": "fp8", "weight_block_size": [32, 32]}),
            "fp8",
        ),
        (
            json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
            "8 bits",
        ),
        (
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "fp4"}),
            "fp4",
        ),
        (json!({"bits": 4}), "unnamed"),
    ] {
        refused(
            json!({"quantization_config": settings}),
            &["quantization_config", word],
        );
    }
    refused(
        json!({"quantization": {"bits": 4, "group_size": 64}}),
        &["MLX"],
    );
    let nf4 =
        json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"});
    llama(&json!({"quantization_config": nf4})).expect("NF4 is read");
}

#[test]
fn a_mistral_has_its_window_unless_the_key_turns_it_off() {
    let mistral = |change: Value| {
        let mut all = json!({"model_type": "mistral", "architectures": ["MistralForCausalLM"]});
        all.as_object_mut()
            .expect("an object")
            .extend(change.as_object().expect("an object").clone());
        llama(&all).map(|shape| shape.sliding_window)
    };
    assert_eq!(mistral(json!({"sliding_window": 16})), Ok(Some(16)));
    assert_eq!(mistral(json!({"sliding_window": null})), Ok(None));
    assert_eq!(mistral(json!({})), Ok(Some(4096)));
    assert!(mistral(json!({"num_key_value_heads": "..."})).is_err());
}

#[test]
fn linear_scaling_and_yarn_are_read_with_what_transformers_takes_for_absent_keys() {
    let scaled = |settings: Value| {
        let change = json!({"rope_scaling": settings, "original_max_position_embeddings": "..."});
        llama(&change).map(|shape| shape.rope_scaling)
    };
    let linear = scaled(json!({"type": "linear", "factor": 2.0})).expect("a shape");
    assert_eq!(linear, Some(RopeScaling::Linear { factor: 2.0 }));
    refused(
        json!({"rope_scaling": {"type": "linear"}}),
        &["factor", "missing"],
    );
    let of_yarn = |more: Value| {
        let mut settings = json!({"type": "yarn", "original_max_position_embeddings": 64});
        settings
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        match scaled(settings).expect("a shape") {
            Some(RopeScaling::Yarn {
                factor,
                attention_factor,
                beta_fast,
                truncate,
                ..
            }) => (factor, attention_factor, beta_fast, truncate),
            other => panic!("{other:?}"),
        }
    };
    let grown = |scale: f64, factor: f64| 0.1 * scale * factor.ln() + 1.0;
    // 256 positions of 64.
    assert_eq!(of_yarn(json!({})), (4.0, grown(1.0, 4.0), 32.0, true));
    assert_eq!(
        of_yarn(json!({"factor": 8.0, "mscale": 2.0, "mscale_all_dim": 0.5, "truncate": false})),
        (8.0, grown(2.0, 8.0) / grown(0.5, 8.0), 32.0, false)
    );
    assert_eq!(
        of_yarn(json!({"factor": 8.0, "attention_factor": 1.5, "beta_fast": 16.0})),
        (8.0, 1.5, 16.0, true)
    );
    refused(
        json!({"rope_scaling": {"type": "yarn", "factor": 2.0}}),
        &["original_max_position_embeddings", "missing"],
    );
}

fn other(model_type: &str, class: &str, change: Value) -> Result<ModelShape, String> {
    let mut all = json!({"model_type": model_type, "architectures": [class]});
    all.as_object_mut()
        .expect("an object")
        .extend(change.as_object().expect("an object").clone());
    llama(&all)
}

#[test]
fn phi_scales_by_lists_of_factors_for_the_pairs_that_it_rotates() {
    let phi = |change: Value| other("phi3", "Phi3ForCausalLM", change);
    let lists = |pairs: usize, kind: &str| {
        json!({"original_max_position_embeddings": 64, "partial_rotary_factor": 0.75, "rope_scaling":
            {"type": kind, "short_factor": vec![1.0; pairs], "long_factor": vec![4.0; pairs]}})
    };
    // Heads of 8, of which 6 elements are rotated.
    for kind in ["longrope", "su", "yarn"] {
        let shape = phi(lists(3, kind)).expect("a shape");
        assert_eq!(shape.form.rotary_dim, Some(6));
        let Some(RopeScaling::LongRope {
            long,
            original_positions,
            attention_factor,
            ..
        }) = shape.rope_scaling
        else {
            panic!("{kind}")
        };
        let grown = (1.0 + 4f64.ln() / 64f64.ln()).sqrt();
        assert_eq!(
            (long, original_positions, attention_factor),
            (vec![4.0; 3], 64, grown)
        );
    }
    let fault = phi(lists(4, "longrope")).expect_err("a list that is too long");
    assert!(
        fault.contains("short_factor") && fault.contains("3 pairs"),
        "{fault}"
    );
    let with = |change: &dyn Fn(&mut Value)| {
        let mut all = lists(3, "longrope");
        change(&mut all);
        phi(all)
    };
    let inside = with(&|all| {
        all["original_max_position_embeddings"] = Value::Null;
        all["rope_scaling"]["original_max_position_embeddings"] = 64.into();
    });
    let fault = inside.expect_err("a default that stands before it");
    assert!(fault.contains("4096") && fault.contains("64"), "{fault}");
    let saved = with(&|all| {
        all["rope_scaling"]["type"] = "yarn".into();
        all["rope_scaling"]["rope_type"] = "longrope".into();
    });
    assert!(saved.is_ok(), "{saved:?}");
    for inner in [1.0, 0.5] {
        let contrary = phi(json!({"partial_rotary_factor": 0.75, "rope_theta": "...",
            "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": inner}}));
        let fault = contrary.expect_err("two factors");
        assert!(
            fault.contains("partial_rotary_factor") && fault.contains("0.75"),
            "{fault}"
        );
    }
    let hidden = phi(json!({"rope_scaling": {"rope_type": "default"},
        "rope_parameters": {"partial_rotary_factor": 0.75}}));
    let fault = hidden.expect_err("a factor that does not count");
    assert!(fault.contains("hides"), "{fault}");
    let published = json!({"full_attn_mod": 1, "interpolate_factor": 1});
    assert!(phi(published).is_ok());
    let fault = phi(json!({"resid_pdrop": 0.1})).expect_err("dropout");
    assert!(fault.contains("resid_pdrop"), "{fault}");
}

#[test]
fn windows_and_rotations_of_single_blocks_follow_from_a_list_or_its_pattern() {
    let base = json!({"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 8, "rope_theta": "..."});
    let with = |change: Value| {
        let mut all = base.clone();
        all.as_object_mut()
            .expect("an object")
            .extend(change.as_object().expect("an object").clone());
        all
    };
    let windows = |shape: ModelShape| -> Vec<Option<usize>> {
        (0..shape.layers).map(|i| shape.layer(i).window).collect()
    };
    let gemma2 = |change| other("gemma2", "Gemma2ForCausalLM", with(change)).map(windows);
    assert_eq!(
        gemma2(json!({"sliding_window": 16})),
        Ok(vec![Some(16), None, Some(16), None])
    );
    let full = ["full_attention"; 4];
    assert_eq!(gemma2(json!({"layer_types": full})), Ok(vec![None; 4]));
    let fault = gemma2(json!({"layer_types": ["full_attention"]})).expect_err("too short");
    assert!(fault.contains("layer_types"), "{fault}");
    let gemma3 = |change| other("gemma3_text", "Gemma3ForCausalLM", with(change));
    let pattern = gemma3(json!({"sliding_window": 8, "sliding_window_pattern": 2}));
    assert_eq!(pattern.map(windows), Ok(vec![Some(8), None, Some(8), None]));
    let fault = gemma3(json!({"attn_logit_softcapping": 50.0})).expect_err("a cap");
    assert!(fault.contains("attn_logit_softcapping"), "{fault}");
    let kinds = |more: Value| {
        let mut all = json!({"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}});
        all.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        gemma3(all)
    };
    assert!(kinds(json!({})).is_ok());
    let fault = kinds(json!({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}));
    assert!(fault.expect_err("two scalings").contains("rope_scaling"));
    let fault = kinds(json!({"rope_local_base_freq": 500.0}));
    assert!(
        fault
            .expect_err("two bases")
            .contains("rope_local_base_freq")
    );
    let partial = json!({"rope_parameters": {
        "full_attention": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}}});
    let fault = gemma3(partial).expect_err("a part of a head");
    assert!(
        fault.contains("full_attention.partial_rotary_factor"),
        "{fault}"
    );
    for family in [
        &gemma3 as &dyn Fn(Value) -> Result<ModelShape, String>,
        &|change| other("gemma2", "Gemma2ForCausalLM", with(change)),
    ] {
        let fault = family(json!({"sliding_window": null})).expect_err("no window");
        assert!(fault.contains("sliding_window"), "{fault}");
        let none = family(json!({"sliding_window": null, "layer_types": full}));
        assert_eq!(none.map(windows), Ok(vec![None; 4]));
    }
    let rotated = |change| {
        let shape = other("smollm3", "SmolLM3ForCausalLM", with(change))?;
        Ok::<Vec<bool>, String>(
            (0..4)
                .map(|i| shape.layer(i).rope == LayerRope::Global)
                .collect(),
        )
    };
    assert_eq!(rotated(json!({})), Ok(vec![true, true, true, false]));
    assert_eq!(
        rotated(json!({"no_rope_layer_interval": 2})),
        Ok(vec![true, false, true, false])
    );
    assert_eq!(
        rotated(json!({"no_rope_layers": [0, 1, 1, 1]})),
        Ok(vec![false, true, true, true])
    );
    assert!(rotated(json!({"no_rope_layers": [0, 1]})).is_err());
    assert!(rotated(json!({"no_rope_layers": [2, 1, 1, 0]})).is_err());
}

#[test]
fn windows_that_qwen_does_not_use_are_none() {
    let qwen = |change: Value| other("qwen2", "Qwen2ForCausalLM", change);
    let unused =
        json!({"use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 1});
    let shape = qwen(unused).expect("a shape");
    assert!((0..2).all(|layer| shape.layer(layer).window.is_none()) && shape.form.qkv_bias);
    for key in ["use_sliding_window", "use_mrope"] {
        let fault = qwen(json!({ key: true })).expect_err("not implemented");
        assert!(fault.contains(key), "{fault}");
    }
}

#[test]
fn biases_are_those_of_the_layers_that_the_keys_name() {
    let biased = |model_type: &str, class: &str, change: Value| {
        let form = other(model_type, class, change)?.form;
        Ok::<_, String>((form.qkv_bias, form.o_bias, form.mlp_bias))
    };
    let (attention, mlp) = (json!({"attention_bias": true}), json!({"mlp_bias": true}));
    let llama = |change| biased("llama", "LlamaForCausalLM", change);
    assert_eq!(llama(attention.clone()), Ok((true, true, false)));
    assert_eq!(llama(mlp.clone()), Ok((false, false, true)));
    let granite = biased("granite", "GraniteForCausalLM", mlp.clone());
    assert_eq!(granite, Ok((false, false, true)));
    let qwen3 = |change| biased("qwen3", "Qwen3ForCausalLM", change);
    assert_eq!(qwen3(attention.clone()), Ok((true, true, false)));
    // Those that transformers does not read there.
    for (model_type, class, change, key) in [
        ("qwen3", "Qwen3ForCausalLM", mlp, "mlp_bias"),
        ("phi3", "Phi3ForCausalLM", attention, "attention_bias"),
    ] {
        let fault = biased(model_type, class, change).expect_err("a key of another");
        assert!(fault.contains(key), "{fault}");
    }
}
