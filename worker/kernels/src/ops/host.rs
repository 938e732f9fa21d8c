//! Tensors that are not needed for a while wait in the machine's memory.

use candle_core::Tensor;

use crate::Result;
#[cfg(feature = "cuda")]
use crate::cuda;

/// A tensor that is out of the device's memory, where that is another one than the machine's.
pub struct OnHost(Place);

enum Place {
    /// The device computes in the machine's memory, or the tensor is not bf16.
    Here(Tensor),
    #[cfg(feature = "cuda")]
    Away(Box<cuda::host::Away>),
}

impl OnHost {
    /// Begins to send `x` away, beside what the device computes.
    pub fn send(x: &Tensor) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if cuda::applies(&[x]) {
            return Ok(Self(Place::Away(Box::new(cuda::host::Away::send(x)?))));
        }
        Ok(Self(Place::Here(x.clone())))
    }

    /// Lets the device's memory go; later work on the device waits until it is sent.
    pub fn settle(&mut self) -> Result<()> {
        match &mut self.0 {
            Place::Here(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Place::Away(away) => away.settle(),
        }
    }

    /// Begins to bring it back, beside what the device computes.
    pub fn recall(&mut self) -> Result<()> {
        match &mut self.0 {
            Place::Here(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Place::Away(away) => away.recall(),
        }
    }

    /// The tensor; later work on the device waits until it is back.
    pub fn take(self) -> Result<Tensor> {
        match self.0 {
            Place::Here(x) => Ok(x),
            #[cfg(feature = "cuda")]
            Place::Away(away) => away.take(),
        }
    }
}
