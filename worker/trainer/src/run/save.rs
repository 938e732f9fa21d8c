//! What a run leaves: checkpoints on the way, the adapter at its end. The first of a group writes
//! them.

use sha2::{Digest, Sha256};

use super::room::{self, with_room};
use super::session::Session;
use crate::adapter::{self, BaseModel, TrainedWith};
use crate::checkpoint::{self, Manifest};
use crate::lora::Factors;
use crate::report::{Event, Phase, Reporter};
use crate::{Error, Result};

impl Session<'_> {
    /// The base, under a name that others can resolve where there is one.
    fn base<'n>(&'n self, public: Option<&'n str>) -> BaseModel<'n> {
        let name = public
            .or(self.run.config().model.base.as_deref())
            .unwrap_or_default();
        let date = &self.run.config().data.template_date;
        let template = Some(TrainedWith {
            text: self.prepared.template.source(),
            date,
        });
        BaseModel {
            name,
            fingerprint: &self.prepared.decoder.fingerprint,
            shape: &self.prepared.decoder.shape,
            template,
        }
    }

    fn public_name(&self) -> Option<String> {
        let base = self.run.config().model.base.as_deref().unwrap_or_default();
        adapter::public_name(base, self.prepared.decoder.hub_name.as_deref())
    }

    pub fn save_checkpoint(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        reporter.report(Event::Phase {
            phase: Phase::Saving,
            done: 0,
            of: 0,
        })?;
        self.weights_are_finite()?;
        self.compare_adapters()?;
        if self.is_first() {
            self.write_checkpoint(reporter)?;
        }
        reporter.report(Event::Phase {
            phase: Phase::Training,
            done: self.step,
            of: self.steps,
        })
    }

    fn write_checkpoint(&self, reporter: &mut dyn Reporter) -> Result<()> {
        let folder = self.run.output.join(format!("checkpoint-{:06}", self.step));
        let manifest = || Manifest {
            version: 1,
            step: self.step,
            steps: self.steps,
            updates: self.trainer.optimizer.updates,
            cursor: self.cursor,
            seed: self.run.config().training.seed,
            config_hash: self.run.config.hash().to_owned(),
            first_evaluation: self.first_evaluation,
            best: self.best.mark,
            evaluation_due: self.evaluation_due,
            files: Vec::new(),
        };
        let (adapters, optimizer) = (&self.trainer.adapters, &self.trainer.optimizer);
        let name = self.public_name();
        let (best, base) = (self.best.adapters.as_ref(), self.base(name.as_deref()));
        with_room(reporter, (&folder, room::WAIT), || {
            checkpoint::save(&folder, manifest(), adapters, optimizer, best, base)
        })?;
        reporter.report(Event::Checkpoint {
            step: self.step,
            folder: folder.to_string_lossy().into_owned(),
        })
    }

    /// Refuses weights that a step has made infinite or no numbers: what is made of them is worth
    /// nothing, and the last checkpoint without them stays.
    pub fn weights_are_finite(&self) -> Result<()> {
        let backend = &*self.prepared.decoder.backend;
        match self.trainer.adapters.first_broken(backend)? {
            Some((tensor, index, value)) => Err(Error::Weights {
                step: self.step,
                tensor,
                index,
                value,
            }),
            None => Ok(()),
        }
    }

    /// All of the group update the same adapters with the same gradients; where CPUs differ,
    /// so may the results.
    fn compare_adapters(&mut self) -> Result<()> {
        if self.group.world_size() == 1 {
            return Ok(());
        }
        let mut hash = Sha256::new();
        for tensor in self
            .trainer
            .adapters
            .factors
            .iter()
            .flat_map(Factors::tensors)
        {
            for value in tensor.flatten_all()?.to_vec1::<f32>()? {
                hash.update(value.to_le_bytes());
            }
        }
        let said = self.group.gather(&hash.finalize())?;
        match said.iter().position(|hash| *hash != said[0]) {
            Some(rank) => Err(Error::Diverged {
                rank,
                step: self.step,
            }),
            None => Ok(()),
        }
    }

    pub fn finish(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        match self.weights_are_finite() {
            // What the last step broke takes nothing from the adapter that is kept.
            Err(Error::Weights {
                step,
                tensor,
                index,
                value,
            }) if self.best.adapters.is_some() => {
                let text = format!(
                    "warning: after step {step}, {tensor} has {value} at element {index}; lower training.learning_rate"
                );
                reporter.report(Event::Note { text })?;
            }
            found => {
                found?;
                self.evaluate_or_save(reporter)?;
            }
        }
        self.take_best(reporter)?;
        self.weights_are_finite()?;
        self.compare_adapters()?;
        self.sample_answer(reporter)?;
        if !self.is_first() {
            return Ok(());
        }
        reporter.report(Event::Phase {
            phase: Phase::Saving,
            done: 0,
            of: 0,
        })?;
        let folder = self.run.output.join("adapter");
        let name = self.public_name();
        if name.is_none() {
            let text = "base_model_name_or_path of the adapter is a path of this machine; others name the base themselves";
            reporter.report(Event::Note { text: text.into() })?;
        }
        let base = self.base(name.as_deref());
        with_room(reporter, (&folder, room::WAIT), || {
            adapter::save(&self.trainer.adapters, base, &folder)
        })?;
        reporter.report(Event::Finished {
            step: self.step,
            folder: folder.to_string_lossy().into_owned(),
        })
    }
}
