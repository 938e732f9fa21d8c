//! A whole run: load, prove, evaluate, train, save.

mod evaluate;
mod inputs;
mod prepare;
mod room;
mod save;
mod session;

use qlora_config::MOST_STEPS;
use qlora_data::Batching;

use crate::process_group::{self, ProcessGroup};
use crate::report::{Event, Phase, Reporter};
use crate::{Error, Result, advice};

pub use self::inputs::Run;
use self::prepare::Prepared;
use self::session::Session;

impl Run {
    /// Trains to the end, together with the others of `group`, or until one of their reporters sends
    /// a signal to stop.
    ///
    /// # Errors
    /// See [`Error`](crate::Error); its [`failure_class`](crate::Error::failure_class) tells whether
    /// another attempt makes sense. What was saved stays.
    pub fn execute(&self, group: &mut dyn ProcessGroup, reporter: &mut dyn Reporter) -> Result<()> {
        let stop = reporter.stop_signal().or(group.stop_signal());
        let prepared = Prepared::load(self, stop, reporter)?;
        let trained = self.train(&prepared, group, reporter);
        trained.map_err(|e| advice::on_memory(e, &prepared.decoder, self.config()))
    }

    fn train(
        &self,
        prepared: &Prepared,
        group: &mut dyn ProcessGroup,
        reporter: &mut dyn Reporter,
    ) -> Result<()> {
        if group.world_size() > 1 {
            reporter.report(Event::Phase {
                phase: Phase::Rendezvous,
                done: 0,
                of: 0,
            })?;
        }
        let (mut group, way) = process_group::joined(group, &*prepared.decoder.backend)?;
        if !way.is_empty() {
            reporter.report(Event::Note { text: way })?;
        }
        let mut session = Session::start(self, prepared, &mut *group, reporter)?;
        session.train(reporter)?;
        session.finish(reporter)
    }

    /// Steps of the run, where an epoch has so many micro-batches; the last step of an epoch takes
    /// those that are left.
    ///
    /// # Errors
    /// There are more than any run has.
    fn steps(&self, micro_batches: usize) -> Result<u64> {
        let t = &self.config().training;
        let steps_of = |micro_batches: f64| (micro_batches / t.gradient_accumulation as f64).ceil();
        let each = steps_of(micro_batches as f64);
        let by_epochs = t.epochs.trunc() * each + steps_of(t.epochs.fract() * micro_batches as f64);
        let steps = t.max_steps.unwrap_or((by_epochs as u64).max(1));
        if steps > MOST_STEPS {
            return Err(Error::Config {
                key: "training.epochs",
                fault: format!(
                    "is {}, which makes {steps} steps; a run has {MOST_STEPS} at the most",
                    t.epochs
                ),
                help: "lower it, or set training.max_steps",
            });
        }
        Ok(steps)
    }

    fn batching(&self) -> Batching {
        let (data, samples) = (&self.config().data, self.config().training.micro_batch_size);
        match data.batching {
            qlora_config::Batching::Shuffled => Batching::Shuffled { samples },
            qlora_config::Batching::Grouped => Batching::Grouped { samples },
            qlora_config::Batching::Packed => Batching::Packed {
                tokens: samples * data.max_seq_len,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use qlora_testkit::resolved;

    use super::*;

    fn steps(set: &[&str], micro_batches: usize) -> Result<u64> {
        let common = ["model.base=tiny", "data.train=rows.jsonl"];
        let config = resolved(&common, set);
        let (model, train, output) = (PathBuf::new(), PathBuf::new(), PathBuf::new());
        Run {
            config,
            model,
            train,
            eval: None,
            output,
            resume: None,
            tokens: None,
        }
        .steps(micro_batches)
    }

    #[test]
    fn an_epoch_has_as_many_steps_as_its_micro_batches_fill() {
        for (set, micro_batches, wanted) in [
            (&["training.gradient_accumulation=64"][..], 3, 1),
            (&["training.gradient_accumulation=3"][..], 3, 1),
            (
                &["training.gradient_accumulation=2", "training.epochs=2"][..],
                5,
                6,
            ),
            (
                &["training.gradient_accumulation=4", "training.epochs=1.5"][..],
                10,
                5,
            ),
            (
                &["training.gradient_accumulation=4", "training.epochs=0.01"][..],
                10,
                1,
            ),
            (
                &["training.gradient_accumulation=4", "training.max_steps=7"][..],
                10,
                7,
            ),
        ] {
            let found = steps(set, micro_batches).expect("steps");
            assert_eq!(found, wanted, "{set:?}");
        }
    }

    #[test]
    fn epochs_that_no_run_comes_to_the_end_of_are_refused() {
        for (epochs, micro_batches) in [("1000000", 1001), ("2000", 1_000_000)] {
            let told = steps(&[&format!("training.epochs={epochs}")], micro_batches)
                .expect_err(epochs)
                .to_string();
            assert!(
                told.contains("training.epochs") && told.contains(epochs),
                "{told}"
            );
        }
        assert!(steps(&["training.epochs=1000000"], 1000).is_ok());
    }
}
