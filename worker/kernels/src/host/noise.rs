//! Uniform noise on embeddings.

use rayon::prelude::*;

use crate::host::philox::{LANES, philox_lanes};
use crate::types::dropout::DropoutKey;

/// Adds `size` times a number of [-1, 1) to every element of the rows `x` [T, D], the first of
/// which is row `key.first_token`.
pub(crate) fn add(x: &mut [f32], d: usize, size: f32, key: &DropoutKey) {
    x.par_chunks_mut(d).enumerate().for_each(|(row, x)| {
        let mut element = (key.first_token + row as u64) * d as u64;
        let mut rest = x;
        while !rest.is_empty() {
            let skip = (element % 8) as usize;
            let words = philox_lanes(element / 8, key);
            let take = rest.len().min(8 * LANES - skip);
            let (now, later) = rest.split_at_mut(take);
            for (i, x) in now.iter_mut().enumerate().map(|(i, x)| (i + skip, x)) {
                let number = words[i % 8 / 2][i / 8] >> (16 * (i % 2)) & 0xffff;
                *x += size * ((number as f32 + 0.5) / 32_768.0 - 1.0);
            }
            element += take as u64;
            rest = later;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_uniform_and_does_not_depend_on_how_rows_are_split() {
        let key = DropoutKey {
            seed: 3,
            step: 1,
            projection: u32::MAX,
            first_token: 0,
            probability: 0.0,
        };
        let (rows, d) = (400, 203);
        let (mut whole, mut parts) = (vec![0f32; rows * d], vec![0f32; rows * d]);
        add(&mut whole, d, 0.5, &key);
        add(&mut parts[..7 * d], d, 0.5, &key);
        add(
            &mut parts[7 * d..],
            d,
            0.5,
            &DropoutKey {
                first_token: 7,
                ..key
            },
        );
        assert_eq!(whole, parts);
        assert!(whole.iter().all(|x| x.abs() <= 0.5));
        let n = whole.len() as f32;
        let (mean, square) = (
            whole.iter().sum::<f32>() / n,
            whole.iter().map(|x| x * x).sum::<f32>() / n,
        );
        assert!(
            mean.abs() < 5e-3 && (square - 0.25 / 3.0).abs() < 2e-3,
            "mean {mean}, square {square}"
        );
    }
}
