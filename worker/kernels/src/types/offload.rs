//! Tensors that are not needed for a while.

use candle_core::Tensor;

use crate::Result;

/// A tensor that is not needed for a while: where it is, or in host memory.
pub struct Offloaded(Place);

enum Place {
    OnDevice(Tensor),
    Offloaded(Box<dyn Transfer>),
}

/// A tensor that a backend copies to host memory and back, beside what the device computes.
pub trait Transfer: Send {
    /// Lets the device's memory go; later work on the device waits until the copy is there.
    fn release(&mut self) -> Result<()>;

    /// Begins to bring it back.
    fn prefetch(&mut self) -> Result<()>;

    /// The tensor; later work on the device waits until it is back.
    fn take(self: Box<Self>) -> Result<Tensor>;
}

impl From<Tensor> for Offloaded {
    /// It stays where it is.
    fn from(x: Tensor) -> Self {
        Self(Place::OnDevice(x))
    }
}

impl From<Box<dyn Transfer>> for Offloaded {
    fn from(transfer: Box<dyn Transfer>) -> Self {
        Self(Place::Offloaded(transfer))
    }
}

impl Offloaded {
    /// See [`Transfer::release`].
    pub fn release(&mut self) -> Result<()> {
        match &mut self.0 {
            Place::OnDevice(_) => Ok(()),
            Place::Offloaded(transfer) => transfer.release(),
        }
    }

    /// See [`Transfer::prefetch`].
    pub fn prefetch(&mut self) -> Result<()> {
        match &mut self.0 {
            Place::OnDevice(_) => Ok(()),
            Place::Offloaded(transfer) => transfer.prefetch(),
        }
    }

    /// See [`Transfer::take`].
    pub fn take(self) -> Result<Tensor> {
        match self.0 {
            Place::OnDevice(x) => Ok(x),
            Place::Offloaded(transfer) => transfer.take(),
        }
    }
}
