//! Seeded random numbers, the same on every machine.

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The sequence `key` of `seed`, such as that of an epoch of a run.
    pub fn keyed(seed: u64, key: u64) -> Self {
        Self(seed ^ key.wrapping_mul(0xD1B5_4A32_D192_ED03))
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed(self.0)
    }

    /// A number in [-1, 1).
    pub fn signed_unit(&mut self) -> f32 {
        (self.draw() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Four numbers in [-1, 1) of 16 bits each, from one draw.
    pub fn signed_units(&mut self) -> [f32; 4] {
        let bits = self.draw();
        std::array::from_fn(|i| f32::from((bits >> (16 * i)) as u16) / 32_768.0 - 1.0)
    }

    /// Fisher and Yates' shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = ((u128::from(self.draw()) * (i as u128 + 1)) >> 64) as usize;
            items.swap(i, j);
        }
    }
}

fn mixed(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_published_generator() {
        let draws = |seed| {
            let mut random = SplitMix64::new(seed);
            [random.draw(), random.draw(), random.draw()]
        };
        // Vigna's splitmix64.c.
        assert_eq!(
            draws(1_234_567),
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
        assert_eq!(draws(0)[0], 0xE220_A839_7B1D_CDAF);
    }

    #[test]
    fn units_lie_in_their_range_around_zero_and_keys_give_other_sequences() {
        let mut random = SplitMix64::keyed(3, 5);
        let units: Vec<f32> = (0..1000)
            .flat_map(|_| {
                let [a, b, c, d] = random.signed_units();
                [a, b, c, d, random.signed_unit()]
            })
            .collect();
        assert!(units.iter().all(|x| (-1.0..1.0).contains(x)));
        assert!((units.iter().sum::<f32>() / units.len() as f32).abs() < 0.05);
        assert_ne!(
            SplitMix64::keyed(3, 6).draw(),
            SplitMix64::keyed(3, 5).draw()
        );
    }
}
