//! Philox4x32-10 masks for [`crate::ops::dropout`].

use rayon::prelude::*;

use crate::ops::dropout::DropoutKey;

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox on one counter.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(MULTIPLIER[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIER[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Eight 16-bit numbers for elements `8 * group` to `8 * group + 7`.
fn numbers(group: u64, key: &DropoutKey) -> [u16; 8] {
    let counter = [group as u32, (group >> 32) as u32, key.projection, key.step];
    let words = philox(counter, [key.seed as u32, (key.seed >> 32) as u32]);
    std::array::from_fn(|i| (words[i / 2] >> (16 * (i % 2))) as u16)
}

/// Multiplies `x` [M, D] by its mask and by 1 / (1 - p), in place.
pub(crate) fn apply(x: &mut [f32], d: usize, key: &DropoutKey) {
    let threshold = (key.probability * 65_536.0).round() as u32;
    let kept = (1.0 / (1.0 - key.probability)) as f32;
    x.par_chunks_mut(d).enumerate().for_each(|(row, x)| {
        let mut element = (key.first_token + row as u64) * d as u64;
        let mut rest = x;
        while !rest.is_empty() {
            let lanes = numbers(element / 8, key);
            let skip = (element % 8) as usize;
            let take = rest.len().min(8 - skip);
            let (now, later) = rest.split_at_mut(take);
            for (x, &number) in now.iter_mut().zip(&lanes[skip..]) {
                *x *= if u32::from(number) >= threshold { kept } else { 0.0 };
            }
            element += take as u64;
            rest = later;
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

    #[test]
    fn a_mask_does_not_depend_on_how_rows_are_split() {
        let key = DropoutKey { seed: 7, step: 3, projection: 11, first_token: 0, probability: 0.25 };
        let (rows, d) = (6, 13);
        let mut whole = vec![1f32; rows * d];
        apply(&mut whole, d, &key);
        let mut parts = vec![1f32; rows * d];
        apply(&mut parts[..2 * d], d, &key);
        apply(&mut parts[2 * d..], d, &DropoutKey { first_token: 2, ..key });
        assert_eq!(whole, parts);
    }

    #[test]
    fn the_share_of_dropped_elements_is_the_probability() {
        let key = DropoutKey { seed: 1, step: 0, projection: 0, first_token: 0, probability: 0.05 };
        let mut x = vec![1f32; 400_000];
        apply(&mut x, 100, &key);
        let dropped = x.iter().filter(|&&v| v == 0.0).count() as f64 / x.len() as f64;
        assert!((dropped - 0.05).abs() < 0.002, "dropped {dropped}");
    }
}
