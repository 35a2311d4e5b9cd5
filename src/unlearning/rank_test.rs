//! Whether two groups of numbers are draws of the same kind, by their ranks alone.

/// Mann-Whitney's test, two-sided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankTest {
    /// How often a number of the first group exceeds one of the second, ties counting half:
    /// 0.5 when nothing sets them apart.
    pub share_above: f64,
    /// How likely groups of the same kind would be at least this far apart.
    pub p: f64,
}

/// First groups up to this size are judged by the exact distribution.
const EXACT_MAX: usize = 8;

/// Beyond this the exact counts of arrangements would not fit 128 bits.
const EXACT_OTHERS_MAX: usize = 50_000;

/// Compares `first` with `second`; `None` when one of them is empty or holds a NaN.
///
/// Small first groups are judged exactly (ties towards "no difference"), others by the normal
/// approximation with corrections for ties and continuity.
pub fn compare(first: &[f64], second: &[f64]) -> Option<RankTest> {
    if first.is_empty() || second.is_empty() || first.iter().chain(second).any(|v| v.is_nan()) {
        return None;
    }
    let (above, tie_term) = count_above(first, second);
    let pairs = first.len() as f64 * second.len() as f64;
    let p = if first.len() <= EXACT_MAX && second.len() <= EXACT_OTHERS_MAX {
        exact_p(above, first.len(), second.len())
    } else {
        normal_p(above, first.len() as f64, second.len() as f64, tie_term)
    };
    Some(RankTest { share_above: above / pairs, p })
}

/// Mann-Whitney's U of the first group, and the sum of `t^3 - t` over groups of t equal numbers.
fn count_above(first: &[f64], second: &[f64]) -> (f64, f64) {
    let mut all: Vec<(f64, bool)> = first.iter().map(|value| (*value, true)).collect();
    all.extend(second.iter().map(|value| (*value, false)));
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut above, mut tie_term, mut second_below) = (0.0, 0.0, 0.0);
    for equal in all.chunk_by(|a, b| a.0 >= b.0) {
        let ours = equal.iter().filter(|(_, is_first)| *is_first).count() as f64;
        let size = equal.len() as f64;
        above += ours * (second_below + 0.5 * (size - ours));
        second_below += size - ours;
        tie_term += size.powi(3) - size;
    }
    (above, tie_term)
}

/// The distribution of U is the Gaussian binomial coefficient's: the product over i of
/// `(1 - q^(n+i)) / (1 - q^i)`, whose coefficients count arrangements.
fn exact_p(above: f64, m: usize, n: usize) -> f64 {
    let top = m * n;
    let mut counts = vec![0_u128; top + 1];
    counts[0] = 1;
    // Intermediate results may wrap around; the counts themselves fit, so that they come out right.
    for i in 1..=m {
        for at in (n + i..=top).rev() {
            counts[at] = counts[at].wrapping_sub(counts[at - n - i]);
        }
        for at in i..=top {
            counts[at] = counts[at].wrapping_add(counts[at - i]);
        }
    }
    let total: f64 = counts.iter().map(|count| *count as f64).sum();
    let share = |included: &dyn Fn(f64) -> bool| -> f64 {
        let counted = counts.iter().enumerate().filter(|(u, _)| included(*u as f64));
        counted.map(|(_, count)| *count as f64).sum::<f64>() / total
    };
    let low = share(&|u| u <= above.ceil());
    let high = share(&|u| u >= above.floor());
    (2.0 * low.min(high)).min(1.0)
}

fn normal_p(above: f64, m: f64, n: f64, tie_term: f64) -> f64 {
    let total = m + n;
    let variance = m * n / 12.0 * (total + 1.0 - tie_term / (total * (total - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let distance = ((above - m * n / 2.0).abs() - 0.5).max(0.0);
    complementary_error(distance / variance.sqrt() / std::f64::consts::SQRT_2)
}

/// erfc for `x >= 0`: its series below 2.5, Lentz's continued fraction above.
fn complementary_error(x: f64) -> f64 {
    let scale = std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp();
    if x < 2.5 {
        let (mut term, mut sum) = (x, x);
        for k in 1..100 {
            term *= 2.0 * x * x / f64::from(2 * k + 1);
            sum += term;
        }
        (1.0 - scale * sum).max(0.0)
    } else {
        let fraction = (1..=60).rev().fold(x, |below, k| x + f64::from(k) / 2.0 / below);
        scale / 2.0 / fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= 1e-9 + 1e-6 * expected.abs()
    }

    #[test]
    fn erfc_matches_its_tables() {
        for (x, expected) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_13),
            (2.0, 0.004_677_734_981_047_266),
            (3.0, 2.209_049_699_858_544e-5),
            (5.0, 1.537_459_794_428_035e-12),
        ] {
            let found = complementary_error(x);
            assert!((found - expected).abs() < 1e-9 * expected.max(1e-6), "{x}: {found}");
        }
    }

    #[test]
    fn exact_probabilities_match_counting_by_hand() {
        // Of the 10 ways to place 2 among 3, one has both at the top.
        let test = compare(&[4.0, 5.0], &[1.0, 2.0, 3.0]).unwrap();
        assert!(close(test.p, 0.2) && close(test.share_above, 1.0), "{test:?}");
        // One number among 199: as a conformal p-value.
        let others: Vec<f64> = (0..199).map(f64::from).collect();
        assert!(close(compare(&[500.0], &others).unwrap().p, 2.0 / 200.0));
        assert!(close(compare(&[-500.0], &others).unwrap().p, 2.0 / 200.0));
        assert!(compare(&[99.5], &others).unwrap().p > 0.99);
    }

    #[test]
    fn exact_and_normal_agree_where_they_meet() {
        let others: Vec<f64> = (0..400).map(f64::from).collect();
        let group: Vec<f64> = (0..8).map(|i| 180.25 + 29.0 * f64::from(i)).collect();
        let (above, ties) = count_above(&group, &others);
        let (exact, normal) = (exact_p(above, 8, 400), normal_p(above, 8.0, 400.0, ties));
        assert!((exact / normal).ln().abs() < 0.1, "{exact} {normal}");
        assert!((0.0005..0.2).contains(&exact), "{exact}");
    }

    #[test]
    fn ties_and_emptiness_claim_nothing() {
        assert!(close(compare(&[1.0; 5], &[1.0; 9]).unwrap().p, 1.0));
        assert!(close(compare(&[1.0; 50], &[1.0; 90]).unwrap().p, 1.0));
        assert_eq!(compare(&[], &[1.0]), None);
        assert_eq!(compare(&[1.0], &[]), None);
        assert_eq!(compare(&[f64::NAN], &[1.0]), None);
    }
}
