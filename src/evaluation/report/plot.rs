//! Figures as SVG.

use plotters::{
    coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged},
    element::{Circle, PathElement, Rectangle},
    prelude::{ChartBuilder, IntoDrawingArea as _, SVGBackend},
    series::LineSeries,
    style::{Color as _, IntoFont as _, RGBColor, ShapeStyle},
};

use crate::evaluation::error::EvaluationError;

/// Points in the plane, with axes that fit them.
pub struct Plot {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    /// A shaded area, corner to corner.
    pub target: Option<[(f64, f64); 2]>,
}

pub struct Axis {
    pub label: String,
    pub scale: Scale,
    /// What the axis shows at least; on a log scale nothing below its start.
    pub covers: Option<(f64, f64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Log,
}

pub struct Series {
    pub color: usize,
    pub points: Vec<Point>,
    /// Joined by lines, in order; without marks when `false`.
    pub marks: bool,
    pub is_joined: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    /// Half the width of the interval.
    pub x_error: f64,
    pub y_error: f64,
}

/// Distinct to people who do not tell red from green (Okabe and Ito 2008), and three more; the
/// first is the floor's.
pub const COLORS: [(u8, u8, u8); 11] = [
    (0, 0, 0),
    (213, 94, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (140, 86, 75),
    (127, 127, 127),
    (106, 61, 154),
    (178, 190, 20),
];

const SIZE: (u32, u32) = (380, 300);

/// A colour of the palette as `#rrggbb`.
pub fn hex(color: usize) -> String {
    let (r, g, b) = COLORS[color % COLORS.len()];
    format!("#{r:02x}{g:02x}{b:02x}")
}

impl Plot {
    /// An `<svg>` element.
    pub fn render(&self) -> Result<String, EvaluationError> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|error| EvaluationError::Figure(error.to_string()))?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error + '_>> {
        let place = |point: &Point| (self.x.place(point.x), self.y.place(point.y));
        let ends = |points: &dyn Fn(&Point) -> [f64; 2]| -> Vec<f64> {
            self.series.iter().flat_map(|s| &s.points).flat_map(points).collect()
        };
        let x_range = self.x.range(&ends(&|p| [p.x - p.x_error, p.x + p.x_error]));
        let y_range = self.y.range(&ends(&|p| [p.y - p.y_error, p.y + p.y_error]));
        let (x_ticks, y_ticks) = (self.x.ticks(x_range), self.y.ticks(y_range));

        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 14).into_font())
            .margin(8)
            .margin_right(16)
            .x_label_area_size(38)
            .y_label_area_size(54)
            .build_cartesian_2d(
                Ticked { range: x_range, ticks: x_ticks },
                Ticked { range: y_range, ticks: y_ticks },
            )?;
        let faint = RGBColor(225, 225, 225);
        chart
            .configure_mesh()
            .bold_line_style(faint)
            .light_line_style(plotters::style::TRANSPARENT)
            .axis_style(RGBColor(110, 110, 110))
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .label_style(("sans-serif", 11).into_font())
            .axis_desc_style(("sans-serif", 12).into_font())
            .x_label_formatter(&|value| self.x.shown(*value))
            .y_label_formatter(&|value| self.y.shown(*value))
            .draw()?;
        if let Some([from, to]) = self.target {
            let corners = [
                (self.x.place(from.0), self.y.place(from.1)),
                (self.x.place(to.0), self.y.place(to.1)),
            ];
            let shade = RGBColor(0, 158, 115).mix(0.12).filled();
            chart.draw_series([Rectangle::new(corners, shade)])?;
        }
        for series in &self.series {
            let (r, g, b) = COLORS[series.color % COLORS.len()];
            let color = RGBColor(r, g, b);
            let points = || series.points.iter().map(place);
            if series.is_joined {
                let width = if series.color == 0 { 3 } else { 2 };
                chart.draw_series(LineSeries::new(points(), color.stroke_width(width)))?;
            }
            // Those of lines lie over each other.
            let opacity = if series.is_joined { 0.3 } else { 0.6 };
            let thin: ShapeStyle = color.mix(opacity).stroke_width(1);
            let whiskers =
                series.points.iter().flat_map(|point| self.whiskers(point, x_range, y_range));
            chart.draw_series(whiskers.map(|line| PathElement::new(line, thin)))?;
            if series.marks {
                chart.draw_series(points().map(|at| Circle::new(at, 4, color.filled())))?;
            }
        }
        area.present()?;
        Ok(())
    }

    /// The intervals around a point, within the plot.
    fn whiskers(&self, point: &Point, x: (f64, f64), y: (f64, f64)) -> Vec<Vec<(f64, f64)>> {
        let (at_x, at_y) = (self.x.place(point.x), self.y.place(point.y));
        let mut lines = Vec::new();
        if point.x_error > 0.0 {
            let place = |value: f64| self.x.place(value).clamp(x.0, x.1);
            let (from, to) = (place(point.x - point.x_error), place(point.x + point.x_error));
            lines.push(vec![(from, at_y), (to, at_y)]);
        }
        if point.y_error > 0.0 {
            let place = |value: f64| self.y.place(value).clamp(y.0, y.1);
            let (from, to) = (place(point.y - point.y_error), place(point.y + point.y_error));
            lines.push(vec![(at_x, from), (at_x, to)]);
        }
        lines
    }
}

impl Axis {
    pub fn linear(label: &str) -> Self {
        Self { label: label.into(), scale: Scale::Linear, covers: None }
    }

    pub fn log(label: &str) -> Self {
        Self { label: label.into(), scale: Scale::Log, covers: None }
    }

    #[must_use]
    pub fn covering(self, from: f64, to: f64) -> Self {
        Self { covers: Some((from, to)), ..self }
    }

    /// Where a value stands: itself, or its decimal logarithm.
    fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Log => {
                let least = self.covers.map_or(f64::MIN_POSITIVE, |(from, _)| from);
                value.max(least).log10()
            }
        }
    }

    /// Around all values, with some room on a linear scale and at whole powers of ten on another.
    fn range(&self, values: &[f64]) -> (f64, f64) {
        let covered = self.covers.map(|(from, to)| [from, to]);
        let drawn = values.iter().copied().filter(|v| self.scale == Scale::Linear || *v > 0.0);
        let all = drawn.chain(covered.into_iter().flatten()).map(|value| self.place(value));
        let (low, high) = all
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return (0.0, 1.0);
        }
        match self.scale {
            Scale::Linear => {
                let room = (0.06 * (high - low)).max(1e-6);
                (low - room, high + room)
            }
            Scale::Log => (low.floor(), high.ceil().max(low.floor() + 1.0)),
        }
    }

    fn ticks(&self, (from, to): (f64, f64)) -> Vec<f64> {
        let step = match self.scale {
            Scale::Linear => round_step((to - from) / 5.0),
            Scale::Log if to - from > 2.5 => 1.0,
            Scale::Log => {
                let decades = (0..4_i16).map(|n| from.floor() + f64::from(n));
                let ticks =
                    decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|d: f64| decade + d.log10()));
                return ticks.filter(|tick| (from - 1e-9..=to + 1e-9).contains(tick)).collect();
            }
        };
        let first = (from / step).ceil();
        let count = 20;
        (0..count)
            .map(|n| (first + f64::from(n)) * step)
            .take_while(|tick| *tick <= to + 1e-9)
            .collect()
    }

    fn shown(&self, place: f64) -> String {
        match self.scale {
            Scale::Log if (-3.5..5.5).contains(&place) => number(10_f64.powf(place)),
            Scale::Log => format!("1e{place:.0}"),
            Scale::Linear => number(place),
        }
    }
}

/// A linear coordinate with ticks of our choice.
struct Ticked {
    range: (f64, f64),
    ticks: Vec<f64>,
}

impl Ranged for Ticked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    #[expect(clippy::cast_possible_truncation, reason = "pixels of a small figure")]
    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.range.0) / (self.range.1 - self.range.0);
        from + (share * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.range.0..self.range.1
    }
}

/// 1, 2 or 5 times a power of ten, not far from `step`.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.max(1e-12).log10().floor());
    let digit = step / power;
    let rounded = [1.0, 2.0, 5.0, 10.0].into_iter().find(|round| digit <= *round).unwrap_or(10.0);
    rounded * power
}

/// Without needless zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_range() {
        let axis = Axis::linear("x");
        let range = axis.range(&[-0.013, 0.092]);
        let ticks: Vec<String> = axis.ticks(range).iter().map(|tick| axis.shown(*tick)).collect();
        assert_eq!(ticks, ["0", "0.05"]);
        let axis = Axis::log("y").covering(1e-3, 1.0);
        let range = axis.range(&[0.0, 0.2]);
        let ticks: Vec<String> = axis.ticks(range).iter().map(|tick| axis.shown(*tick)).collect();
        assert_eq!(ticks, ["0.001", "0.01", "0.1", "1"]);
    }

    #[test]
    fn a_plot_is_an_svg_with_its_words() {
        let plot = Plot {
            title: "Forgetting & utility".into(),
            x: Axis::linear("gap"),
            y: Axis::log("seconds"),
            series: vec![Series {
                color: 1,
                points: vec![
                    Point { x: 1.0, y: 10.0, x_error: 0.2, y_error: 3.0 },
                    Point { x: 2.0, y: 100.0, ..Point::default() },
                ],
                marks: true,
                is_joined: true,
            }],
            target: Some([(0.5, 5.0), (1.5, 50.0)]),
        };
        let svg = plot.render().unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("seconds"), "{svg}");
        assert!(svg.contains("Forgetting &amp; utility"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2);
        let empty = Plot { series: Vec::new(), target: None, ..plot };
        assert!(empty.render().unwrap().contains("gap"));
    }
}
