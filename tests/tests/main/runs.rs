//! Whole runs of the trainer in this process: what a run gives must not depend on interruptions or
//! on looking at it.

pub mod group;
pub mod place;

use std::fs;
use std::path::PathBuf;

use qlora_config::{DeviceKind, FlashAttention};
use qlora_tests::conversations;
use qlora_trainer::Error;
use qlora_trainer::report::Event;
use qlora_trainer::run::Run;
use qlora_trainer::score::{Answerer, Subject};

use self::place::{EVERYTHING, Place, adapter, execute};

fn notes(events: &[Event]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|e| {
            if let Event::Note { text } = e {
                Some(text.as_str())
            } else {
                None
            }
        })
        .collect()
}

/// Steps after which the run was evaluated, and the losses.
fn evaluations(events: &[Event]) -> Vec<(u64, f64)> {
    let evaluation = |e: &Event| {
        if let Event::Evaluation { step, loss, .. } = e {
            Some((*step, *loss))
        } else {
            None
        }
    };
    events.iter().filter_map(evaluation).collect()
}

#[test]
fn a_run_stopped_after_any_step_ends_with_the_same_bytes() {
    let place = Place::new();
    let whole = place.run("whole", &EVERYTHING, None);
    let (result, all) = execute(&whole, None);
    result.expect("a run to the end");
    for stop in 1..6 {
        let (first, second) = (format!("first-{stop}"), format!("second-{stop}"));
        let (result, events) = execute(&place.run(&first, &EVERYTHING, None), Some(stop));
        assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
        let checkpoint = events.iter().find_map(|e| match e {
            Event::Checkpoint { folder, .. } => Some(PathBuf::from(folder)),
            _ => None,
        });
        let (result, rest) = execute(&place.run(&second, &EVERYTHING, checkpoint), None);
        result.expect("the rest of the run");
        assert!(
            adapter(&place.path(&second)) == adapter(&whole.output),
            "stopped after step {stop}"
        );
        // An evaluation is given up for the stop, and made when the run goes on.
        let (before, after) = (evaluations(&events), evaluations(&rest));
        assert!(
            before.iter().all(|(step, _)| *step < stop),
            "stopped after step {stop}: {before:?}"
        );
        assert_eq!(
            [before, after].concat(),
            evaluations(&all),
            "stopped after step {stop}"
        );
    }
}

/// bitsandbytes' CPU path loses gradients after an evaluation pass.
#[test]
fn evaluation_changes_nothing_in_training() {
    let place = Place::new();
    for (name, every) in [
        ("looked", "training.eval_every=1"),
        ("blind", "training.eval_every=0"),
    ] {
        execute(&place.run(name, &["lora.dropout=0.1", every], None), None)
            .0
            .expect("a run");
    }
    assert!(adapter(&place.path("looked")) == adapter(&place.path("blind")));
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let place = Place::new();
    for (name, seed) in [
        ("a", "training.seed=1"),
        ("b", "training.seed=1"),
        ("c", "training.seed=2"),
    ] {
        execute(&place.run(name, &["lora.dropout=0.1", seed], None), None)
            .0
            .expect("a run");
    }
    assert!(adapter(&place.path("a")) == adapter(&place.path("b")));
    assert!(adapter(&place.path("a")) != adapter(&place.path("c")));
}

#[test]
fn a_run_that_gets_worse_ends_early_with_its_best_adapter() {
    let place = Place::new();
    let set = [
        "training.max_steps=60",
        "training.learning_rate=0.5",
        "training.schedule=constant",
        "training.eval_every=1",
        "training.early_stopping=3",
        "training.keep_best=true",
    ];
    let run = place.run("worse", &set, None);
    let (result, events) = execute(&run, None);
    result.expect("a run");
    let said = notes(&events);
    assert!(
        said.iter()
            .any(|n| n.starts_with("held-out loss has not fallen in 3 evaluations")),
        "{said:?}"
    );
    let losses: Vec<(u64, f64)> = events
        .iter()
        .filter_map(|e| {
            if let Event::Evaluation { step, loss, .. } = e {
                Some((*step, *loss))
            } else {
                None
            }
        })
        .filter(|(step, _)| *step > 0)
        .collect();
    let best = losses
        .iter()
        .fold(losses[0], |a, b| if b.1 < a.1 { *b } else { a });
    assert!(losses.len() < 59 && best.0 + 3 <= losses.last().expect("a loss").0);
    assert!(
        said.iter()
            .any(|n| n.contains(&format!("the adapter of step {} is kept", best.0))),
        "{said:?}"
    );
    // The kept adapter is that of a run which ends there.
    let shorter: Vec<&str> = set
        .iter()
        .copied()
        .filter(|s| !s.contains("max_steps"))
        .collect();
    let steps = format!("training.max_steps={}", best.0);
    let again = place.run("again", &[shorter.as_slice(), &[&steps]].concat(), None);
    execute(&again, None).0.expect("a run");
    assert!(adapter(&run.output) == adapter(&again.output));
}

/// One step over all rows, each in a pass of its own or packed together.
#[test]
fn packed_rows_are_trained_on_as_if_they_stood_alone() {
    let place = Place::new();
    let common = [
        "model.compute=f32",
        "lora.dropout=0",
        "training.max_steps=2",
        "training.warmup_steps=0",
    ];
    let alone = [
        "training.micro_batch_size=1",
        "training.gradient_accumulation=12",
    ];
    let packed = ["training.micro_batch_size=8", "data.batching=packed"];
    let losses = [("alone", alone), ("packed", packed)].map(|(name, set)| {
        let (result, events) = execute(
            &place.run(name, &[common.as_slice(), &set].concat(), None),
            None,
        );
        result.expect("a run");
        let pack = notes(&events)
            .iter()
            .any(|n| n.starts_with("12 rows in 1 packs of up to 4096 tokens"));
        assert_eq!(pack, name == "packed", "{events:?}");
        let loss = |e: &Event| {
            if let Event::Step(step) = e {
                Some((step.loss, step.grad_norm))
            } else {
                None
            }
        };
        events.iter().filter_map(loss).collect::<Vec<_>>()
    });
    assert_eq!(losses[0].len(), 2);
    for (alone, packed) in losses[0].iter().zip(&losses[1]) {
        assert!(
            (alone.0 - packed.0).abs() < 1e-6 && (alone.1 - packed.1).abs() < 1e-4 * alone.1,
            "{losses:?}"
        );
    }
}

#[test]
fn tokenized_rows_are_found_again_and_a_damaged_file_is_made_anew() {
    let place = Place::new();
    let folder = place.path("tokens");
    let run = |name| {
        let run = Run {
            tokens: Some(folder.clone()),
            ..place.run(name, &["training.max_steps=2"], None)
        };
        execute(&run, None).0.expect("a run");
        adapter(&run.output)
    };
    let files = || {
        let mut files: Vec<PathBuf> = fs::read_dir(&folder)
            .expect("a folder")
            .map(|e| e.expect("a file").path())
            .collect();
        files.sort();
        files
    };
    let first = run("first");
    let kept = files();
    assert_eq!(kept.len(), 2, "training and held-out rows");
    // Labels come from the file: one that says that nothing is trained on would be noticed.
    let written = fs::read(&kept[0]).expect("tokens");
    fs::write(&kept[0], &written[..written.len() - 40]).expect("a damaged file");
    assert!(run("second") == first);
    assert_eq!(fs::read(&kept[0]).expect("tokens"), written, "made anew");
    fs::write(place.path("train.jsonl"), conversations(11)).expect("rows");
    assert!(run("third") != first, "other rows, other tokens");
    assert_eq!(files().len(), 3);
}

#[test]
fn the_scaling_of_an_adapter_is_written_down() {
    let place = Place::new();
    let run = place.run(
        "rs",
        &[
            "lora.rslora=true",
            "training.max_steps=1",
            "training.warmup_steps=0",
        ],
        None,
    );
    execute(&run, None).0.expect("a run");
    let text = fs::read_to_string(run.output.join("adapter/adapter_config.json"))
        .expect("a configuration");
    let config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(config["use_rslora"], true);
}

#[test]
fn an_adapter_of_another_model_of_the_same_shape_is_refused() {
    let place = Place::new();
    let run = place.run(
        "own",
        &["training.max_steps=1", "training.warmup_steps=0"],
        None,
    );
    execute(&run, None).0.expect("a run");
    let weights = place.model.join("model.safetensors");
    let mut tensors =
        candle_core::safetensors::load(&weights, &candle_core::Device::Cpu).expect("weights");
    let norm = tensors.get_mut("model.norm.weight").expect("a norm");
    *norm = (&*norm * 1.5).expect("another norm");
    candle_core::safetensors::save(&tensors, &weights).expect("another model");
    let subject = Subject {
        model: place.model.clone(),
        adapter: Some(run.output.join("adapter")),
        config: &run.config.config().model,
        template: "auto".into(),
        max_new_tokens: 4,
        device: DeviceKind::Cpu,
        attention: FlashAttention::Auto,
    };
    let refusal = Answerer::open(&subject)
        .err()
        .expect("a refusal")
        .to_string();
    assert!(
        refusal.contains("was trained on another base model, `tiny`"),
        "{refusal}"
    );
}

/// The weights are the same, so the run goes on.
#[test]
fn a_run_that_goes_on_with_other_constants_of_its_base_says_so() {
    let place = Place::new();
    let set = ["training.eval_every=0"];
    let (result, events) = execute(&place.run("first", &set, None), Some(2));
    assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
    let checkpoint = events.iter().find_map(|e| match e {
        Event::Checkpoint { folder, .. } => Some(PathBuf::from(folder)),
        _ => None,
    });
    let path = place.model.join("config.json");
    let text = fs::read_to_string(&path).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for (epsilon, told) in [(1e-6, true), (1e-5, false)] {
        config["rms_norm_eps"] = epsilon.into();
        fs::write(&path, config.to_string()).expect("a configuration");
        let (_, rest) = execute(&place.run("second", &set, checkpoint.clone()), Some(3));
        let said = notes(&rest)
            .iter()
            .any(|note| note.contains("other constants") && note.contains("rms_norm_eps"));
        assert_eq!(said, told, "{epsilon}: {:?}", notes(&rest));
    }
}

/// `qlora-worker score` sees what the run saw: the same held-out loss before and after.
#[test]
fn scores_are_those_of_the_run_that_made_the_adapter() {
    let place = Place::new();
    let run = place.run("scored", &[], None);
    let (result, events) = execute(&run, None);
    result.expect("a run");
    let losses: Vec<f64> = events
        .iter()
        .filter_map(|e| {
            if let Event::Evaluation { loss, .. } = e {
                Some(*loss)
            } else {
                None
            }
        })
        .collect();
    for (adapter, wanted) in [
        (None, losses.first()),
        (Some(run.output.join("adapter")), losses.last()),
    ] {
        let subject = Subject {
            model: place.model.clone(),
            adapter,
            config: &run.config.config().model,
            template: "auto".into(),
            max_new_tokens: 4,
            device: DeviceKind::Cpu,
            attention: FlashAttention::Auto,
        };
        let answerer = Answerer::open(&subject).expect("a model");
        let scores = answerer
            .score(&place.path("eval.jsonl"), "eval.jsonl", usize::MAX, |_| {
                Ok(())
            })
            .expect("scores");
        let wanted = *wanted.expect("an evaluation");
        assert!(
            (scores.loss - wanted).abs() < 1e-6,
            "{} and {wanted}",
            scores.loss
        );
        let calls = scores.calls.expect("rows with calls");
        assert_eq!((scores.rows, calls.rows), (3, 3));
    }
}
