//! cuDNN's fused attention over packed sequences, by the functions of `cudnn.cpp`.
//!
//! Making a plan takes cuDNN about a second, so a plan serves all sizes up to its own: the number
//! of sequences, the longest and all tokens are rounded up, and sequences that are not there have
//! no tokens. Its backward pass adds in an order that changes from run to run. The library is
//! looked up only when a run asks for it.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtr};
use candle_core::{CudaDevice, DType, Device, Tensor};
use parking_lot::Mutex;

use super::buffer::{address, device_of, unwritten};
use super::gpu::Gpu;
use super::libraries;
use crate::Result;
use crate::backend::operations::{AttentionGrads, AttentionOutput};
use crate::types::attention::{AttentionSaved, AttentionShape};
use crate::types::sequences::Span;

/// CUDA's runtime, which cuDNN's headers ask for the properties of the GPU.
const RUNTIME: &str = "libcudart.so.13";
const LIBRARY: &CStr = c"libcudnn.so.9";
/// The most elements of a tensor whose places fit the offsets' 32 bits.
const MOST_ELEMENTS: usize = i32::MAX as usize;
/// Fewer tokens are taken for so many.
const SHORTEST: usize = 128;
/// Plans that are kept; real batches make about ten.
const MOST_PLANS: usize = 64;
/// Tensors of an attention, forward and backward.
const TENSORS: usize = 13;

/// As in `cudnn.cpp`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Problem {
    sequences: i64,
    length: i64,
    tokens: i64,
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    window: i64,
    scale: f32,
    backward: i32,
    capability: i32,
}

#[repr(C)]
struct Text([c_char; 512]);

impl Text {
    fn new() -> Self {
        Self([0; 512])
    }

    fn reason(&self) -> String {
        // SAFETY: whoever writes it ends it with a zero, and it began with zeros.
        let text = unsafe { CStr::from_ptr(self.0.as_ptr()) }.to_string_lossy();
        format!(
            "cuDNN: {}",
            text.lines().next().unwrap_or("no reason is given")
        )
    }

    fn fault(&self) -> candle_core::Error {
        candle_core::Error::Msg(self.reason())
    }
}

unsafe extern "C" {
    fn qlora_cudnn_open(library: *const c_char, text: *mut Text) -> usize;
    fn qlora_cudnn_handle(stream: *mut c_void, text: *mut Text) -> *mut c_void;
    fn qlora_cudnn_plan(
        handle: *mut c_void,
        problem: *const Problem,
        properties: *const u8,
        size: usize,
        workspace: *mut i64,
        text: *mut Text,
    ) -> *mut c_void;
    fn qlora_cudnn_free(plan: *mut c_void);
    fn qlora_cudnn_close(handle: *mut c_void);
    fn qlora_cudnn_run(
        handle: *mut c_void,
        plan: *mut c_void,
        pointers: *const *mut c_void,
        workspace: *mut c_void,
        text: *mut Text,
    ) -> i32;
}

/// What a plan was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    sizes: Sizes,
    shape: AttentionShape,
    backward: bool,
}

/// How much there is at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Sizes {
    sequences: usize,
    length: usize,
    tokens: usize,
}

impl Sizes {
    /// Rounded up, so that batches that are nearly alike share a plan: tokens, which memory is made
    /// for, to quarters of a power of two, the longest sequence to a power of two, and sequences,
    /// which cost little where they are not there, to 1, 2, and powers of four.
    fn of(lengths: &[usize]) -> Self {
        let (longest, tokens) = (
            lengths.iter().max().copied().unwrap_or(0),
            lengths.iter().sum::<usize>(),
        );
        Self {
            sequences: few(lengths.len()),
            length: longest.max(SHORTEST).next_power_of_two(),
            tokens: tokens
                .max(SHORTEST)
                .next_multiple_of(tokens.max(SHORTEST).next_power_of_two() / 4),
        }
    }

    /// The window where some sequence may be longer.
    fn within(self, window: Option<usize>) -> Option<usize> {
        window.filter(|&window| window < self.length)
    }
}

/// `count` rounded up to 1, 2, or a power of four.
fn few(count: usize) -> usize {
    let power = count.next_power_of_two();
    if power > 2 && power.trailing_zeros() % 2 == 1 {
        2 * power
    } else {
        power
    }
}

impl Key {
    /// Only the way back works with memory of its own, which is of all tokens.
    fn forward(shape: &AttentionShape, sizes: Sizes) -> Self {
        let sizes = Sizes { tokens: 0, ..sizes };
        Self {
            backward: false,
            ..Self::backward(shape, sizes)
        }
    }

    fn backward(shape: &AttentionShape, sizes: Sizes) -> Self {
        let window = sizes.within(shape.window);
        Self {
            sizes,
            shape: AttentionShape { window, ..*shape },
            backward: true,
        }
    }

    fn problem(&self, capability: i32) -> Problem {
        let Self {
            sizes,
            shape,
            backward,
        } = self;
        Problem {
            sequences: sizes.sequences as i64,
            length: sizes.length as i64,
            tokens: sizes.tokens as i64,
            heads: shape.heads as i64,
            kv_heads: shape.kv_heads as i64,
            head_dim: shape.head_dim as i64,
            window: shape.window.unwrap_or(0) as i64,
            scale: shape.scale,
            backward: i32::from(*backward),
            capability,
        }
    }
}

#[derive(Clone, Copy)]
struct Plan {
    at: *mut c_void,
    /// Bytes.
    workspace: usize,
}

/// The version of the cuDNN that is found, as people write it. CUDA's other libraries have to be
/// loaded.
pub(crate) fn version() -> Result<String> {
    // Its headers look for CUDA's runtime by themselves, and cuDNN by name; both are found where
    // the rest of CUDA lies. A missing runtime is what the headers tell of, when they need it.
    let _ = libraries::keep_open(RUNTIME);
    let name = LIBRARY.to_string_lossy();
    libraries::keep_open(&name)
        .map_err(|fault| candle_core::Error::Msg(format!("cuDNN: {fault}")))?;
    let mut text = Text::new();
    // SAFETY: the name ends with a zero; the reason has room.
    let version = unsafe { qlora_cudnn_open(LIBRARY.as_ptr(), &mut text) };
    if version == 0 {
        return Err(text.fault());
    }
    Ok(format!(
        "{}.{}.{}",
        version / 10_000,
        version / 100 % 100,
        version % 100
    ))
}

type Plans = HashMap<Key, std::result::Result<Plan, String>>;

/// cuDNN on one GPU.
pub(crate) struct Cudnn {
    pub version: String,
    capability: i32,
    /// Those that were asked for, and why there is none. Also keeps two threads from using the
    /// handle at one time.
    plans: Mutex<Plans>,
    stream: Arc<CudaStream>,
    handle: *mut c_void,
}

// SAFETY: the handle and the plans are used under the lock of `plans` only.
unsafe impl Send for Cudnn {}
// SAFETY: as above.
unsafe impl Sync for Cudnn {}

impl Cudnn {
    /// # Errors
    /// cuDNN 9 is not found, or does not serve this GPU.
    pub fn open(device: &CudaDevice) -> Result<Self> {
        let (version, mut text) = (version()?, Text::new());
        let stream = device.cuda_stream();
        let context = stream.context();
        context.bind_to_thread().w()?;
        let capability = Gpu::of(device)?.capability;
        // SAFETY: the GPU's context is the thread's, and the stream lives as long as the device.
        let handle = unsafe { qlora_cudnn_handle(stream.cu_stream().cast(), &mut text) };
        if handle.is_null() {
            return Err(text.fault());
        }
        Ok(Self {
            version,
            capability,
            plans: Mutex::default(),
            stream,
            handle,
        })
    }

    /// The plan for a problem among `plans`, made when it is first asked for.
    fn plan(&self, plans: &mut Plans, key: &Key) -> Result<Plan> {
        if plans.len() == MOST_PLANS && !plans.contains_key(key) {
            // Work that uses a plan may still wait for its turn.
            self.stream.synchronize().w()?;
            free(plans);
        }
        let plan = plans.entry(*key).or_insert_with(|| self.make(key));
        plan.clone().map_err(candle_core::Error::Msg)
    }

    fn make(&self, key: &Key) -> std::result::Result<Plan, String> {
        let (mut workspace, mut text) = (0, Text::new());
        let problem = key.problem(self.capability);
        // SAFETY: all pointers are valid for the call; with a handle no properties are read.
        let at = unsafe {
            qlora_cudnn_plan(
                self.handle,
                &problem,
                std::ptr::null(),
                0,
                &raw mut workspace,
                &mut text,
            )
        };
        if at.is_null() {
            Err(text.reason())
        } else {
            Ok(Plan {
                at,
                workspace: workspace as usize,
            })
        }
    }

    /// Makes the plans for both ways: who goes one way by cuDNN has to come back by it.
    ///
    /// # Errors
    /// cuDNN has none for such sequences.
    pub fn prepare(&self, shape: &AttentionShape, lengths: &[usize]) -> Result<()> {
        self.make_plans(shape, Sizes::of(lengths))
    }

    fn make_plans(&self, shape: &AttentionShape, sizes: Sizes) -> Result<()> {
        let mut plans = self.plans.lock();
        self.plan(&mut plans, &Key::forward(shape, sizes))?;
        self.plan(&mut plans, &Key::backward(shape, sizes))
            .map(drop)
    }

    /// Puts the work of a plan on the device's stream.
    fn run(
        &self,
        device: &CudaDevice,
        key: &Key,
        tensors: &[(usize, &Tensor)],
        packed: &Packed,
    ) -> Result<()> {
        self.stream.context().bind_to_thread().w()?;
        let mut plans = self.plans.lock();
        let plan = self.plan(&mut plans, key)?;
        let mut pointers = [std::ptr::null_mut(); TENSORS];
        let tables = packed
            .tables
            .iter()
            .enumerate()
            .map(|(i, table)| (LENGTHS + i, table));
        for (place, tensor) in tensors.iter().copied().chain(tables) {
            pointers[place] = address(tensor, tensor.dtype())? as *mut c_void;
        }
        // SAFETY: cuDNN writes what it works with before it reads it.
        let workspace = unsafe { device.alloc::<u8>(plan.workspace.max(1))? };
        let (workspace, _held) = workspace.device_ptr(&self.stream);
        let mut text = Text::new();
        // SAFETY: the tensors have the sizes that the plan was made for, and live until work that
        // is put on the stream later frees them, as the workspace does.
        let failed = unsafe {
            qlora_cudnn_run(
                self.handle,
                plan.at,
                pointers.as_ptr(),
                workspace as *mut c_void,
                &mut text,
            )
        };
        if failed == 0 {
            Ok(())
        } else {
            Err(text.fault())
        }
    }
}

/// Lets all plans go, of which no work is under way.
fn free(plans: &mut Plans) {
    let made = plans.drain().filter_map(|(_, plan)| plan.ok());
    // SAFETY: nothing else holds them: they are used under the lock only.
    made.for_each(|plan| unsafe { qlora_cudnn_free(plan.at) });
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // A GPU that takes no order any more has no work under way either.
        let _ = self.stream.synchronize();
        free(self.plans.get_mut());
        // SAFETY: the handle is this one's own, and its plans are gone.
        unsafe { qlora_cudnn_close(self.handle) };
    }
}

/// Places of tensors among the pointers: those of `Id` in `cudnn.cpp`, from 0.
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const O: usize = 3;
const LSE: usize = 4;
const D_O: usize = 5;
const DQ: usize = 6;
const DK: usize = 7;
const DV: usize = 8;
const LENGTHS: usize = 9;

/// Lengths of the spans where each is a whole sequence that begins where the one before ends.
fn whole(spans: &[Span]) -> Option<Vec<usize>> {
    let lengths: Vec<usize> = spans.iter().map(|span| span.q.len()).collect();
    (Span::packed(&lengths) == spans).then_some(lengths)
}

/// The sequences of a pass as cuDNN reads them.
pub(crate) struct Packed {
    /// The attention that the backend was opened for. A layer may have another window or scale.
    shape: AttentionShape,
    sizes: Sizes,
    /// Lengths, and where each sequence begins among the elements of q, of k and of the sums; on the
    /// GPU.
    tables: [Tensor; 4],
}

impl Packed {
    /// None where a span is no whole sequence, or places do not fit 32 bits.
    pub fn new(spans: &[Span], shape: &AttentionShape, device: &Device) -> Result<Option<Self>> {
        let Some(lengths) = whole(spans) else {
            return Ok(None);
        };
        let (sizes, tokens) = (Sizes::of(&lengths), lengths.iter().sum::<usize>());
        if tokens == 0 || tokens * shape.heads * shape.head_dim > MOST_ELEMENTS {
            return Ok(None);
        }
        let mut padded: Vec<u32> = lengths.iter().map(|&length| length as u32).collect();
        padded.resize(sizes.sequences, 0);
        let offsets = |width: usize| {
            let mut at = 0;
            let mut offsets = vec![0];
            offsets.extend(padded.iter().map(|&length| {
                at += length * width as u32;
                at
            }));
            let count = offsets.len();
            Tensor::from_vec(offsets, count, device)
        };
        let by_q = offsets(shape.heads * shape.head_dim)?;
        let by_kv = offsets(shape.kv_heads * shape.head_dim)?;
        let by_sum = offsets(shape.heads)?;
        let lengths = Tensor::from_vec(padded, sizes.sequences, device)?;
        Ok(Some(Self {
            shape: *shape,
            sizes,
            tables: [lengths, by_q, by_kv, by_sum],
        }))
    }

    /// Whether `cudnn` computes a layer of this shape: it has plans for it, and was held against our
    /// kernels with a window where the layer has one. The answer is the same on the way back.
    ///
    /// # Errors
    /// The tables are for other heads.
    pub fn takes(&self, cudnn: &Cudnn, shape: &AttentionShape) -> Result<bool> {
        self.expect(shape)?;
        let windowed = self.sizes.within(shape.window).is_some();
        let tried = shape.cap.is_none() && (!windowed || self.shape.window.is_some());
        Ok(tried && cudnn.make_plans(shape, self.sizes).is_ok())
    }

    /// # Errors
    /// The tables are for other heads.
    fn expect(&self, shape: &AttentionShape) -> Result<()> {
        let heads = |of: &AttentionShape| (of.heads, of.kv_heads, of.head_dim);
        if heads(&self.shape) != heads(shape) {
            candle_core::bail!(
                "sequences for {:?} are given to attention of {shape:?}",
                self.shape
            )
        }
        Ok(())
    }
}

/// See [`Backend::attention_forward`](crate::backend::Backend::attention_forward); but the sums lie
/// token by token [M, H].
pub(crate) fn forward(
    cudnn: &Cudnn,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    shape: &AttentionShape,
    packed: &Packed,
) -> Result<AttentionOutput> {
    packed.expect(shape)?;
    let device = device_of(q)?;
    let (m, width) = q.dims2()?;
    let o = unwritten((m, width), DType::BF16, &device)?;
    let lse = unwritten((m, shape.heads), DType::F32, &device)?;
    let key = Key::forward(shape, packed.sizes);
    cudnn.run(
        &device,
        &key,
        &[(Q, q), (K, k), (V, v), (O, &o), (LSE, &lse)],
        packed,
    )?;
    Ok((o, lse))
}

/// See [`Backend::attention_backward`](crate::backend::Backend::attention_backward).
pub(crate) fn backward(
    cudnn: &Cudnn,
    d_o: &Tensor,
    saved: &AttentionSaved<'_>,
    shape: &AttentionShape,
    packed: &Packed,
) -> Result<AttentionGrads> {
    packed.expect(shape)?;
    let device = device_of(d_o)?;
    let like = |tensor: &Tensor| unwritten(tensor.dims2()?, DType::BF16, &device);
    let (dq, dk, dv) = (like(saved.q)?, like(saved.k)?, like(saved.v)?);
    let inputs = [
        (Q, saved.q),
        (K, saved.k),
        (V, saved.v),
        (O, saved.o),
        (LSE, saved.lse),
        (D_O, d_o),
    ];
    let outputs = [(DQ, &dq), (DK, &dk), (DV, &dv)];
    let key = Key::backward(shape, packed.sizes);
    cudnn.run(&device, &key, &[&inputs[..], &outputs[..]].concat(), packed)?;
    Ok((dq, dk, dv))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_that_are_nearly_alike_share_a_plan() {
        let sizes = |lengths: &[usize]| Sizes::of(lengths);
        assert_eq!(sizes(&[4000, 4090]), sizes(&[4000, 4096]));
        assert_eq!(
            sizes(&[4096, 4000]),
            Sizes {
                sequences: 2,
                length: 4096,
                tokens: 8192
            }
        );
        assert_eq!(
            sizes(&[3, 1, 1]),
            Sizes {
                sequences: 4,
                length: 128,
                tokens: 128
            }
        );
        assert_eq!(sizes(&[1; 5]).sequences, 16);
        assert_eq!(sizes(&[1; 16]).sequences, 16);
        assert_eq!(
            sizes(&[129]),
            Sizes {
                sequences: 1,
                length: 256,
                tokens: 192
            }
        );
    }

    /// Plans for an H100 by cuDNN itself, without one: `QLORA_CUDNN_DEVICE` names a file of its
    /// properties. Needs cuDNN, and a driver that at least answers.
    #[test]
    #[ignore = "needs cuDNN 9 and a file of a GPU's properties"]
    fn plans_for_a_gpu_that_is_not_there() {
        let file = std::env::var("QLORA_CUDNN_DEVICE").expect("the name of a file");
        let properties = std::fs::read(file).expect("properties of a GPU");
        let (mut text, mut workspace) = (Text::new(), 0);
        // SAFETY: as in `open`.
        assert_ne!(
            unsafe { qlora_cudnn_open(LIBRARY.as_ptr(), &mut text) },
            0,
            "{}",
            text.fault()
        );
        let shape = AttentionShape::new(32, 8, 128);
        let sizes = Sizes::of(&[4096, 4096]);
        for (shape, backward, bytes) in [
            (shape, false, 0),
            (shape, true, 8192 * 49_280),
            (
                AttentionShape {
                    window: Some(1024),
                    ..shape
                },
                false,
                0,
            ),
            (
                AttentionShape {
                    window: Some(1024),
                    ..shape
                },
                true,
                8192 * 49_280,
            ),
            (AttentionShape::new(9, 3, 64), true, 8192 * 6_948),
        ] {
            let key = if backward {
                Key::backward(&shape, sizes)
            } else {
                Key::forward(&shape, sizes)
            };
            let problem = key.problem(90);
            let (at, size) = (properties.as_ptr(), properties.len());
            let none = std::ptr::null_mut();
            // SAFETY: as in `plan`; without a handle the properties are read.
            let plan = unsafe {
                qlora_cudnn_plan(none, &problem, at, size, &raw mut workspace, &mut text)
            };
            assert!(!plan.is_null(), "{problem:?}: {}", text.fault());
            assert!(
                workspace <= bytes + (1 << 20),
                "{problem:?}: {workspace} bytes"
            );
        }
    }
}
