//! How many times a step runs each part of its blocks: once forward, and again where too little of
//! a block was kept.

use qlora_config::{Quantization, TargetModule};
use qlora_kernels::MatmulBackend;
use qlora_planner::{SavedActivations, held};

use super::Case;

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
    /// The gated activation and the down projection.
    pub down: usize,
}

impl Parts {
    fn of(saved: &[SavedActivations]) -> Self {
        let runs = |least: SavedActivations| {
            saved.len() + saved.iter().filter(|&&keep| keep < least).count()
        };
        Self {
            heads: runs(SavedActivations::Qkv),
            attention: runs(SavedActivations::Attention),
            output: runs(SavedActivations::Residual),
            gates: runs(SavedActivations::All),
            down: saved.len(),
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

/// Runs in one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calls {
    pub layers: usize,
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
        let dequantized = apart.then(|| (codes.len(), Parts::of(codes)));
        Self {
            layers: saved.len(),
            parts: Parts::of(saved),
            dequantized,
        }
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
        let all = Parts::of(&[SavedActivations::All; 3]);
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
        let none = Parts::of(&[SavedActivations::OffloadedInput, SavedActivations::Input]);
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
        let some = Parts::of(&[
            SavedActivations::Attention,
            SavedActivations::Residual,
            SavedActivations::Qkv,
        ]);
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
