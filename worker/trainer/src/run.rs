//! A whole run: load, prove, evaluate, train, save.

use std::path::{Path, PathBuf};
use std::time::Instant;

use qlora_config::{ResolvedConfig, TooLong, TrainingConfig};
use qlora_data::{Batching, ChatTemplate, Conversation, Example, Policy, Sample, Sampler, Statistics};
use tokenizers::Tokenizer;

use crate::adapter::BaseModel;
use crate::best::Best;
use crate::checkpoint::{self, Manifest};
use crate::generate::{Generation, answer, end_ids};
use crate::model::{Batch, Decoder};
use crate::optim::{LearningRate, Optimizer};
use crate::report::{Event, Phase, Reporter, StepReport, Wish};
use crate::step::Trainer;
use crate::weights::Checkpoint;
use crate::{Error, Result, adapter, device, proof};

/// Tokens of a sample answer.
const ANSWER_TOKENS: usize = 96;

/// What a run works on; every path exists.
#[derive(Debug, Clone)]
pub struct Run {
    pub config: ResolvedConfig,
    /// A Hugging Face folder or a GGUF file.
    pub model: PathBuf,
    pub train: PathBuf,
    pub eval: Option<PathBuf>,
    /// Checkpoints and the final adapter go here.
    pub output: PathBuf,
    /// A checkpoint to go on from.
    pub resume: Option<PathBuf>,
    /// Where tokenised rows are kept for the next run; nowhere where there is none.
    pub tokens: Option<PathBuf>,
}

/// Data and model, ready to train.
struct Prepared {
    decoder: Decoder,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    end_ids: Vec<u32>,
    train: Vec<Sample>,
    eval: Vec<Sample>,
    question: Option<Conversation>,
    statistics: Statistics,
}

impl Run {
    fn config(&self) -> &TrainingConfig {
        self.config.config()
    }

    /// Trains to the end, or until the reporter wishes otherwise.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::blame`] tells whether another attempt makes sense. What was saved stays.
    pub fn execute(&self, reporter: &mut dyn Reporter) -> Result<()> {
        let prepared = self.prepare(reporter)?;
        let trained = Session::start(self, &prepared, reporter).and_then(|mut session| {
            session.train(reporter)?;
            session.finish(reporter)
        });
        trained.map_err(|e| device::with_advice(e, &prepared.decoder, self.config()))
    }

    fn prepare(&self, reporter: &mut dyn Reporter) -> Result<Prepared> {
        let config = self.config();
        reporter.report(Event::Phase { phase: Phase::Loading, done: 0, of: 0 })?;
        let checkpoint = Checkpoint::open(&self.model)?;
        let files = &checkpoint.files;
        let missing = |fault: &str, help| Error::Model { path: files.path.clone(), fault: fault.into(), help };
        let tokenizer = files.tokenizer()?.clone();
        let template = files.chat_template(&config.data.template)?;
        let limit = files.shape.max_positions;
        if config.data.max_seq_len > limit {
            return Err(missing(
                &format!("it knows {limit} positions, fewer than data.max_seq_len {}", config.data.max_seq_len),
                "lower data.max_seq_len",
            ));
        }
        let (train, statistics) = self.load_rows(&self.train, &tokenizer, &template, files.shape.vocabulary, None)?;
        let eval = match &self.eval {
            Some(path) => {
                self.load_rows(path, &tokenizer, &template, files.shape.vocabulary, config.training.eval_rows)?.0
            }
            None => Vec::new(),
        };
        let question = self.eval.as_deref().map(first_row).transpose()?.flatten();
        let device = device::open(config.resources.device)?;
        let layers = files.shape.layers as u64;
        let mut told = Ok(());
        let decoder =
            Decoder::load(&checkpoint, &config.model, config.data.max_seq_len.max(limit.min(4096)), &device, |done| {
                if told.is_ok() {
                    told = reporter.report(Event::Phase { phase: Phase::Loading, done: done as u64, of: layers });
                }
            })?;
        told?;
        let end_ids = end_ids(files, &tokenizer);
        Ok(Prepared { decoder, tokenizer, template, end_ids, train, eval, question, statistics })
    }

    fn load_rows(
        &self,
        path: &Path,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        vocabulary: usize,
        limit: Option<usize>,
    ) -> Result<(Vec<Sample>, Statistics)> {
        let data = &self.config().data;
        let too_long = match data.too_long {
            TooLong::Skip => qlora_data::TooLong::Skip,
            TooLong::Truncate => qlora_data::TooLong::Truncate,
            TooLong::Error => qlora_data::TooLong::Error,
        };
        let policy = Policy { max_seq_len: data.max_seq_len, too_long, vocabulary, limit };
        let name = name_of(path);
        Ok(match &self.tokens {
            Some(folder) => qlora_data::load_cached(folder, path, &name, tokenizer, template, policy)?,
            None => qlora_data::load(path, &name, tokenizer, template, policy)?,
        })
    }

    /// Steps of the run, where an epoch has so many micro-batches.
    fn steps(&self, micro_batches: usize) -> u64 {
        let t = &self.config().training;
        let by_epochs = (micro_batches as f64 * t.epochs / t.gradient_accumulation as f64).ceil().max(1.0) as u64;
        t.max_steps.unwrap_or(by_epochs)
    }

    fn batching(&self) -> Batching {
        let (data, samples) = (&self.config().data, self.config().training.micro_batch_size);
        match data.batching {
            qlora_config::Batching::Shuffled => Batching::Shuffled { samples },
            qlora_config::Batching::Grouped => Batching::Grouped { samples },
            qlora_config::Batching::Packed => Batching::Packed { tokens: samples * data.max_seq_len },
        }
    }
}

/// How messages call a file: not by the folder that it happens to lie in on this machine.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn first_row(path: &Path) -> Result<Option<Conversation>> {
    let row = qlora_data::examples(path, &name_of(path))?.next().transpose()?;
    Ok(row.and_then(|(_, example)| match example {
        Example::Chat(conversation) => Some(conversation),
        Example::Text(_) => None,
    }))
}

/// The state of a run between steps.
struct Session<'a> {
    run: &'a Run,
    prepared: &'a Prepared,
    trainer: Trainer<'a>,
    sampler: Sampler,
    step: u64,
    steps: u64,
    skipped_in_a_row: u64,
    first_evaluation: Option<f64>,
    best: Best,
}

impl<'a> Session<'a> {
    fn start(run: &'a Run, prepared: &'a Prepared, reporter: &mut dyn Reporter) -> Result<Self> {
        let config = run.config();
        let seed = config.training.seed;
        let restored = match &run.resume {
            Some(folder) => Some(checkpoint::load(folder, &run.config, &prepared.decoder)?),
            None => None,
        };
        let (adapters, optimizer, step, cursor, first_evaluation, best) = match restored {
            Some(r) => {
                let best = Best { mark: r.manifest.best, adapters: r.best };
                let m = r.manifest;
                (r.adapters, r.optimizer, m.step, m.cursor, m.first_evaluation, best)
            }
            None => {
                let adapters = prepared.decoder.adapters(&config.lora, seed)?;
                let optimizer = Optimizer::new(&adapters, config.training.optimizer)?;
                (adapters, optimizer, 0, qlora_data::Cursor::default(), None, Best::default())
            }
        };
        let lengths = prepared.train.iter().map(|sample| sample.ids.len()).collect();
        let sampler = Sampler::new(seed, lengths, run.batching(), cursor);
        let steps = run.steps(sampler.batches());
        let trainer = Trainer {
            decoder: &prepared.decoder,
            adapters,
            optimizer,
            training: &config.training,
            learning_rate: LearningRate::new(&config.training, steps),
            keeps: device::keeps(&prepared.decoder.shape, config, &prepared.decoder.device)?,
        };
        let mut session =
            Self { run, prepared, trainer, sampler, step, steps, skipped_in_a_row: 0, first_evaluation, best };
        session.introduce(reporter)?;
        Ok(session)
    }

    /// Tells what is about to happen, proves that gradients arrive, and measures the untrained model.
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
        reporter.report(Event::Phase { phase: Phase::Preparing, done: 0, of: 0 })?;
        let shortest = self.prepared.train.iter().min_by_key(|s| s.ids.len());
        if let Some(sample) = shortest {
            proof::gradients_arrive(&self.trainer, &Batch::pack([sample]))?;
        }
        if self.step == 0 {
            self.first_evaluation = self.evaluate(reporter)?;
            self.sample_answer(reporter)?;
        }
        Ok(())
    }

    /// Tells how full packs are, where rows are packed.
    fn tell_packing(&self, reporter: &mut dyn Reporter) -> Result<()> {
        let Batching::Packed { tokens } = self.run.batching() else { return Ok(()) };
        let (packs, rows) = (self.sampler.batches(), self.prepared.train.len());
        let full = 100.0 * self.prepared.statistics.tokens as f64 / (packs * tokens) as f64;
        let text = format!("{rows} rows in {packs} packs of up to {tokens} tokens, {full:.1} % full");
        reporter.report(Event::Note { text })
    }

    fn train(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        reporter.report(Event::Phase { phase: Phase::Training, done: self.step, of: self.steps })?;
        while self.step < self.steps {
            match reporter.wish() {
                Wish::GoOn => {}
                Wish::Checkpoint => self.save_checkpoint(reporter)?,
                Wish::Stop => {
                    self.save_checkpoint(reporter)?;
                    return Err(Error::Stopped);
                }
            }
            self.one_step(reporter)?;
            let t = &self.run.config().training;
            let (step, steps) = (self.step, self.steps);
            let every = |n: u64| n > 0 && step.is_multiple_of(n) && step < steps;
            if every(t.eval_every) {
                self.evaluate(reporter)?;
                if t.early_stopping > 0 && self.best.stale() >= t.early_stopping {
                    let text =
                        format!("held-out loss has not fallen in {} evaluations: the run ends", t.early_stopping);
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

    fn one_step(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let start = Instant::now();
        let batches = self.next_batches();
        let outcome = self.trainer.step(self.step, &batches)?;
        self.step += 1;
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
            peak_bytes: device::peak(&self.prepared.decoder.device)?.unwrap_or_else(crate::bench::peak_bytes),
        }))?;
        self.skipped_in_a_row = if outcome.skipped { self.skipped_in_a_row + 1 } else { 0 };
        if self.skipped_in_a_row > 0 && self.skipped_in_a_row >= self.run.config().training.max_skipped_steps.max(1) {
            return Err(Error::NotFinite { step: self.step, steps: self.skipped_in_a_row });
        }
        Ok(())
    }

    fn next_batches(&mut self) -> Vec<Batch> {
        let samples = &self.prepared.train;
        (0..self.run.config().training.gradient_accumulation)
            .map(|_| Batch::pack(self.sampler.next_batch().iter().map(|&i| &samples[i])))
            .collect()
    }

    /// Mean held-out loss, where there are held-out rows.
    fn evaluate(&mut self, reporter: &mut dyn Reporter) -> Result<Option<f64>> {
        let rows = &self.prepared.eval;
        let (mut sum, mut tokens) = (0f64, 0usize);
        let chunks: Vec<_> = rows.chunks(self.run.config().training.micro_batch_size).collect();
        for (i, chunk) in chunks.iter().enumerate() {
            reporter.report(Event::Phase { phase: Phase::Evaluating, done: i as u64, of: chunks.len() as u64 })?;
            let batch = Batch::pack(chunk.iter());
            sum += self.trainer.decoder.loss(&batch, &self.trainer.adapters)?;
            tokens += batch.targets.len();
        }
        if tokens == 0 {
            return Ok(None);
        }
        let loss = sum / tokens as f64;
        reporter.report(Event::Evaluation { step: self.step, loss, tokens: tokens as u64 })?;
        if self.step > 0 {
            let keep = self.run.config().training.keep_best;
            self.best.note(self.step, loss, &self.trainer.adapters, keep);
        }
        Ok(Some(loss))
    }

    /// Answers the first held-out question with the model as it is now.
    fn sample_answer(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let Some(row) = &self.prepared.question else { return Ok(()) };
        let p = self.prepared;
        let how = Generation { max_new_tokens: ANSWER_TOKENS, temperature: 0.0, seed: 0, end_ids: p.end_ids.clone() };
        let text = answer(&p.decoder, &self.trainer.adapters, &p.tokenizer, &p.template, &row.question(), &how)?;
        let asked = row.messages.iter().rev().find(|m| m["role"] == "user").and_then(|m| m["content"].as_str());
        let last = row.messages.iter().rev().find(|m| m["role"] == "assistant");
        let wanted = last.map_or_else(String::new, |m| {
            m["content"].as_str().map_or_else(|| calls_text(&m["tool_calls"]), str::to_owned)
        });
        reporter.report(Event::Sample {
            step: self.step,
            prompt: asked.unwrap_or_default().into(),
            wanted,
            answer: text,
        })
    }

    fn base(&self) -> BaseModel<'_> {
        let name = self.run.config().model.base.as_deref().unwrap_or_default();
        BaseModel { name, fingerprint: &self.prepared.decoder.fingerprint }
    }

    fn save_checkpoint(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        reporter.report(Event::Phase { phase: Phase::Saving, done: 0, of: 0 })?;
        let folder = self.run.output.join(format!("checkpoint-{:06}", self.step));
        let manifest = Manifest {
            version: 1,
            step: self.step,
            steps: self.steps,
            updates: self.trainer.optimizer.updates,
            cursor: self.sampler.cursor(),
            seed: self.run.config().training.seed,
            config_hash: self.run.config.hash().to_owned(),
            first_evaluation: self.first_evaluation,
            best: self.best.mark,
            files: Vec::new(),
        };
        let (adapters, optimizer) = (&self.trainer.adapters, &self.trainer.optimizer);
        checkpoint::save(&folder, manifest, adapters, optimizer, self.best.adapters.as_ref(), self.base())?;
        reporter.report(Event::Checkpoint { step: self.step, folder: folder.to_string_lossy().into_owned() })?;
        reporter.report(Event::Phase { phase: Phase::Training, done: self.step, of: self.steps })
    }

    fn finish(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        self.evaluate(reporter)?;
        self.take_best(reporter)?;
        self.sample_answer(reporter)?;
        reporter.report(Event::Phase { phase: Phase::Saving, done: 0, of: 0 })?;
        let folder = self.run.output.join("adapter");
        adapter::save(&self.trainer.adapters, self.base(), &folder)?;
        reporter.report(Event::Finished { step: self.step, folder: folder.to_string_lossy().into_owned() })
    }
}

impl Session<'_> {
    /// Goes back to the adapter with the lowest held-out loss, where the run keeps it.
    fn take_best(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let (Some(mark), Some(adapters)) = (self.best.mark, self.best.adapters.take()) else { return Ok(()) };
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

fn calls_text(calls: &serde_json::Value) -> String {
    let text = |call: &serde_json::Value| {
        let function = call.get("function").unwrap_or(call);
        format!("{}({})", function["name"].as_str().unwrap_or_default(), function["arguments"])
    };
    calls.as_array().map_or_else(String::new, |calls| calls.iter().map(text).collect::<Vec<_>>().join("; "))
}
