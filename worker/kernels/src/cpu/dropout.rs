//! Philox4x32-10 masks for [`crate::ops::dropout`].

use multiversion::multiversion;
use rayon::prelude::*;

use crate::ops::dropout::DropoutKey;

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox on one counter.
#[cfg(test)]
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(MULTIPLIER[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIER[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Groups of eight elements that are drawn side by side, so that the rounds become vector code.
const LANES: usize = 16;

/// Four words each for the groups `group` to `group + 15`: word `w` of lane `l` is `[w][l]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn philox_lanes(group: u64, key: &DropoutKey) -> [[u32; LANES]; 4] {
    let mut counter = [[0u32; LANES], [0u32; LANES], [key.projection; LANES], [key.step; LANES]];
    for lane in 0..LANES {
        let group = group + lane as u64;
        (counter[0][lane], counter[1][lane]) = (group as u32, (group >> 32) as u32);
    }
    let mut round_key = [key.seed as u32, (key.seed >> 32) as u32];
    for _ in 0..10 {
        let [c0, c1, c2, c3] = counter;
        for lane in 0..LANES {
            let a = u64::from(MULTIPLIER[0]) * u64::from(c0[lane]);
            let b = u64::from(MULTIPLIER[1]) * u64::from(c2[lane]);
            counter[0][lane] = (b >> 32) as u32 ^ c1[lane] ^ round_key[0];
            counter[1][lane] = b as u32;
            counter[2][lane] = (a >> 32) as u32 ^ c3[lane] ^ round_key[1];
            counter[3][lane] = a as u32;
        }
        round_key = [round_key[0].wrapping_add(WEYL[0]), round_key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Writes the mask of `out.len()` elements from `element` on, a multiple of 8: 1 / (1 - p) or 0.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn mask(element: u64, key: &DropoutKey, out: &mut [f32]) {
    let threshold = (key.probability * 65_536.0).round() as u32;
    let kept = (1.0 / (1.0 - key.probability)) as f32;
    for (i, out) in out.chunks_mut(8 * LANES).enumerate() {
        let words = philox_lanes(element / 8 + (i * LANES) as u64, key);
        let mut values = [0f32; 8 * LANES];
        for (lane, values) in values.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            for (j, value) in values.iter_mut().enumerate() {
                let number = words[j / 2][lane] >> (16 * (j % 2)) & 0xffff;
                *value = if number >= threshold { kept } else { 0.0 };
            }
        }
        out.copy_from_slice(&values[..out.len()]);
    }
}

/// `out` = `x` [M, D] times its mask times 1 / (1 - p), plus `base`.
pub(crate) fn apply(x: &[f32], d: usize, key: &DropoutKey, base: Option<&[f32]>, out: &mut [f32]) {
    /// Elements of one task; the first may be fewer, so that the others begin with a group.
    const CHUNK: usize = 64 * 8 * LANES;
    let first = key.first_token * d as u64;
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(task, out)| {
        let at = task * CHUNK;
        let element = first + at as u64;
        let skip = (element % 8) as usize;
        let mut factors = vec![0f32; skip + out.len()];
        mask(element - skip as u64, key, &mut factors);
        let x = &x[at..at + out.len()];
        match base {
            None => out.iter_mut().zip(x).zip(&factors[skip..]).for_each(|((out, x), f)| *out = x * f),
            Some(base) => {
                let parts = out.iter_mut().zip(x).zip(&factors[skip..]).zip(&base[at..]);
                parts.for_each(|(((out, x), f), base)| *out = base + x * f);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the Random123 distribution for philox4x32-10.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    /// Every element of the lanes is what the plain rounds give for its group.
    #[test]
    fn lanes_give_what_single_counters_give() {
        let key = DropoutKey { seed: 0x1234_5678_9abc, step: 9, projection: 77, first_token: 0, probability: 0.5 };
        let words = philox_lanes(u64::from(u32::MAX) - 3, &key);
        for lane in 0..LANES {
            let group = u64::from(u32::MAX) - 3 + lane as u64;
            let counter = [group as u32, (group >> 32) as u32, key.projection, key.step];
            let wanted = philox(counter, [key.seed as u32, (key.seed >> 32) as u32]);
            assert_eq!(words.map(|word| word[lane]), wanted);
        }
    }

    #[test]
    fn a_mask_does_not_depend_on_how_rows_are_split() {
        let key = DropoutKey { seed: 7, step: 3, projection: 11, first_token: 0, probability: 0.25 };
        let (rows, d) = (6, 13);
        let (ones, mut whole, mut parts) = (vec![1f32; rows * d], vec![0f32; rows * d], vec![0f32; rows * d]);
        apply(&ones, d, &key, None, &mut whole);
        apply(&ones[..2 * d], d, &key, None, &mut parts[..2 * d]);
        apply(&ones[2 * d..], d, &DropoutKey { first_token: 2, ..key }, None, &mut parts[2 * d..]);
        assert_eq!(whole, parts);
    }

    #[test]
    fn the_share_of_dropped_elements_is_the_probability() {
        let key = DropoutKey { seed: 1, step: 0, projection: 0, first_token: 0, probability: 0.05 };
        let mut x = vec![0f32; 400_000];
        apply(&vec![1f32; 400_000], 100, &key, None, &mut x);
        let dropped = x.iter().filter(|&&v| v == 0.0).count() as f64 / x.len() as f64;
        assert!((dropped - 0.05).abs() < 0.002, "dropped {dropped}");
    }
}
