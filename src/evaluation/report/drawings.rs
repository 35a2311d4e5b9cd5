//! Which figures a table is shown with.

use std::collections::BTreeMap;

use super::plot::{Axis, Plot, Point, Series};
use crate::evaluation::{
    attack,
    figure::Figure,
    statistics::Estimate,
    summary::{DriftMean, Row, Summary, Table},
    timing::{Time, TimingTable},
};

/// Colours by method, the same in every figure; the floor has the first.
pub struct Palette(BTreeMap<String, usize>);

impl Palette {
    pub fn of(summary: &Summary) -> Self {
        let mut colors = BTreeMap::new();
        let judged = summary.tables.iter().flat_map(|table| &table.methods).map(|row| &row.label);
        let timed = summary.timings.iter().flat_map(|table| &table.methods).map(|t| &t.label);
        for label in judged.chain(timed) {
            let next = colors.len() + 1;
            colors.entry(label.clone()).or_insert(next);
        }
        Self(colors)
    }

    pub fn color(&self, label: &str) -> usize {
        self.0.get(label).copied().unwrap_or(0)
    }
}

/// Figures of one table, in reading order.
pub fn of(table: &Table, palette: &Palette) -> Vec<Plot> {
    let mut plots = vec![forgetting_against_utility(table, palette)];
    if table.floor.drift.is_empty() {
        plots.extend(curve(table, palette, "Membership by the loss", |row| &row.attack_curve));
        plots.extend(curve(table, palette, "Membership by LiRA", |row| &row.lira_curve));
    } else {
        for (figure, title) in [
            (Figure::AccuracyTest, "Drift: accT"),
            (Figure::AttackAuc, "Drift: AUC of the loss attack"),
            (Figure::DivergenceForgotten, "Drift: klF, of those deleted so far"),
            (Figure::DivergenceTest, "Drift: klT"),
        ] {
            plots.push(drift(table, palette, figure, title));
        }
    }
    plots
}

/// Both axes are distances to the floor: the origin is retraining, and the shaded area is where
/// the bars are met.
fn forgetting_against_utility(table: &Table, palette: &Palette) -> Plot {
    let point = |row: &Row| -> Option<Series> {
        let gap = |figure: Figure| row.gaps.get(&figure);
        let (forgetting, utility) = (gap(Figure::AttackAuc)?, gap(Figure::AccuracyTest)?);
        let point = Point {
            x: forgetting.mean,
            y: 100.0 * utility.mean,
            x_error: forgetting.half_width.unwrap_or(0.0),
            y_error: 100.0 * utility.half_width.unwrap_or(0.0),
        };
        Some(mark(palette.color(&row.label), point))
    };
    let mut series: Vec<Series> = table.methods.iter().filter_map(point).collect();
    series.push(mark(0, Point::default()));
    Plot {
        title: "Forgetting and utility, against retraining".into(),
        x: Axis::linear("AUC less retraining's").covering(-0.02, 0.02),
        y: Axis::linear("accT less retraining's, points").covering(-1.0, 1.0),
        series,
        target: Some([(-0.02, -1.0), (0.02, 1.0)]),
    }
}

fn mark(color: usize, point: Point) -> Series {
    Series { color, points: vec![point], marks: true, is_joined: false }
}

fn rows(table: &Table) -> impl Iterator<Item = &Row> {
    table.methods.iter().chain([&table.floor])
}

fn curve(
    table: &Table,
    palette: &Palette,
    title: &str,
    of: impl Fn(&Row) -> &Option<Vec<f64>>,
) -> Option<Plot> {
    of(&table.floor).as_ref()?;
    let least = 1e-3;
    let line = |row: &Row| {
        let curve = of(row).as_ref()?;
        let points = curve.iter().enumerate().map(|(at, rate)| Point {
            x: attack::grid(at),
            y: *rate,
            ..Point::default()
        });
        // Rates below the axis run along its foot.
        let points: Vec<Point> = points.filter(|point| point.x >= least * 0.999).collect();
        let color = palette.color(&row.label);
        Some(Series { color, points, marks: false, is_joined: true })
    };
    Some(Plot {
        title: title.into(),
        x: Axis::log("false-positive rate").covering(least, 1.0),
        y: Axis::log("true-positive rate").covering(least, 1.0),
        series: rows(table).filter_map(line).collect(),
        target: None,
    })
}

fn drift(table: &Table, palette: &Palette, figure: Figure, title: &str) -> Plot {
    let line = |row: &Row| {
        let point = |mean: &DriftMean| {
            let estimate: &Estimate = mean.figures.get(&figure)?;
            Some(Point {
                x: mean.requests as f64,
                y: estimate.mean,
                y_error: estimate.half_width.unwrap_or(0.0),
                ..Point::default()
            })
        };
        Series {
            color: palette.color(&row.label),
            points: row.drift.iter().filter_map(point).collect(),
            marks: false,
            is_joined: true,
        }
    };
    Plot {
        title: title.into(),
        x: Axis::linear("requests served"),
        y: Axis::linear(""),
        series: rows(table).map(line).collect(),
        target: None,
    }
}

/// How time grows with the training set and with what is deleted, for each data set and network.
pub fn of_times(timings: &[TimingTable], palette: &Palette) -> Vec<Plot> {
    let mut plots = Vec::new();
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for table in timings {
        let place = (table.dataset.as_str(), table.network.as_str());
        if seen.contains(&place) {
            continue;
        }
        seen.push(place);
        let of_place: Vec<&TimingTable> =
            timings.iter().filter(|t| (t.dataset.as_str(), t.network.as_str()) == place).collect();
        // The sizes that most tables share are held while the other size grows.
        let rows = most_frequent(of_place.iter().map(|table| table.train_rows));
        let deleted = most_frequent(of_place.iter().map(|table| table.deleted));
        let title = |held: String| format!("{}, {}: {held}", place.0, place.1);
        let with_rows: Vec<_> = of_place.iter().copied().filter(|t| t.train_rows == rows).collect();
        let with_deleted: Vec<_> =
            of_place.iter().copied().filter(|t| t.deleted == deleted).collect();
        plots.push(times(
            title(format!("{deleted} deleted")),
            "training samples",
            &with_deleted,
            |table| table.train_rows,
            palette,
        ));
        plots.push(times(
            title(format!("of {rows}")),
            "deleted samples",
            &with_rows,
            |table| table.deleted,
            palette,
        ));
    }
    plots
}

fn most_frequent(sizes: impl Iterator<Item = usize>) -> usize {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    sizes.for_each(|size| *counts.entry(size).or_default() += 1);
    counts.into_iter().max_by_key(|(_, count)| *count).map_or(0, |(size, _)| size)
}

fn times(
    title: String,
    x_label: &str,
    tables: &[&TimingTable],
    size: impl Fn(&TimingTable) -> usize,
    palette: &Palette,
) -> Plot {
    let mut lines: BTreeMap<&str, Vec<Point>> = BTreeMap::new();
    for table in tables.iter().filter(|table| !table.is_stream) {
        for Time { label, seconds, .. } in table.methods.iter().chain([&table.retraining]) {
            let point = Point { x: size(table) as f64, y: *seconds, ..Point::default() };
            lines.entry(label).or_default().push(point);
        }
    }
    let line = |(label, mut points): (&str, Vec<Point>)| {
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Series { color: palette.color(label), points, marks: true, is_joined: true }
    };
    Plot {
        title,
        x: Axis::log(x_label),
        y: Axis::log("seconds"),
        series: lines.into_iter().map(line).collect(),
        target: None,
    }
}
