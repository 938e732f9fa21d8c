//! How work is spread over threads and blocks.

use candle_core::cuda_backend::cudarc::driver::LaunchConfig;

/// Threads of a block.
pub(super) const THREADS: u32 = 256;

/// `work` units of work, one for each thread.
pub(super) fn spread(work: usize) -> LaunchConfig {
    a_block_each(work.div_ceil(THREADS as usize))
}

/// A block for each row.
pub(super) fn a_block_each(rows: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (rows as u32, 1, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: 0,
    }
}

/// A block for each row of `d` elements, 16 of them a thread where that is not more threads than a
/// block can have.
pub(super) fn a_block_a_row(rows: usize, d: usize) -> LaunchConfig {
    let threads = d.div_ceil(16).next_multiple_of(32).clamp(32, 1024);
    LaunchConfig {
        grid_dim: (rows as u32, 1, 1),
        block_dim: (threads as u32, 1, 1),
        shared_mem_bytes: 0,
    }
}
