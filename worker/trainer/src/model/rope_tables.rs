//! The tables of a model's rotary embeddings, of which a batch takes one set.

use candle_core::Device;
use qlora_kernels::RopeTable;
use qlora_planner::{LayerRope, ModelShape};

use super::rope::{angles, switch};
use crate::Result;

/// A set of tables: one for each kind of rotary embedding that blocks have.
pub struct RopeTables {
    kinds: Vec<LayerRope>,
    tables: Vec<RopeTable>,
    /// Those of batches with a sequence of more tokens than this.
    long: Option<(usize, Vec<RopeTable>)>,
}

impl RopeTables {
    /// For sequences of up to `positions` tokens.
    pub fn new(shape: &ModelShape, positions: usize, device: &Device) -> Result<Self> {
        let long_from = switch(shape).filter(|&from| positions > from);
        let (kinds, tables) = set(shape, long_from.unwrap_or(positions), device)?;
        let long = match long_from {
            Some(from) => Some((from, set(shape, positions, device)?.1)),
            None => None,
        };
        Ok(Self {
            kinds,
            tables,
            long,
        })
    }

    /// What the places of a set are for.
    pub fn kinds(&self) -> &[LayerRope] {
        &self.kinds
    }

    /// The set of a batch whose longest sequence has so many tokens.
    pub fn of(&self, longest: usize) -> &[RopeTable] {
        match &self.long {
            Some((from, tables)) if longest > *from => tables,
            _ => &self.tables,
        }
    }

    /// Tokens that a sequence may have which begins with `prompt` tokens and is extended one by
    /// one, where its set bounds them: keys that were rotated by one set do not go with queries of
    /// the other.
    pub fn positions_after(&self, prompt: usize) -> Option<usize> {
        let (from, _) = self.long.as_ref()?;
        (prompt <= *from).then_some(*from)
    }
}

/// The set of batches whose longest sequence has `length` tokens.
fn set(
    shape: &ModelShape,
    length: usize,
    device: &Device,
) -> Result<(Vec<LayerRope>, Vec<RopeTable>)> {
    let (mut kinds, mut tables) = (Vec::new(), Vec::new());
    for (kind, angles) in angles(shape, length) {
        kinds.push(kind);
        tables.push(RopeTable::new(&angles, length, device)?);
    }
    Ok((kinds, tables))
}
