//! Panels of a frozen matrix: pairs along the summed dimension side by side, as the block kernels
//! read them.

use multiversion::multiversion;

use crate::types::rows::{BLOCK, Line, STEP};

/// Writes a panel of the forward product: `strip` holds 32 rows of a [N, K] matrix, `steps` lines
/// each. Line `r` of the tile for rows `16 t` to `16 t + 15` and step `s` holds elements `2 r` and
/// `2 r + 1` of the step for each of its rows.
pub(crate) fn transposed(strip: &[Line], steps: usize, panel: &mut [Line]) {
    for (step, tiles) in panel.chunks_exact_mut(BLOCK).enumerate() {
        for (t, tile) in tiles.chunks_exact_mut(16).enumerate() {
            transpose_tile(&strip[16 * t * steps + step..], steps, tile);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn transpose_tile(strip: &[Line], stride: usize, tile: &mut [Line]) {
    for row in 0..16 {
        let source = &strip[row * stride].0;
        for (r, line) in tile.iter_mut().enumerate() {
            line.0[2 * row] = source[2 * r];
            line.0[2 * row + 1] = source[2 * r + 1];
        }
    }
}

/// Writes a panel of the backward product: `strip` holds rows of `width` columns, of which 32 from
/// `start` on are taken. Line `r` of a tile holds rows `2 r` and `2 r + 1` of the step, side by
/// side for each of its 16 columns.
pub(crate) fn interleaved(strip: &[Line], width: usize, start: usize, panel: &mut [Line]) {
    let lines = width / STEP;
    let column = start / STEP;
    for (step, tiles) in panel.chunks_exact_mut(BLOCK).enumerate() {
        for r in 0..16 {
            let row = step * STEP + 2 * r;
            let (even, odd) = (
                &strip[row * lines + column].0,
                &strip[(row + 1) * lines + column].0,
            );
            interleave(even, odd, &mut tiles[r..]);
        }
    }
}

/// Lines 0 and 16 of `tiles`: the left and the right half of two rows.
#[inline(always)]
fn interleave(even: &[u16; STEP], odd: &[u16; STEP], tiles: &mut [Line]) {
    for (half, at) in [(0, 0), (16, 16)] {
        let line = &mut tiles[at].0;
        for c in 0..16 {
            line[2 * c] = even[half + c];
            line[2 * c + 1] = odd[half + c];
        }
    }
}
