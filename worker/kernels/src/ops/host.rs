//! Tensors that are not needed for a while wait where they are, or in the machine's memory.

use candle_core::Tensor;

use crate::Result;
#[cfg(feature = "cuda")]
use crate::cuda;

/// A tensor that is not needed for a while.
pub struct Waiting(Place);

enum Place {
    Here(Tensor),
    #[cfg(feature = "cuda")]
    Away(Box<cuda::host::Away>),
}

impl From<Tensor> for Waiting {
    /// It stays where it is.
    fn from(x: Tensor) -> Self {
        Self(Place::Here(x))
    }
}

impl Waiting {
    /// Begins to send `x`, bf16 on a GPU of CUDA, to the machine's memory, beside what the GPU computes; all else stays
    /// where it is.
    pub fn away(x: &Tensor) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if cuda::applies(&[x]) {
            return Ok(Self(Place::Away(Box::new(cuda::host::Away::send(x)?))));
        }
        Ok(x.clone().into())
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
