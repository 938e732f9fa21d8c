//! A frozen linear layer with its adapter: y = x W^T + s u B^T with u = c (m o x) A^T, where m is
//! the dropout mask and c = 1 / (1 - p).
//!
//! With DoRA the rows of W + s B A are scaled by g = |m'| / |W + s B A|. As in PEFT, dropout
//! touches only what the adapter changes, and the norm is a constant to the gradient: with x' = c
//! (m o x) and r = x' W^T + s u B^T, y = (x - x') W^T + g o r.

use std::sync::OnceLock;

use candle_core::{DType, Tensor};
use qlora_kernels::{Activations, Backend, LoraBackwardInput, Term};

use crate::Result;
use crate::lora::{AdapterPass, FactorGrad, Factors};
use crate::weights::FrozenWeight;

/// A frozen weight [out, in]; adapters are kept elsewhere and passed in.
pub struct Projection {
    weight: Box<dyn FrozenWeight>,
    /// |W|^2 [out], row by row, once it has been needed.
    squares: OnceLock<Tensor>,
}

/// What the forward pass of an adapter leaves for its backward pass.
pub struct Inner {
    /// u [M, R].
    u: Activations,
    /// With DoRA, r [M, out].
    unscaled: Option<Tensor>,
}

impl Inner {
    /// Whether it is small, and enough to run the adapter again.
    pub fn is_small(&self) -> bool {
        self.unscaled.is_none()
    }
}

/// What adapters that share the input `x` leave, where it is not `known`; a decomposed one's needs
/// its projection too.
pub fn inners<const N: usize>(
    backend: &dyn Backend,
    x: &Activations,
    adapters: [Option<AdapterPass<'_>>; N],
    mut known: [Option<Inner>; N],
) -> Result<[Option<Inner>; N]> {
    let asked = |i: &usize| {
        known[*i].is_none() && adapters[*i].is_some_and(|adapter| !adapter.is_decomposed())
    };
    let places: Vec<usize> = (0..N).filter(asked).collect();
    let inputs: Vec<_> = places
        .iter()
        .filter_map(|&i| adapters[i].map(|adapter| adapter.input()))
        .collect();
    for (i, u) in places.into_iter().zip(backend.lora_forward(x, &inputs)?) {
        known[i] = Some(Inner { u, unscaled: None });
    }
    Ok(known)
}

impl Projection {
    pub fn new(weight: Box<dyn FrozenWeight>) -> Self {
        Self {
            weight,
            squares: OnceLock::new(),
        }
    }

    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    /// See [`Backend::prefetch`].
    pub fn prefetch(&self, backend: &dyn Backend) -> Result<()> {
        Ok(backend.prefetch(&*self.weight)?)
    }

    fn frozen<'a>(&'a self, x: &'a Activations) -> Term<'a> {
        Term {
            x,
            w: &*self.weight,
            scale: 1.0,
        }
    }

    /// `x` [M, in] to `base` + `y` [M, out], and what the adapter leaves where there is one;
    /// `known` is what it left in an earlier pass over the same rows.
    pub fn forward(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: Option<AdapterPass<'_>>,
        known: Option<Inner>,
        base: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Inner>)> {
        let Some(adapter) = adapter else {
            return Ok((backend.matmul_forward(&[self.frozen(x)], base)?, None));
        };
        if known.is_none() && adapter.is_decomposed() {
            return self.forward_decomposed(backend, x, adapter, base);
        }
        let inner = known.map_or_else(|| self.inner(backend, x, &adapter), Ok)?;
        Ok((
            backend.matmul_forward(&[self.frozen(x), adapter.update(&inner.u)], base)?,
            Some(inner),
        ))
    }

    /// [`Self::forward`] with DoRA.
    fn forward_decomposed(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: AdapterPass<'_>,
        base: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Inner>)> {
        let dropped = adapter
            .mask
            .as_ref()
            .map(|key| backend.dropout(x, key))
            .transpose()?;
        let (u, unscaled) = self.decomposed(backend, dropped.as_ref().unwrap_or(x), &adapter)?;
        let Some(ratio) = self.ratio(backend, &adapter)? else {
            return Ok((unscaled, None));
        };
        let mut y = scaled_rows(&unscaled, &ratio)?;
        if let Some(base) = base {
            y = (y + base)?;
        }
        if let Some(dropped) = &dropped {
            let rest = (x.tensor()? - dropped.tensor()?)?.into();
            y = backend.matmul_forward(&[self.frozen(&rest)], Some(&y))?;
        }
        Ok((
            y,
            Some(Inner {
                u,
                unscaled: Some(unscaled),
            }),
        ))
    }

    /// [`Self::forward`] for a result that goes on to other products: see
    /// [`Backend::matmul_forward_on`].
    pub fn forward_on(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: Option<AdapterPass<'_>>,
        known: Option<Inner>,
    ) -> Result<(Activations, Option<Inner>)> {
        let Some(adapter) = adapter else {
            return Ok((backend.matmul_forward_on(&[self.frozen(x)])?, None));
        };
        if adapter.factors.magnitude.is_some() {
            let (y, inner) = self.forward(backend, x, Some(adapter), known, None)?;
            return Ok((y.into(), inner));
        }
        let inner = known.map_or_else(|| self.inner(backend, x, &adapter), Ok)?;
        Ok((
            backend.matmul_forward_on(&[self.frozen(x), adapter.update(&inner.u)])?,
            Some(inner),
        ))
    }

    /// What [`Self::forward`] would leave, without `y`.
    pub fn inner(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: &AdapterPass<'_>,
    ) -> Result<Inner> {
        if adapter.is_decomposed() {
            let dropped = adapter
                .mask
                .as_ref()
                .map(|key| backend.dropout(x, key))
                .transpose()?;
            let (u, unscaled) = self.decomposed(backend, dropped.as_ref().unwrap_or(x), adapter)?;
            return Ok(Inner {
                u,
                unscaled: Some(unscaled),
            });
        }
        match backend.lora_forward(x, &[adapter.input()])?.pop() {
            Some(u) => Ok(Inner { u, unscaled: None }),
            None => Err(candle_core::Error::Msg("an adapter leaves nothing".into()).into()),
        }
    }

    /// With DoRA, u and r for the input after its mask.
    fn decomposed(
        &self,
        backend: &dyn Backend,
        dropped: &Activations,
        adapter: &AdapterPass<'_>,
    ) -> Result<(Activations, Tensor)> {
        let u = backend
            .matmul_forward(
                &[Term {
                    x: dropped,
                    w: &adapter.factors.a,
                    scale: 1.0,
                }],
                None,
            )?
            .into();
        let unscaled = backend.matmul_forward(&[self.frozen(dropped), adapter.update(&u)], None)?;
        Ok((u, unscaled))
    }

    /// |W| [out], row by row.
    pub fn norms(&self, backend: &dyn Backend) -> Result<Tensor> {
        Ok(self.squares(backend)?.sqrt()?)
    }

    fn squares(&self, backend: &dyn Backend) -> Result<&Tensor> {
        if let Some(squares) = self.squares.get() {
            return Ok(squares);
        }
        let squares = backend
            .dequantize(&*self.weight, DType::F32)?
            .sqr()?
            .sum(1)?;
        Ok(self.squares.get_or_init(|| squares))
    }

    /// g [out] of DoRA; none without it.
    fn ratio(&self, backend: &dyn Backend, adapter: &AdapterPass<'_>) -> Result<Option<Tensor>> {
        let Some(magnitude) = &adapter.factors.magnitude else {
            return Ok(None);
        };
        let norms = magnitude.norms(|| self.norms_with(backend, adapter))?;
        Ok(Some((&magnitude.value / norms)?))
    }

    /// |W + s B A| [out] without writing out any matrix of W's size:
    /// |W|^2 + 2 s B . (A W^T)^T + s^2 B (A A^T) . B, row by row.
    fn norms_with(&self, backend: &dyn Backend, adapter: &AdapterPass<'_>) -> Result<Tensor> {
        let (Factors { a, b, .. }, scale) = (adapter.factors, adapter.scale);
        let through = backend
            .matmul_forward(&[self.frozen(&a.into())], None)?
            .t()?;
        let cross = (b * through.to_dtype(DType::F32)?)?.sum(1)?;
        let own = (b.matmul(&a.matmul(&a.t()?)?)? * b)?.sum(1)?;
        Ok(
            ((self.squares(backend)? + (cross * (2.0 * scale))?)? + (own * (scale * scale))?)?
                .sqrt()?,
        )
    }
}

/// The gradient that reaches one projection, and what its forward pass left.
pub struct Pull<'a> {
    pub projection: &'a Projection,
    /// [M, out]
    pub dy: &'a Activations,
    pub adapter: Option<AdapterPass<'a>>,
    pub inner: Option<&'a Inner>,
}

/// What goes back through one adapter.
struct Through<'a> {
    adapter: AdapterPass<'a>,
    /// s dy' B [M, R].
    du: Activations,
    /// With DoRA, dy' = g o dy [M, out].
    scaled: Option<Activations>,
    /// dB = s dy'^T u [out, R].
    b: Tensor,
    /// With DoRA, dm' [out].
    magnitude: Option<Tensor>,
}

impl<'a> Through<'a> {
    fn find(backend: &dyn Backend, pull: &Pull<'a>) -> Result<Option<Self>> {
        let (Some(adapter), Some(inner)) = (pull.adapter, pull.inner) else {
            return Ok(None);
        };
        let ratio = pull.projection.ratio(backend, &adapter)?;
        let scaled = match &ratio {
            Some(ratio) => Some(Activations::from(scaled_rows(pull.dy.tensor()?, ratio)?)),
            None => None,
        };
        let dy = scaled.as_ref().unwrap_or(pull.dy);
        let du = backend
            .matmul_backward(
                &[Term {
                    x: dy,
                    w: &adapter.factors.b,
                    scale: adapter.scale,
                }],
                None,
            )?
            .into();
        let b = backend.weight_gradient(dy, &inner.u, adapter.scale)?;
        let mut magnitude = None;
        if let (Some(unscaled), Some(own)) = (&inner.unscaled, &adapter.factors.magnitude) {
            // With n the norm, g = m' / n and dm' = sum of dy o r / n over the tokens.
            let norms = own.norms(|| pull.projection.norms_with(backend, &adapter))?;
            let sums = (pull.dy.tensor()? * unscaled)?
                .to_dtype(DType::F32)?
                .sum(0)?;
            magnitude = Some((sums / norms)?);
        }
        Ok(Some(Self {
            adapter,
            du,
            scaled,
            b,
            magnitude,
        }))
    }

    /// d A.
    fn update(&self) -> Term<'_> {
        Term {
            x: &self.du,
            w: &self.adapter.factors.a,
            scale: 1.0,
        }
    }

    /// With DoRA, dA, and `base` + c m o ((dy' - dy) W + d A) where there is a mask.
    fn decomposed(
        &self,
        backend: &dyn Backend,
        pull: &Pull<'_>,
        x: &Activations,
        scaled: &Activations,
        base: Option<Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let dropped = self
            .adapter
            .mask
            .as_ref()
            .map(|key| backend.dropout(x, key))
            .transpose()?;
        let da = backend.weight_gradient(&self.du, dropped.as_ref().unwrap_or(x), 1.0)?;
        let Some(key) = &self.adapter.mask else {
            return Ok((da, base));
        };
        let change = (scaled.tensor()? - pull.dy.tensor()?)?.into();
        let masked =
            backend.matmul_backward(&[pull.projection.frozen(&change), self.update()], None)?;
        Ok((da, Some(backend.add_dropout(&masked, key, base.as_ref())?)))
    }
}

/// What is pulled back: terms of dx, what is added to them, and dA of each projection's adapter.
struct Pulled<'a> {
    through: Vec<Option<(Through<'a>, Tensor)>>,
    /// c m o ((dy' - dy) W + d A), summed over the adapters with a mask.
    base: Option<Tensor>,
}

impl<'a> Pulled<'a> {
    fn find(backend: &dyn Backend, pulls: &[Pull<'a>], x: Option<&Activations>) -> Result<Self> {
        let none = || Self {
            through: pulls.iter().map(|_| None).collect(),
            base: None,
        };
        let Some(x) = x else { return Ok(none()) };
        let found = pulls
            .iter()
            .map(|pull| Through::find(backend, pull))
            .collect::<Result<Vec<_>>>()?;
        let plain = found
            .iter()
            .flatten()
            .filter(|through| through.scaled.is_none());
        let plain: Vec<_> = plain
            .map(|through| LoraBackwardInput {
                adapter: through.adapter.input(),
                du: &through.du,
            })
            .collect();
        let (grads, mut base) = backend.lora_backward(x, &plain)?;
        let mut grads = grads.into_iter();
        let mut through = Vec::with_capacity(pulls.len());
        for (pull, found) in pulls.iter().zip(found) {
            let Some(found) = found else {
                through.push(None);
                continue;
            };
            let da = match &found.scaled {
                None => grads.next(),
                Some(scaled) => {
                    let (da, sum) = found.decomposed(backend, pull, x, scaled, base.take())?;
                    base = sum;
                    Some(da)
                }
            };
            through.push(da.map(|da| (found, da)));
        }
        Ok(Self { through, base })
    }

    fn terms<'t>(&'t self, pulls: &'t [Pull<'a>]) -> Vec<Term<'t>> {
        let mut terms = Vec::with_capacity(2 * pulls.len());
        for (pull, through) in pulls.iter().zip(&self.through) {
            match through {
                Some((through, _)) if through.adapter.mask.is_none() => {
                    let dy = through.scaled.as_ref().unwrap_or(pull.dy);
                    terms.extend([pull.projection.frozen(dy), through.update()]);
                }
                _ => terms.push(pull.projection.frozen(pull.dy)),
            }
        }
        terms
    }

    fn grads(self) -> Vec<Option<FactorGrad>> {
        let grad = |(through, a): (Through<'_>, Tensor)| FactorGrad {
            a,
            b: through.b,
            magnitude: through.magnitude,
        };
        self.through
            .into_iter()
            .map(|through| through.map(grad))
            .collect()
    }
}

/// Gradients through projections that share their input `x` [M, in], which only adapters need: dx
/// [M, in], and the gradients of each one's adapter.
///
/// With dy' = dy, or g o dy with DoRA, and d = s dy' B:
/// dx = dy W + c m o ((dy' - dy) W + d A), summed over the projections.
pub fn backward(
    backend: &dyn Backend,
    pulls: &[Pull<'_>],
    x: Option<&Activations>,
) -> Result<(Tensor, Vec<Option<FactorGrad>>)> {
    let pulled = Pulled::find(backend, pulls, x)?;
    let dx = backend.matmul_backward(&pulled.terms(pulls), pulled.base.as_ref())?;
    Ok((dx, pulled.grads()))
}

/// [`backward`] for a gradient that goes on to other products: see [`Backend::matmul_backward_on`].
pub fn backward_on(
    backend: &dyn Backend,
    pulls: &[Pull<'_>],
    x: Option<&Activations>,
) -> Result<(Activations, Vec<Option<FactorGrad>>)> {
    let pulled = Pulled::find(backend, pulls, x)?;
    let terms = pulled.terms(pulls);
    let dx = match &pulled.base {
        None => backend.matmul_backward_on(&terms)?,
        Some(base) => backend.matmul_backward(&terms, Some(base))?.into(),
    };
    Ok((dx, pulled.grads()))
}

/// `rows` [M, out] times `ratio` [out].
fn scaled_rows(rows: &Tensor, ratio: &Tensor) -> Result<Tensor> {
    Ok(rows.broadcast_mul(&ratio.to_dtype(rows.dtype())?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use qlora_kernels::DropoutKey;

    use super::*;
    use crate::lora::Magnitude;
    use crate::weights::Plain;

    const SCALE: f64 = 1.5;

    fn values(rows: usize, cols: usize, seed: usize) -> Tensor {
        let value = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.0 - 1.0;
        Tensor::from_vec(
            (0..rows * cols).map(value).collect(),
            (rows, cols),
            &Device::Cpu,
        )
        .expect("values")
    }

    fn distance(a: &Tensor, b: &Tensor) -> f32 {
        (a - b)
            .and_then(|d| d.abs()?.flatten_all()?.max(0)?.to_scalar())
            .expect("comparable tensors")
    }

    /// The formula of this file's first lines as a graph of candle's, whose norm is a constant.
    #[test]
    fn gradients_of_dora_with_dropout_are_those_of_a_recorded_graph() -> Result<()> {
        let (tokens, inputs, outputs, rank) = (6, 10, 8, 3);
        let (x, w, dy) = (
            values(tokens, inputs, 1),
            values(outputs, inputs, 2),
            values(tokens, outputs, 3),
        );
        let (a, b) = (values(rank, inputs, 4), values(outputs, rank, 5));
        let m = values(1, outputs, 6).squeeze(0)?.abs()?;
        let key = DropoutKey {
            seed: 3,
            step: 1,
            projection: 2,
            first_token: 0,
            probability: 0.3,
        };

        let [vx, va, vb, vm] = [&x, &a, &b, &m].map(|t| Var::from_tensor(t).expect("a variable"));
        let backend = &*qlora_kernels::backend::reference(&Device::Cpu, DType::F32);
        let mask = backend
            .dropout(&x.ones_like()?.into(), &key)?
            .tensor()?
            .clone();
        let dropped = (vx.as_tensor() * &mask)?;
        let unscaled =
            (dropped.matmul(&w.t()?)? + (dropped.matmul(&va.t()?)?.matmul(&vb.t()?)? * SCALE)?)?;
        let norms = (&w + (b.matmul(&a)? * SCALE)?)?.sqr()?.sum(1)?.sqrt()?;
        let scaled = unscaled.broadcast_mul(&(vm.as_tensor() / norms)?)?;
        let wanted = ((vx.as_tensor() - &dropped)?.matmul(&w.t()?)? + scaled)?;
        let grads = (&wanted * &dy)?.sum_all()?.backward()?;

        let projection = Projection::new(Box::new(Plain(w)));
        let factors = Factors {
            a,
            b,
            magnitude: Some(Magnitude::new(m)),
        };
        let adapter = AdapterPass {
            factors: &factors,
            scale: SCALE,
            mask: Some(key),
        };
        let (y, inner) = projection.forward(backend, &(&x).into(), Some(adapter), None, None)?;
        let dy = dy.into();
        let pull = Pull {
            projection: &projection,
            dy: &dy,
            adapter: Some(adapter),
            inner: inner.as_ref(),
        };
        let (dx, mut found) = backward(backend, &[pull], Some(&(&x).into()))?;
        let grad = found.pop().flatten().expect("gradients of the adapter");
        assert!(distance(&y, &wanted) < 1e-5);
        let wanted = [&vx, &va, &vb, &vm].map(|v| grads.get(v).expect("a gradient"));
        for (ours, theirs) in [&dx].into_iter().chain(grad.tensors()).zip(wanted) {
            assert!(distance(ours, theirs) < 1e-4, "{ours} and {theirs}");
        }
        Ok(())
    }
}
