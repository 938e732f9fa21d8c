//! The function of a gated linear unit (Shazeer, GLU Variants Improve Transformer, 2020).

/// What the gate of `gate(g) * up` is. Either is g * sigmoid(z), with a z of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GateFunction {
    /// z = g: SwiGLU.
    Silu,
    /// z = 2 sqrt(2 / pi) (g + 0.044715 g^3): GeGLU by the tanh form of GELU (Hendrycks and Gimpel,
    /// 2016).
    GeluTanh,
}

/// 2 sqrt(2 / pi).
pub(crate) const GELU_SLOPE: f32 = 1.595_769_121_605_731_f64 as f32;
pub(crate) const GELU_CUBE: f32 = 0.044_715;
