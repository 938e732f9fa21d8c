//! The backend of reference forms.

use candle_core::{DType, Device, Tensor};

use crate::Result;
use crate::backend::operations::{AttentionGrads, AttentionOutput, Backend};
use crate::backend::reference::{
    adamw, attention, cross_entropy, dropout, glu, lora, matmul, noise, rms_norm, rope, rows,
};
use crate::host;
use crate::types::activations::Activations;
use crate::types::adamw::{Moments, Norm, Parameter};
use crate::types::attention::{AttentionSaved, AttentionShape};
use crate::types::dropout::DropoutKey;
use crate::types::forms::{Form, Forms, Operation};
use crate::types::glu::GateFunction;
use crate::types::lora::{LoraBackwardInput, LoraInput};
use crate::types::loss::{Head, Loss, LossAndGrad};
use crate::types::matmul::{MatmulBackend, Term};
use crate::types::matrix::Matrix;
use crate::types::nf4::Nf4Tensor;
use crate::types::norm::NormWeight;
use crate::types::offload::Offloaded;
use crate::types::rope::RopeTable;
use crate::types::sequences::{Sequences, Span};

/// candle's operations on one device.
pub(crate) struct Reference {
    device: Device,
    dtype: DType,
}

impl Reference {
    pub(crate) fn new(device: Device, dtype: DType) -> Self {
        Self { device, dtype }
    }
}

/// The form of every operation.
fn form(operation: Operation) -> Form {
    match operation {
        Operation::Lora => Form::Composed,
        Operation::Dropout | Operation::EmbeddingNoise => {
            Form::reference("masks and noise from host memory")
        }
        Operation::Quantize | Operation::AdamW8Bit => Form::reference("in host memory"),
        Operation::Attention => Form::reference("T x T scores"),
        Operation::Prefetch | Operation::Offload => Form::Unused,
        _ => Form::reference(""),
    }
}

impl Backend for Reference {
    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn matmul(&self) -> MatmulBackend {
        MatmulBackend::Dequantized
    }

    fn forms(&self) -> Forms {
        Forms::new(form)
    }

    fn attention(&self) -> Option<String> {
        None
    }

    fn sequences(&self, spans: &[Span]) -> Result<Sequences> {
        Sequences::new(spans)
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
        rows::split_columns(x, widths)
    }

    fn join_columns(&self, parts: &[&Tensor]) -> Result<Tensor> {
        rows::join_columns(parts)
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        a + b
    }

    fn concat(&self, tensors: &[&Tensor]) -> Result<Tensor> {
        rows::concat(tensors)
    }

    fn cast(&self, x: &Tensor, dtype: DType) -> Result<Tensor> {
        x.to_dtype(dtype)
    }

    fn embedding_noise(
        &self,
        x: &Tensor,
        alpha: f64,
        spans: &[Span],
        key: &DropoutKey,
    ) -> Result<Tensor> {
        noise::add(x, alpha, spans, key)
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
        rope::forward(table, x, sequences)
    }

    fn rope_backward(
        &self,
        table: &RopeTable,
        dy: &Tensor,
        sequences: &Sequences,
    ) -> Result<Tensor> {
        rope::backward(table, dy, sequences)
    }

    fn attention_forward(
        &self,
        qkv: (&Tensor, &Tensor, &Tensor),
        shape: &AttentionShape,
        sequences: &Sequences,
    ) -> Result<AttentionOutput> {
        attention::forward(qkv, shape, sequences.spans())
    }

    fn attention_backward(
        &self,
        d_o: &Tensor,
        saved: &AttentionSaved<'_>,
        shape: &AttentionShape,
        sequences: &Sequences,
    ) -> Result<AttentionGrads> {
        attention::backward(d_o, saved, shape, sequences.spans())
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
        let (dg, dup) = glu::backward(gate, dh.tensor()?, g.tensor()?, up.tensor()?)?;
        Ok((dg.into(), dup.into()))
    }

    fn glu_backward_over(
        &self,
        gate: GateFunction,
        dh: Activations,
        g: &Activations,
        up: &Activations,
    ) -> Result<(Activations, Activations)> {
        self.glu_backward(gate, &dh, g, up)
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
        lora::forward(self, x, adapters)
    }

    fn lora_backward(
        &self,
        x: &Activations,
        adapters: &[LoraBackwardInput<'_>],
    ) -> Result<(Vec<Tensor>, Option<Tensor>)> {
        lora::backward(self, x, adapters)
    }

    fn quantize(&self, matrix: &Tensor, block: usize, double: bool) -> Result<Nf4Tensor> {
        host::nf4::quantize_matrix(matrix, block, double, &self.device)
    }

    fn dequantize(&self, matrix: &dyn Matrix, dtype: DType) -> Result<Tensor> {
        matmul::dequantize(matrix, dtype)
    }

    fn prefetch(&self, _: &dyn Matrix) -> Result<()> {
        Ok(())
    }

    fn matmul_forward(&self, terms: &[Term<'_>], base: Option<&Tensor>) -> Result<Tensor> {
        matmul::forward(terms, base, &matmul::dequantize)
    }

    fn matmul_forward_on(&self, terms: &[Term<'_>]) -> Result<Activations> {
        Ok(self.matmul_forward(terms, None)?.into())
    }

    fn matmul_backward(&self, terms: &[Term<'_>], base: Option<&Tensor>) -> Result<Tensor> {
        matmul::backward(terms, base, &matmul::dequantize)
    }

    fn matmul_backward_on(&self, terms: &[Term<'_>]) -> Result<Activations> {
        Ok(self.matmul_backward(terms, None)?.into())
    }

    fn weight_gradient(&self, a: &Activations, b: &Activations, scale: f64) -> Result<Tensor> {
        matmul::weight_gradient(a, b, scale, &|terms| self.matmul_backward(terms, None))
    }

    fn logits(&self, hidden: &Activations, head: Head<'_>) -> Result<Tensor> {
        cross_entropy::logits(self, hidden, head)
    }

    fn cross_entropy(
        &self,
        hidden: &Tensor,
        head: Head<'_>,
        targets: &[u32],
        grad_scale: Option<f64>,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<LossAndGrad>> {
        cross_entropy::in_chunks(self, hidden, head, targets, grad_scale, goes_on)
    }

    fn cross_entropy_of_logits(
        &self,
        logits: &Tensor,
        cap: Option<f32>,
        targets: &[u32],
        grad_scale: Option<f64>,
    ) -> Result<(Loss, Option<Activations>)> {
        cross_entropy::of_logits(logits, cap, targets, grad_scale)
    }

    fn grad_norm(&self, tensors: &[&Tensor]) -> Result<Norm> {
        adamw::norm(tensors)
    }

    fn adamw(
        &self,
        parameters: &[Parameter<'_>],
        norm: &Norm,
        max_norm: f64,
    ) -> Result<Vec<(Tensor, Moments)>> {
        adamw::update(parameters, norm, max_norm)
    }

    fn offload(&self, x: &Tensor) -> Result<Offloaded> {
        Ok(x.clone().into())
    }
}
