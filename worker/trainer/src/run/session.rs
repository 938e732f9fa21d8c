//! The steps of a run, and what happens between them.

use std::time::Instant;

use qlora_config::TrainingSection;
use qlora_data::{Batching, Cursor, Sampler};

use super::Run;
use super::prepare::Prepared;
use crate::best::Best;
use crate::checkpoint;
use crate::model::Batch;
use crate::optim::{LearningRate, Optimizer};
use crate::process_group::ProcessGroup;
use crate::report::{ControlSignal, Event, Phase, Reporter, StepReport};
use crate::step::Trainer;
use crate::{Error, Result, adapter, proof};

/// The state of a run between steps.
pub(super) struct Session<'a> {
    pub run: &'a Run,
    pub prepared: &'a Prepared,
    pub group: &'a mut dyn ProcessGroup,
    pub trainer: Trainer<'a>,
    sampler: Sampler,
    /// Where the run stands in its data; the sampler is ahead of it within a step.
    pub cursor: Cursor,
    pub step: u64,
    pub steps: u64,
    skipped_in_a_row: u64,
    pub first_evaluation: Option<f64>,
    pub best: Best,
    /// Asked for, and not acted on yet.
    heard: ControlSignal,
    /// The evaluation after this step has not been made, or not to its end.
    pub evaluation_due: bool,
}

impl<'a> Session<'a> {
    pub fn start(
        run: &'a Run,
        prepared: &'a Prepared,
        group: &'a mut dyn ProcessGroup,
        reporter: &mut dyn Reporter,
    ) -> Result<Self> {
        let config = run.config();
        let seed = config.training.seed;
        let restored = match &run.resume {
            Some(folder) => {
                let restored = checkpoint::load(folder, &run.config, &prepared.decoder)?;
                // Only now are the checkpoint's files known to be whole.
                let shape = &prepared.decoder.shape;
                if let Some(text) = adapter::other_constants(folder, &run.model, shape)? {
                    reporter.report(Event::Note { text })?;
                }
                Some(restored)
            }
            None => None,
        };
        let evaluation_due = restored.as_ref().is_some_and(|r| r.manifest.evaluation_due);
        let (adapters, optimizer, step, cursor, first_evaluation, best) = match restored {
            Some(r) => {
                let best = Best {
                    mark: r.manifest.best,
                    adapters: r.best,
                };
                let m = r.manifest;
                (
                    r.adapters,
                    r.optimizer,
                    m.step,
                    m.cursor,
                    m.first_evaluation,
                    best,
                )
            }
            None => {
                let adapters = prepared.decoder.adapters(&config.lora, seed)?;
                let optimizer = Optimizer::new(&adapters, config.training.optimizer)?;
                (
                    adapters,
                    optimizer,
                    0,
                    Cursor::default(),
                    None,
                    Best::default(),
                )
            }
        };
        let lengths = prepared
            .train
            .iter()
            .map(|sample| sample.ids.len())
            .collect();
        let sampler = Sampler::new(seed, lengths, run.batching(), cursor);
        let steps = run.steps(sampler.batches())?;
        LearningRate::reaches_peak(&config.training, steps)?;
        run.tell_idle_keys(steps, reporter)?;
        let trainer = Trainer {
            decoder: &prepared.decoder,
            adapters,
            optimizer,
            training: &config.training,
            learning_rate: LearningRate::new(&config.training, steps),
            saved: prepared.policy.saved.clone(),
        };
        let (skipped_in_a_row, heard) = (0, ControlSignal::Continue);
        let mut session = Self {
            run,
            prepared,
            group,
            trainer,
            sampler,
            cursor,
            step,
            steps,
            skipped_in_a_row,
            first_evaluation,
            best,
            heard,
            evaluation_due,
        };
        session.introduce(reporter)?;
        Ok(session)
    }

    /// The first of the group saves and answers for all.
    pub fn is_first(&self) -> bool {
        self.group.rank() == 0
    }

    fn training(&self) -> &'a TrainingSection {
        &self.run.config().training
    }

    /// Tells what is about to happen, proves that gradients arrive, and measures the untrained
    /// model.
    fn introduce(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let statistics = &self.prepared.statistics;
        reporter.report(Event::Started {
            step: self.step,
            steps: self.steps,
            trainable: self.trainer.adapters.parameters() as u64,
            rows: statistics.kept as u64,
            rows_left_out: (statistics.rows - statistics.kept) as u64,
            weight_bytes: self.prepared.decoder.bytes() as u64,
        })?;
        self.tell_packing(reporter)?;
        self.tell_what_surprises(reporter)?;
        let backend = &self.prepared.decoder.backend;
        if let Some(attention) = backend.attention() {
            reporter.report(Event::Note {
                text: format!("attention: {attention}"),
            })?;
        }
        reporter.report(Event::Note {
            text: format!("operations: {}", backend.forms()),
        })?;
        reporter.report(Event::Phase {
            phase: Phase::Preparing,
            done: 0,
            of: 0,
        })?;
        let shortest = self.prepared.train.iter().min_by_key(|s| s.ids.len());
        if let Some(sample) = shortest {
            proof::gradients_arrive(&self.trainer, &Batch::pack([sample]))?;
        }
        self.compare_tasks(reporter)?;
        if self.step == 0 {
            self.first_evaluation = self.evaluate(reporter)?;
            self.sample_answer(reporter)?;
        }
        Ok(())
    }

    /// Waits for the others, and sees that they work on the same.
    fn compare_tasks(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        if self.group.world_size() > 1 {
            reporter.report(Event::Phase {
                phase: Phase::Rendezvous,
                done: 0,
                of: 0,
            })?;
        }
        let own = format!(
            "version {}, base {}, {} tokens, step {} of {}",
            env!("CARGO_PKG_VERSION"),
            self.prepared.decoder.fingerprint,
            self.prepared.statistics.tokens,
            self.step,
            self.steps
        );
        let said = self.group.gather(own.as_bytes())?;
        match said.iter().position(|words| *words != said[0]) {
            None => Ok(()),
            Some(rank) => {
                let words = |i: usize| String::from_utf8_lossy(&said[i]).into_owned();
                Err(Error::Mismatch {
                    rank,
                    theirs: words(rank),
                    first: words(0),
                })
            }
        }
    }

    /// Tells of rows that are cut or teach no end, and of steps that are smaller than asked for.
    fn tell_what_surprises(&self, reporter: &mut dyn Reporter) -> Result<()> {
        for text in self
            .prepared
            .statistics
            .warnings("rows", self.run.config().data.max_seq_len)
        {
            reporter.report(Event::Note { text })?;
        }
        let (batches, accumulation) = (
            self.sampler.batches(),
            self.training().gradient_accumulation,
        );
        if batches < accumulation {
            let text = format!(
                "warning: an epoch has {batches} micro-batches, fewer than training.gradient_accumulation {accumulation}: each step is one epoch"
            );
            reporter.report(Event::Note { text })?;
        }
        Ok(())
    }

    /// Tells how full packs are, where rows are packed.
    fn tell_packing(&self, reporter: &mut dyn Reporter) -> Result<()> {
        let Batching::Packed { tokens } = self.run.batching() else {
            return Ok(());
        };
        let (packs, rows) = (self.sampler.batches(), self.prepared.train.len());
        let full = 100.0 * self.prepared.statistics.tokens as f64 / (packs * tokens) as f64;
        let text =
            format!("{rows} rows in {packs} packs of up to {tokens} tokens, {full:.1} % full");
        reporter.report(Event::Note { text })
    }

    pub fn train(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        reporter.report(Event::Phase {
            phase: Phase::Training,
            done: self.step,
            of: self.steps,
        })?;
        if self.evaluation_due && self.step < self.steps {
            self.evaluate_or_save(reporter)?;
        }
        while self.step < self.steps {
            match self.control_signal(reporter)? {
                ControlSignal::Continue => {}
                ControlSignal::Checkpoint => self.save_checkpoint(reporter)?,
                ControlSignal::Stop => {
                    self.save_checkpoint(reporter)?;
                    return Err(Error::Stopped);
                }
            }
            self.step_or_save(reporter)?;
            let t = self.training();
            let (step, steps) = (self.step, self.steps);
            let every = |n: u64| n > 0 && step.is_multiple_of(n) && step < steps;
            if every(t.eval_every) {
                self.evaluate_or_save(reporter)?;
                if t.early_stopping > 0 && self.best.stale() >= t.early_stopping {
                    let text = format!(
                        "held-out loss has not fallen in {} evaluations: the run ends",
                        t.early_stopping
                    );
                    reporter.report(Event::Note { text })?;
                    break;
                }
            }
            if every(t.checkpoint_every) {
                self.save_checkpoint(reporter)?;
            }
        }
        Ok(())
    }

    /// What is asked of this one, kept until it is acted on.
    pub fn hear(&mut self, reporter: &mut dyn Reporter) -> ControlSignal {
        self.heard = self.heard.max(reporter.control_signal());
        self.heard
    }

    /// Evaluates; a run that is to stop meanwhile is saved first, and makes the evaluation when it
    /// goes on.
    pub fn evaluate_or_save(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        self.evaluation_due = true;
        match self.evaluate(reporter) {
            Err(Error::Stopped) => {
                self.save_checkpoint(reporter)?;
                Err(Error::Stopped)
            }
            ended => {
                self.evaluation_due = false;
                ended.map(drop)
            }
        }
    }

    /// What is asked of any of the group, so that all do the same after the same step.
    fn control_signal(&mut self, reporter: &mut dyn Reporter) -> Result<ControlSignal> {
        self.hear(reporter);
        let own = std::mem::replace(&mut self.heard, ControlSignal::Continue);
        let said = self.group.gather(&[own as u8])?;
        let strongest = said.iter().flatten().max().copied().unwrap_or_default();
        Ok([ControlSignal::Continue, ControlSignal::Checkpoint]
            .into_iter()
            .find(|&w| w as u8 == strongest)
            .unwrap_or(ControlSignal::Stop))
    }

    /// Takes a step; a run that is to stop meanwhile is saved as it was before it.
    fn step_or_save(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let ended = self.one_step(reporter);
        if let Err(Error::Stopped) = ended {
            let text = format!(
                "step {} is broken off, and is taken again when the run goes on",
                self.step + 1
            );
            reporter.report(Event::Note { text })?;
            self.save_checkpoint(reporter)?;
        }
        ended
    }

    fn one_step(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let start = Instant::now();
        let batches = self.next_batches();
        let outcome = self.trainer.step(self.step, &batches, self.group)?;
        self.step += 1;
        self.cursor = self.sampler.cursor();
        let seconds = start.elapsed().as_secs_f64();
        reporter.report(Event::Step(StepReport {
            step: self.step,
            steps: self.steps,
            loss: outcome.loss,
            grad_norm: outcome.grad_norm,
            learning_rate: outcome.learning_rate,
            tokens: outcome.tokens as u64,
            tokens_per_second: outcome.tokens as f64 / seconds,
            seconds,
            skipped: outcome.skipped,
            peak_bytes: self
                .prepared
                .decoder
                .backend
                .peak_bytes()?
                .unwrap_or_else(crate::bench::peak_bytes),
        }))?;
        self.skipped_in_a_row = if outcome.skipped {
            // No step after it could be finite either.
            self.weights_are_finite()?;
            self.skipped_in_a_row + 1
        } else {
            0
        };
        if self.skipped_in_a_row > 0
            && self.skipped_in_a_row >= self.training().max_skipped_steps.max(1)
        {
            return Err(Error::NotFinite {
                step: self.step,
                steps: self.skipped_in_a_row,
            });
        }
        Ok(())
    }

    fn next_batches(&mut self) -> Vec<Batch> {
        let samples = &self.prepared.train;
        let step = self
            .sampler
            .next_step(self.run.config().training.gradient_accumulation);
        step.iter()
            .map(|batch| Batch::pack(batch.iter().map(|&i| &samples[i])))
            .collect()
    }
}
