//! Pseudo-random order and choice by ordinal: taking a row out leaves every other row's place
//! relative to the rest, its fold and its draws as they were.

/// What a draw is for, so that folds, epochs and unlearning steps are independent of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Epoch(u32),
    Fold,
    /// A step of an unlearning update.
    Step(u32),
    /// A subset that is measured.
    Measure,
}

impl Purpose {
    fn number(self) -> u64 {
        match self {
            Self::Fold => 1,
            Self::Measure => 2,
            Self::Epoch(epoch) => (1 << 32) | u64::from(epoch),
            Self::Step(step) => (2 << 32) | u64::from(step),
        }
    }
}

/// 64 well-mixed bits for one row.
pub fn draw(seed: u64, purpose: Purpose, ordinal: i64) -> u64 {
    let ordinal = u64::from_ne_bytes(ordinal.to_ne_bytes());
    mix(mix(mix(seed).wrapping_add(purpose.number())).wrapping_add(ordinal))
}

/// Indices into `ordinals` in the order that `seed` and `purpose` give.
pub fn shuffled(seed: u64, purpose: Purpose, ordinals: &[i64]) -> Vec<usize> {
    let mut keyed: Vec<_> = ordinals
        .iter()
        .enumerate()
        .map(|(row, ordinal)| (draw(seed, purpose, *ordinal), *ordinal, row))
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, _, row)| row).collect()
}

/// At most `count` of the rows, chosen as the first of [`shuffled`].
pub fn chosen(seed: u64, purpose: Purpose, ordinals: &[i64], count: usize) -> Vec<usize> {
    let mut rows = shuffled(seed, purpose, ordinals);
    rows.truncate(count);
    rows
}

/// The output function of `SplitMix64` (Steele, Lea, Flood 2014) after one step of its counter.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_as_the_published_generator() {
        // First output of SplitMix64 from state 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn removing_a_row_leaves_the_order_of_the_others() {
        let all: Vec<i64> = (0..100).collect();
        let kept: Vec<i64> = all.iter().copied().filter(|o| o % 7 != 3).collect();
        let order = |ordinals: &[i64]| -> Vec<i64> {
            let rows = shuffled(5, Purpose::Epoch(2), ordinals);
            rows.into_iter().map(|row| ordinals[row]).collect()
        };
        let expected: Vec<i64> = order(&all).into_iter().filter(|o| o % 7 != 3).collect();
        assert_eq!(order(&kept), expected);
    }

    #[test]
    fn purposes_and_seeds_give_different_orders() {
        let all: Vec<i64> = (0..50).collect();
        let orders = [
            shuffled(1, Purpose::Epoch(0), &all),
            shuffled(1, Purpose::Epoch(1), &all),
            shuffled(1, Purpose::Step(0), &all),
            shuffled(2, Purpose::Epoch(0), &all),
            all.iter().map(|o| usize::try_from(*o).unwrap()).collect(),
        ];
        for (i, a) in orders.iter().enumerate() {
            assert!(orders[..i].iter().all(|b| a != b));
        }
    }
}
