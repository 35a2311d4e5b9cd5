//! A random order of numbers in which any place can be looked up, both ways, without the others.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Of the numbers below `len`: a Feistel network over a power of four at least as large, applied
/// until it comes back to one of them ("cycle walking"; Black & Rogaway, Ciphers with Arbitrary
/// Finite Domains, 2002).
pub(super) struct Permutation {
    pub(super) len: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

const ROUNDS: usize = 8;

impl Permutation {
    pub(super) fn new(len: u64, seed: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let half_bits = bits.div_ceil(2).max(1);
        let keys = ChaCha8Rng::seed_from_u64(seed).random();
        Self { len, half_bits, keys }
    }

    /// The number at a place; both are below `len`.
    pub(super) fn at(&self, place: u64) -> u64 {
        self.walk(place, |number| {
            let (left, right) = self.halves(number);
            let (left, right) = self
                .keys
                .iter()
                .fold((left, right), |(left, right), key| (right, left ^ self.round(right, *key)));
            (left << self.half_bits) | right
        })
    }

    /// Where a number stands; both are below `len`.
    pub(super) fn place_of(&self, number: u64) -> u64 {
        self.walk(number, |place| {
            let (left, right) = self.halves(place);
            let (left, right) =
                self.keys.iter().rev().fold((left, right), |(left, right), key| {
                    (right ^ self.round(left, *key), left)
                });
            (left << self.half_bits) | right
        })
    }

    fn walk(&self, from: u64, step: impl Fn(u64) -> u64) -> u64 {
        debug_assert!(from < self.len, "{from} is not below {}", self.len);
        let mut reached = step(from);
        while reached >= self.len {
            reached = step(reached);
        }
        reached
    }

    fn halves(&self, number: u64) -> (u64, u64) {
        (number >> self.half_bits, number & self.mask())
    }

    /// The finalizer of `SplitMix64` (Steele, Lea & Flood 2014).
    fn round(&self, half: u64, key: u64) -> u64 {
        let mixed = half ^ key;
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) & self.mask()
    }

    fn mask(&self) -> u64 {
        (1 << self.half_bits) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_one_place_and_every_place_one_number() {
        for len in [1, 2, 3, 4, 5, 16, 17, 60, 1_000, 4_097] {
            let order = Permutation::new(len, 7);
            let mut numbers: Vec<u64> = (0..len).map(|place| order.at(place)).collect();
            for (place, number) in (0..).zip(&numbers) {
                assert_eq!(order.place_of(*number), place, "of {number} below {len}");
            }
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..len), "below {len}");
        }
        let large = Permutation::new(i64::MAX.cast_unsigned(), 7);
        assert_eq!(large.place_of(large.at(12_345)), 12_345);
    }

    /// Pearson's statistic has a mean of one less than the cells, and a deviation of the root of twice
    /// that: how often each number comes first, and how often each follows the number before.
    #[test]
    fn places_are_even_over_the_seeds() {
        for len in [10, 100] {
            let draws = 1_000 * len;
            let mut first = vec![0_u32; usize::try_from(len).unwrap()];
            let mut apart = vec![0_u32; usize::try_from(len - 1).unwrap()];
            for seed in 0..draws {
                let order = Permutation::new(len, seed);
                let (a, b) = (order.at(0), order.at(1));
                first[usize::try_from(a).unwrap()] += 1;
                apart[usize::try_from((b + len - a) % len - 1).unwrap()] += 1;
            }
            for counts in [first, apart] {
                let cells = counts.len() as f64;
                let expected = draws as f64 / cells;
                let chi_squared: f64 =
                    counts.iter().map(|it| (f64::from(*it) - expected).powi(2) / expected).sum();
                let limit = cells - 1.0 + 5.0 * (2.0 * (cells - 1.0)).sqrt();
                assert!(chi_squared < limit, "{chi_squared} of {cells} cells");
            }
        }
    }
}
