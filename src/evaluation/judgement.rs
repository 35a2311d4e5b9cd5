//! Whether a method stands at the floor, by bars that were set before it was measured.

use serde::{Deserialize, Serialize};

use super::{
    figure::Figure,
    summary::{Row, Table},
};

/// One requirement on a method's figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    pub figure: Figure,
    /// The distance to the floor of the seeds that the method has: a difference, for divergences
    /// the ratio. Infinite where the method has no such figure.
    pub distance: f64,
    /// What the distance may be, in size.
    pub limit: f64,
    pub is_met: bool,
}

/// The figures that have a bar.
pub const JUDGED: [Figure; 6] = [
    Figure::AccuracyForgotten,
    Figure::AccuracyTest,
    Figure::AttackAuc,
    Figure::LiraTpr,
    Figure::DivergenceForgotten,
    Figure::DivergenceTest,
];

/// Every bar whose figure the table has: accuracies on the deleted and on test samples within one
/// point of the floor, or within its own interval where that is wider; the attack's area within
/// 0.02 and the likelihood ratio's true positives within one point; divergences at most 1.25 times
/// the floor's on the deleted samples and 1.1 times on test samples.
pub fn bars(row: &Row, floor: &Row) -> Vec<Bar> {
    JUDGED.into_iter().filter_map(|figure| bar(row, floor, figure)).collect()
}

/// Differences of shares round by less.
const ROUNDING: f64 = 1e-9;

fn bar(row: &Row, floor: &Row, figure: Figure) -> Option<Bar> {
    let at_floor = floor.figures.get(&figure)?;
    let pair = row.figures.get(&figure).zip(row.gaps.get(&figure));
    let gap = pair.map_or(f64::INFINITY, |(_, gap)| gap.mean);
    // A method that failed on some seeds is held to the floor of the others.
    let ratio = pair.map_or(f64::INFINITY, |(own, gap)| own.mean / (own.mean - gap.mean));
    let (distance, limit) = match figure {
        Figure::AccuracyForgotten | Figure::AccuracyTest => {
            (gap, at_floor.half_width.unwrap_or(0.0).max(0.01))
        }
        Figure::AttackAuc => (gap, 0.02),
        Figure::LiraTpr => (gap, 0.01),
        Figure::DivergenceForgotten => (ratio, 1.25),
        Figure::DivergenceTest => (ratio, 1.1),
        _ => return None,
    };
    Some(Bar { figure, distance, limit, is_met: distance.abs() <= limit + ROUNDING })
}

/// For each method of the table its mean rank over the bars' figures, 1 being the nearest to the
/// floor and ties sharing their ranks; a figure that a method lacks is the furthest. `None` for a
/// method without figures.
pub fn mean_ranks(table: &Table) -> Vec<Option<f64>> {
    let bars: Vec<Vec<Bar>> = table.methods.iter().map(|row| bars(row, &table.floor)).collect();
    let distance = |method: usize, figure: Figure| -> Option<f64> {
        bars[method].iter().find(|bar| bar.figure == figure).map(Bar::excess)
    };
    let rank = |method: usize, figure: Figure| -> Option<f64> {
        let own = distance(method, figure)?;
        let others = (0..bars.len()).filter_map(|other| distance(other, figure));
        let (below, equal) = others.fold((0.0, 0.0), |(below, equal), other| {
            if other < own {
                (below + 1.0, equal)
            } else if other > own {
                (below, equal)
            } else {
                (below, equal + 1.0)
            }
        });
        Some(below + f64::midpoint(equal, 1.0))
    };
    (0..bars.len())
        .map(|method| {
            let ranks: Vec<f64> =
                JUDGED.into_iter().filter_map(|figure| rank(method, figure)).collect();
            let has_some = !table.methods[method].figures.is_empty() && !ranks.is_empty();
            has_some.then(|| ranks.iter().sum::<f64>() / ranks.len() as f64)
        })
        .collect()
}

impl Bar {
    /// What methods are ranked by: less divergence than the floor's is no closer to it than the
    /// floor itself, but no further away either.
    fn excess(&self) -> f64 {
        match self.figure {
            Figure::DivergenceForgotten | Figure::DivergenceTest => self.distance.max(1.0),
            _ => self.distance.abs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::statistics::Estimate;

    fn row(label: &str, figures: &[(Figure, f64)], gaps: &[(Figure, f64)]) -> Row {
        let estimates = |pairs: &[(Figure, f64)]| {
            let estimate = |(figure, value): &(Figure, f64)| {
                Some((*figure, Estimate::of(vec![value - 0.01, value + 0.01])?))
            };
            pairs.iter().filter_map(estimate).collect()
        };
        Row {
            label: label.into(),
            figures: estimates(figures),
            gaps: estimates(gaps),
            attack_curve: None,
            lira_curve: None,
            drift: Vec::new(),
            failures: Vec::new(),
            cells: 2,
        }
    }

    #[test]
    fn bars_are_differences_and_ratios_to_the_floor() {
        let floor = row(
            "retrain",
            &[
                (Figure::AttackAuc, 0.51),
                (Figure::DivergenceForgotten, 0.2),
                (Figure::AccuracyTest, 0.9),
            ],
            &[],
        );
        let own = |auc: f64, divergence: f64, accuracy: f64| {
            let figures = [
                (Figure::AttackAuc, auc),
                (Figure::DivergenceForgotten, divergence),
                (Figure::AccuracyTest, accuracy),
            ];
            let gaps = [
                (Figure::AttackAuc, auc - 0.51),
                (Figure::DivergenceForgotten, divergence - 0.2),
                (Figure::AccuracyTest, accuracy - 0.9),
            ];
            row("own", &figures, &gaps)
        };
        let met =
            |row: &Row| -> Vec<bool> { bars(row, &floor).iter().map(|bar| bar.is_met).collect() };
        // In the order of JUDGED: accuracy, area, divergence.
        assert_eq!(met(&own(0.53, 0.25, 0.8)), [true, true, true]);
        assert_eq!(met(&own(0.48, 0.26, 0.8)), [true, false, false]);
        // The floor's interval, ±12.7 * 0.01, is wider than a point.
        assert_eq!(met(&own(0.5, 0.1, 0.7)), [false, true, true]);
    }

    #[test]
    fn divergences_are_held_to_the_floor_of_the_methods_own_seeds() {
        let floor = row("retrain", &[(Figure::DivergenceForgotten, 0.2)], &[]);
        // It failed where the floor is 0.1, and has 0.33 where that is 0.3.
        let figures = [(Figure::DivergenceForgotten, 0.33)];
        let own = row("own", &figures, &[(Figure::DivergenceForgotten, 0.03)]);
        let bar = bars(&own, &floor)[0];
        assert!(bar.is_met && (bar.distance - 1.1).abs() < 1e-9, "{bar:?}");
    }

    #[test]
    fn a_figure_that_a_method_lacks_is_a_bar_that_it_misses() {
        let both = [(Figure::AttackAuc, 0.5), (Figure::DivergenceTest, 0.2)];
        let table = table(
            row("retrain", &both, &[]),
            vec![
                row("whole", &both, &both.map(|(figure, _)| (figure, 0.0))),
                row("half", &both[..1], &[(Figure::AttackAuc, 0.0)]),
            ],
        );
        let met = |row| bars(row, &table.floor).iter().map(|it| it.is_met).collect::<Vec<_>>();
        assert_eq!(met(&table.methods[0]), [true, true]);
        assert_eq!(met(&table.methods[1]), [true, false]);
        assert_eq!(mean_ranks(&table), [Some(1.25), Some(1.75)]);
    }

    fn table(floor: Row, methods: Vec<Row>) -> Table {
        Table {
            dataset: "d".into(),
            network: "n".into(),
            deletion: "x".into(),
            train_rows: 10,
            deleted: 1,
            requests: 1,
            alone: false,
            seeds: vec![1, 2],
            floor,
            methods,
        }
    }

    #[test]
    fn ranks_are_by_the_distance_and_ties_share_them() {
        let floor = row("retrain", &[(Figure::AttackAuc, 0.5)], &[]);
        let method = |label: &str, auc: f64| {
            row(label, &[(Figure::AttackAuc, auc)], &[(Figure::AttackAuc, auc - 0.5)])
        };
        let table = table(
            floor,
            vec![
                method("far", 0.25),
                method("near", 0.53125),
                method("as near", 0.46875),
                row("failed", &[], &[]),
            ],
        );
        assert_eq!(mean_ranks(&table), [Some(3.0), Some(1.5), Some(1.5), None]);
    }
}
