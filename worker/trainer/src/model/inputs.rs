//! Linear layers that share a normed input, each a matrix of its own or all of them one.

use candle_core::Tensor;
use qlora_kernels::Activations;

use super::linear::AdapterSaved;
use super::norm::Norm;
use super::pass::{LinearAt, Pass};
use crate::Result;
use crate::lora::Gradients;

/// The norm, and the layers that give N parts.
pub struct Inputs<const N: usize> {
    pub norm: Norm,
    pub layers: Layers<N>,
    /// Columns of each part.
    pub widths: [usize; N],
}

pub enum Layers<const N: usize> {
    Separate([LinearAt; N]),
    Fused(LinearAt),
}

/// What an adapter saves for each layer.
pub type SavedByLayer = Vec<Option<AdapterSaved>>;

impl<const N: usize> Inputs<N> {
    pub fn layers(&self) -> &[LinearAt] {
        match &self.layers {
            Layers::Separate(layers) => layers,
            Layers::Fused(layer) => std::slice::from_ref(layer),
        }
    }

    /// The layer that comes first.
    pub fn first(&self) -> &LinearAt {
        match &self.layers {
            Layers::Separate(layers) => &layers[0],
            Layers::Fused(layer) => layer,
        }
    }

    /// `x` [M, D] to the parts [M, width], and the rstd of the norm. `u` is what adapters saved in
    /// an earlier pass over the same rows, and saves what they do now; `next` is the layer that
    /// comes after these.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        u: &mut SavedByLayer,
        next: &LinearAt,
    ) -> Result<([Tensor; N], Tensor)> {
        let (n, rstd) = self.normed(pass, x, u)?;
        let parts = self.run(pass, u, next, |at, known| pass.forward(at, &n, known, None))?;
        let parts = match &self.layers {
            Layers::Separate(_) => parts,
            Layers::Fused(_) => {
                let mut split = Vec::with_capacity(N);
                for part in parts {
                    split.extend(pass.backend.split_columns(&part, &self.widths)?);
                }
                split
            }
        };
        Ok((all(parts)?, rstd))
    }

    /// [`Self::forward`] for parts that go on to other products.
    pub fn forward_on(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        u: &mut SavedByLayer,
        next: &LinearAt,
    ) -> Result<([Activations; N], Tensor)> {
        if matches!(self.layers, Layers::Fused(_)) {
            let (parts, rstd) = self.forward(pass, x, u, next)?;
            return Ok((parts.map(Activations::from), rstd));
        }
        let (n, rstd) = self.normed(pass, x, u)?;
        let parts = self.run(pass, u, next, |at, known| pass.forward_on(at, &n, known))?;
        Ok((all(parts)?, rstd))
    }

    /// The normed input, with what the adapters save of it in `u`.
    fn normed(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        u: &mut SavedByLayer,
    ) -> Result<(Activations, Tensor)> {
        let (n, rstd) = self.norm.forward_on(pass.backend, x)?;
        u.resize_with(self.layers().len(), || None);
        pass.lora_forward(self.layers(), &n, u)?;
        Ok((n, rstd))
    }

    /// Each layer by `forward`, while the weights of the one after it are made ready.
    fn run<T>(
        &self,
        pass: &Pass<'_>,
        u: &mut SavedByLayer,
        next: &LinearAt,
        forward: impl Fn(&LinearAt, Option<AdapterSaved>) -> Result<(T, Option<AdapterSaved>)>,
    ) -> Result<Vec<T>> {
        let layers = self.layers();
        let mut outputs = Vec::with_capacity(layers.len());
        for (i, layer) in layers.iter().enumerate() {
            let after = layers.get(i + 1).unwrap_or(next);
            after.linear.prefetch(pass.backend)?;
            let (y, saved) = forward(layer, u[i].take())?;
            u[i] = saved;
            outputs.push(y);
        }
        Ok(outputs)
    }

    /// `residual` + dx [M, D] of the gradients `dys` of all parts; those of the adapters go to
    /// `grads`.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        (x, rstd): (&Tensor, &Tensor),
        dys: [Activations; N],
        u: &SavedByLayer,
        residual: &Tensor,
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        let normed = u.iter().any(Option::is_some);
        let n = normed
            .then(|| self.norm.forward_on(pass.backend, x))
            .transpose()?;
        let dys = match &self.layers {
            Layers::Separate(_) => Vec::from(dys),
            Layers::Fused(_) => {
                let parts = dys.iter().map(|dy| Ok(dy.tensor()?));
                let parts = parts.collect::<Result<Vec<_>>>()?;
                vec![pass.backend.join_columns(&parts)?.into()]
            }
        };
        let layers = self.layers().iter().zip(&dys).enumerate();
        let parts: Vec<_> = layers
            .map(|(i, (layer, dy))| (layer, dy, u.get(i).and_then(Option::as_ref)))
            .collect();
        let dn = pass.backward(&parts, n.as_ref().map(|(n, _)| n), grads)?;
        self.norm
            .backward(pass.backend, &dn, x, rstd, Some(residual))
    }
}

fn all<T, const N: usize>(parts: Vec<T>) -> Result<[T; N]> {
    let found = parts.len();
    let wrong = |_| candle_core::Error::Msg(format!("{found} parts of a matrix, not {N}"));
    Ok(parts.try_into().map_err(wrong)?)
}
