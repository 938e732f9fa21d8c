//! Processes that train one model together, each on its share of every step's micro-batches.
//!
//! All of them hold the whole model and the same adapters. What they exchange is small: gradients
//! of the adapters once a step, losses, and what they are asked to do. Sums are taken in the order
//! of [`pairwise`], so that a power of two of processes end with the same adapter as one does,
//! bit-identical where their CPUs compute alike.
//!
//! This module does not know how messages travel: whoever starts the processes brings a
//! [`ProcessGroup`].

mod gpus;

use std::ops::Range;

use candle_core::{Device, Tensor};
use qlora_kernels::pairwise;

use crate::stop::StopSignal;
use crate::{Error, Result};

pub use gpus::joined;

/// One process's place among those that train together, and its way to the others.
pub trait ProcessGroup: Send {
    /// From 0; the first one reports and saves.
    fn rank(&self) -> usize;

    fn world_size(&self) -> usize;

    /// What everyone says, in the order of ranks. Waits for all.
    ///
    /// # Errors
    /// [`Error::Peer`] where another process is gone.
    fn gather(&mut self, words: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// The sum of everyone's `vector` [n], in `f32`, added in the order of [`pairwise`]: the same
    /// bits for everyone.
    ///
    /// # Errors
    /// As [`Self::gather`].
    fn sum(&mut self, vector: &Tensor) -> Result<Tensor>;

    /// Given where another process has broken its share of the work off.
    fn stop_signal(&self) -> StopSignal {
        StopSignal::default()
    }

    /// Gives the others' [`Self::stop_signal`].
    ///
    /// # Errors
    /// As [`Self::gather`].
    fn interrupt(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The only process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl ProcessGroup for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn gather(&mut self, words: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![words.to_vec()])
    }

    fn sum(&mut self, vector: &Tensor) -> Result<Tensor> {
        Ok(vector.clone())
    }
}

/// Which of `work` pieces this process does; `work` is a multiple of the group's size.
pub fn share(group: &dyn ProcessGroup, work: usize) -> Range<usize> {
    let each = work / group.world_size();
    group.rank() * each..(group.rank() + 1) * each
}

/// `done`, unless anyone has broken its share of the work off: then all do, since what is left of
/// it would wait for that share.
///
/// # Errors
/// Those of `done`; [`Error::Stopped`] where it is anyone's.
pub fn unless_stopped<T>(group: &mut dyn ProcessGroup, done: Result<T>) -> Result<T> {
    let stops = match &done {
        Err(Error::Stopped) => true,
        Err(_) => return done,
        Ok(_) => false,
    };
    if stops {
        group.interrupt()?;
    }
    if group
        .gather(&[u8::from(stops)])?
        .iter()
        .flatten()
        .any(|&stops| stops == 1)
    {
        return Err(Error::Stopped);
    }
    done
}

/// Everyone's values one after another, in the order of ranks.
pub fn gather_values(group: &mut dyn ProcessGroup, own: &[f64]) -> Result<Vec<f64>> {
    let words: Vec<u8> = own.iter().flat_map(|x| x.to_le_bytes()).collect();
    let said = group.gather(&words)?;
    let number = |bytes: &[u8]| {
        let bytes = bytes.try_into().map_err(|_| Error::Peer {
            fault: "another process sent half a number".into(),
        })?;
        Ok(f64::from_le_bytes(bytes))
    };
    said.iter()
        .flat_map(|words| words.chunks(8))
        .map(number)
        .collect()
}

/// What the first of `group` has for `own`: CPUs and systems may differ in the last place of
/// a cosine or of a long sum, and all have to make the same update.
pub fn of_first(group: &mut dyn ProcessGroup, own: f64) -> Result<f64> {
    Ok(gather_values(group, &[own])?
        .first()
        .copied()
        .unwrap_or(own))
}

/// The sum of `vectors`, which are not empty, in the order of [`pairwise`]; added in host memory,
/// where they arrive, and then on the device of the first.
pub fn sum_of(vectors: &[Tensor]) -> Result<Tensor> {
    let mut here = |i: usize| vectors[i].to_device(&Device::Cpu);
    let sum = pairwise(0..vectors.len(), &mut here, &mut |a: Tensor, b: Tensor| {
        a + b
    })?;
    Ok(sum.to_device(vectors[0].device())?)
}
