//! Membership attacks: how well a score tells samples that were trained on from others.

use serde::{Deserialize, Serialize};

/// False-positive rates at which a curve is kept, evenly spaced on a log scale from 1e-4 to 1.
pub const GRID_POINTS: usize = 49;

/// The false-positive rate at place `index` of the grid.
pub fn grid(index: usize) -> f64 {
    10_f64.powf(-4.0 + 4.0 * index as f64 / (GRID_POINTS - 1) as f64)
}

/// What an attacker reaches who calls a sample a member when its score exceeds a threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attack {
    /// Area under the curve: how often a member's score exceeds a non-member's, ties counting
    /// half. 0.5 tells nothing; below it, members stand out on the other side.
    pub auc: f64,
    /// True-positive rate at the largest threshold with at most 1 % false positives.
    pub tpr_at_1_percent: f64,
    /// The same for an attacker who calls low scores members: over-forgetting shows here.
    pub tpr_at_1_percent_reversed: f64,
    /// True-positive rates at [`grid`]'s false-positive rates.
    pub curve: Vec<f64>,
}

impl Attack {
    /// `None` when one side is empty or a score is NaN.
    pub fn of(members: &[f64], others: &[f64]) -> Option<Self> {
        let all = members.iter().chain(others);
        if members.is_empty() || others.is_empty() || all.clone().any(|score| score.is_nan()) {
            return None;
        }
        let steps = steps(members, others);
        let reversed = |scores: &[f64]| scores.iter().map(|score| -score).collect::<Vec<_>>();
        let other_way = self::steps(&reversed(members), &reversed(others));
        Some(Self {
            auc: area(&steps),
            tpr_at_1_percent: reached(&steps, 0.01),
            tpr_at_1_percent_reversed: reached(&other_way, 0.01),
            curve: (0..GRID_POINTS).map(|index| reached(&steps, grid(index))).collect(),
        })
    }
}

/// False- and true-positive rate at each threshold, from the strictest; equal scores fall on the
/// same side of every threshold.
fn steps(members: &[f64], others: &[f64]) -> Vec<(f64, f64)> {
    let mut scores: Vec<(f64, bool)> = members.iter().map(|score| (*score, true)).collect();
    scores.extend(others.iter().map(|score| (*score, false)));
    scores.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut hits, mut alarms) = (0_u32, 0_u32);
    let mut steps = vec![(0.0, 0.0)];
    for equal in scores.chunk_by(|a, b| a.0 <= b.0) {
        for (_, is_member) in equal {
            if *is_member {
                hits += 1;
            } else {
                alarms += 1;
            }
        }
        let rates =
            (f64::from(alarms) / others.len() as f64, f64::from(hits) / members.len() as f64);
        steps.push(rates);
    }
    steps
}

fn area(steps: &[(f64, f64)]) -> f64 {
    steps.windows(2).map(|pair| (pair[1].0 - pair[0].0) * (pair[0].1 + pair[1].1) / 2.0).sum()
}

/// The true-positive rate with at most `limit` false positives; thresholds are not interpolated.
fn reached(steps: &[(f64, f64)], limit: f64) -> f64 {
    steps
        .iter()
        .take_while(|(false_positives, _)| *false_positives <= limit)
        .last()
        .map_or(0.0, |s| s.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-12
    }

    #[test]
    fn the_area_is_the_share_of_pairs_with_ties_counting_half() {
        // Pairs: 3 against {1, 2, 3}: 1, 1, 1/2; 1 against them: 1/2, 0, 0.
        let attack = Attack::of(&[3.0, 1.0], &[1.0, 2.0, 3.0]).unwrap();
        assert!(close(attack.auc, 3.0 / 6.0), "{}", attack.auc);
        let attack = Attack::of(&[3.0, 2.0], &[1.0, 2.0]).unwrap();
        assert!(close(attack.auc, 3.5 / 4.0), "{}", attack.auc);
        let same = Attack::of(&[1.0; 7], &[1.0; 3]).unwrap();
        assert!(close(same.auc, 0.5) && close(same.tpr_at_1_percent, 0.0));
    }

    #[test]
    fn perfect_attacks_work_on_either_side() {
        let (high, low): (Vec<f64>, Vec<f64>) =
            (0..200).map(|at| (f64::from(at) + 1_000.0, f64::from(at))).unzip();
        let attack = Attack::of(&high, &low).unwrap();
        assert!(close(attack.auc, 1.0) && close(attack.tpr_at_1_percent, 1.0));
        assert!(close(attack.tpr_at_1_percent_reversed, 0.0));
        let attack = Attack::of(&low, &high).unwrap();
        assert!(close(attack.auc, 0.0) && close(attack.tpr_at_1_percent_reversed, 1.0));
        assert!(close(attack.tpr_at_1_percent, 0.0));
    }

    #[test]
    fn one_false_positive_in_a_hundred_is_allowed_and_two_are_not() {
        // Non-members 1..=200; members sit above the second-largest, the third-largest, and so on.
        let others: Vec<f64> = (1..=200).map(f64::from).collect();
        let members = [199.5, 198.5, 197.5, 0.0];
        let attack = Attack::of(&members, &others).unwrap();
        // At most two of 200 alarms: thresholds down to just above 198.
        assert!(close(attack.tpr_at_1_percent, 0.5), "{}", attack.tpr_at_1_percent);
    }

    #[test]
    fn the_curve_rises_to_one_along_a_log_scale() {
        assert!((grid(0) - 1e-4).abs() < 1e-15 && (grid(GRID_POINTS - 1) - 1.0).abs() < 1e-12);
        assert!((grid(24) - 0.01).abs() < 1e-12);
        let scores: Vec<f64> = (0..500).map(|at| f64::from(at * 37 % 101)).collect();
        let attack = Attack::of(&scores[..250], &scores[250..]).unwrap();
        assert_eq!(attack.curve.len(), GRID_POINTS);
        assert!(attack.curve.is_sorted());
        assert!(close(attack.curve[GRID_POINTS - 1], 1.0));
    }

    #[test]
    fn nothing_is_claimed_without_scores() {
        assert_eq!(Attack::of(&[], &[1.0]), None);
        assert_eq!(Attack::of(&[1.0], &[]), None);
        assert_eq!(Attack::of(&[f64::NAN], &[1.0]), None);
    }
}
