//! How good the model is between steps: its loss on held-out rows, and an answer for people to
//! read.

use super::session::Session;
use crate::generate::{Generation, answer};
use crate::model::Batch;
use crate::process_group;
use crate::report::{ControlSignal, Event, Phase, Reporter};
use crate::{Error, Result};

/// Tokens of a sample answer.
const ANSWER_TOKENS: usize = 96;

impl Session<'_> {
    /// Mean held-out loss, where there are held-out rows; each of the group finds a part of it.
    ///
    /// # Errors
    /// [`Error::Stopped`] where any of the group is to stop before the end.
    pub fn evaluate(&mut self, reporter: &mut dyn Reporter) -> Result<Option<f64>> {
        let batches: Vec<Batch> = self
            .prepared
            .eval
            .chunks(self.run.config().training.micro_batch_size)
            .map(|rows| Batch::pack(rows.iter()))
            .collect();
        let tokens: usize = batches.iter().map(|batch| batch.targets.len()).sum();
        if tokens == 0 {
            return Ok(None);
        }
        let loss = self.losses(&batches, reporter)?.iter().sum::<f64>() / tokens as f64;
        reporter.report(Event::Evaluation {
            step: self.step,
            loss,
            tokens: tokens as u64,
        })?;
        if self.step > 0 {
            let keep = self.run.config().training.keep_best;
            self.best
                .note(self.step, loss, &self.trainer.adapters, keep);
        }
        Ok(Some(loss))
    }

    /// The loss of every batch, in order.
    fn losses(&mut self, batches: &[Batch], reporter: &mut dyn Reporter) -> Result<Vec<f64>> {
        let each = batches.len().div_ceil(self.group.world_size());
        let own = batches
            .chunks(each)
            .nth(self.group.rank())
            .unwrap_or_default();
        let found = self.own_losses(own, reporter);
        let found = process_group::unless_stopped(self.group, found)?;
        process_group::gather_values(self.group, &found)
    }

    fn own_losses(&mut self, own: &[Batch], reporter: &mut dyn Reporter) -> Result<Vec<f64>> {
        let mut found = Vec::with_capacity(own.len());
        for (i, batch) in own.iter().enumerate() {
            reporter.report(Event::Phase {
                phase: Phase::Evaluating,
                done: i as u64,
                of: own.len() as u64,
            })?;
            if self.hear(reporter) == ControlSignal::Stop {
                return Err(Error::Stopped);
            }
            found.push(self.trainer.decoder.loss(batch, &self.trainer.adapters)?);
        }
        Ok(found)
    }

    /// Answers the first held-out question with the model as it is now.
    pub fn sample_answer(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let Some(row) = self.prepared.question.as_ref().filter(|_| self.is_first()) else {
            return Ok(());
        };
        let p = self.prepared;
        let how = Generation {
            max_new_tokens: ANSWER_TOKENS,
            temperature: 0.0,
            seed: 0,
            end_ids: p.end_ids.clone(),
        };
        let answered = answer(
            &p.decoder,
            &self.trainer.adapters,
            &p.tokenizer,
            &p.template,
            &row.question(),
            &how,
        );
        let text = match answered {
            // It is for people to read: what was trained is worth saving without it.
            Err(fault @ (Error::Positions { .. } | Error::Stopped)) => {
                return no_sample(&fault, reporter);
            }
            // Before the first step, a template that writes nothing is refused.
            Err(fault @ Error::NoPrompt) if self.step > 0 => return no_sample(&fault, reporter),
            answered => answered?,
        };
        let asked = row
            .messages
            .iter()
            .rev()
            .find(|m| m["role"] == "user")
            .and_then(|m| m["content"].as_str());
        let last = row.messages.iter().rev().find(|m| m["role"] == "assistant");
        let wanted = last.map_or_else(String::new, |m| {
            m["content"]
                .as_str()
                .map_or_else(|| calls_text(&m["tool_calls"]), str::to_owned)
        });
        reporter.report(Event::Sample {
            step: self.step,
            prompt: asked.unwrap_or_default().into(),
            wanted,
            answer: text,
        })
    }

    /// Goes back to the adapter with the lowest held-out loss, where the run keeps it.
    pub fn take_best(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let (Some(mark), Some(adapters)) = (self.best.mark, self.best.adapters.take()) else {
            return Ok(());
        };
        if mark.step != self.step {
            let text = format!(
                "the adapter of step {} is kept: its held-out loss of {:.4} is the lowest",
                mark.step, mark.loss
            );
            reporter.report(Event::Note { text })?;
        }
        self.trainer.adapters = adapters;
        Ok(())
    }
}

fn no_sample(fault: &Error, reporter: &mut dyn Reporter) -> Result<()> {
    let text = format!("no sample answer: {fault}");
    reporter.report(Event::Note { text })
}

fn calls_text(calls: &serde_json::Value) -> String {
    let text = |call: &serde_json::Value| {
        let function = call.get("function").unwrap_or(call);
        format!(
            "{}({})",
            function["name"].as_str().unwrap_or_default(),
            function["arguments"]
        )
    };
    calls.as_array().map_or_else(String::new, |calls| {
        calls.iter().map(text).collect::<Vec<_>>().join("; ")
    })
}
