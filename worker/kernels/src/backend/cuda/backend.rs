//! The backend of a GPU of CUDA: which launch each operation takes.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, TensorId};
use parking_lot::Mutex;

use super::buffer::{device_of, unwritten};
use super::choice::{Chosen, choose};
#[cfg(feature = "cudnn")]
use super::cudnn::{self, Cudnn, Packed};
use super::forms::form;
use super::matmul::{self, Onto, product};
use super::nccl::{self, NcclError};
use super::nf4::{self, NF4_RUN};
use super::offload::CudaTransfer;
use super::plans::Kind;
use super::prefetch::Prefetched;
use super::tiles::Tiles;
use super::{
    adamw, attention, columns, cross_entropy, dropout, glu, lora, memory, modules, rms_norm, rope,
    rows,
};
use crate::Result;
use crate::backend::operations::{AttentionGrads, AttentionOutput, Backend, Communicator};
use crate::backend::reference;
use crate::host;
use crate::types::activations::Activations;
use crate::types::adamw::{Moments, Norm, Parameter};
use crate::types::attention::{AttentionSaved, AttentionShape};
use crate::types::dropout::DropoutKey;
use crate::types::forms::Forms;
use crate::types::glu::GateFunction;
use crate::types::lora::{LoraBackwardInput, LoraInput};
use crate::types::loss::{Head, Loss, LossAndGrad};
use crate::types::matmul::{MatmulBackend, Term};
use crate::types::matrix::{Matrix, Stored};
use crate::types::nf4::{Nf4Scales, Nf4Tensor};
use crate::types::norm::NormWeight;
use crate::types::offload::{Offloaded, Transfer};
use crate::types::options::{Compute, Options};
use crate::types::rope::RopeTable;
use crate::types::sequences::{Sequences, Span};

/// A GPU, with activations in bf16.
pub(crate) struct Cuda {
    device: Device,
    options: Options,
    attention: Chosen,
    /// Whether cuBLASLt multiplies.
    is_bf16: bool,
    /// Matrices that are being dequantized, by the tensor of their codes.
    prefetched: Mutex<HashMap<TensorId, Prefetched>>,
}

/// What a pass reads besides its spans.
struct Tables {
    tiles: Tiles,
    /// The sequences as cuDNN reads them, where it computes their attention.
    #[cfg(feature = "cudnn")]
    packed: Option<Packed>,
}

impl Cuda {
    /// # Errors
    /// The attention that is asked for cannot be had.
    pub(crate) fn open(device: &Device, options: &Options) -> Result<Self> {
        let attention = match &options.attention {
            Some(attention) => choose(device, attention)?,
            None => Chosen::Own {
                reason: "a repeated step is bit-identical".into(),
            },
        };
        Ok(Self {
            device: device.clone(),
            options: *options,
            attention,
            is_bf16: options.compute != Compute::F32,
            prefetched: Mutex::default(),
        })
    }

    /// The sequences as cuDNN reads them, where it takes them.
    #[cfg(feature = "cudnn")]
    fn packed(&self, spans: &[Span]) -> Result<Option<Packed>> {
        match (&self.attention, &self.options.attention) {
            (Chosen::Cudnn { .. }, Some(options)) => {
                Packed::new(spans, &options.shape, &self.device)
            }
            _ => Ok(None),
        }
    }

    /// cuDNN and the sequences, where it computes a layer of this shape.
    #[cfg(feature = "cudnn")]
    fn by_cudnn<'a>(
        &'a self,
        tables: &'a Tables,
        shape: &AttentionShape,
    ) -> Result<Option<(&'a Cudnn, &'a Packed)>> {
        match (&self.attention, &tables.packed) {
            (Chosen::Cudnn { cudnn, .. }, Some(packed)) => {
                let takes = packed.takes(cudnn, shape)?;
                Ok(takes.then_some((&**cudnn, packed)))
            }
            _ => Ok(None),
        }
    }

    fn cast_to_bf16(x: &Tensor) -> Result<Tensor> {
        match x.dtype() {
            DType::F32 => rows::to_bf16(&x.contiguous()?),
            _ => x.to_dtype(DType::BF16),
        }
    }

    fn dequantized_nf4(&self, matrix: &Nf4Tensor, dtype: DType) -> Result<Tensor> {
        if dtype != DType::BF16 || !has_kernel(matrix) {
            return reference::nf4::dequantize(matrix, dtype);
        }
        let prefetched = self.prefetched.lock().remove(&matrix.packed().id());
        prefetched.map_or_else(|| nf4::dequantize(matrix), Prefetched::take)
    }
}

/// Whether NF4 is dequantized to bf16 by our kernel: blocks are whole runs of a thread.
fn has_kernel(matrix: &Nf4Tensor) -> bool {
    matrix.block().is_multiple_of(NF4_RUN)
}

impl Backend for Cuda {
    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        DType::BF16
    }

    fn matmul(&self) -> MatmulBackend {
        if self.is_bf16 {
            MatmulBackend::CublasLt
        } else {
            MatmulBackend::Dequantized
        }
    }

    fn forms(&self) -> Forms {
        let (attention, lora) = (&self.attention, self.options.lora);
        Forms::new(|operation| form(operation, attention, lora, self.is_bf16))
    }

    fn attention(&self) -> Option<String> {
        Some(self.attention.to_string())
    }

    fn peak_bytes(&self) -> Result<Option<u64>> {
        memory::peak(&self.device).map(Some)
    }

    fn forget_peak(&self) -> Result<()> {
        memory::forget_peak(&self.device)
    }

    fn available_bytes(&self) -> Result<Option<u64>> {
        memory::available(&self.device).map(Some)
    }

    fn replaced_kernels(&self) -> Vec<&'static str> {
        modules::replaced()
    }

    fn invite(&self) -> std::result::Result<Vec<u8>, String> {
        nccl::invite().map_err(|e| format!("has no NCCL ({e})"))
    }

    fn join(
        &self,
        invitation: &[u8],
        rank: usize,
        size: usize,
    ) -> std::result::Result<Box<dyn Communicator>, String> {
        match nccl::Group::join(invitation, rank, size, &self.device) {
            Ok(group) => Ok(Box::new(group)),
            Err(e) => Err(e.to_string()),
        }
    }

    fn sequences(&self, spans: &[Span]) -> Result<Sequences> {
        let sequences = Sequences::new(spans)?;
        let tables = Tables {
            tiles: Tiles::new(spans, sequences.positions(), &self.device)?,
            #[cfg(feature = "cudnn")]
            packed: self.packed(spans)?,
        };
        Ok(sequences.with_tables(tables))
    }

    fn gather_rows(&self, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
        rows::gather(table, ids)
    }

    fn scatter_rows(&self, rows: &Tensor, ids: &Tensor, m: usize) -> Result<Tensor> {
        rows::scatter(rows, ids, m)
    }

    fn append_rows(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        rows::append(a, b)
    }

    fn split_columns(&self, x: &Tensor, widths: &[usize]) -> Result<Vec<Tensor>> {
        columns::split(x, widths)
    }

    fn join_columns(&self, parts: &[&Tensor]) -> Result<Tensor> {
        columns::join(parts)
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        rows::add(a, b)
    }

    fn concat(&self, tensors: &[&Tensor]) -> Result<Tensor> {
        rows::join(tensors, 0)
    }

    fn cast(&self, x: &Tensor, dtype: DType) -> Result<Tensor> {
        if dtype == DType::BF16 {
            Self::cast_to_bf16(x)
        } else {
            x.to_dtype(dtype)
        }
    }

    fn embedding_noise(
        &self,
        x: &Tensor,
        alpha: f64,
        spans: &[Span],
        key: &DropoutKey,
    ) -> Result<Tensor> {
        reference::noise::add(x, alpha, spans, key)
    }

    fn affine(&self, x: &Tensor, scale: f64, bias: Option<&Tensor>) -> Result<Tensor> {
        rows::affine(x, scale, bias)
    }

    fn rms_norm_forward(
        &self,
        x: &Tensor,
        w: NormWeight<'_>,
        epsilon: f64,
    ) -> Result<(Tensor, Tensor)> {
        rms_norm::forward(x, w, epsilon)
    }

    fn rms_norm_forward_on(
        &self,
        x: &Tensor,
        w: NormWeight<'_>,
        epsilon: f64,
    ) -> Result<(Activations, Tensor)> {
        let (y, rstd) = rms_norm::forward(x, w, epsilon)?;
        Ok((y.into(), rstd))
    }

    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        w: NormWeight<'_>,
        rstd: &Tensor,
        base: Option<&Tensor>,
    ) -> Result<Tensor> {
        rms_norm::backward(dy, x, w, rstd, base)
    }

    fn rope_forward(&self, table: &RopeTable, x: &Tensor, sequences: &Sequences) -> Result<Tensor> {
        let positions = &sequences.tables::<Tables>()?.tiles.positions;
        rope::turn(table, x, positions, 1.0)
    }

    fn rope_backward(
        &self,
        table: &RopeTable,
        dy: &Tensor,
        sequences: &Sequences,
    ) -> Result<Tensor> {
        let positions = &sequences.tables::<Tables>()?.tiles.positions;
        rope::turn(table, dy, positions, -1.0)
    }

    fn attention_forward(
        &self,
        qkv: (&Tensor, &Tensor, &Tensor),
        shape: &AttentionShape,
        sequences: &Sequences,
    ) -> Result<AttentionOutput> {
        let tables = sequences.tables::<Tables>()?;
        #[cfg(feature = "cudnn")]
        if let Some((cudnn, packed)) = self.by_cudnn(tables, shape)? {
            return cudnn::forward(cudnn, qkv, shape, packed);
        }
        match &self.attention {
            Chosen::Reference { .. } => {
                reference::attention::forward(qkv, shape, sequences.spans())
            }
            _ => attention::forward(qkv, shape, &tables.tiles),
        }
    }

    fn attention_backward(
        &self,
        d_o: &Tensor,
        saved: &AttentionSaved<'_>,
        shape: &AttentionShape,
        sequences: &Sequences,
    ) -> Result<AttentionGrads> {
        let tables = sequences.tables::<Tables>()?;
        #[cfg(feature = "cudnn")]
        if let Some((cudnn, packed)) = self.by_cudnn(tables, shape)? {
            return cudnn::backward(cudnn, d_o, saved, shape, packed);
        }
        match &self.attention {
            Chosen::Reference { .. } => {
                reference::attention::backward(d_o, saved, shape, sequences.spans())
            }
            _ => attention::backward(d_o, saved, shape, &tables.tiles),
        }
    }

    fn glu_forward(
        &self,
        gate: GateFunction,
        g: &Activations,
        up: &Activations,
    ) -> Result<Activations> {
        Ok(glu::forward(gate, g.tensor()?, up.tensor()?)?.into())
    }

    fn glu_backward(
        &self,
        gate: GateFunction,
        dh: &Activations,
        g: &Activations,
        up: &Activations,
    ) -> Result<(Activations, Activations)> {
        let dh = dh.tensor()?;
        let dup = unwritten(dh.dims2()?, DType::BF16, &device_of(dh)?)?;
        let dg = glu::backward(gate, dh, (g.tensor()?, up.tensor()?), &dup)?;
        Ok((dg.into(), dup.into()))
    }

    fn glu_backward_over(
        &self,
        gate: GateFunction,
        dh: Activations,
        g: &Activations,
        up: &Activations,
    ) -> Result<(Activations, Activations)> {
        let over = dh.tensor()?;
        let dg = glu::backward(gate, over, (g.tensor()?, up.tensor()?), over)?;
        Ok((dg.into(), dh))
    }

    fn dropout(&self, x: &Activations, key: &DropoutKey) -> Result<Activations> {
        Ok(dropout::add(x.tensor()?, key, None)?.into())
    }

    fn add_dropout(&self, x: &Tensor, key: &DropoutKey, base: Option<&Tensor>) -> Result<Tensor> {
        dropout::add(x, key, base)
    }

    fn lora_forward(
        &self,
        x: &Activations,
        adapters: &[LoraInput<'_>],
    ) -> Result<Vec<Activations>> {
        if self.is_bf16 && lora::takes(x.tensor()?, adapters)? {
            return lora::forward(x.tensor()?, adapters);
        }
        reference::lora::forward(self, x, adapters)
    }

    fn lora_backward(
        &self,
        x: &Activations,
        adapters: &[LoraBackwardInput<'_>],
    ) -> Result<(Vec<Tensor>, Option<Tensor>)> {
        let inputs: Vec<_> = adapters.iter().map(|input| input.adapter).collect();
        let are_masked = inputs.iter().all(|input| input.mask.is_some());
        if self.is_bf16 && are_masked && lora::takes(x.tensor()?, &inputs)? {
            return lora::backward(x.tensor()?, adapters);
        }
        reference::lora::backward(self, x, adapters)
    }

    /// The mean of the scales, which second-level scales are of, is found on the CPU: its order is
    /// part of what bitsandbytes writes.
    fn quantize(&self, matrix: &Tensor, block: usize, double: bool) -> Result<Nf4Tensor> {
        if !(matches!(matrix.dtype(), DType::BF16 | DType::F32) && block.is_multiple_of(2)) {
            return host::nf4::quantize_matrix(matrix, block, double, &self.device);
        }
        let (packed, absmax) = nf4::quantize(&matrix.to_device(&self.device)?, block)?;
        let scales = if double {
            host::nf4::nest(&absmax.to_vec1::<f32>()?).to_device(&self.device)?
        } else {
            Nf4Scales::Plain(absmax)
        };
        Nf4Tensor::assembled(packed, scales, matrix.dims2()?, block)
    }

    fn dequantize(&self, matrix: &dyn Matrix, dtype: DType) -> Result<Tensor> {
        match matrix.stored() {
            Stored::Floats(tensor) => self.cast(tensor, dtype),
            Stored::Activations(rows) => self.cast(rows.tensor()?, dtype),
            Stored::Nf4(matrix) => self.dequantized_nf4(matrix, dtype),
            Stored::Blocks(blocks) => blocks.dequantize(dtype),
        }
    }

    fn prefetch(&self, matrix: &dyn Matrix) -> Result<()> {
        let Stored::Nf4(matrix) = matrix.stored() else {
            return Ok(());
        };
        let (mut prefetched, id) = (self.prefetched.lock(), matrix.packed().id());
        if has_kernel(matrix) && !prefetched.contains_key(&id) {
            prefetched.insert(id, Prefetched::begin(matrix)?);
        }
        Ok(())
    }

    fn matmul_forward(&self, terms: &[Term<'_>], base: Option<&Tensor>) -> Result<Tensor> {
        let dequantize = |matrix: &dyn Matrix, dtype| self.dequantize(matrix, dtype);
        if self.is_bf16 {
            return matmul::forward(terms, base, &dequantize);
        }
        reference::matmul::forward(terms, base, &dequantize)
    }

    fn matmul_forward_on(&self, terms: &[Term<'_>]) -> Result<Activations> {
        Ok(self.matmul_forward(terms, None)?.into())
    }

    fn matmul_backward(&self, terms: &[Term<'_>], base: Option<&Tensor>) -> Result<Tensor> {
        let dequantize = |matrix: &dyn Matrix, dtype| self.dequantize(matrix, dtype);
        if self.is_bf16 {
            return matmul::backward(terms, base, &dequantize, &|matrix| self.prefetch(matrix));
        }
        reference::matmul::backward(terms, base, &dequantize)
    }

    fn matmul_backward_on(&self, terms: &[Term<'_>]) -> Result<Activations> {
        Ok(self.matmul_backward(terms, None)?.into())
    }

    fn weight_gradient(&self, a: &Activations, b: &Activations, scale: f64) -> Result<Tensor> {
        if self.is_bf16 {
            return product(
                Kind::Outer,
                a.tensor()?,
                b.tensor()?,
                scale as f32,
                Onto::Nothing,
                DType::F32,
            );
        }
        reference::matmul::weight_gradient(a, b, scale, &|terms| self.matmul_backward(terms, None))
    }

    fn logits(&self, hidden: &Activations, head: Head<'_>) -> Result<Tensor> {
        if !self.is_bf16 {
            return reference::cross_entropy::logits(self, hidden, head);
        }
        let weight = self.dequantize(head.weight, DType::BF16)?;
        cross_entropy::logits(hidden.tensor()?, head, &weight)
    }

    fn cross_entropy(
        &self,
        hidden: &Tensor,
        head: Head<'_>,
        targets: &[u32],
        grad_scale: Option<f64>,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<LossAndGrad>> {
        if !self.is_bf16 {
            return reference::cross_entropy::in_chunks(
                self, hidden, head, targets, grad_scale, goes_on,
            );
        }
        if !goes_on() {
            return Ok(None);
        }
        let weight = self.dequantize(head.weight, DType::BF16)?;
        cross_entropy::forward_backward(hidden, head, &weight, targets, grad_scale).map(Some)
    }

    fn cross_entropy_of_logits(
        &self,
        logits: &Tensor,
        cap: Option<f32>,
        targets: &[u32],
        grad_scale: Option<f64>,
    ) -> Result<(Loss, Option<Activations>)> {
        if !self.is_bf16 {
            return reference::cross_entropy::of_logits(logits, cap, targets, grad_scale);
        }
        let (losses, grad) = cross_entropy::loss_and_grad(logits, cap, targets, grad_scale)?;
        Ok((vec![losses].into(), grad.map(Activations::from)))
    }

    fn grad_norm(&self, tensors: &[&Tensor]) -> Result<Norm> {
        if tensors.is_empty() {
            return Ok(Norm::Known(0.0));
        }
        let whole = tensors
            .iter()
            .map(|tensor| tensor.contiguous())
            .collect::<Result<Vec<_>>>()?;
        Ok(Norm::OnDevice(adamw::norm(
            &whole.iter().collect::<Vec<_>>(),
        )?))
    }

    fn adamw(
        &self,
        parameters: &[Parameter<'_>],
        norm: &Norm,
        max_norm: f64,
    ) -> Result<Vec<(Tensor, Moments)>> {
        match norm {
            Norm::OnDevice(norm) => adamw::update(parameters, norm, max_norm),
            Norm::Known(norm) => adamw::update(
                parameters,
                &Tensor::new(&[*norm as f32], &self.device)?,
                max_norm,
            ),
        }
    }

    fn offload(&self, x: &Tensor) -> Result<Offloaded> {
        let transfer: Box<dyn Transfer> = Box::new(CudaTransfer::offload(x)?);
        Ok(transfer.into())
    }
}

impl Communicator for nccl::Group {
    fn sum(&mut self, vector: &Tensor) -> std::result::Result<Tensor, String> {
        nccl::Group::sum(self, vector).map_err(|e: NcclError| e.to_string())
    }
}
