//! Which attention a GPU computes with: our kernels, cuDNN's where the program is built with it, or
//! the reference form.
//!
//! cuDNN is trusted with a run only after it has given what our kernels give on a small problem of
//! the run's own shape, and is taken by itself only where it is the faster of the two.

use std::fmt;
#[cfg(feature = "cudnn")]
use std::sync::Arc;

use candle_core::Device;

use super::attention::refusal;
#[cfg(feature = "cudnn")]
use super::cudnn::Cudnn;
use crate::Result;
use crate::types::options::{AttentionOptions, WantedAttention};

/// What computes attention.
pub(super) enum Chosen {
    /// Our kernels, and why not cuDNN.
    Own { reason: String },
    /// cuDNN; where both were timed, the share that its time is of ours.
    #[cfg(feature = "cudnn")]
    Cudnn {
        cudnn: Arc<Cudnn>,
        share: Option<f64>,
    },
    /// The reference form, and why.
    Reference { why: String },
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own { reason } => write!(f, "own kernels ({reason})"),
            #[cfg(feature = "cudnn")]
            Self::Cudnn { cudnn, share: None } => write!(f, "cuDNN {}", cudnn.version),
            #[cfg(feature = "cudnn")]
            Self::Cudnn {
                cudnn,
                share: Some(share),
            } => {
                write!(
                    f,
                    "cuDNN {}, {share:.2} of our kernels' time",
                    cudnn.version
                )
            }
            Self::Reference { why } => write!(f, "reference ({why})"),
        }
    }
}

/// # Errors
/// cuDNN is asked for and is not there, or gives something else than our kernels; or flash
/// attention is asked for, and there is none for such heads.
pub(super) fn choose(device: &Device, options: &AttentionOptions) -> Result<Chosen> {
    if let Some(why) = refusal(&options.shape) {
        return match options.wanted {
            WantedAttention::Cudnn => candle_core::bail!("{why} to hold cuDNN against"),
            WantedAttention::Flash => candle_core::bail!("flash attention is required, and {why}"),
            WantedAttention::Fastest | WantedAttention::Repeatable => Ok(Chosen::Reference { why }),
        };
    }
    #[cfg(feature = "cudnn")]
    return with_cudnn::choose(device, options);
    #[cfg(not(feature = "cudnn"))]
    {
        let _ = device;
        if options.wanted == WantedAttention::Cudnn {
            candle_core::bail!("this program was built without the `cudnn` feature")
        }
        Ok(Chosen::Own {
            reason: "built without the `cudnn` feature".into(),
        })
    }
}

/// The version of the cuDNN that would be tried.
///
/// # Errors
/// There is none, or the program is built without.
pub(crate) fn cudnn() -> Result<String> {
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

    use super::Chosen;
    use crate::Result;
    use crate::backend::cuda::attention;
    use crate::backend::cuda::cudnn::{self, Cudnn, Packed};
    use crate::backend::cuda::tiles::Tiles;
    use crate::types::attention::{AttentionSaved, AttentionShape};
    use crate::types::options::{AttentionOptions, WantedAttention};
    use crate::types::sequences::{Sequences, Span};

    /// Lengths of the sequences that both are tried on.
    const TRIED: [usize; 3] = [129, 1, 300];
    /// A window that the longest of them does not fit into.
    const NARROW: usize = 100;
    /// The largest difference over the largest value; both round to bf16 on the way.
    const TOLERANCE: f32 = 0.03;
    /// Tokens at the most, and runs, of a timing.
    const TIMED: usize = 4096;
    const RUNS: usize = 3;

    pub(super) fn choose(device: &Device, options: &AttentionOptions) -> Result<Chosen> {
        let AttentionOptions {
            shape,
            wanted,
            length,
        } = options;
        if *wanted == WantedAttention::Repeatable {
            return Ok(Chosen::Own {
                reason: "a repeated step is bit-identical".into(),
            });
        }
        let tried = has_plans(shape)
            .and_then(|()| agreeing(device, shape, *length))
            .and_then(|cudnn| {
                let share = match wanted {
                    WantedAttention::Cudnn => None,
                    _ => Some(share(device, shape, *length, &cudnn)?),
                };
                Ok((cudnn, share))
            });
        match tried {
            Ok((cudnn, share)) if share.is_none_or(|share| share < 1.0) => {
                Ok(Chosen::Cudnn { cudnn, share })
            }
            Ok((cudnn, share)) => {
                let share = share.unwrap_or_default();
                Ok(Chosen::Own {
                    reason: format!("cuDNN {} takes {share:.2} of their time", cudnn.version),
                })
            }
            Err(e) if *wanted == WantedAttention::Cudnn => Err(e),
            // The first line says it; the rest is where in the program.
            Err(e) => Ok(Chosen::Own {
                reason: e.to_string().lines().next().unwrap_or_default().to_owned(),
            }),
        }
    }

    fn has_plans(shape: &AttentionShape) -> Result<()> {
        if shape.cap.is_some() {
            candle_core::bail!("cuDNN has no plans for capped scores")
        }
        Ok(())
    }

    /// cuDNN, which gives what our kernels give.
    fn agreeing(device: &Device, shape: &AttentionShape, length: usize) -> Result<Arc<Cudnn>> {
        let Device::Cuda(cuda) = device else {
            candle_core::bail!("{device:?} is no GPU of CUDA")
        };
        let cudnn = Arc::new(Cudnn::open(cuda)?);
        agree(
            device,
            &AttentionShape {
                window: None,
                ..*shape
            },
            &cudnn,
        )?;
        if shape.window.is_some_and(|window| window < length) {
            agree(
                device,
                &AttentionShape {
                    window: Some(NARROW),
                    ..*shape
                },
                &cudnn,
            )?;
        }
        Ok(cudnn)
    }

    fn agree(device: &Device, shape: &AttentionShape, cudnn: &Cudnn) -> Result<()> {
        let problem = Problem::new(&TRIED, shape, device, cudnn)?;
        let (own, other) = (problem.by_own_kernels()?, problem.by_cudnn(cudnn)?);
        for ((name, own), other) in ["o", "dq", "dk", "dv"].iter().zip(own).zip(other) {
            let worst = difference(&own, &other)?;
            if worst >= TOLERANCE {
                candle_core::bail!(
                    "cuDNN's {name} is {worst:.3} of the largest value off that of our kernels"
                )
            }
        }
        Ok(())
    }

    /// The time of cuDNN over that of our kernels.
    fn share(device: &Device, shape: &AttentionShape, length: usize, cudnn: &Cudnn) -> Result<f64> {
        let problem = Problem::new(&[length.clamp(1, TIMED)], shape, device, cudnn)?;
        let own = seconds(device, || problem.by_own_kernels())?;
        Ok(seconds(device, || problem.by_cudnn(cudnn))? / own)
    }

    /// Of one run, after one that does not count.
    fn seconds<T>(device: &Device, run: impl Fn() -> Result<T>) -> Result<f64> {
        run()?;
        device.synchronize()?;
        let start = Instant::now();
        for _ in 0..RUNS {
            run()?;
        }
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / RUNS as f64)
    }

    /// The largest difference over the largest value of `own`; infinite where something is no
    /// number.
    fn difference(own: &Tensor, other: &Tensor) -> Result<f32> {
        let values = |t: &Tensor| {
            t.to_device(&Device::Cpu)?
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()
        };
        let (own, other) = (values(own)?, values(other)?);
        let top = own.iter().fold(0f32, |a, v| a.max(v.abs()));
        let off = own.iter().zip(&other).map(|(a, b)| (a - b).abs() / top);
        Ok(off.fold(0f32, |worst, off| {
            if off.is_finite() {
                worst.max(off)
            } else {
                f32::INFINITY
            }
        }))
    }

    /// Attention of fixed values over packed sequences.
    struct Problem {
        shape: AttentionShape,
        tiles: Tiles,
        packed: Packed,
        inputs: [Tensor; 4],
    }

    impl Problem {
        /// # Errors
        /// cuDNN has no plans for it.
        fn new(
            lengths: &[usize],
            shape: &AttentionShape,
            device: &Device,
            cudnn: &Cudnn,
        ) -> Result<Self> {
            cudnn.prepare(shape, lengths)?;
            let tokens: usize = lengths.iter().sum();
            let values = |heads: usize, seed: usize| {
                let width = heads * shape.head_dim;
                let value = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0;
                let values = Tensor::from_vec(
                    (0..tokens * width).map(value).collect(),
                    (tokens, width),
                    &Device::Cpu,
                )?;
                values.to_dtype(DType::BF16)?.to_device(device)
            };
            let spans = Span::packed(lengths);
            let Some(packed) = Packed::new(&spans, shape, device)? else {
                candle_core::bail!("cuDNN does not take sequences of {lengths:?} tokens")
            };
            let (heads, kv_heads) = (shape.heads, shape.kv_heads);
            Ok(Self {
                shape: *shape,
                tiles: Tiles::new(&spans, Sequences::new(&spans)?.positions(), device)?,
                packed,
                inputs: [
                    values(heads, 1)?,
                    values(kv_heads, 2)?,
                    values(kv_heads, 3)?,
                    values(heads, 4)?,
                ],
            })
        }

        /// O, dQ, dK and dV.
        fn by_own_kernels(&self) -> Result<[Tensor; 4]> {
            let [q, k, v, d_o] = &self.inputs;
            let (o, lse) = attention::forward((q, k, v), &self.shape, &self.tiles)?;
            let saved = AttentionSaved {
                q,
                k,
                v,
                o: &o,
                lse: &lse,
            };
            let (dq, dk, dv) = attention::backward(d_o, &saved, &self.shape, &self.tiles)?;
            Ok([o, dq, dk, dv])
        }

        /// The same.
        fn by_cudnn(&self, cudnn: &Cudnn) -> Result<[Tensor; 4]> {
            let [q, k, v, d_o] = &self.inputs;
            let (o, lse) = cudnn::forward(cudnn, (q, k, v), &self.shape, &self.packed)?;
            let saved = AttentionSaved {
                q,
                k,
                v,
                o: &o,
                lse: &lse,
            };
            let (dq, dk, dv) = cudnn::backward(cudnn, d_o, &saved, &self.shape, &self.packed)?;
            Ok([o, dq, dk, dv])
        }
    }
}
