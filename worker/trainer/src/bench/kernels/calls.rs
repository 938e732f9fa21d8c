//! How many times a step runs each part of its blocks: once forward, and again where too little of
//! a block was kept.

use qlora_config::{Quantization, TargetModule};
use qlora_kernels::MatmulBackend;
use qlora_planner::{SavedActivations, held};

use super::case::Case;

/// Runs of the parts of all blocks in one step, those of the backward pass's recomputation
/// included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    /// Norm, queries, keys, values and their rotation.
    pub heads: usize,
    pub attention: usize,
    /// The output projection of attention.
    pub output: usize,
    /// Norm, gate and up.
    pub gates: usize,
    /// The gated activation and the down projection, whose output a norm that follows reads.
    pub down: usize,
}

impl Parts {
    fn of(saved: &[SavedActivations], norms_after: bool) -> Self {
        let runs = |least: SavedActivations| saved.iter().map(|&keep| runs(keep, least)).sum();
        Self {
            heads: runs(SavedActivations::Qkv),
            attention: runs(SavedActivations::Attention),
            output: runs(SavedActivations::Residual),
            gates: runs(SavedActivations::All),
            down: if norms_after {
                runs(SavedActivations::All)
            } else {
                saved.len()
            },
        }
    }

    fn of_module(self, module: TargetModule) -> usize {
        match module {
            TargetModule::QkvProj
            | TargetModule::QProj
            | TargetModule::KProj
            | TargetModule::VProj => self.heads,
            TargetModule::OProj => self.output,
            TargetModule::GateUpProj | TargetModule::GateProj | TargetModule::UpProj => self.gates,
            TargetModule::DownProj => self.down,
        }
    }
}

/// Runs of what is saved from `least` on, in a block that saves `keep`.
fn runs(keep: SavedActivations, least: SavedActivations) -> usize {
    1 + usize::from(keep < least)
}

/// Runs in one step.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    pub layers: usize,
    /// What each block saves.
    saved: Vec<SavedActivations>,
    pub parts: Parts,
    /// Of the blocks whose matrices are dequantized for each product.
    dequantized: Option<(usize, Parts)>,
}

impl Calls {
    pub(super) fn new(case: &Case<'_>, products: MatmulBackend) -> Self {
        let saved = &case.policy.saved;
        let codes = &saved[..saved.len() - case.policy.dequantized.min(saved.len())];
        // A CPU that multiplies panel by panel reads the codes inside its products.
        let apart = held(&case.config.model) == Quantization::Nf4
            && !matches!(products, MatmulBackend::Panels(_));
        let after = case.shape.form.norms_after;
        let dequantized = apart.then(|| (codes.len(), Parts::of(codes, after)));
        Self {
            layers: saved.len(),
            saved: saved.clone(),
            parts: Parts::of(saved, after),
            dequantized,
        }
    }

    /// Runs of what is saved from `least` on, in the blocks that `which` holds for.
    pub(super) fn forward_in(
        &self,
        least: SavedActivations,
        which: impl Fn(usize) -> bool,
    ) -> usize {
        let blocks = self.saved.iter().enumerate();
        blocks
            .filter(|(block, _)| which(*block))
            .map(|(_, &keep)| runs(keep, least))
            .sum()
    }

    /// Forward products of `module`.
    pub(super) fn forward(&self, module: TargetModule) -> usize {
        self.parts.of_module(module)
    }

    /// Times that the matrix of `module` is dequantized, forward and backward.
    pub(super) fn dequantized(&self, module: TargetModule) -> usize {
        self.dequantized
            .map_or(0, |(blocks, parts)| parts.of_module(module) + blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_runs_twice() {
        let all = Parts::of(&[SavedActivations::All; 3], false);
        assert_eq!(
            all,
            Parts {
                heads: 3,
                attention: 3,
                output: 3,
                gates: 3,
                down: 3
            }
        );
        // Its output is what the norm after it reads on the way back.
        let after = Parts::of(&[SavedActivations::All, SavedActivations::Qkv], true);
        assert_eq!((after.down, after.gates), (3, 3));
        let none = Parts::of(
            &[SavedActivations::OffloadedInput, SavedActivations::Input],
            false,
        );
        assert_eq!(
            none,
            Parts {
                heads: 4,
                attention: 4,
                output: 4,
                gates: 4,
                down: 2
            }
        );
        let some = Parts::of(
            &[
                SavedActivations::Attention,
                SavedActivations::Residual,
                SavedActivations::Qkv,
            ],
            false,
        );
        assert_eq!(
            some,
            Parts {
                heads: 5,
                attention: 3,
                output: 4,
                gates: 6,
                down: 3
            }
        );
    }
}
