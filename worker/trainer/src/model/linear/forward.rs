//! The forward pass of a layer with whichever adapter it has.

use candle_core::Tensor;
use qlora_kernels::{Activations, Backend, Term};

use super::dora::{self, DoraSaved};
use super::layer::Linear;
use super::lora::LoraSaved;
use super::saved::AdapterSaved;
use crate::Result;
use crate::lora::AdapterPass;

/// What adapters that share the input `x` save, where it is not `known`; one with DoRA needs its
/// layer too.
pub fn lora_forward(
    backend: &dyn Backend,
    x: &Activations,
    adapters: &[Option<AdapterPass<'_>>],
    known: &mut [Option<AdapterSaved>],
) -> Result<()> {
    let (mut asked, mut places) = (Vec::new(), Vec::new());
    for (adapter, place) in adapters.iter().zip(known) {
        if let Some(adapter) = adapter
            && adapter.magnitude().is_none()
            && place.is_none()
        {
            asked.push(*adapter);
            places.push(place);
        }
    }
    let found = LoraSaved::of_all(backend, x, &asked)?;
    for (place, saved) in places.into_iter().zip(found) {
        *place = Some(saved.into());
    }
    Ok(())
}

/// What an adapter of LoRA saves of `x`, where it is not `known`.
fn lora_saved(
    backend: &dyn Backend,
    x: &Activations,
    adapter: AdapterPass<'_>,
    known: Option<AdapterSaved>,
) -> Result<LoraSaved> {
    match known {
        Some(AdapterSaved::Lora(saved)) => Ok(saved),
        // That of DoRA is as large as the output beside it: nobody keeps it and runs the layer again.
        Some(AdapterSaved::Dora(_)) | None => LoraSaved::of(backend, x, adapter),
    }
}

impl Linear {
    /// `x` [M, in] to `base` + `y` [M, out], and what the adapter saves where there is one; `known`
    /// is what it saved in an earlier pass over the same rows.
    pub fn forward(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: Option<AdapterPass<'_>>,
        known: Option<AdapterSaved>,
        base: Option<&Tensor>,
    ) -> Result<(Tensor, Option<AdapterSaved>)> {
        let (y, saved) = self.without_bias(backend, x, adapter, known, base)?;
        Ok((self.with_bias(backend, y)?, saved))
    }

    fn without_bias(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: Option<AdapterPass<'_>>,
        known: Option<AdapterSaved>,
        base: Option<&Tensor>,
    ) -> Result<(Tensor, Option<AdapterSaved>)> {
        if let Some(adapter) = adapter
            && let Some(magnitude) = adapter.magnitude()
        {
            let (y, saved) = dora::forward(backend, self, x, (adapter, magnitude), base)?;
            return Ok((y, Some(saved.into())));
        }
        self.sum_of(backend, x, adapter, known, |terms| {
            backend.matmul_forward(terms, base)
        })
    }

    /// What `sum` makes of the products of `x` with the frozen weight and with the adapter, which
    /// has no DoRA; and what the adapter saves.
    fn sum_of<Y>(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: Option<AdapterPass<'_>>,
        known: Option<AdapterSaved>,
        sum: impl FnOnce(&[Term<'_>]) -> candle_core::Result<Y>,
    ) -> Result<(Y, Option<AdapterSaved>)> {
        let Some(adapter) = adapter else {
            return Ok((sum(&[self.frozen(x)])?, None));
        };
        let saved = lora_saved(backend, x, adapter, known)?;
        let y = sum(&saved.terms(self, x, &adapter))?;
        Ok((y, Some(saved.into())))
    }

    /// [`Self::forward`] for a result that goes on to other products: see
    /// [`Backend::matmul_forward_on`].
    pub fn forward_on(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: Option<AdapterPass<'_>>,
        known: Option<AdapterSaved>,
    ) -> Result<(Activations, Option<AdapterSaved>)> {
        let is_dora = adapter.is_some_and(|adapter| adapter.magnitude().is_some());
        if self.has_bias() || is_dora {
            let (y, saved) = self.forward(backend, x, adapter, known, None)?;
            return Ok((y.into(), saved));
        }
        self.sum_of(backend, x, adapter, known, |terms| {
            backend.matmul_forward_on(terms)
        })
    }

    /// What [`Self::forward`] would save, without `y`.
    pub fn adapter_forward(
        &self,
        backend: &dyn Backend,
        x: &Activations,
        adapter: AdapterPass<'_>,
    ) -> Result<AdapterSaved> {
        match adapter.magnitude() {
            None => LoraSaved::of(backend, x, adapter).map(AdapterSaved::from),
            Some(magnitude) => {
                DoraSaved::of(backend, self, x, (adapter, magnitude)).map(AdapterSaved::from)
            }
        }
    }
}
