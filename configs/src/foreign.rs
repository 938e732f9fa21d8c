//! Keys of other tools (transformers, TRL, PEFT, Axolotl, Unsloth, LLaMA-Factory, bitsandbytes),
//! and what ours are called.

/// Their names in lower case, and our key with what must be minded.
const KEYS: &[(&[&str], &str)] = &[
    (
        &[
            "base_model",
            "model_name",
            "model_name_or_path",
            "pretrained_model_name_or_path",
            "hub_model",
        ],
        "`model.base` names the model",
    ),
    (
        &["load_in_4bit", "bnb_4bit_quant_type"],
        "`model.quantization: nf4` holds the weights in 4 bits",
    ),
    (
        &["load_in_8bit"],
        "8-bit weights are not offered; `model.quantization` takes auto, nf4, gguf, none",
    ),
    (
        &["load_in_16bit", "full_finetuning"],
        "`model.quantization: none` holds the weights in 16 or 32 bits",
    ),
    (
        &["bnb_4bit_use_double_quant", "use_double_quant"],
        "`model.double_quant` is the same",
    ),
    (
        &[
            "bnb_4bit_compute_dtype",
            "bf16",
            "fp16",
            "tf32",
            "torch_dtype",
            "dtype",
        ],
        "`model.compute` takes auto, bf16, f32",
    ),
    (
        &[
            "datasets",
            "dataset",
            "dataset_name",
            "train_file",
            "train_dataset",
            "dataset_path",
            "data_path",
            "data_files",
        ],
        "`data.train` names a file of rows",
    ),
    (
        &[
            "test_datasets",
            "eval_dataset",
            "eval_file",
            "validation_file",
            "test_file",
        ],
        "`data.eval` names held-out rows",
    ),
    (
        &[
            "val_set_size",
            "val_size",
            "validation_split",
            "test_size",
            "eval_split",
        ],
        "rows are not split here; name a file of held-out rows with `data.eval`",
    ),
    (
        &[
            "chat_template",
            "prompt_template",
            "prompt_style",
            "tokenizer_template",
        ],
        "`data.template` says how rows are written",
    ),
    (
        &[
            "sequence_len",
            "cutoff_len",
            "max_length",
            "max_seq_length",
            "model_max_length",
            "seq_len",
            "seq_length",
        ],
        "`data.max_seq_len` is the limit in tokens",
    ),
    (
        &["sample_packing", "packing", "pack"],
        "`data.batching: packed` packs rows",
    ),
    (
        &["group_by_length"],
        "`data.batching: grouped` puts rows of similar length together",
    ),
    (
        &["pad_to_sequence_len", "pad_to_max_length"],
        "nothing is padded here; remove the key",
    ),
    (
        &[
            "train_on_inputs",
            "train_on_input",
            "assistant_only_loss",
            "completion_only_loss",
            "train_on_responses_only",
        ],
        "only what the assistant says is trained on; see docs/reference/data.md",
    ),
    (&["lora_r", "lora_rank", "rank"], "`lora.r` is the rank"),
    (&["lora_alpha"], "`lora.alpha` is the same"),
    (&["lora_dropout"], "`lora.dropout` is the same"),
    (
        &[
            "lora_target_modules",
            "lora_target",
            "modules",
            "lora_target_linear",
            "lora_modules",
        ],
        "`lora.target_modules` takes a list of layers, or all-linear",
    ),
    (
        &["use_rslora", "peft_use_rslora"],
        "`lora.rslora` is the same",
    ),
    (&["use_dora", "peft_use_dora"], "`lora.dora` is the same"),
    (&["loraplus_lr_ratio"], "`lora.loraplus_ratio` is the same"),
    (
        &["lora_modules_to_save", "modules_to_save"],
        "whole layers are not trained here; remove the key",
    ),
    (
        &["bias", "lora_bias"],
        "biases are not trained here; remove the key",
    ),
    (
        &[
            "task_type",
            "adapter",
            "finetuning_type",
            "peft_type",
            "stage",
        ],
        "every run trains a LoRA adapter of a causal language model; remove the key",
    ),
    (
        &["num_epochs", "num_train_epochs", "epoch", "n_epochs"],
        "`training.epochs` is the same",
    ),
    (
        &[
            "max_train_steps",
            "num_steps",
            "total_steps",
            "train_steps",
            "iters",
        ],
        "`training.max_steps` is the number of steps",
    ),
    (
        &[
            "micro_batch",
            "per_device_train_batch_size",
            "per_gpu_train_batch_size",
            "train_batch_size",
            "device_train_microbatch_size",
        ],
        "`training.micro_batch_size` is the number of rows in one pass",
    ),
    (
        &["batch_size", "global_batch_size", "effective_batch_size"],
        "a step takes `training.micro_batch_size` x `training.gradient_accumulation` rows",
    ),
    (
        &["per_device_eval_batch_size", "eval_batch_size"],
        "evaluation takes passes of `training.micro_batch_size`; remove the key",
    ),
    (
        &[
            "gradient_accumulation_steps",
            "grad_accumulation_steps",
            "gradient_accumulation_iters",
            "accumulate_grad_batches",
        ],
        "`training.gradient_accumulation` is the same",
    ),
    (
        &["lr", "peak_lr", "lr_max"],
        "`training.learning_rate` is the peak rate",
    ),
    (
        &["lr_scheduler", "lr_scheduler_type", "scheduler"],
        "`training.schedule` takes cosine, linear, constant, wsd",
    ),
    (
        &[
            "warmup",
            "num_warmup_steps",
            "lr_warmup_steps",
            "warmup_iters",
        ],
        "`training.warmup_steps` or `training.warmup_ratio`",
    ),
    (
        &[
            "cosine_min_lr_ratio",
            "min_lr_ratio",
            "min_lr",
            "min_lr_rate",
        ],
        "`training.min_rate_ratio` is the share of the peak rate",
    ),
    (
        &["optim", "optimizer_type"],
        "`training.optimizer` takes adamw, adamw8bit",
    ),
    (
        &["adam_eps", "adamw_epsilon", "eps"],
        "`training.adam_epsilon` is the same",
    ),
    (
        &["adamw_beta1", "beta1"],
        "`training.adam_beta1` is the same",
    ),
    (
        &["adamw_beta2", "beta2"],
        "`training.adam_beta2` is the same",
    ),
    (
        &[
            "gradient_clip_val",
            "gradient_clipping",
            "grad_clip",
            "max_gradient_norm",
            "clip_grad_norm",
        ],
        "`training.max_grad_norm` is the same",
    ),
    (
        &[
            "use_gradient_checkpointing",
            "activation_checkpointing",
            "enable_activation_checkpointing",
        ],
        "`training.gradient_checkpointing` is the same",
    ),
    (
        &[
            "activation_offloading",
            "enable_activation_offloading",
            "offload_activations",
        ],
        "`training.offload` is the same",
    ),
    (
        &[
            "flash_attn",
            "use_flash_attention_2",
            "attn_implementation",
            "flash_attention_2",
            "sdp_attention",
            "xformers_attention",
        ],
        "`training.flash_attention` takes auto, required, repeatable, cudnn, off",
    ),
    (
        &["random_state", "random_seed", "data_seed"],
        "`training.seed` is the same",
    ),
    (
        &[
            "eval_steps",
            "evals_per_epoch",
            "val_check_interval",
            "eval_interval",
        ],
        "`training.eval_every` is a number of steps",
    ),
    (
        &["eval_strategy", "evaluation_strategy", "do_eval"],
        "`training.eval_every` says how often; 0 evaluates before and after the run",
    ),
    (
        &[
            "max_eval_samples",
            "eval_max_samples",
            "eval_sample_packing",
        ],
        "`training.eval_rows` limits the rows",
    ),
    (
        &[
            "save_steps",
            "save_interval",
            "saves_per_epoch",
            "checkpoint_steps",
            "checkpoint_interval",
        ],
        "`training.checkpoint_every` is a number of steps",
    ),
    (
        &["save_strategy"],
        "`training.checkpoint_every` says how often; 0 saves when told to stop",
    ),
    (
        &["save_total_limit", "keep_last", "max_checkpoints"],
        "`training.checkpoints_to_keep` is the same",
    ),
    (
        &["load_best_model_at_end", "save_best", "restore_best"],
        "`training.keep_best` is the same",
    ),
    (
        &["early_stopping_patience", "patience"],
        "`training.early_stopping` is a number of evaluations",
    ),
    (
        &["neftune_noise_alpha", "noise_alpha"],
        "`training.neftune_alpha` is the same",
    ),
    (
        &[
            "logging_steps",
            "log_every",
            "log_every_n_steps",
            "report_to",
            "logging_strategy",
            "wandb_project",
        ],
        "every step is recorded; `qlora-ctl metrics` prints them. Remove the key",
    ),
    (
        &["output_dir", "save_dir", "out_dir"],
        "the coordinator keeps what a job makes; `qlora-ctl artifacts get` fetches it. Remove the key",
    ),
    (
        &[
            "resume_from_checkpoint",
            "auto_resume_from_checkpoints",
            "resume",
        ],
        "a job goes on from its last checkpoint by itself; remove the key",
    ),
    (
        &[
            "deepspeed",
            "fsdp",
            "fsdp_config",
            "ddp",
            "num_processes",
            "num_gpus",
            "devices",
            "nproc_per_node",
        ],
        "`resources.workers` is the number of GPUs that train together",
    ),
    (
        &[
            "device_map",
            "accelerator",
            "device_type",
            "use_cpu",
            "no_cuda",
        ],
        "`resources.device` takes any, cuda, metal, cpu",
    ),
    (
        &["max_memory", "gpu_memory_utilization", "gpu_memory_limit"],
        "`resources.memory_fraction` is the share of the memory to plan with",
    ),
    (
        &["run_name", "wandb_name", "job_name", "experiment_name"],
        "`name` is the job's name",
    ),
    (
        &["preset", "base_config", "inherits", "defaults", "include"],
        "`extends` names a preset: h100, m4 or cpu",
    ),
];

/// What helps where `key` is one of another tool.
pub(crate) fn ours(key: &str) -> Option<&'static str> {
    let key = key.to_lowercase().replace('-', "_");
    KEYS.iter()
        .find(|(theirs, _)| theirs.contains(&key.as_str()))
        .map(|(_, help)| *help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_stands_once_and_names_none_of_ours() {
        let all: Vec<&str> = KEYS
            .iter()
            .flat_map(|(theirs, _)| theirs.iter().copied())
            .collect();
        for key in &all {
            assert_eq!(all.iter().filter(|other| *other == key).count(), 1, "{key}");
            assert!(
                crate::known::section_of(key).is_none(),
                "`{key}` is one of ours"
            );
        }
    }

    /// A key that is advised exists.
    #[test]
    fn each_help_names_keys_that_there_are() {
        for (theirs, help) in KEYS {
            let quoted = help
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|word| !word.starts_with("qlora-ctl"));
            for word in quoted {
                let key = word.split(':').next().unwrap_or_default();
                let path: Vec<String> = key.split('.').map(str::to_owned).collect();
                let found = crate::known::default_of(&path).is_some_and(|(found, _)| found == path);
                assert!(found || key == "extends", "{theirs:?}: {key}");
            }
        }
    }
}
