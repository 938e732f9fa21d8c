//! Launches of adapters that share their input.
//!
//! The kernels take sixteen ranks of an adapter as a piece and as many pieces at once as there are
//! projections that share an input; larger ranks are several pieces. The next launch adds the
//! pieces that do not fit one.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::{CudaDevice, DType, Tensor};
use half::bf16;

use super::buffer::{Input, address, device_of, finish, unwritten};
use super::gpu;
use super::launch::THREADS;
use super::rows;
use crate::Result;
use crate::host::philox::{MULTIPLIER, WEYL};
use crate::types::activations::Activations;
use crate::types::dropout::DropoutKey;
use crate::types::lora::{LoraBackwardInput, LoraInput};

/// Pieces of a launch and ranks of a piece: those of the kernels.
const MOST_PIECES: usize = 3;
const RANKS: usize = 16;
/// Rows and warps of a block of `inner`; columns of a block of `pull`, and its warps side by side.
const ROWS: usize = 32;
const WARPS: usize = 8;
const COLUMNS: usize = 256;
const ACROSS: usize = 4;
/// Threads of a warp.
const WARP: usize = 32;
/// Rows that one part of dA is of, at the least, and parts at the most.
const SHARE: usize = 512;
const MOST_SHARES: usize = 32;
/// Bytes that a thread reads at once.
const ALIGNMENT: u64 = 16;

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    a: u64,
    u: u64,
    partial: u64,
    da: u64,
    drawn: [u32; 3],
    projection: u32,
    ranks: i32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Pieces([Piece; MOST_PIECES]);

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Masks {
    draws: Draws,
    first: u32,
    drops: u32,
    kept: f32,
}

// SAFETY: both are laid out as the kernels' parameters of the same names.
unsafe impl DeviceRepr for Pieces {}
// SAFETY: as above.
unsafe impl DeviceRepr for Masks {}

impl Masks {
    /// Without a key nothing is dropped.
    fn new(key: Option<&DropoutKey>, width: usize) -> Self {
        key.map_or(
            Self {
                kept: 1.0,
                ..Self::default()
            },
            |key| Self {
                draws: Draws::new(key),
                first: first_group(key, width) as u32,
                drops: 1,
                kept: key.kept(),
            },
        )
    }
}

/// What all draws of a step share: `Drawing` of `philox.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Draws {
    begin: u32,
    keys: [[u32; 2]; 8],
    below: u32,
    small: u32,
}

impl Draws {
    fn new(key: &DropoutKey) -> Self {
        let threshold = key.threshold();
        Self {
            begin: key.step ^ keys(key, 0)[1],
            keys: std::array::from_fn(|i| keys(key, 2 + i as u32)),
            below: (threshold & 0x7fff) * 0x1_0001,
            small: if threshold < 0x8000 { u32::MAX } else { 0 },
        }
    }

    /// Whether the kernels can draw masks of so many rows: the groups' numbers have the same upper
    /// word, and a number of 16 bits may reach the threshold.
    fn apply(key: &DropoutKey, rows: usize, width: usize) -> bool {
        let first = first_group(key, width);
        let last = first + (rows * width / 8).saturating_sub(1) as u64;
        first >> 32 == last >> 32 && key.threshold() <= u32::from(u16::MAX)
    }
}

/// The two keys of a round of Philox.
fn keys(key: &DropoutKey, round: u32) -> [u32; 2] {
    [0, 1]
        .map(|half| ((key.seed >> (32 * half)) as u32).wrapping_add(round.wrapping_mul(WEYL[half])))
}

/// The group of eight elements that a matrix begins with.
fn first_group(key: &DropoutKey, width: usize) -> u64 {
    key.first_token * (width / 8) as u64
}

/// The first two rounds of Philox as far as they depend on a projection and not on a group:
/// `Projection` of `philox.cuh`.
fn drawn(key: &DropoutKey, width: usize) -> [u32; 3] {
    let times = |half: usize, word: u32| u64::from(MULTIPLIER[half]) * u64::from(word);
    let upper = (first_group(key, width) >> 32) as u32;
    let first = times(1, key.projection);
    let second = times(0, (first >> 32) as u32 ^ upper ^ keys(key, 0)[0]);
    let [low, high] = keys(key, 1);
    [
        first as u32 ^ low,
        (second >> 32) as u32 ^ high,
        second as u32,
    ]
}

/// Why the kernels do not take adapters of `rank` over inputs of `width` columns; none where they
/// do.
pub(super) fn refusal(rank: usize, width: usize) -> Option<String> {
    if !width.is_multiple_of(8) {
        return Some(format!("{width} columns are no whole groups of 8"));
    }
    (!rank.is_multiple_of(2)).then(|| format!("rank {rank} is odd"))
}

/// Whether the kernels take them: sizes as in [`refusal`], the same for all, and masks that differ
/// in the projection only, leave something and are drawn as `philox.cuh` has it.
pub(super) fn takes(x: &Tensor, adapters: &[LoraInput<'_>]) -> Result<bool> {
    let Some(first) = adapters.first() else {
        return Ok(false);
    };
    let ((rows, width), rank) = (x.dims2()?, first.a.dims2()?.0);
    let common = |key: Option<DropoutKey>| {
        key.map(|key| DropoutKey {
            projection: 0,
            ..key
        })
    };
    let alike = adapters
        .iter()
        .all(|one| one.a.dims() == first.a.dims() && common(one.mask) == common(first.mask));
    let drawn = first.mask.is_none_or(|key| Draws::apply(&key, rows, width));
    let aligned = address(x, DType::BF16)?.is_multiple_of(ALIGNMENT);
    Ok(alike && drawn && aligned && refusal(rank, width).is_none())
}

/// One adapter on the GPU, with room for what is found.
struct Adapter {
    /// A in bf16.
    a: Tensor,
    /// u or du.
    u: Tensor,
    /// Parts of dA, and dA.
    found: Option<(Tensor, Tensor)>,
    drawn: [u32; 3],
    projection: u32,
}

impl Adapter {
    fn new(input: &LoraInput<'_>, u: Tensor) -> Result<Self> {
        let a = rows::to_bf16(input.a)?;
        let width = a.dims2()?.1;
        let drawn = input.mask.map_or([0; 3], |key| drawn(&key, width));
        Ok(Self {
            a,
            u,
            found: None,
            drawn,
            projection: input.mask.map_or(0, |key| key.projection),
        })
    }

    /// Sixteen ranks each, and the rest.
    fn pieces(&self) -> Result<Vec<Piece>> {
        let (rank, width) = self.a.dims2()?;
        let (a, u) = (
            address(&self.a, DType::BF16)?,
            address(&self.u, DType::BF16)?,
        );
        let (partial, da) = match &self.found {
            Some((partial, da)) => (address(partial, DType::F32)?, address(da, DType::F32)?),
            None => (0, 0),
        };
        let piece = |first: usize| {
            let (row, column) = ((first * width) as u64, first as u64);
            Piece {
                a: a + 2 * row,
                u: u + 2 * column,
                partial: partial + 4 * row,
                da: da + 4 * row,
                drawn: self.drawn,
                projection: self.projection,
                ranks: RANKS.min(rank - first) as i32,
            }
        };
        Ok((0..rank).step_by(RANKS).map(piece).collect())
    }
}

/// All pieces, as many a launch as it takes.
fn launches(adapters: &[Adapter]) -> Result<Vec<(Pieces, usize)>> {
    let pieces: Vec<Piece> = adapters
        .iter()
        .map(Adapter::pieces)
        .collect::<Result<Vec<_>>>()?
        .concat();
    let packed = |chunk: &[Piece]| {
        let mut pieces = Pieces::default();
        pieces.0[..chunk.len()].copy_from_slice(chunk);
        (pieces, chunk.len())
    };
    Ok(pieces.chunks(MOST_PIECES).map(packed).collect())
}

fn grid(x: usize, y: usize, threads: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (x as u32, y as u32, 1),
        block_dim: (threads as u32, 1, 1),
        shared_mem_bytes: 0,
    }
}

/// Blocks of `inner`, whose warps put their sums for `count` pieces into shared memory.
fn rows_each(m: usize, count: usize) -> LaunchConfig {
    let sums = WARPS * ROWS * RANKS * count * size_of::<f32>();
    LaunchConfig {
        shared_mem_bytes: sums as u32,
        ..grid(m.div_ceil(ROWS), 1, WARPS * WARP)
    }
}

/// Blocks of `pull`, which have A of their columns for `count` pieces in shared memory. One piece
/// leaves registers for two rows of warps; the lower ones then hand their sums, 32 a thread, to the
/// upper ones.
fn columns_each(width: usize, shares: usize, count: usize) -> LaunchConfig {
    let (below, sums) = if count == 1 {
        (2, ACROSS * WARP * 32 * size_of::<f32>())
    } else {
        (1, 0)
    };
    let a = COLUMNS * RANKS * count * size_of::<bf16>();
    LaunchConfig {
        shared_mem_bytes: a.max(sums) as u32,
        ..grid(width.div_ceil(COLUMNS), shares, ACROSS * below * WARP)
    }
}

/// See [`crate::backend::Backend::lora_forward`].
pub(super) fn forward(x: &Tensor, inputs: &[LoraInput<'_>]) -> Result<Vec<Activations>> {
    let device = device_of(x)?;
    let ((m, width), rank) = (x.dims2()?, inputs[0].a.dims2()?.0);
    let one =
        |input: &LoraInput<'_>| Adapter::new(input, unwritten((m, rank), DType::BF16, &device)?);
    let adapters = inputs.iter().map(one).collect::<Result<Vec<_>>>()?;
    let masks = Masks::new(inputs[0].mask.as_ref(), width);
    let input = Input::of(x)?;
    let (x, rows, columns, stride) = (input.slice::<bf16>()?, m as i32, width as i32, rank as i32);
    for (pieces, count) in launches(&adapters)? {
        let function = gpu::function(&device, "lora", &format!("lora_inner_{count}"))?;
        let mut launch = function.builder();
        launch
            .arg(&x)
            .arg(&pieces)
            .arg(&masks)
            .arg(&rows)
            .arg(&columns)
            .arg(&stride);
        // SAFETY: arguments are those of the kernel, which writes every element of u; the tensors
        // outlive the launch.
        unsafe { launch.launch(rows_each(m, count)) }.w()?;
    }
    Ok(adapters
        .into_iter()
        .map(|adapter| adapter.u.into())
        .collect())
}

/// See [`crate::backend::Backend::lora_backward`]; all have masks.
pub(super) fn backward(
    x: &Tensor,
    adapters: &[LoraBackwardInput<'_>],
) -> Result<(Vec<Tensor>, Option<Tensor>)> {
    let device = device_of(x)?;
    let ((m, width), rank) = (x.dims2()?, adapters[0].adapter.a.dims2()?.0);
    let share = SHARE.max(m.div_ceil(MOST_SHARES)).next_multiple_of(RANKS);
    let shares = m.div_ceil(share);
    let one = |input: &LoraBackwardInput<'_>| {
        let du = rows::to_bf16(input.du.tensor()?)?;
        let found = (
            unwritten((shares * rank, width), DType::F32, &device)?,
            unwritten((rank, width), DType::F32, &device)?,
        );
        Ok(Adapter {
            found: Some(found),
            ..Adapter::new(&input.adapter, du)?
        })
    };
    let masks = Masks::new(adapters[0].adapter.mask.as_ref(), width);
    let adapters = adapters.iter().map(one).collect::<Result<Vec<_>>>()?;
    let input = Input::of(x)?;
    let sizes = Sizes {
        m: m as i32,
        width: width as i32,
        rank: rank as i32,
        share: share as i32,
        shares,
    };
    let mut dx: Option<Tensor> = None;
    for launch in launches(&adapters)? {
        dx = Some(pull(&device, &input, dx.as_ref(), &launch, &masks, &sizes)?);
        sum(&device, &launch, masks.kept, &sizes)?;
    }
    let found = adapters
        .into_iter()
        .filter_map(|adapter| adapter.found.map(|(_, da)| da))
        .collect();
    Ok((found, dx))
}

/// Sizes of a way back.
struct Sizes {
    m: i32,
    width: i32,
    rank: i32,
    /// Rows of a part of dA.
    share: i32,
    shares: usize,
}

/// `base` and what goes through the pieces, and parts of their dA.
fn pull(
    device: &CudaDevice,
    x: &Input<'_>,
    base: Option<&Tensor>,
    (pieces, count): &(Pieces, usize),
    masks: &Masks,
    sizes: &Sizes,
) -> Result<Tensor> {
    let (m, width) = (sizes.m as usize, sizes.width as usize);
    // SAFETY: the kernel writes every element.
    let mut dx = unsafe { device.alloc::<bf16>(m * width)? };
    let base = base.map(Input::of).transpose()?;
    let (x, base) = (
        x.slice::<bf16>()?,
        base.as_ref().map(Input::slice::<bf16>).transpose()?,
    );
    let function = gpu::function(device, "lora", &format!("lora_pull_{count}"))?;
    let none = 0u64;
    let mut launch = function.builder();
    launch.arg(&x);
    match &base {
        Some(base) => launch.arg(base),
        None => launch.arg(&none),
    };
    launch
        .arg(pieces)
        .arg(masks)
        .arg(&sizes.m)
        .arg(&sizes.width)
        .arg(&sizes.rank)
        .arg(&sizes.share)
        .arg(&mut dx);
    // SAFETY: arguments are those of the kernel, of sizes that `applies` and the products before
    // have checked.
    unsafe { launch.launch(columns_each(width, sizes.shares, *count)) }.w()?;
    drop(launch);
    finish(dx, device.clone(), (m, width))
}

/// dA of the pieces from its parts.
fn sum(
    device: &CudaDevice,
    (pieces, count): &(Pieces, usize),
    kept: f32,
    sizes: &Sizes,
) -> Result<()> {
    let function = gpu::function(device, "lora", "lora_sum")?;
    let (elements, shares) = (RANKS * sizes.width as usize, sizes.shares as i32);
    let mut launch = function.builder();
    launch
        .arg(pieces)
        .arg(&sizes.width)
        .arg(&sizes.rank)
        .arg(&shares)
        .arg(&kept);
    // SAFETY: arguments are those of the kernel; each piece has room for so many parts and for
    // their sum.
    unsafe {
        launch.launch(grid(
            elements.div_ceil(THREADS as usize),
            *count,
            THREADS as usize,
        ))
    }
    .w()?;
    Ok(())
}
