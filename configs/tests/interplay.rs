//! Keys that have no effect are named, and no others.

use qlora_config::{Layers, idle_in};

const BARE: &str = "model: {base: x}\ndata: {train: t.jsonl}\n";
const HELD_OUT: &str = "model: {base: x}\ndata: {train: t.jsonl, eval: e.jsonl}\n";

fn layers(text: &str, set: &[&str]) -> Layers {
    let set = set.iter().map(|pair| (*pair).to_owned()).collect();
    Layers {
        file: Some(("f.yaml".into(), text.into())),
        env: Vec::new(),
        set,
    }
}

/// The warnings of a file.
fn warnings(text: &str, set: &[&str]) -> Vec<String> {
    let resolved = layers(text, set)
        .resolve()
        .unwrap_or_else(|e| panic!("{text} {set:?}: {e}"));
    resolved
        .warnings()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_key_without_an_effect_is_named_with_the_key_that_overrules_it() {
    for (base, extra, key, cause) in [
        (
            BARE,
            "training: {epochs: 3, max_steps: 500}",
            "training.epochs",
            "training.max_steps: 500",
        ),
        (
            BARE,
            "training: {warmup_ratio: 0.1, warmup_steps: 5}",
            "training.warmup_ratio",
            "training.warmup_steps: 5",
        ),
        (
            BARE,
            "training: {warmup_ratio: 0.1, warmup_steps: 0}",
            "training.warmup_ratio",
            "training.warmup_steps: 0",
        ),
        (
            BARE,
            "training: {warmup_ratio: 1}",
            "training.warmup_ratio",
            "only the last step",
        ),
        (
            BARE,
            "training: {decay_ratio: 0.2}",
            "training.decay_ratio",
            "training.schedule: wsd",
        ),
        (
            BARE,
            "training: {schedule: constant, decay_ratio: 0.2}",
            "training.decay_ratio",
            "training.schedule: wsd",
        ),
        (
            BARE,
            "training: {schedule: wsd, decay_ratio: 0}",
            "training.schedule",
            "training.decay_ratio: 0",
        ),
        (
            BARE,
            "training: {schedule: wsd, decay_ratio: 0.9, warmup_ratio: 0.3}",
            "training.decay_ratio",
            "0.70",
        ),
        (
            BARE,
            "training: {min_rate_ratio: 1}",
            "training.min_rate_ratio",
            "never falls",
        ),
        (
            BARE,
            "training: {eval_every: 20}",
            "training.eval_every",
            "data.eval",
        ),
        (
            BARE,
            "training: {eval_rows: 20}",
            "training.eval_rows",
            "data.eval",
        ),
        (
            BARE,
            "training: {checkpoint_every: 0, checkpoints_to_keep: 2}",
            "training.checkpoints_to_keep",
            "checkpoint_every: 0",
        ),
        (
            BARE,
            "resources: {device: cpu}\ntraining: {offload: true}",
            "training.offload",
            "CUDA",
        ),
        (
            BARE,
            "training: {offload: true, gradient_checkpointing: false}",
            "training.offload",
            "gradient_checkpointing: false",
        ),
        (
            BARE,
            "resources: {device: metal}\ntraining: {flash_attention: repeatable}",
            "training.flash_attention",
            "metal",
        ),
        (
            BARE,
            "lora: {r: 1, rslora: true}",
            "lora.rslora",
            "lora.r: 1",
        ),
        (
            "model: {base: x, quantization: none, double_quant: true}\ndata: {train: t}\n",
            "",
            "model.double_quant",
            "nf4",
        ),
        (
            "model: {base: x.gguf, block_size: 128}\ndata: {train: t}\n",
            "",
            "model.block_size",
            "nf4",
        ),
        (
            "model: {base: x, compute: f32}\ndata: {train: t}\n",
            "resources: {device: cuda}",
            "model.compute",
            "bf16",
        ),
        (
            "model: {base: x}\ndata: {train: t, template: chatml-tools, template_date: \"2025-01-01\"}\n",
            "",
            "data.template_date",
            "no date",
        ),
        (
            "model: {base: x}\ndata: {train: t, batching: grouped}\n",
            "",
            "data.batching",
            "micro_batch_size: 1",
        ),
        (
            HELD_OUT,
            "training: {max_steps: 60}",
            "training.eval_every",
            "is 100 by default, and the run ends after 60 steps",
        ),
        (
            HELD_OUT,
            "training: {max_steps: 60, eval_every: 60}",
            "training.eval_every",
            "is 60, and the run ends after 60 steps",
        ),
        (
            BARE,
            "training: {max_steps: 60, checkpoint_every: 500}",
            "training.checkpoint_every",
            "after 60 steps",
        ),
        (
            BARE,
            "training: {max_steps: 3, max_skipped_steps: 10}",
            "training.max_skipped_steps",
            "after 3 steps",
        ),
    ] {
        let text = format!("{base}{extra}\n");
        let found = warnings(&text, &[]);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        let begins = format!("warning[Q0109]: `{key}` ");
        assert!(
            found[0].starts_with(&begins) && found[0].contains(cause),
            "{text}: {}",
            found[0]
        );
        assert!(
            found[0].contains("  (f.yaml:") || text.contains("max_steps: 60}"),
            "{}",
            found[0]
        );
        assert!(found[0].contains("\n  help: "), "{}", found[0]);
    }
}

#[test]
fn keys_that_act_and_defaults_are_not_named() {
    for (base, extra) in [
        (BARE, ""),
        (BARE, "training: {max_steps: 2}"),
        (BARE, "training: {epochs: 3}"),
        (BARE, "training: {epochs: 3, max_steps: null}"),
        (BARE, "training: {warmup_ratio: 0.1, warmup_steps: ~}"),
        (
            BARE,
            "training: {eval_every: 0, checkpoint_every: 0, checkpoints_to_keep: 0}",
        ),
        (
            BARE,
            "training: {schedule: wsd, decay_ratio: 0.2, warmup_ratio: 0.8}",
        ),
        (
            BARE,
            "training: {offload: true, gradient_checkpointing: true}",
        ),
        (BARE, "training: {max_steps: 60, checkpoint_every: 59}"),
        (BARE, "extends: m4"),
        (BARE, "extends: h100"),
        (HELD_OUT, "training: {max_steps: 60, eval_every: 0}"),
        (
            HELD_OUT,
            "training: {max_steps: 60, eval_every: 59, eval_rows: 3}",
        ),
        (HELD_OUT, "training: {max_steps: 101, keep_best: true}"),
        (
            "model: {base: x, block_size: 128, compute: f32}\ndata: {train: t, batching: packed}\n",
            "",
        ),
        (
            "model: {base: x, quantization: none, double_quant: false}\ndata: {train: t, template_date: \"2025-01-01\"}\n",
            "",
        ),
    ] {
        let text = format!("{base}{extra}\n");
        assert_eq!(warnings(&text, &[]), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn a_later_layer_overrules_without_a_word_and_is_refused_where_it_cannot() {
    let file = format!(
        "{HELD_OUT}training: {{epochs: 2, warmup_ratio: 0.1, eval_every: 100, checkpoint_every: 100}}\n"
    );
    let quick = [
        "training.max_steps=1",
        "training.warmup_steps=0",
        "data.eval=null",
    ];
    assert_eq!(warnings(&file, &quick), Vec::<String>::new());
    assert_eq!(
        warnings(HELD_OUT, &["training.max_steps=10"]),
        Vec::<String>::new(),
        "a short try"
    );
    assert_eq!(
        warnings(
            HELD_OUT,
            &["training.max_steps=10", "training.eval_every=20"]
        )
        .len(),
        1
    );
    let steps = format!("{BARE}training: {{max_steps: 100}}\n");
    for (flag, cause) in [
        ("training.epochs=3", "training.max_steps"),
        ("training.warmup_ratio=0.1", "training.warmup_steps"),
    ] {
        let file = steps.replace("max_steps: 100", "max_steps: 100, warmup_steps: 3");
        let fault = layers(&file, &[flag])
            .resolve()
            .expect_err(flag)
            .to_string();
        let key = flag.split('=').next().expect("a key");
        assert!(
            fault.contains(&format!("`{key}` has no effect"))
                && fault.contains(&format!("(--set {key})")),
            "{fault}"
        );
        assert!(fault.contains(&format!("`{cause}: ")), "{fault}");
        let freed = format!("{cause}=null");
        assert_eq!(warnings(&file, &[flag, &freed]), Vec::<String>::new());
    }
    let mut by_variable = layers(&steps, &[]);
    by_variable.env = vec![("QLORA__TRAINING__EPOCHS".into(), "3".into())];
    let fault = by_variable.resolve().expect_err("a refusal").to_string();
    assert!(fault.contains("(QLORA__TRAINING__EPOCHS)"), "{fault}");
}

/// What only the number of steps tells, which the data decide.
#[test]
fn a_run_that_turns_out_short_is_told_of_keys_that_cannot_act_in_it() {
    let config = |extra: &str| {
        layers(&format!("{HELD_OUT}training: {{{extra}}}\n"), &[])
            .resolve()
            .expect("valid")
    };
    let found = |extra: &str, steps| -> Vec<(&str, bool)> {
        idle_in(config(extra).config(), steps)
            .into_iter()
            .map(|idle| (idle.key, idle.is_refused))
            .collect()
    };
    assert_eq!(found("epochs: 1", 101), []);
    assert_eq!(found("epochs: 1", 100), [("training.eval_every", false)]);
    assert_eq!(found("epochs: 1, eval_every: 0", 10), []);
    assert_eq!(
        found("keep_best: true", 100),
        [("training.keep_best", true)]
    );
    assert_eq!(found("keep_best: true", 101), []);
    assert_eq!(
        found("eval_every: 10, early_stopping: 3", 30),
        [("training.early_stopping", true)]
    );
    assert_eq!(found("eval_every: 10, early_stopping: 3", 31), []);
    assert_eq!(
        found("eval_every: 0, checkpoint_every: 40", 30),
        [("training.checkpoint_every", false)]
    );
    assert_eq!(
        found("eval_every: 0, checkpoint_every: 50", 30),
        [],
        "a default is nobody's wish"
    );
    assert_eq!(
        found("eval_every: 0, max_skipped_steps: 9", 8),
        [("training.max_skipped_steps", false)]
    );
    // With a number of steps it was told when the configuration was read.
    assert_eq!(found("max_steps: 60, eval_every: 70", 60), []);
}

/// What a job records is read back without a word.
#[test]
fn a_recorded_configuration_has_no_warnings() {
    let resolved = layers(
        &format!("{BARE}training: {{epochs: 2, max_steps: 5}}\n"),
        &[],
    )
    .resolve()
    .expect("valid");
    assert_eq!(resolved.warnings().len(), 1);
    let read = qlora_config::ResolvedConfig::from_json(resolved.json()).expect("valid");
    assert!(read.warnings().is_empty() && read.hash() == resolved.hash());
}

#[test]
fn one_step_is_no_steps() {
    for set in [
        "training.warmup_steps=3",
        "training.max_skipped_steps=10",
        "training.early_stopping=2",
    ] {
        let said = match layers(HELD_OUT, &["training.max_steps=1", set]).resolve() {
            Ok(config) => config
                .warnings()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n"),
            Err(faults) => faults.to_string(),
        };
        assert!(
            said.contains("1 step") && !said.contains("1 steps"),
            "{set}: {said}"
        );
    }
}
