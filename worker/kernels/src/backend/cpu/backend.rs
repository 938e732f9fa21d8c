//! The backend of a CPU: which kernel each operation takes.

use candle_core::{DType, Device, Tensor};

use crate::Result;
use crate::backend::cpu::attention;
use crate::backend::cpu::attention::heads::BackwardInputs;
use crate::backend::cpu::bf16::peak;
use crate::backend::cpu::products::{Direction, sum, sum_rows};
use crate::backend::cpu::{cross_entropy, glu, math, rms_norm, rope};
use crate::backend::operations::{AttentionGrads, AttentionOutput, Backend};
use crate::backend::reference;
use crate::host;
use crate::host::view::{bytes, tensor, unwritten, view};
use crate::types::activations::Activations;
use crate::types::adamw::{Moments, Norm, Parameter, clip_factor};
use crate::types::attention::{AttentionSaved, AttentionShape};
use crate::types::dropout::DropoutKey;
use crate::types::forms::{Form, Forms, Operation};
use crate::types::glu::GateFunction;
use crate::types::instructions::Instructions;
use crate::types::lora::{LoraBackwardInput, LoraInput};
use crate::types::loss::{Head, Loss, LossAndGrad};
use crate::types::matmul::{MatmulBackend, Term};
use crate::types::matrix::{Matrix, Stored};
use crate::types::nf4::Nf4Tensor;
use crate::types::norm::NormWeight;
use crate::types::offload::Offloaded;
use crate::types::options::Compute;
use crate::types::rope::RopeTable;
use crate::types::sequences::{Sequences, Span};

/// A CPU, with activations in `f32`.
pub(crate) struct Cpu {
    /// Of products in bf16; none where products are in `f32`.
    instructions: Option<Instructions>,
}

impl Cpu {
    pub(crate) fn new(compute: Compute) -> Self {
        let best = Instructions::best();
        let takes_bf16 = match compute {
            Compute::Auto => best.are_fast(),
            Compute::Bf16 => true,
            Compute::F32 => false,
        };
        Self {
            instructions: takes_bf16.then_some(best),
        }
    }

    /// With products on the given instructions, which the CPU has.
    pub(crate) fn on(instructions: Instructions) -> Self {
        Self {
            instructions: Some(instructions),
        }
    }

    fn form(&self, operation: Operation) -> Form {
        let products = match self.instructions {
            Some(instructions) => Form::native(instructions.words()),
            None => Form::reference("in f32"),
        };
        match operation {
            Operation::Matmul => products,
            Operation::Attention => Form::native(match self.instructions {
                Some(instructions) => instructions.words(),
                None => "f32 kernels",
            }),
            Operation::CrossEntropy => match self.instructions {
                Some(_) => Form::native("f32 kernels (in chunks of rows, around the matmul)"),
                None => Form::reference(
                    "in f32, in chunks of rows around the matmul; losses without gradients: f32 kernels",
                ),
            },
            Operation::Dequantize => {
                Form::native("f32 kernels (NF4; reference of GGUF blocks and floats)")
            }
            Operation::Rows
            | Operation::Add
            | Operation::Concat
            | Operation::Cast
            | Operation::Affine
            | Operation::GradNorm => Form::reference(""),
            Operation::EmbeddingNoise => Form::reference(""),
            Operation::Lora => Form::Composed,
            Operation::Prefetch | Operation::Offload => Form::Unused,
            Operation::RmsNorm
            | Operation::Rope
            | Operation::Glu
            | Operation::Dropout
            | Operation::Quantize
            | Operation::AdamW
            | Operation::AdamW8Bit => Form::native("f32 kernels"),
        }
    }
}

impl Backend for Cpu {
    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn matmul(&self) -> MatmulBackend {
        self.instructions
            .map_or(MatmulBackend::Dequantized, MatmulBackend::Panels)
    }

    fn forms(&self) -> Forms {
        Forms::new(|operation| self.form(operation))
    }

    fn peak_operations_per_second(&self) -> Option<f64> {
        self.instructions.and_then(peak::rate)
    }

    fn attention(&self) -> Option<String> {
        None
    }

    fn sequences(&self, spans: &[Span]) -> Result<Sequences> {
        Sequences::new(spans)
    }

    fn gather_rows(&self, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
        reference::rows::gather(table, ids)
    }

    fn scatter_rows(&self, rows: &Tensor, ids: &Tensor, m: usize) -> Result<Tensor> {
        reference::rows::scatter(rows, ids, m)
    }

    fn append_rows(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        reference::rows::append(a, b)
    }

    fn split_columns(&self, x: &Tensor, widths: &[usize]) -> Result<Vec<Tensor>> {
        reference::rows::split_columns(x, widths)
    }

    fn join_columns(&self, parts: &[&Tensor]) -> Result<Tensor> {
        reference::rows::join_columns(parts)
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        a + b
    }

    fn concat(&self, tensors: &[&Tensor]) -> Result<Tensor> {
        reference::rows::concat(tensors)
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
        reference::noise::add(x, alpha, spans, key)
    }

    fn affine(&self, x: &Tensor, scale: f64, bias: Option<&Tensor>) -> Result<Tensor> {
        reference::rows::affine(x, scale, bias)
    }

    fn rms_norm_forward(
        &self,
        x: &Tensor,
        w: NormWeight<'_>,
        epsilon: f64,
    ) -> Result<(Tensor, Tensor)> {
        let (m, d) = x.dims2()?;
        let (mut y, mut rstd) = (unwritten(m * d), unwritten(m));
        let weight = view(w.weight)?;
        rms_norm::forward(
            &view(x)?,
            factor(&weight, w),
            epsilon as f32,
            &mut y,
            &mut rstd,
        );
        Ok((tensor(y, (m, d))?, tensor(rstd, (m, 1))?))
    }

    fn rms_norm_forward_on(
        &self,
        x: &Tensor,
        w: NormWeight<'_>,
        epsilon: f64,
    ) -> Result<(Activations, Tensor)> {
        if self.instructions.is_none() {
            let (y, rstd) = self.rms_norm_forward(x, w, epsilon)?;
            return Ok((y.into(), rstd));
        }
        let m = x.dim(0)?;
        let mut rstd = unwritten(m);
        let weight = view(w.weight)?;
        let y = rms_norm::forward_rows(&view(x)?, factor(&weight, w), epsilon as f32, &mut rstd);
        Ok((y.into(), tensor(rstd, (m, 1))?))
    }

    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        w: NormWeight<'_>,
        rstd: &Tensor,
        base: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (m, d) = x.dims2()?;
        let mut dx = unwritten(m * d);
        let weight = view(w.weight)?;
        rms_norm::backward(
            &view(dy)?,
            &view(x)?,
            factor(&weight, w),
            &view(rstd)?,
            &mut dx,
        );
        if let Some(base) = base {
            math::add(&mut dx, &view(base)?);
        }
        tensor(dx, (m, d))
    }

    fn rope_forward(&self, table: &RopeTable, x: &Tensor, sequences: &Sequences) -> Result<Tensor> {
        rotate(table, x, sequences, 1.0)
    }

    fn rope_backward(
        &self,
        table: &RopeTable,
        dy: &Tensor,
        sequences: &Sequences,
    ) -> Result<Tensor> {
        rotate(table, dy, sequences, -1.0)
    }

    fn attention_forward(
        &self,
        (q, k, v): (&Tensor, &Tensor, &Tensor),
        shape: &AttentionShape,
        sequences: &Sequences,
    ) -> Result<AttentionOutput> {
        let (m, width) = q.dims2()?;
        let (mut o, mut lse) = (unwritten(m * width), unwritten(shape.heads * m));
        let (inputs, spans) = ((&*view(q)?, &*view(k)?, &*view(v)?), sequences.spans());
        match self.instructions {
            Some(how) => {
                attention::bf16::forward::forward(inputs, shape, spans, &mut o, &mut lse, how)
            }
            None => attention::f32::forward(inputs, shape, spans, &mut o, &mut lse),
        }
        Ok((tensor(o, (m, width))?, tensor(lse, (shape.heads, m))?))
    }

    fn attention_backward(
        &self,
        d_o: &Tensor,
        saved: &AttentionSaved<'_>,
        shape: &AttentionShape,
        sequences: &Sequences,
    ) -> Result<AttentionGrads> {
        let spans = sequences.spans();
        let inputs = BackwardInputs {
            d_o: &view(d_o)?,
            q: &view(saved.q)?,
            k: &view(saved.k)?,
            v: &view(saved.v)?,
            o: &view(saved.o)?,
            lse: &view(saved.lse)?,
        };
        let (dq, dk, dv) = match self.instructions {
            Some(how) => {
                let mut dq = unwritten(inputs.q.len());
                let (dk, dv) =
                    attention::bf16::backward::backward(&inputs, shape, spans, &mut dq, how);
                (dq, dk, dv)
            }
            None => attention::f32::backward(&inputs, shape, spans),
        };
        Ok((
            tensor(dq, saved.q.dims())?,
            tensor(dk, saved.k.dims())?,
            tensor(dv, saved.v.dims())?,
        ))
    }

    fn glu_forward(
        &self,
        gate: GateFunction,
        g: &Activations,
        up: &Activations,
    ) -> Result<Activations> {
        if let (Some(g), Some(up)) = (g.own_rows(), up.own_rows()) {
            return Ok(glu::forward_rows(gate, g, up).into());
        }
        let (g, up) = (g.tensor()?, up.tensor()?);
        let mut h = unwritten(g.elem_count());
        glu::forward(gate, &view(g)?, &view(up)?, &mut h);
        Ok(tensor(h, g.dims())?.into())
    }

    fn glu_backward(
        &self,
        gate: GateFunction,
        dh: &Activations,
        g: &Activations,
        up: &Activations,
    ) -> Result<(Activations, Activations)> {
        if let (Some(dh), Some(g), Some(up)) = (dh.own_rows(), g.own_rows(), up.own_rows()) {
            let (dg, dup) = glu::backward_rows(gate, dh, g, up);
            return Ok((dg.into(), dup.into()));
        }
        let (dh, g, up) = (dh.tensor()?, g.tensor()?, up.tensor()?);
        let n = g.elem_count();
        let (mut dg, mut dup) = (unwritten(n), unwritten(n));
        let inputs = (&*view(dh)?, &*view(g)?, &*view(up)?);
        glu::backward(gate, inputs, &mut dg, &mut dup);
        Ok((tensor(dg, g.dims())?.into(), tensor(dup, g.dims())?.into()))
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
        match x.own_rows() {
            Some(rows) => Ok(host::dropout::apply_rows(rows, key).into()),
            None => Ok(self.add_dropout(x.tensor()?, key, None)?.into()),
        }
    }

    fn add_dropout(&self, x: &Tensor, key: &DropoutKey, base: Option<&Tensor>) -> Result<Tensor> {
        let (m, d) = x.dims2()?;
        let base = base.map(view).transpose()?;
        let mut y = unwritten(m * d);
        host::dropout::apply(&view(x)?, d, key, base.as_deref(), &mut y);
        tensor(y, (m, d))
    }

    fn lora_forward(
        &self,
        x: &Activations,
        adapters: &[LoraInput<'_>],
    ) -> Result<Vec<Activations>> {
        reference::lora::forward(self, x, adapters)
    }

    fn lora_backward(
        &self,
        x: &Activations,
        adapters: &[LoraBackwardInput<'_>],
    ) -> Result<(Vec<Tensor>, Option<Tensor>)> {
        reference::lora::backward(self, x, adapters)
    }

    fn quantize(&self, matrix: &Tensor, block: usize, double: bool) -> Result<Nf4Tensor> {
        host::nf4::quantize_matrix(matrix, block, double, &Device::Cpu)
    }

    fn dequantize(&self, matrix: &dyn Matrix, dtype: DType) -> Result<Tensor> {
        dequantize(matrix, dtype)
    }

    fn prefetch(&self, _: &dyn Matrix) -> Result<()> {
        Ok(())
    }

    fn matmul_forward(&self, terms: &[Term<'_>], base: Option<&Tensor>) -> Result<Tensor> {
        match self.instructions {
            Some(instructions) => sum(terms, base, instructions, Direction::Forward),
            None => reference::matmul::forward(terms, base, &dequantize),
        }
    }

    fn matmul_forward_on(&self, terms: &[Term<'_>]) -> Result<Activations> {
        match self.instructions {
            Some(instructions) => Ok(sum_rows(terms, instructions, Direction::Forward)?.into()),
            None => Ok(self.matmul_forward(terms, None)?.into()),
        }
    }

    fn matmul_backward(&self, terms: &[Term<'_>], base: Option<&Tensor>) -> Result<Tensor> {
        match self.instructions {
            Some(instructions) => sum(terms, base, instructions, Direction::Backward),
            None => reference::matmul::backward(terms, base, &dequantize),
        }
    }

    fn matmul_backward_on(&self, terms: &[Term<'_>]) -> Result<Activations> {
        match self.instructions {
            Some(instructions) => Ok(sum_rows(terms, instructions, Direction::Backward)?.into()),
            None => Ok(self.matmul_backward(terms, None)?.into()),
        }
    }

    fn weight_gradient(&self, a: &Activations, b: &Activations, scale: f64) -> Result<Tensor> {
        reference::matmul::weight_gradient(a, b, scale, &|terms| self.matmul_backward(terms, None))
    }

    fn logits(&self, hidden: &Activations, head: Head<'_>) -> Result<Tensor> {
        reference::cross_entropy::logits(self, hidden, head)
    }

    fn cross_entropy(
        &self,
        hidden: &Tensor,
        head: Head<'_>,
        targets: &[u32],
        grad_scale: Option<f64>,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<LossAndGrad>> {
        reference::cross_entropy::in_chunks(self, hidden, head, targets, grad_scale, goes_on)
    }

    fn cross_entropy_of_logits(
        &self,
        logits: &Tensor,
        cap: Option<f32>,
        targets: &[u32],
        grad_scale: Option<f64>,
    ) -> Result<(Loss, Option<Activations>)> {
        let v = logits.dim(1)?;
        match (self.instructions, grad_scale) {
            (_, None) => Ok((
                cross_entropy::loss(&view(logits)?, cap, v, targets).into(),
                None,
            )),
            (Some(_), Some(scale)) => {
                let (loss, grad) =
                    cross_entropy::loss_and_grad(&view(logits)?, cap, v, targets, scale as f32);
                Ok((loss.into(), Some(grad.into())))
            }
            (None, Some(_)) => {
                reference::cross_entropy::of_logits(logits, cap, targets, grad_scale)
            }
        }
    }

    fn grad_norm(&self, tensors: &[&Tensor]) -> Result<Norm> {
        reference::adamw::norm(tensors)
    }

    fn adamw(
        &self,
        parameters: &[Parameter<'_>],
        norm: &Norm,
        max_norm: f64,
    ) -> Result<Vec<(Tensor, Moments)>> {
        let scale = clip_factor(norm.value()?, max_norm);
        parameters
            .iter()
            .map(|parameter| host::adamw::update_parameter(parameter, scale))
            .collect()
    }

    fn offload(&self, x: &Tensor) -> Result<Offloaded> {
        Ok(x.clone().into())
    }
}

fn factor<'a>(weight: &'a [f32], w: NormWeight<'_>) -> rms_norm::Factor<'a> {
    let offset = w.offset();
    rms_norm::Factor { weight, offset }
}

fn rotate(table: &RopeTable, x: &Tensor, sequences: &Sequences, sign: f32) -> Result<Tensor> {
    let mut y = unwritten(x.elem_count());
    let tables = (&*view(&table.cos)?, &*view(&table.sin)?);
    rope::rotate(
        &view(x)?,
        &mut y,
        sequences.positions(),
        tables,
        (table.head_dim, table.pairs()?),
        sign,
    );
    tensor(y, x.dims())
}

fn dequantize(matrix: &dyn Matrix, dtype: DType) -> Result<Tensor> {
    let Stored::Nf4(matrix) = matrix.stored() else {
        return reference::matmul::dequantize(matrix, dtype);
    };
    let ((rows, cols), absmax) = (matrix.dims(), host::nf4::absmax(matrix.scales())?);
    let mut out = vec![0f32; rows * cols];
    host::nf4::dequantize(&bytes(matrix.packed())?, &absmax, matrix.block(), &mut out);
    tensor(out, (rows, cols))?.to_dtype(dtype)
}
