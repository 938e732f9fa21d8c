//! The keys of `adapter_config.json` that PEFT 0.4 to 0.21 write for LoRA, and values of them.

/// What `save_pretrained` of PEFT writes for LoRA, by the release that a key came with, at its
/// default.
pub const WRITTEN: [(&str, &str); 16] = [
    (
        "0.4.0",
        r#"{"auto_mapping": null, "base_model_name_or_path": null, "revision": null, "peft_type": "LORA", "task_type": null,
            "inference_mode": true, "lora_dropout": 0.0, "fan_in_fan_out": false, "bias": "none", "modules_to_save": null,
            "init_lora_weights": true, "layers_to_transform": null, "layers_pattern": null}"#,
    ),
    ("0.5.0", r#"{"rank_pattern": {}, "alpha_pattern": {}}"#),
    (
        "0.7.0",
        r#"{"loftq_config": {}, "megatron_config": null, "megatron_core": "megatron.core"}"#,
    ),
    ("0.8.0", r#"{"use_rslora": false}"#),
    ("0.9.0", r#"{"use_dora": false}"#),
    ("0.10.0", r#"{"layer_replication": null}"#),
    (
        "0.14.0",
        r#"{"exclude_modules": null, "eva_config": null, "lora_bias": false}"#,
    ),
    (
        "0.15.0",
        r#"{"corda_config": null, "trainable_token_indices": null}"#,
    ),
    ("0.16.0", r#"{"target_parameters": null}"#),
    (
        "0.17.0",
        r#"{"use_qalora": false, "qalora_group_size": 16}"#,
    ),
    (
        "0.18.0",
        r#"{"alora_invocation_tokens": null, "arrow_config": null, "ensure_weight_tying": false, "peft_version": "0.18.0"}"#,
    ),
    ("0.19.0", r#"{"use_bdlora": null, "lora_ga_config": null}"#),
    ("0.20.0", r#"{"velora_config": null}"#),
    (
        "0.21.0",
        r#"{"kasa_config": null, "monteclora_config": null}"#,
    ),
    // As some programs write what is off.
    (
        "others",
        r#"{"layers_pattern": "", "modules_to_save": [], "layers_to_transform": [], "exclude_modules": []}"#,
    ),
    (
        "others",
        r#"{"trainable_token_indices": {}, "loftq_config": null}"#,
    ),
];

/// Values that change nothing of what a trained adapter computes.
pub const INERT: [(&str, &str); 14] = [
    (
        "auto_mapping",
        r#"{"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama"}"#,
    ),
    ("revision", r#""main""#),
    ("inference_mode", "false"),
    ("lora_dropout", "0.1"),
    ("megatron_core", r#""another.core""#),
    ("qalora_group_size", "32"),
    ("ensure_weight_tying", "true"),
    ("eva_config", r#"{"rho": 2.0, "tau": 0.99}"#),
    (
        "velora_config",
        r#"{"num_groups": 64, "scale": 1.0, "init_type": "batch_average"}"#,
    ),
    ("init_lora_weights", "false"),
    ("init_lora_weights", r#""Gaussian""#),
    ("init_lora_weights", r#""eva""#),
    ("init_lora_weights", r#""orthogonal""#),
    ("init_lora_weights", r#""mica""#),
];

/// Values that change it.
pub const CHANGING: [(&str, &str); 26] = [
    ("peft_type", r#""ADALORA""#),
    ("task_type", r#""SEQ_CLS""#),
    ("fan_in_fan_out", "true"),
    ("bias", r#""all""#),
    ("bias", r#""lora_only""#),
    ("modules_to_save", r#"["embed_tokens"]"#),
    ("init_lora_weights", r#""pissa""#),
    ("init_lora_weights", r#""pissa_niter_16""#),
    ("init_lora_weights", r#""olora""#),
    ("init_lora_weights", r#""corda""#),
    ("init_lora_weights", r#""loftq""#),
    ("init_lora_weights", r#""lora_ga""#),
    ("layers_pattern", r#"["h"]"#),
    ("loftq_config", r#"{"loftq_bits": 4, "loftq_iter": 1}"#),
    ("megatron_config", r#"{"tensor_model_parallel_size": 2}"#),
    ("layer_replication", "[[0, 2], [1, 2]]"),
    ("lora_bias", "true"),
    ("trainable_token_indices", r#"{"embed_tokens": [1]}"#),
    ("target_parameters", r#"["mlp.experts.gate_up_proj"]"#),
    ("use_qalora", "true"),
    ("alora_invocation_tokens", "[1, 2]"),
    ("arrow_config", r#"{"top_k": 3}"#),
    ("use_bdlora", r#"{"nblocks": 2}"#),
    ("kasa_config", r#"{"beta": 0.0001}"#),
    ("monteclora_config", r#"{"num_samples": 8}"#),
    ("a_key_of_a_later_release", "1"),
];
