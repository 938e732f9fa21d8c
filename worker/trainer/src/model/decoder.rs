//! The whole model: the forward pass, and the backward pass through all blocks.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use qlora_config::{LoraConfig, ModelConfig};
use qlora_kernels::types::loss::{Head, Loss};
use qlora_kernels::{Backend, Span};
use qlora_planner::{EmbeddingScale, MemoryPolicy, ModelShape, SavedActivations};

use super::attention::LayerCache;
use super::block::{Block, Kept};
use super::load::{load_block, load_norm};
use super::norm::Norm;
use super::pass::Pass;
use super::rope_tables::RopeTables;
use super::{Batch, Part, output};
use crate::lora::{Adapters, Gradients, Magnitude, MaskPosition};
use crate::metal::Uploads;
use crate::stop::StopSignal;
use crate::weights::{Checkpoint, FrozenWeight};
use crate::{Error, Result, device, metal};

/// Tokens of a batch from which a pass waits for a GPU after each block. The host would otherwise
/// be a whole pass ahead of the GPU, and a stop would wait for that; beside such a block the wait
/// is nothing.
const LONG: usize = 65_536;

/// What the forward pass leaves for the backward pass.
pub struct Passed {
    blocks: Vec<Kept>,
    last: Tensor,
}

/// Frozen weights of a model on a device.
pub struct Decoder {
    pub shape: ModelShape,
    /// See [`Checkpoint::fingerprint`].
    pub fingerprint: String,
    /// See [`crate::weights::ModelFiles::hub_name`].
    pub hub_name: Option<String>,
    pub device: Device,
    pub dtype: DType,
    /// What computes every operation of a pass.
    pub backend: Arc<dyn Backend>,
    embedding: Box<dyn FrozenWeight>,
    /// What looks rows of the embedding up: host memory may hold it.
    embedding_backend: Arc<dyn Backend>,
    /// Rows of logits that are held at one time.
    logit_rows: usize,
    blocks: Vec<Block>,
    norm: Norm,
    head: Option<Box<dyn FrozenWeight>>,
    ropes: RopeTables,
    /// Tokens that a sequence may have.
    positions: usize,
    /// Ends a pass through the blocks early.
    pub stop: StopSignal,
}

impl Decoder {
    /// Loads every weight of `checkpoint`, held as `model` asks, for `backend` to compute with;
    /// sequences may have up to `max_len` tokens, and memory is used as `policy` says.
    ///
    /// `progress` hears the number of blocks that are there.
    pub fn load(
        checkpoint: &Checkpoint,
        model: &ModelConfig,
        max_len: usize,
        policy: &MemoryPolicy,
        backend: &Arc<dyn Backend>,
        mut progress: impl FnMut(usize),
    ) -> Result<Self> {
        let (shape, device) = (checkpoint.files.shape.clone(), backend.device());
        let low_memory = policy.low_memory;
        let is_apart = !backend.properties().in_host_memory;
        let embedding_on_host = is_apart && low_memory.embedding_on_host(&shape);
        let dtype = backend.dtype();
        let embedding_backend = if embedding_on_host {
            qlora_kernels::backend::host()
        } else {
            backend.clone()
        };
        let ropes = RopeTables::new(&shape, max_len, device)?;
        let mut blocks = Vec::with_capacity(shape.layers);
        for index in 0..shape.layers {
            let dequantized = index + policy.dequantized >= shape.layers;
            let load = || {
                load_block(
                    checkpoint,
                    index,
                    model,
                    dequantized,
                    (&**backend, ropes.kinds()),
                )
            };
            blocks.push(metal::autoreleased(load)?);
            progress(index + 1);
        }
        Ok(Self {
            fingerprint: checkpoint.fingerprint()?,
            hub_name: checkpoint.files.hub_name.clone(),
            embedding: checkpoint.embedding(&*embedding_backend)?,
            embedding_backend,
            logit_rows: low_memory.logit_rows(device::kind(device)),
            norm: load_norm(checkpoint, Part::FinalNorm, &**backend)?,
            head: checkpoint.head(&**backend)?,
            ropes,
            positions: max_len,
            stop: StopSignal::default(),
            blocks,
            shape,
            device: device.clone(),
            backend: backend.clone(),
            dtype,
        })
    }

    /// Bytes of all frozen weights.
    pub fn bytes(&self) -> usize {
        let blocks = self
            .blocks
            .iter()
            .flat_map(Block::linears)
            .map(|at| at.linear.bytes())
            .sum::<usize>();
        blocks + self.embedding.bytes() + self.head.as_ref().map_or(0, |h| h.bytes())
    }

    /// Adapters to begin with: see [`Adapters::initialize`]; with DoRA, magnitudes are the norms of
    /// the rows.
    pub fn adapters(&self, config: &LoraConfig, seed: u64) -> Result<Adapters> {
        let mut adapters = Adapters::initialize(config, &self.shape, seed, &self.device)?;
        if config.dora {
            for (site, factors) in adapters.sites.iter().zip(&mut adapters.factors) {
                let linear = self.blocks[site.layer].linear(site.module);
                let norms = linear.map(|linear| linear.norms(&*self.backend));
                factors.magnitude = norms.transpose()?.map(Magnitude::new);
            }
        }
        Ok(adapters)
    }

    /// Tokens that a sequence may have.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Tokens that a sequence may have that begins with `prompt` tokens and is extended one by one:
    /// keys that were rotated by one set of angles do not go with those of another.
    pub fn positions_after(&self, prompt: usize) -> usize {
        self.ropes.positions_after(prompt).unwrap_or(self.positions)
    }

    /// Whether `ids` can be looked up, in a sequence that they make longer than `past` tokens.
    ///
    /// # Errors
    /// There are more of them than positions, or one is outside the vocabulary.
    pub fn accepts(&self, ids: &[u32], past: usize) -> Result<()> {
        let (tokens, positions, vocabulary) =
            (past + ids.len(), self.positions, self.shape.vocabulary);
        if tokens > positions {
            return Err(Error::Positions { tokens, positions });
        }
        match ids.iter().find(|&&id| id as usize >= vocabulary) {
            Some(&id) => Err(Error::Vocabulary { id, vocabulary }),
            None => Ok(()),
        }
    }

    fn pass<'a>(
        &'a self,
        adapters: &'a Adapters,
        ids: &[u32],
        spans: &[Span],
        masks: Option<MaskPosition>,
    ) -> Result<Pass<'a>> {
        for span in spans {
            self.accepts(&ids[span.q.clone()], span.k.len() - span.q.len())?;
        }
        let backend = &*self.backend;
        let sequences = backend.sequences(spans)?;
        let longest = spans.iter().map(|span| span.k.len()).max().unwrap_or(0);
        Ok(Pass {
            ropes: self.ropes.of(longest),
            backend,
            sequences,
            adapters,
            masks,
            stop: &self.stop,
        })
    }

    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let backend = &*self.embedding_backend;
        let rows =
            self.embedding
                .rows(backend, &Tensor::new(ids, backend.device())?, self.dtype)?;
        let rows = rows.to_device(&self.device)?;
        match self.shape.form.embedding_scale {
            None => Ok(rows),
            Some(scale) => Ok(self.backend.affine(&rows, self.factor(scale), None)?),
        }
    }

    /// As transformers rounds it.
    fn factor(&self, scale: EmbeddingScale) -> f64 {
        match scale {
            EmbeddingScale::Factor(factor) => factor,
            EmbeddingScale::RootOfHidden => {
                let root = (self.shape.hidden as f64).sqrt();
                match self.dtype {
                    DType::BF16 => half::bf16::from_f64(root).to_f64(),
                    _ => root,
                }
            }
        }
    }

    fn head(&self) -> &dyn FrozenWeight {
        &**self.head.as_ref().unwrap_or(&self.embedding)
    }

    fn output(&self) -> Head<'_> {
        let form = &self.shape.form;
        Head {
            weight: self.head(),
            rows: self.logit_rows,
            scale: form.logit_scale.unwrap_or(1.0),
            cap: form.logit_cap.map(|cap| cap as f32),
        }
    }

    /// The final norm of `x` [M, D], and its rstd [M, 1].
    fn normalized(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        self.norm.forward(&*self.backend, x)
    }

    /// Logits [M, V] of normalized hidden states [M, D].
    fn project(&self, hidden: Tensor) -> Result<Tensor> {
        Ok(self.backend.logits(&hidden.into(), self.output())?)
    }

    /// Runs all blocks, and keeps of each what `saved` says; `neftune_alpha` above 0 is the noise of
    /// NEFTune on the embedding.
    pub fn forward(
        &self,
        batch: &Batch,
        adapters: &Adapters,
        masks: MaskPosition,
        neftune_alpha: f64,
        saved: &[SavedActivations],
    ) -> Result<Passed> {
        let pass = self.pass(adapters, &batch.ids, &batch.spans, Some(masks))?;
        let mut x = self.embed(&batch.ids)?;
        if neftune_alpha > 0.0 {
            let key = adapters.embedding_noise(masks);
            // The noise is on the embedding, which a constant of the model multiplies afterwards.
            let alpha = match self.shape.form.embedding_scale {
                Some(EmbeddingScale::Factor(factor)) => neftune_alpha * factor,
                _ => neftune_alpha,
            };
            x = self
                .backend
                .embedding_noise(&x, alpha, &batch.spans, &key)?;
        }
        let mut blocks: Vec<Kept> = Vec::with_capacity(self.blocks.len());
        let mut uploads = Uploads::forward(
            &self.device,
            &self.shape,
            Some(adapters.config()),
            &batch.spans,
        )?;
        for (block, &keep) in self.blocks.iter().zip(saved) {
            let saved = block.run(&pass, x.into())?;
            x = block.finish(&pass, &saved)?;
            if let Some(before) = blocks.last_mut() {
                // What of it was offloaded went beside this block.
                before.release()?;
            }
            blocks.push(saved.reduced(&*self.backend, keep)?);
            uploads.after_block()?;
            self.keep_pace(batch)?;
        }
        Ok(Passed { blocks, last: x })
    }

    /// Loss of the batch, summed in nats, and gradients of `loss * scale` added to `grads`.
    pub fn backward(
        &self,
        batch: &Batch,
        adapters: &Adapters,
        masks: MaskPosition,
        passed: Passed,
        scale: f64,
        grads: &mut Gradients,
    ) -> Result<Loss> {
        let pass = self.pass(adapters, &batch.ids, &batch.spans, Some(masks))?;
        let Passed {
            blocks: mut rest,
            last,
        } = passed;
        let (loss, mut dx) = self.loss_and_grad(batch, &last, scale)?;
        // A residual stream that nobody needs any more is as large as an input of a block.
        drop(last);
        let mut uploads =
            Uploads::backward(&self.device, &self.shape, adapters.config(), &batch.spans)?;
        for block in self.blocks.iter().rev() {
            let Some(kept) = rest.pop() else { break };
            if let Some(next) = rest.last_mut() {
                next.prefetch()?;
            }
            let saved = block.run(&pass, kept)?;
            dx = block.backward(&pass, saved, dx, grads)?;
            uploads.after_block()?;
            self.keep_pace(batch)?;
        }
        Ok(loss)
    }

    fn loss_and_grad(&self, batch: &Batch, last: &Tensor, scale: f64) -> Result<(Loss, Tensor)> {
        if batch.rows.is_empty() {
            return Ok((Loss::default(), last.zeros_like()?));
        }
        let ids = Tensor::new(batch.rows.as_slice(), &self.device)?;
        let picked = self.backend.gather_rows(last, &ids)?;
        let (hidden, rstd) = self.normalized(&picked)?;
        let result = output::loss(
            &*self.backend,
            &hidden,
            self.output(),
            &batch.targets,
            Some(scale),
            &self.stop,
        )?;
        let grad = result.grad.ok_or_else(|| Error::NoGradient {
            tensors: "the last hidden state".into(),
        })?;
        let dpicked = self
            .norm
            .backward(&*self.backend, &grad, &picked, &rstd, None)?;
        Ok((
            result.sum,
            self.backend.scatter_rows(&dpicked, &ids, last.dim(0)?)?,
        ))
    }

    /// Hidden states after the last block, keeping nothing.
    fn hidden(&self, batch: &Batch, adapters: &Adapters) -> Result<Tensor> {
        let pass = self.pass(adapters, &batch.ids, &batch.spans, None)?;
        let mut x = self.embed(&batch.ids)?;
        let mut uploads = Uploads::forward(&self.device, &self.shape, None, &batch.spans)?;
        for block in &self.blocks {
            x = block.finish(&pass, &block.run(&pass, x.into())?)?;
            uploads.after_block()?;
            self.keep_pace(batch)?;
        }
        Ok(x)
    }

    /// See [`LONG`].
    fn keep_pace(&self, batch: &Batch) -> Result<()> {
        if self.backend.properties().runs_behind && batch.tokens() >= LONG {
            self.device.synchronize()?;
        }
        Ok(())
    }

    /// The first part of the model whose output for `batch` has a number that is not finite.
    pub(crate) fn origin(&self, batch: &Batch, adapters: &Adapters) -> Result<String> {
        let pass = self.pass(adapters, &batch.ids, &batch.spans, None)?;
        let mut x = self.embed(&batch.ids)?;
        if !is_finite(&x)? {
            return Ok("the embedding".into());
        }
        for block in &self.blocks {
            x = block.finish(&pass, &block.run(&pass, x.into())?)?;
            if !is_finite(&x)? {
                return Ok(format!("block {}", block.index));
            }
        }
        Ok("the output layer".into())
    }

    /// Loss of the batch, summed in nats, without dropout and without gradients; found on a thread
    /// of the pool, as a training step is.
    pub fn loss(&self, batch: &Batch, adapters: &Adapters) -> Result<f64> {
        rayon::scope(|_| metal::autoreleased(|| self.loss_on_this_thread(batch, adapters)))
    }

    fn loss_on_this_thread(&self, batch: &Batch, adapters: &Adapters) -> Result<f64> {
        if batch.rows.is_empty() {
            return Ok(0.0);
        }
        let ids = Tensor::new(batch.rows.as_slice(), &self.device)?;
        let picked = self
            .backend
            .gather_rows(&self.hidden(batch, adapters)?, &ids)?;
        let (hidden, _) = self.normalized(&picked)?;
        Ok(output::loss(
            &*self.backend,
            &hidden,
            self.output(),
            &batch.targets,
            None,
            &self.stop,
        )?
        .sum
        .value()?)
    }

    /// Logits [M, V] of every row in `f32`: for comparing with other programs.
    pub fn logits(&self, batch: &Batch, adapters: &Adapters) -> Result<Tensor> {
        let (hidden, _) = self.normalized(&self.hidden(batch, adapters)?)?;
        self.project(hidden)
    }

    /// Logits [V] after the last of `ids`, which follow the tokens in `cache`; `cache` grows.
    pub fn extend(
        &self,
        ids: &[u32],
        adapters: &Adapters,
        cache: &mut Vec<Option<LayerCache>>,
    ) -> Result<Tensor> {
        cache.resize(self.blocks.len(), None);
        let past = cache
            .first()
            .and_then(Option::as_ref)
            .map_or(0, |c| c.k.dims()[0]);
        let spans = [Span {
            q: 0..ids.len(),
            k: 0..past + ids.len(),
        }];
        let (tokens, positions) = (past + ids.len(), self.positions_after(past));
        if past > 0 && tokens > positions {
            return Err(Error::Positions { tokens, positions });
        }
        let pass = self.pass(adapters, ids, &spans, None)?;
        let mut x = self.embed(ids)?;
        let mut uploads = Uploads::forward(&self.device, &self.shape, None, &spans)?;
        for (block, layer) in self.blocks.iter().zip(cache) {
            x = block.extend(&pass, &x, layer)?;
            uploads.after_block()?;
        }
        let last = x.narrow(0, ids.len() - 1, 1)?.contiguous()?;
        let (hidden, _) = self.normalized(&last)?;
        Ok(self.project(hidden)?.squeeze(0)?)
    }
}

fn is_finite(tensor: &Tensor) -> Result<bool> {
    let values = tensor
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    Ok(values.iter().all(|value| value.is_finite()))
}
