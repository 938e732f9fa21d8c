//! Which attention a GPU computes with: our kernels, or cuDNN's where the program is built with it.
//!
//! cuDNN is trusted with a run only after it has given what our kernels give on a small problem of the run's own shape, and
//! is taken by itself only where it is the faster of the two.

use std::fmt;

use candle_core::Device;

use crate::Result;
use crate::ops::attention::AttentionShape;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The faster one.
    Fastest,
    /// Our kernels, whose sums have a fixed order: a step repeats to the bit.
    Repeatable,
    Cudnn,
}

/// What is taken.
#[derive(Debug, Clone, PartialEq)]
pub enum Chosen {
    /// Our kernels, and why not cuDNN.
    Own { reason: String },
    /// cuDNN of a version; where both were timed, the share that its time is of ours.
    Cudnn { version: String, share: Option<f64> },
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own { reason } => write!(f, "own kernels ({reason})"),
            Self::Cudnn { version, share: None } => write!(f, "cuDNN {version}"),
            Self::Cudnn { version, share: Some(share) } => {
                write!(f, "cuDNN {version}, {share:.2} of our kernels' time")
            }
        }
    }
}

/// Chooses for all work on `device` from now on; sequences are up to `length` tokens long.
///
/// # Errors
/// cuDNN is asked for and is not there, or gives something else than our kernels.
pub fn choose(device: &Device, wanted: Wanted, shape: &AttentionShape, length: usize) -> Result<Chosen> {
    #[cfg(feature = "cudnn")]
    return with_cudnn::choose(device, wanted, shape, length);
    #[cfg(not(feature = "cudnn"))]
    {
        let _ = (device, shape, length);
        if wanted == Wanted::Cudnn {
            candle_core::bail!("this program was built without the `cudnn` feature")
        }
        Ok(Chosen::Own { reason: "built without the `cudnn` feature".into() })
    }
}

/// The version of the cuDNN that would be tried.
///
/// # Errors
/// There is none, or the program is built without.
pub fn cudnn() -> Result<String> {
    super::libraries::load().map_err(candle_core::Error::wrap)?;
    #[cfg(feature = "cudnn")]
    return super::cudnn::version();
    #[cfg(not(feature = "cudnn"))]
    candle_core::bail!("the program is built without the `cudnn` feature")
}

#[cfg(feature = "cudnn")]
mod with_cudnn {
    use std::sync::Arc;
    use std::time::Instant;

    use candle_core::{DType, Device, Tensor};

    use super::{Chosen, Wanted};
    use crate::Result;
    use crate::cuda::attention::has_kernels;
    use crate::cuda::cudnn::Cudnn;
    use crate::cuda::gpu::Gpu;
    use crate::ops::attention::{self, AttentionShape, Saved};
    use crate::ops::product::Products;
    use crate::ops::sequences::{Sequences, Span};

    /// Lengths of the sequences that both are tried on.
    const TRIED: [usize; 3] = [129, 1, 300];
    /// A window that the longest of them does not fit into.
    const NARROW: usize = 100;
    /// The largest difference over the largest value; both round to bf16 on the way.
    const TOLERANCE: f32 = 0.03;
    /// Tokens at the most, and runs, of a timing.
    const TIMED: usize = 4096;
    const RUNS: usize = 3;

    pub(super) fn choose(device: &Device, wanted: Wanted, shape: &AttentionShape, length: usize) -> Result<Chosen> {
        let Device::Cuda(cuda) = device else { candle_core::bail!("{device:?} is no GPU of CUDA") };
        let gpu = Gpu::of(cuda)?;
        *gpu.cudnn.lock() = None;
        if wanted == Wanted::Repeatable {
            return Ok(Chosen::Own { reason: "a step repeats to the bit".into() });
        }
        let tried = Cudnn::open(cuda).and_then(|cudnn| {
            let cudnn = Arc::new(cudnn);
            agree(device, &AttentionShape { window: None, ..*shape }, &gpu, &cudnn)?;
            if shape.window.is_some_and(|window| window < length) {
                agree(device, &AttentionShape { window: Some(NARROW), ..*shape }, &gpu, &cudnn)?;
            }
            Ok(cudnn)
        });
        let cudnn = match tried {
            Ok(cudnn) => cudnn,
            Err(e) if wanted == Wanted::Cudnn => return Err(e),
            // The first line says it; the rest is where in the program.
            Err(e) => {
                return Ok(Chosen::Own { reason: e.to_string().lines().next().unwrap_or_default().to_owned() });
            }
        };
        let version = cudnn.version.clone();
        if wanted == Wanted::Cudnn {
            *gpu.cudnn.lock() = Some(cudnn);
            return Ok(Chosen::Cudnn { version, share: None });
        }
        let problem = Problem::new(&[length.clamp(1, TIMED)], shape, device)?;
        let own = problem.seconds(device)?;
        *gpu.cudnn.lock() = Some(cudnn);
        let share = problem.seconds(device)? / own;
        if share < 1.0 {
            return Ok(Chosen::Cudnn { version, share: Some(share) });
        }
        *gpu.cudnn.lock() = None;
        Ok(Chosen::Own { reason: format!("cuDNN {version} takes {share:.2} of their time") })
    }

    /// Whether cuDNN gives what our kernels give; leaves our kernels chosen.
    fn agree(device: &Device, shape: &AttentionShape, gpu: &Gpu, cudnn: &Arc<Cudnn>) -> Result<()> {
        if !has_kernels(shape) {
            candle_core::bail!("there are no kernels for heads of {} to hold cuDNN against", shape.head_dim)
        }
        // Where it has no plan our kernels would stand in for it, and agree with themselves.
        cudnn.prepare(shape, &TRIED)?;
        let problem = Problem::new(&TRIED, shape, device)?;
        let own = problem.run()?;
        *gpu.cudnn.lock() = Some(cudnn.clone());
        let other = problem.run();
        *gpu.cudnn.lock() = None;
        for ((name, own), other) in ["o", "dq", "dk", "dv"].iter().zip(own).zip(other?) {
            let worst = difference(&own, &other)?;
            if worst >= TOLERANCE {
                candle_core::bail!("cuDNN's {name} is {worst:.3} of the largest value off that of our kernels")
            }
        }
        Ok(())
    }

    /// The largest difference over the largest value of `own`; infinite where something is no number.
    fn difference(own: &Tensor, other: &Tensor) -> Result<f32> {
        let numbers = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let (own, other) = (numbers(own)?, numbers(other)?);
        let top = own.iter().fold(0f32, |a, v| a.max(v.abs()));
        let off = own.iter().zip(&other).map(|(a, b)| (a - b).abs() / top);
        Ok(off.fold(0f32, |worst, off| if off.is_finite() { worst.max(off) } else { f32::INFINITY }))
    }

    /// Attention of fixed numbers over packed sequences.
    struct Problem {
        shape: AttentionShape,
        sequences: Sequences,
        inputs: [Tensor; 4],
    }

    impl Problem {
        fn new(lengths: &[usize], shape: &AttentionShape, device: &Device) -> Result<Self> {
            let tokens: usize = lengths.iter().sum();
            let values = |heads: usize, seed: usize| {
                let width = heads * shape.head_dim;
                let value = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0;
                let values = Tensor::from_vec((0..tokens * width).map(value).collect(), (tokens, width), &Device::Cpu)?;
                values.to_dtype(DType::BF16)?.to_device(device)
            };
            let (heads, kv_heads) = (shape.heads, shape.kv_heads);
            Ok(Self {
                shape: *shape,
                sequences: Sequences::new(&Span::packed(lengths), device)?,
                inputs: [values(heads, 1)?, values(kv_heads, 2)?, values(kv_heads, 3)?, values(heads, 4)?],
            })
        }

        /// O, dQ, dK and dV.
        fn run(&self) -> Result<[Tensor; 4]> {
            let ([q, k, v, d_o], how) = (&self.inputs, Products::CublasLt);
            let (o, lse) = attention::forward((q, k, v), &self.shape, &self.sequences, how)?;
            let saved = Saved { q, k, v, o: &o, lse: &lse };
            let (dq, dk, dv) = attention::backward(d_o, &saved, &self.shape, &self.sequences, how)?;
            Ok([o, dq, dk, dv])
        }

        /// Of one run, after one that does not count.
        fn seconds(&self, device: &Device) -> Result<f64> {
            self.run()?;
            device.synchronize()?;
            let start = Instant::now();
            for _ in 0..RUNS {
                self.run()?;
            }
            device.synchronize()?;
            Ok(start.elapsed().as_secs_f64() / RUNS as f64)
        }
    }
}
