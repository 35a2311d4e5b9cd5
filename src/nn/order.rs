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
    chosen(seed, purpose, ordinals, ordinals.len())
}

/// The first of [`shuffled`], at most `count`.
pub fn chosen(seed: u64, purpose: Purpose, ordinals: &[i64], count: usize) -> Vec<usize> {
    let mut keyed: Vec<_> = ordinals
        .iter()
        .enumerate()
        .map(|(row, ordinal)| (draw(seed, purpose, *ordinal), *ordinal, row))
        .collect();
    if count < keyed.len() {
        keyed.select_nth_unstable(count);
        keyed.truncate(count);
    }
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, _, row)| row).collect()
}

/// At most `count` of the rows, drawn without replacement by their weights: the rows whose
/// exponential clocks of these rates ring first (Efraimidis and Spirakis 2006).
pub fn chosen_by_weight(
    seed: u64,
    purpose: Purpose,
    ordinals: &[i64],
    weights: &[f64],
    count: usize,
) -> Vec<usize> {
    let rings_at = |(ordinal, weight): (&i64, &f64)| {
        let uniform = ((draw(seed, purpose, *ordinal) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -uniform.ln() / weight
    };
    let keyed = ordinals.iter().zip(weights).map(rings_at).zip(ordinals).enumerate();
    let mut keyed: Vec<_> = keyed.map(|(row, (at, ordinal))| (at, *ordinal, row)).collect();
    let earlier = |a: &(f64, i64, usize), b: &(f64, i64, usize)| {
        a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1))
    };
    if count < keyed.len() {
        keyed.select_nth_unstable_by(count, earlier);
        keyed.truncate(count);
    }
    keyed.sort_unstable_by(earlier);
    keyed.into_iter().map(|(_, _, row)| row).collect()
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
    fn the_chosen_are_the_first() {
        let all: Vec<i64> = (0..50).rev().collect();
        let order = shuffled(3, Purpose::Step(1), &all);
        for count in [0, 1, 17, 50, 99] {
            assert_eq!(chosen(3, Purpose::Step(1), &all, count), order[..count.min(50)]);
        }
    }

    #[test]
    fn weights_say_how_often_a_row_is_chosen() {
        let all: Vec<i64> = (0..40).collect();
        let weight = |ordinal| if ordinal < 20 { 1.0 } else { 3.0 };
        let weights: Vec<f64> = all.iter().map(|it| weight(*it)).collect();
        let mut often = [0.0_f64; 2];
        for step in 0..2_000 {
            let rows = chosen_by_weight(9, Purpose::Step(step), &all, &weights, 1);
            often[rows[0] / 20] += 1.0;
        }
        assert!((often[1] / often[0] - 3.0).abs() < 0.4, "{often:?}");
        let by_weight = |ordinals: &[i64], count| -> Vec<i64> {
            let weights: Vec<f64> = ordinals.iter().map(|it| weight(*it)).collect();
            let rows = chosen_by_weight(9, Purpose::Step(1), ordinals, &weights, count);
            rows.into_iter().map(|row| ordinals[row]).collect()
        };
        let order = by_weight(&all, 99);
        assert_eq!(by_weight(&all, 7), order[..7]);
        let kept: Vec<i64> = all.iter().copied().filter(|it| it % 7 != 3).collect();
        let expected: Vec<i64> = order.into_iter().filter(|it| it % 7 != 3).collect();
        assert_eq!(by_weight(&kept, 99), expected, "taking rows out leaves the others' order");
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
