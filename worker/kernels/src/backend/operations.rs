//! What every backend computes: one method an operation, the backward pass beside the forward pass.
//!
//! Shape letters are those of the crate. Matrices are row-major and in one piece. A method fails
//! with candle's error where shapes do not fit together, an element type is not one that the
//! backend takes, or the device fails; each operation is computed only by the form that
//! [`Backend::forms`] lists.

use candle_core::{DType, Device, Tensor};

use crate::Result;
use crate::backend::properties;
use crate::types::activations::Activations;
use crate::types::adamw::{Moments, Norm, Parameter};
use crate::types::attention::{AttentionSaved, AttentionShape};
use crate::types::dropout::DropoutKey;
use crate::types::forms::Forms;
use crate::types::glu::GateFunction;
use crate::types::lora::{LoraBackwardInput, LoraInput};
use crate::types::loss::{Head, Loss, LossAndGrad};
use crate::types::matmul::{MatmulBackend, Term};
use crate::types::matrix::Matrix;
use crate::types::nf4::Nf4Tensor;
use crate::types::norm::NormWeight;
use crate::types::offload::Offloaded;
use crate::types::properties::DeviceProperties;
use crate::types::rope::RopeTable;
use crate::types::sequences::{Sequences, Span};

/// O [M, H*E] and the log-sum-exp of the scores, which only the backward pass of the same backend
/// reads.
pub type AttentionOutput = (Tensor, Tensor);
/// dQ, dK and dV.
pub type AttentionGrads = (Tensor, Tensor, Tensor);

/// A GPU's place in a process group.
pub trait Communicator: Send {
    /// The sum of everyone's `vector` [n], in `f32`, the same bits for everyone.
    ///
    /// # Errors
    /// Another process is gone, or the device fails.
    fn sum(&mut self, vector: &Tensor) -> std::result::Result<Tensor, String>;
}

/// A device, and the code that computes on it.
pub trait Backend: Send + Sync {
    fn device(&self) -> &Device;

    /// What the device is like for those who feed it.
    fn properties(&self) -> DeviceProperties {
        properties::of(self.device())
    }

    /// The element type of activations.
    fn dtype(&self) -> DType;

    /// What multiplies.
    fn matmul(&self) -> MatmulBackend;

    /// What computes each operation.
    fn forms(&self) -> Forms;

    /// The attention that was chosen and why, where there was a choice.
    fn attention(&self) -> Option<String>;

    /// Floating-point operations a second that the instructions of products reach from registers, on
    /// all threads, measured when it is called; none where that is not measured.
    fn peak_operations_per_second(&self) -> Option<f64> {
        None
    }

    /// Most bytes of tensors that were on a GPU at one time since [`Self::forget_peak`]; none where
    /// it is not known.
    fn peak_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Begins a new measurement of [`Self::peak_bytes`].
    fn forget_peak(&self) -> Result<()> {
        Ok(())
    }

    /// Bytes of a GPU's memory that this program holds or may still take; none where nothing bounds
    /// them.
    fn available_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Kernel files that `QLORA_KERNELS` puts in place of the program's own.
    fn replaced_kernels(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// What the first GPU of a new process group sends to the others.
    ///
    /// # Errors
    /// The device cannot be one of a group: why.
    fn invite(&self) -> std::result::Result<Vec<u8>, String> {
        Err("has no GPU of CUDA".into())
    }

    /// Joins the process group of `invitation`; waits until all `size` have.
    ///
    /// # Errors
    /// As [`Self::invite`], or the devices cannot reach each other.
    fn join(
        &self,
        invitation: &[u8],
        rank: usize,
        size: usize,
    ) -> std::result::Result<Box<dyn Communicator>, String> {
        let _ = (invitation, rank, size);
        Err("has no GPU of CUDA".into())
    }

    /// `spans` in the form that this backend reads; their queries are the rows of a pass from the
    /// first to the last.
    fn sequences(&self, spans: &[Span]) -> Result<Sequences>;

    /// The rows `ids` [L] of `table` [V, D]; every id is below V.
    fn gather_rows(&self, table: &Tensor, ids: &Tensor) -> Result<Tensor>;

    /// A matrix of `m` rows, zero but for its rows `ids` [L], which are those of `rows` [L, D]; no
    /// id comes twice.
    fn scatter_rows(&self, rows: &Tensor, ids: &Tensor, m: usize) -> Result<Tensor>;

    /// The rows of `a` [M, D] and then those of `b` [N, D].
    fn append_rows(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>;

    /// Columns of `x` [M, N] in parts of the given `widths`, whose sum is N.
    fn split_columns(&self, x: &Tensor, widths: &[usize]) -> Result<Vec<Tensor>>;

    /// Columns of all `parts` [M, N'] side by side, [M, N].
    fn join_columns(&self, parts: &[&Tensor]) -> Result<Tensor>;

    /// `a` + `b`, of one shape and type.
    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor>;

    /// All elements of `tensors`, in `f32`, one after another.
    fn concat(&self, tensors: &[&Tensor]) -> Result<Tensor>;

    /// `x` as `dtype`.
    fn cast(&self, x: &Tensor, dtype: DType) -> Result<Tensor>;

    /// `x` [M, D] with the noise of NEFTune (Jain et al., 2023), sequence by sequence: uniform in
    /// plus or minus `alpha` / sqrt(T D), where T is the length of the sequence. A function of
    /// `key`, as dropout is.
    fn embedding_noise(
        &self,
        x: &Tensor,
        alpha: f64,
        spans: &[Span],
        key: &DropoutKey,
    ) -> Result<Tensor>;

    /// `scale` * `x` [M, D] + `bias` [D], a row for all rows. Its gradient with respect to x is
    /// itself, without the bias.
    fn affine(&self, x: &Tensor, scale: f64, bias: Option<&Tensor>) -> Result<Tensor>;

    /// `x` [M, D], the factor `w` [D] of [`NormWeight`] to `y` = `x` * rstd * `w` [M, D] and rstd = 1 / sqrt(mean(x^2) +
    /// `epsilon`) [M, 1] in `f32`.
    fn rms_norm_forward(
        &self,
        x: &Tensor,
        w: NormWeight<'_>,
        epsilon: f64,
    ) -> Result<(Tensor, Tensor)>;

    /// [`Self::rms_norm_forward`] for products: `y` in the form that they read.
    fn rms_norm_forward_on(
        &self,
        x: &Tensor,
        w: NormWeight<'_>,
        epsilon: f64,
    ) -> Result<(Activations, Tensor)>;

    /// `dy`, `x` [M, D], `w` [D], `rstd` [M, 1] to `base` + dx [M, D]. `w` is frozen and gets no
    /// gradient.
    ///
    /// With t = dy * w: dx = rstd * (t - x * rstd^2 * mean(t * x)).
    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        w: NormWeight<'_>,
        rstd: &Tensor,
        base: Option<&Tensor>,
    ) -> Result<Tensor>;

    /// Rotates every head of `x` [M, G*E], a row for each token of `sequences`.
    fn rope_forward(&self, table: &RopeTable, x: &Tensor, sequences: &Sequences) -> Result<Tensor>;

    /// The gradient of [`Self::rope_forward`]: the inverse rotation of `dy` [M, G*E].
    fn rope_backward(
        &self,
        table: &RopeTable,
        dy: &Tensor,
        sequences: &Sequences,
    ) -> Result<Tensor>;

    /// Causal attention over packed sequences with grouped heads and an optional sliding window:
    /// `q` [M, H*E] and `k`, `v` [M', K*E] to O [M, H*E] and the log-sum-exp of the scores.
    ///
    /// Sequences lie one after another in the token dimension; a token attends only within its own
    /// span.
    fn attention_forward(
        &self,
        qkv: (&Tensor, &Tensor, &Tensor),
        shape: &AttentionShape,
        sequences: &Sequences,
    ) -> Result<AttentionOutput>;

    /// Gradients (dQ, dK, dV) of `d_o` [M, H*E]; `sequences` are those of the forward pass.
    ///
    /// The probabilities are rebuilt from the log-sum-exp of each row (Dao et al., FlashAttention,
    /// 2022): P = exp(S - lse), dV = P^T dO, dP = dO V^T, dS = P * (dP - rowsum(dO * O)), dQ = dS
    /// K, dK = dS^T Q.
    fn attention_backward(
        &self,
        d_o: &Tensor,
        saved: &AttentionSaved<'_>,
        shape: &AttentionShape,
        sequences: &Sequences,
    ) -> Result<AttentionGrads>;

    /// `g`, `up` [M, F] to h = gate(g) * up [M, F], in the form that they have.
    fn glu_forward(
        &self,
        gate: GateFunction,
        g: &Activations,
        up: &Activations,
    ) -> Result<Activations>;

    /// `dh`, `g`, `up` [M, F] to (dg, dup), in the form that they have.
    ///
    /// With the z of [`GateFunction`] and s = sigmoid(z): dup = dh * g * s;
    /// dg = dh * up * s * (1 + g * (1 - s) * dz/dg).
    fn glu_backward(
        &self,
        gate: GateFunction,
        dh: &Activations,
        g: &Activations,
        up: &Activations,
    ) -> Result<(Activations, Activations)>;

    /// [`Self::glu_backward`] of a `dh` that nothing else holds: where memory is scarce dup is
    /// written over it.
    fn glu_backward_over(
        &self,
        gate: GateFunction,
        dh: Activations,
        g: &Activations,
        up: &Activations,
    ) -> Result<(Activations, Activations)>;

    /// `mask * x / (1 - p)` for `x` [M, D], in the form that it has; its own backward pass when
    /// applied to the gradient.
    fn dropout(&self, x: &Activations, key: &DropoutKey) -> Result<Activations>;

    /// `base` + `mask * x / (1 - p)`; see [`Self::dropout`].
    fn add_dropout(&self, x: &Tensor, key: &DropoutKey, base: Option<&Tensor>) -> Result<Tensor>;

    /// u = c (m o x) A^T [M, R] of each adapter that shares the input `x` [M, K], where m is its
    /// dropout mask and c = 1 / (1 - p).
    fn lora_forward(&self, x: &Activations, adapters: &[LoraInput<'_>])
    -> Result<Vec<Activations>>;

    /// dA = c du^T (m o x) [R, K] of each adapter in `f32`, from its du [M, R]; and the sum of c m
    /// o (du A) [M, K] over those with a mask. The others' du A goes into dx as a product.
    fn lora_backward(
        &self,
        x: &Activations,
        adapters: &[LoraBackwardInput<'_>],
    ) -> Result<(Vec<Tensor>, Option<Tensor>)>;

    /// Quantizes a matrix of floats in host memory to NF4 on the device, in blocks of `block`
    /// elements; `double` quantizes the scales too.
    fn quantize(&self, matrix: &Tensor, block: usize, double: bool) -> Result<Nf4Tensor>;

    /// `matrix` [N, K] as `dtype`: of NF4 table value x scale in `f32`, then one rounding.
    fn dequantize(&self, matrix: &dyn Matrix, dtype: DType) -> Result<Tensor>;

    /// Begins to dequantize `matrix` to bf16 for a product to come, beside those that come before,
    /// where a device can.
    fn prefetch(&self, matrix: &dyn Matrix) -> Result<()>;

    /// `base` plus the sum of `scale x w^T` over `terms`, [M, N]; `x` [M, K], `w` [N, K] with a K
    /// of its own for each.
    fn matmul_forward(&self, terms: &[Term<'_>], base: Option<&Tensor>) -> Result<Tensor>;

    /// [`Self::matmul_forward`] for a result that goes on to other products, in the form that they
    /// read.
    fn matmul_forward_on(&self, terms: &[Term<'_>]) -> Result<Activations>;

    /// `base` plus the sum of `scale x w` over `terms`, [M, K]; `x` [M, N], `w` [N, K] with an N of
    /// its own for each.
    fn matmul_backward(&self, terms: &[Term<'_>], base: Option<&Tensor>) -> Result<Tensor>;

    /// [`Self::matmul_backward`] for a result that goes on to other products, in the form that they
    /// read.
    fn matmul_backward_on(&self, terms: &[Term<'_>]) -> Result<Activations>;

    /// `scale` times a^T b of `a` [M, P] and `b` [M, Q], [P, Q] in `f32`: the gradient of a matrix.
    fn weight_gradient(&self, a: &Activations, b: &Activations, scale: f64) -> Result<Tensor>;

    /// Logits `hidden` `head`^T [M, V] in `f32`, scaled and capped; on a GPU as its sums are, before
    /// any rounding.
    fn logits(&self, hidden: &Activations, head: Head<'_>) -> Result<Tensor>;

    /// Cross entropy of `hidden` [L, D] through `head` against `targets` [L], in chunks of rows, so
    /// that [L, V] logits never exist at once.
    ///
    /// The gradient is that of `sum * grad_scale`; pass `None` to get the loss alone. `goes_on` is
    /// asked before each chunk, or before all of them where a device has them in its queue at once;
    /// none is the result once it says no.
    fn cross_entropy(
        &self,
        hidden: &Tensor,
        head: Head<'_>,
        targets: &[u32],
        grad_scale: Option<f64>,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<LossAndGrad>>;

    /// Losses of scaled `logits` [L, V] under the soft cap `cap`, and their gradient with respect to
    /// what was capped; few enough that all of them may exist.
    fn cross_entropy_of_logits(
        &self,
        logits: &Tensor,
        cap: Option<f32>,
        targets: &[u32],
        grad_scale: Option<f64>,
    ) -> Result<(Loss, Option<Activations>)>;

    /// The L2 norm over all of `tensors` together.
    fn grad_norm(&self, tensors: &[&Tensor]) -> Result<Norm>;

    /// New values and moments of all `parameters`, whose gradients have the given norm and are
    /// scaled down to `max_norm`, of which 0 is no limit; on a GPU without waiting for it.
    fn adamw(
        &self,
        parameters: &[Parameter<'_>],
        norm: &Norm,
        max_norm: f64,
    ) -> Result<Vec<(Tensor, Moments)>>;

    /// Begins to send `x` to host memory, beside what the device computes, where a device has
    /// memory of its own and copies beside its work; elsewhere it stays.
    fn offload(&self, x: &Tensor) -> Result<Offloaded>;
}
