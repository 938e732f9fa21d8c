//! Whole runs of the trainer in this process: what a run gives must not depend on interruptions or
//! on looking at it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier, Mutex};

use candle_core::Tensor;
use qlora_config::{DeviceKind, FlashAttention, Layers};
use qlora_tests::{conversations, tiny_model};
use qlora_trainer::process_group::{Alone, ProcessGroup, sum_of};
use qlora_trainer::report::{Event, Reporter, Wish};
use qlora_trainer::run::Run;
use qlora_trainer::score::{Answerer, Subject};
use qlora_trainer::{Error, Result};
use tempfile::TempDir;

/// Everything that changes a step, switched on.
const EVERYTHING: [&str; 13] = [
    "lora.r=64",
    "lora.dora=true",
    "training.optimizer=adamw8bit",
    "data.batching=packed",
    "lora.dropout=0.1",
    "lora.rslora=true",
    "lora.loraplus_ratio=4",
    "training.neftune_alpha=5",
    "training.schedule=wsd",
    "training.decay_ratio=0.5",
    "training.weight_decay=0.01",
    "training.keep_best=true",
    "training.eval_every=2",
];

struct Listener {
    events: Vec<Event>,
    stop_at: Option<u64>,
}

impl Reporter for Listener {
    fn report(&mut self, event: Event) -> Result<()> {
        self.events.push(event);
        Ok(())
    }

    fn wish(&mut self) -> Wish {
        let done = self
            .events
            .iter()
            .filter(|e| matches!(e, Event::Step(_)))
            .count() as u64;
        if self.stop_at == Some(done) {
            Wish::Stop
        } else {
            Wish::GoOn
        }
    }
}

pub struct Place {
    home: TempDir,
    pub model: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let model = tiny_model(home.path());
        fs::write(home.path().join("train.jsonl"), conversations(12)).expect("rows");
        fs::write(home.path().join("eval.jsonl"), conversations(3)).expect("rows");
        Self { home, model }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn run(&self, output: &str, set: &[&str], resume: Option<PathBuf>) -> Run {
        let common = [
            "model.base=tiny",
            "data.train=train.jsonl",
            "data.eval=eval.jsonl",
            "data.max_seq_len=512",
            "lora.r=4",
            "lora.target_modules=all-linear",
            "training.max_steps=6",
            "training.warmup_steps=1",
            "training.learning_rate=5e-3",
            "training.micro_batch_size=2",
            "resources.device=cpu",
        ];
        let set = common.iter().chain(set).map(|s| (*s).to_owned()).collect();
        let config = Layers {
            set,
            ..Layers::default()
        }
        .resolve()
        .expect("a valid configuration");
        let (train, eval) = (self.path("train.jsonl"), Some(self.path("eval.jsonl")));
        Run {
            config,
            model: self.model.clone(),
            train,
            eval,
            output: self.path(output),
            resume,
            tokens: None,
        }
    }
}

pub fn execute(run: &Run, stop_at: Option<u64>) -> (Result<()>, Vec<Event>) {
    let mut listener = Listener {
        events: Vec::new(),
        stop_at,
    };
    let result = run.execute(&mut Alone, &mut listener);
    (result, listener.events)
}

/// One of several threads that train together: what the others say lies on a table.
struct Seat {
    rank: usize,
    said: Arc<Mutex<Vec<Vec<u8>>>>,
    given: Arc<Mutex<Vec<Option<Tensor>>>>,
    all: Arc<Barrier>,
}

impl Seat {
    fn at_a_table_of(size: usize) -> Vec<Self> {
        let (said, given) = (
            Arc::new(Mutex::new(vec![Vec::new(); size])),
            Arc::new(Mutex::new(vec![None; size])),
        );
        let all = Arc::new(Barrier::new(size));
        (0..size)
            .map(|rank| Self {
                rank,
                said: said.clone(),
                given: given.clone(),
                all: all.clone(),
            })
            .collect()
    }
}

impl ProcessGroup for Seat {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.said.lock().expect("a table").len()
    }

    fn gather(&mut self, words: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.said.lock().expect("a table")[self.rank] = words.to_vec();
        self.all.wait();
        let all = self.said.lock().expect("a table").clone();
        self.all.wait();
        Ok(all)
    }

    fn sum(&mut self, vector: &Tensor) -> Result<Tensor> {
        self.given.lock().expect("a table")[self.rank] = Some(vector.clone());
        self.all.wait();
        let all: Vec<Tensor> = self
            .given
            .lock()
            .expect("a table")
            .iter()
            .flatten()
            .cloned()
            .collect();
        self.all.wait();
        sum_of(&all)
    }
}

/// Runs of one group, each with its result and what it told; all but the first write into folders
/// of their own.
pub fn execute_together(
    runs: &[Run],
    stop_at: Option<(usize, u64)>,
) -> Vec<(Result<()>, Vec<Event>)> {
    std::thread::scope(|scope| {
        let seats = Seat::at_a_table_of(runs.len()).into_iter().zip(runs);
        let threads: Vec<_> = seats
            .map(|(mut seat, run)| {
                let stop_at = stop_at
                    .filter(|(rank, _)| *rank == seat.rank)
                    .map(|(_, step)| step);
                scope.spawn(move || {
                    // Processes have a pool each; in a common one whoever waits would keep the
                    // others from working.
                    let pool = rayon::ThreadPoolBuilder::new()
                        .num_threads(1)
                        .build()
                        .expect("a pool");
                    let mut listener = Listener {
                        events: Vec::new(),
                        stop_at,
                    };
                    let result = pool.install(|| run.execute(&mut seat, &mut listener));
                    (result, listener.events)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a run"))
            .collect()
    })
}

fn adapter(output: &Path) -> Vec<u8> {
    fs::read(output.join("adapter/adapter_model.safetensors")).expect("an adapter")
}

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
fn tokenised_rows_are_found_again_and_a_damaged_file_is_made_anew() {
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
        assert!(calls.exact_match <= calls.names_match && calls.names_match <= calls.schema_valid);
    }
}

/// What is told of steps and evaluations, without times.
fn told(events: &[Event]) -> Vec<String> {
    let line = |event: &Event| match event {
        Event::Step(s) => Some(format!(
            "{} {} {} {}",
            s.step, s.loss, s.grad_norm, s.tokens
        )),
        Event::Evaluation { step, loss, tokens } => {
            Some(format!("evaluated {step} {loss} {tokens}"))
        }
        _ => None,
    };
    events.iter().filter_map(line).collect()
}

#[test]
fn two_and_four_that_train_together_tell_and_save_what_one_does() {
    let place = Place::new();
    let set = [&EVERYTHING[..], &["training.gradient_accumulation=4"]].concat();
    let alone = place.run("alone", &set, None);
    let (result, events) = execute(&alone, None);
    result.expect("a run");
    for size in [2, 4] {
        let runs: Vec<Run> = (0..size)
            .map(|rank| place.run(&format!("{size}-{rank}"), &set, None))
            .collect();
        let ended = execute_together(&runs, None);
        for (result, told_by) in &ended {
            result.as_ref().expect("a run");
            assert_eq!(told(told_by), told(&events), "{size} together");
        }
        assert!(
            adapter(&runs[0].output) == adapter(&alone.output),
            "{size} together end with another adapter"
        );
        assert!(!runs[1].output.exists(), "the second one saved something");
    }
}

#[test]
fn a_group_stops_together_at_the_wish_of_any_and_one_alone_goes_on_from_its_checkpoint() {
    let place = Place::new();
    let set = [&EVERYTHING[..], &["training.gradient_accumulation=2"]].concat();
    let alone = place.run("alone", &set, None);
    execute(&alone, None).0.expect("a run");
    let runs: Vec<Run> = (0..2)
        .map(|rank| place.run(&format!("both-{rank}"), &set, None))
        .collect();
    for (result, events) in execute_together(&runs, Some((1, 3))) {
        assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
        assert_eq!(
            events
                .iter()
                .filter(|e| matches!(e, Event::Step(_)))
                .count(),
            3
        );
    }
    let checkpoint = runs[0].output.join("checkpoint-000003");
    let rest = place.run("rest", &set, Some(checkpoint));
    execute(&rest, None).0.expect("the rest");
    assert!(adapter(&rest.output) == adapter(&alone.output));
}

#[test]
fn a_group_whose_members_hold_other_models_does_not_begin() {
    let place = Place::new();
    let mut runs: Vec<Run> = (0..2)
        .map(|rank| {
            place.run(
                &format!("{rank}"),
                &["training.gradient_accumulation=2"],
                None,
            )
        })
        .collect();
    let rows = place.path("others.jsonl");
    fs::write(&rows, conversations(11)).expect("rows");
    runs[1].train = rows;
    for (result, _) in execute_together(&runs, None) {
        assert!(
            matches!(&result, Err(Error::Mismatch { rank: 1, .. })),
            "{result:?}"
        );
    }
}
