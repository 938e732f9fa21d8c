//! Philox4x32-10, the counter-based generator of dropout, on sixteen counters at a time.

use multiversion::multiversion;

use crate::types::dropout::DropoutKey;

/// What a round multiplies with, and what its keys grow by.
pub(crate) const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
pub(crate) const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox on one counter.
#[cfg(test)]
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(MULTIPLIER[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIER[1]) * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Groups of eight elements that are drawn side by side, so that the rounds become vector code.
pub(crate) const LANES: usize = 16;

/// Four words each for the groups `group` to `group + 15`: word `w` of lane `l` is `[w][l]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(crate) fn philox_lanes(group: u64, key: &DropoutKey) -> [[u32; LANES]; 4] {
    let groups: [u64; LANES] = std::array::from_fn(|lane| group + lane as u64);
    let (low, high) = (
        groups.map(|group| group as u32),
        groups.map(|group| (group >> 32) as u32),
    );
    let mut counter = [low, high, [key.projection; LANES], [key.step; LANES]];
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
        round_key = [
            round_key[0].wrapping_add(WEYL[0]),
            round_key[1].wrapping_add(WEYL[1]),
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the Random123 distribution for philox4x32-10.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    /// Every element of the lanes is what the plain rounds give for its group.
    #[test]
    fn lanes_give_what_single_counters_give() {
        let key = DropoutKey {
            seed: 0x1234_5678_9abc,
            step: 9,
            projection: 77,
            first_token: 0,
            probability: 0.5,
        };
        let words = philox_lanes(u64::from(u32::MAX) - 3, &key);
        for lane in 0..LANES {
            let group = u64::from(u32::MAX) - 3 + lane as u64;
            let counter = [group as u32, (group >> 32) as u32, key.projection, key.step];
            let wanted = philox(counter, [key.seed as u32, (key.seed >> 32) as u32]);
            assert_eq!(words.map(|word| word[lane]), wanted);
        }
    }
}
