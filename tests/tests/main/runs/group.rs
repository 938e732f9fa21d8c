//! Runs of one process group: what it tells and saves must be what one process alone does.

use std::fs;
use std::sync::{Arc, Barrier, Mutex};

use candle_core::Tensor;
use qlora_tests::conversations;
use qlora_trainer::process_group::{ProcessGroup, sum_of};
use qlora_trainer::report::Event;
use qlora_trainer::run::Run;
use qlora_trainer::{Error, Result};

use super::place::{EVERYTHING, Listener, Place, adapter, execute};

/// A rank of a process group whose ranks are threads of this process.
struct LocalRank {
    rank: usize,
    said: Arc<Mutex<Vec<Vec<u8>>>>,
    given: Arc<Mutex<Vec<Option<Tensor>>>>,
    all: Arc<Barrier>,
}

impl LocalRank {
    fn group_of(size: usize) -> Vec<Self> {
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

impl ProcessGroup for LocalRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.said.lock().expect("a lock").len()
    }

    fn gather(&mut self, words: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.said.lock().expect("a lock")[self.rank] = words.to_vec();
        self.all.wait();
        let all = self.said.lock().expect("a lock").clone();
        self.all.wait();
        Ok(all)
    }

    fn sum(&mut self, vector: &Tensor) -> Result<Tensor> {
        self.given.lock().expect("a lock")[self.rank] = Some(vector.clone());
        self.all.wait();
        let all: Vec<Tensor> = self
            .given
            .lock()
            .expect("a lock")
            .iter()
            .flatten()
            .cloned()
            .collect();
        self.all.wait();
        sum_of(&all)
    }
}

/// Runs of one process group, each with its result and what it told; all but the first write into folders
/// of their own.
pub fn execute_together(
    runs: &[Run],
    stop_at: Option<(usize, u64)>,
) -> Vec<(Result<()>, Vec<Event>)> {
    std::thread::scope(|scope| {
        let ranks = LocalRank::group_of(runs.len()).into_iter().zip(runs);
        let threads: Vec<_> = ranks
            .map(|(mut member, run)| {
                let stop_at = stop_at
                    .filter(|(rank, _)| *rank == member.rank)
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
                    let result = pool.install(|| run.execute(&mut member, &mut listener));
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
