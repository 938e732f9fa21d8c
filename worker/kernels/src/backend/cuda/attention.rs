//! Launches of our kernels for attention.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute as Attribute;
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg};
use candle_core::{CudaDevice, Tensor};
use half::bf16;

use super::buffer::{Input, device_of, finish};
use super::gpu::{self, Gpu};
use super::launch::{THREADS, spread};
use super::tiles::{OWN, Tiles};
use crate::Result;
use crate::backend::operations::{AttentionGrads, AttentionOutput};
use crate::types::attention::{AttentionSaved, AttentionShape, CUDA_HEADS};

/// Threads of a block that owns keys.
const KEY_THREADS: u32 = 256;
/// Those that go by Hopper's products of warpgroups where there are those, unless scores are capped.
const HOPPER: [usize; 2] = [64, 128];
/// Beyond this size a block owns half a tile; see `Share` of `attention.cuh`.
const LARGEST_OF_WHOLE_TILES: usize = 128;
/// What panels of those are aligned to in shared memory.
const ALIGNMENT: usize = 1024;

/// A pass of attention.
#[derive(Debug, Clone, Copy)]
enum Pass {
    Forward,
    BackwardQueries,
    BackwardKeys,
}

impl Pass {
    /// The kernel file, and the name of the kernel without the size of heads.
    fn kernel(self, hopper: bool) -> (&'static str, &'static str) {
        match (self, hopper) {
            (Self::Forward, false) => ("attention_forward", "attention_forward"),
            (Self::Forward, true) => ("attention_forward_hopper", "attention_forward_hopper"),
            (Self::BackwardQueries, false) => ("attention_backward", "attention_backward_queries"),
            (Self::BackwardQueries, true) => (
                "attention_backward_hopper",
                "attention_backward_hopper_queries",
            ),
            (Self::BackwardKeys, false) => ("attention_backward", "attention_backward_keys"),
            (Self::BackwardKeys, true) => (
                "attention_backward_hopper",
                "attention_backward_hopper_keys",
            ),
        }
    }

    /// Bytes of shared memory; see the kernels.
    fn shared_bytes(self, hopper: bool, head: usize) -> usize {
        let (padded, panels) = ((head + 8) * size_of::<bf16>(), head * size_of::<bf16>());
        // Rows of a tile of keys beside queries.
        let (forward, backward) = if head > 64 { (32, 16) } else { (64, 32) };
        let own = OWN / parts_of_tile(head);
        match (self, hopper) {
            (Self::Forward, false) => (own + 4 * forward) * padded,
            (Self::Forward, true) => 5 * OWN * panels + ALIGNMENT,
            (Self::BackwardQueries, false) => (2 * own + 4 * backward) * padded,
            (Self::BackwardQueries, true) => 7 * OWN * panels + ALIGNMENT,
            // Sums of large heads lie within the tiles.
            (Self::BackwardKeys, false) if own < OWN => (2 * own + 4 * 16) * padded,
            (Self::BackwardKeys, false) => 4 * 64 * padded + 4 * 64 * size_of::<f32>(),
            (Self::BackwardKeys, true) => {
                (2 * OWN + 6 * 64) * panels + 6 * 64 * size_of::<f32>() + ALIGNMENT
            }
        }
    }

    fn threads(self, hopper: bool) -> u32 {
        match self {
            Self::BackwardKeys => KEY_THREADS,
            Self::Forward | Self::BackwardQueries => {
                if hopper {
                    256
                } else {
                    128
                }
            }
        }
    }
}

/// Blocks that share a tile of queries or keys.
fn parts_of_tile(head: usize) -> usize {
    if head > LARGEST_OF_WHOLE_TILES { 2 } else { 1 }
}

/// Why there are no kernels for attention of this shape, where there are none.
pub(super) fn refusal(shape: &AttentionShape) -> Option<String> {
    let head = shape.head_dim;
    (!CUDA_HEADS.contains(&head)).then(|| format!("there are no kernels for heads of {head}"))
}

/// The kernel of a pass for heads of the shape's size, and its launch over `tiles` tiles of `heads`
/// heads each.
fn kernel(
    device: &CudaDevice,
    pass: Pass,
    shape: &AttentionShape,
    (tiles, heads): (usize, usize),
) -> Result<(CudaFunction, LaunchConfig)> {
    if let Some(why) = refusal(shape) {
        candle_core::bail!("{why}: open the backend for this attention")
    }
    let plain = HOPPER.contains(&shape.head_dim) && shape.cap.is_none();
    let hopper = plain && Gpu::of(device)?.is_hopper();
    let (module, name) = pass.kernel(hopper);
    let capped = if shape.cap.is_some() { "_capped" } else { "" };
    let name = format!("{name}{capped}_{}", shape.head_dim);
    let function = gpu::function(device, module, &name)?.into_cuda_function();
    let shared_mem_bytes = pass.shared_bytes(hopper, shape.head_dim) as u32;
    let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    function
        .set_attribute(attribute, shared_mem_bytes as i32)
        .w()?;
    let blocks = tiles * parts_of_tile(shape.head_dim);
    let (grid_dim, block_dim) = (
        (blocks as u32, heads as u32, 1),
        (pass.threads(hopper), 1, 1),
    );
    Ok((
        function,
        LaunchConfig {
            grid_dim,
            block_dim,
            shared_mem_bytes,
        },
    ))
}

fn window(shape: &AttentionShape) -> i32 {
    shape
        .window
        .map_or(i32::MAX, |window| window.min(i32::MAX as usize) as i32)
}

/// See [`Backend::attention_forward`](crate::backend::Backend::attention_forward).
pub(super) fn forward(
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    shape: &AttentionShape,
    tiles: &Tiles,
) -> Result<AttentionOutput> {
    let device = device_of(q)?;
    let (m, width) = q.dims2()?;
    let (q, k, v, table) = (
        Input::of(q)?,
        Input::of(k)?,
        Input::of(v)?,
        Input::of(&tiles.queries)?,
    );
    // SAFETY: the kernel writes every element of both.
    let (mut o, mut lse) = unsafe {
        (
            device.alloc::<bf16>(m * width)?,
            device.alloc::<f32>(shape.heads * m)?,
        )
    };
    let stream = device.cuda_stream();
    let (function, launched) =
        kernel(&device, Pass::Forward, shape, (tiles.counts.0, shape.heads))?;
    let (q, k, v, table) = (
        q.slice::<bf16>()?,
        k.slice::<bf16>()?,
        v.slice::<bf16>()?,
        table.slice::<u32>()?,
    );
    let (rows, heads, kv_heads) = (m as i32, shape.heads as i32, shape.kv_heads as i32);
    let (window, scale) = (window(shape), shape.scale);
    let mut launch = stream.launch_builder(&function);
    launch
        .arg(&q)
        .arg(&k)
        .arg(&v)
        .arg(&table)
        .arg(&rows)
        .arg(&heads)
        .arg(&kv_heads)
        .arg(&window)
        .arg(&scale);
    launch.arg(&mut o).arg(&mut lse);
    if let Some(cap) = &shape.cap {
        launch.arg(cap);
    }
    // SAFETY: arguments are those of the kernel, and the tiles were made from spans within the
    // matrices.
    unsafe { launch.launch(launched) }.w()?;
    drop(launch);
    Ok((
        finish(o, device.clone(), (m, width))?,
        finish(lse, device, (shape.heads, m))?,
    ))
}

/// rowsum(dO o O) of every head, [H, M].
fn delta(d_o: &Tensor, o: &Tensor, shape: &AttentionShape) -> Result<Tensor> {
    let device = device_of(o)?;
    let m = o.dim(0)?;
    let (o, d_o) = (Input::of(o)?, Input::of(d_o)?);
    // SAFETY: the kernel writes every element.
    let mut delta = unsafe { device.alloc::<f32>(shape.heads * m)? };
    let function = gpu::function(&device, "attention_backward", "attention_delta")?;
    let (o, d_o) = (o.slice::<bf16>()?, d_o.slice::<bf16>()?);
    let (rows, heads, head) = (m as i32, shape.heads as i32, shape.head_dim as i32);
    let mut launch = function.builder();
    launch
        .arg(&o)
        .arg(&d_o)
        .arg(&rows)
        .arg(&heads)
        .arg(&head)
        .arg(&mut delta);
    // SAFETY: arguments are those of the kernel; a warp goes over a head of a row.
    unsafe { launch.launch(spread(m * shape.heads * 32)) }.w()?;
    drop(launch);
    debug_assert!(THREADS.is_multiple_of(32));
    finish(delta, device, (shape.heads, m))
}

/// See [`Backend::attention_backward`](crate::backend::Backend::attention_backward).
pub(super) fn backward(
    d_o: &Tensor,
    saved: &AttentionSaved<'_>,
    shape: &AttentionShape,
    tiles: &Tiles,
) -> Result<AttentionGrads> {
    let device = device_of(d_o)?;
    let (m, width) = saved.q.dims2()?;
    let (keys, kv_width) = saved.k.dims2()?;
    let delta = delta(d_o, saved.o, shape)?;
    // SAFETY: the kernels write every element of the three.
    let (mut dq, mut dk, mut dv) = unsafe {
        (
            device.alloc::<bf16>(m * width)?,
            device.alloc::<bf16>(keys * kv_width)?,
            device.alloc::<bf16>(keys * kv_width)?,
        )
    };
    let inputs = [saved.q, saved.k, saved.v, d_o].map(Input::of);
    let [q, k, v, d_o] = inputs;
    let (q, k, v, d_o) = (q?, k?, v?, d_o?);
    let (q, k, v, d_o) = (
        q.slice::<bf16>()?,
        k.slice::<bf16>()?,
        v.slice::<bf16>()?,
        d_o.slice::<bf16>()?,
    );
    let (lse, delta) = (Input::of(saved.lse)?, Input::of(&delta)?);
    let (lse, delta) = (lse.slice::<f32>()?, delta.slice::<f32>()?);
    let (by_query, by_key) = (Input::of(&tiles.queries)?, Input::of(&tiles.keys)?);
    let (by_query, by_key) = (by_query.slice::<u32>()?, by_key.slice::<u32>()?);
    let (rows, heads, kv_heads) = (m as i32, shape.heads as i32, shape.kv_heads as i32);
    let (window, scale) = (window(shape), shape.scale);

    let stream = device.cuda_stream();
    let (function, launched) = kernel(
        &device,
        Pass::BackwardQueries,
        shape,
        (tiles.counts.0, shape.heads),
    )?;
    let mut launch = stream.launch_builder(&function);
    launch
        .arg(&q)
        .arg(&k)
        .arg(&v)
        .arg(&d_o)
        .arg(&lse)
        .arg(&delta)
        .arg(&by_query)
        .arg(&rows)
        .arg(&heads)
        .arg(&kv_heads);
    launch.arg(&window).arg(&scale).arg(&mut dq);
    if let Some(cap) = &shape.cap {
        launch.arg(cap);
    }
    // SAFETY: arguments are those of the kernel, and the tiles were made from spans within the
    // matrices.
    unsafe { launch.launch(launched) }.w()?;
    drop(launch);

    let (function, launched) = kernel(
        &device,
        Pass::BackwardKeys,
        shape,
        (tiles.counts.1, shape.kv_heads),
    )?;
    let mut launch = stream.launch_builder(&function);
    launch
        .arg(&q)
        .arg(&k)
        .arg(&v)
        .arg(&d_o)
        .arg(&lse)
        .arg(&delta)
        .arg(&by_key)
        .arg(&rows)
        .arg(&heads)
        .arg(&kv_heads);
    launch.arg(&window).arg(&scale).arg(&mut dk).arg(&mut dv);
    if let Some(cap) = &shape.cap {
        launch.arg(cap);
    }
    // SAFETY: as above.
    unsafe { launch.launch(launched) }.w()?;
    drop(launch);
    let gradient = |data, rows, width| finish(data, device.clone(), (rows, width));
    Ok((
        gradient(dq, m, width)?,
        gradient(dk, keys, kv_width)?,
        gradient(dv, keys, kv_width)?,
    ))
}
