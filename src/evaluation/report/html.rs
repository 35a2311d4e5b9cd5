//! The report as one HTML page that needs nothing else.

use std::fmt::Write as _;

use super::{
    drawings::{self, Palette},
    markdown::shown,
    overview::{self, Standing},
    plot,
};
use crate::evaluation::{
    error::EvaluationError,
    figure::Figure,
    judgement::{JUDGED, bars},
    summary::{Row, Summary, Table},
    timing::TimingTable,
};

const STYLE: &str = include_str!("style.css");

pub fn render(summary: &Summary) -> Result<String, EvaluationError> {
    let palette = Palette::of(summary);
    let mut page = String::new();
    let drawn: Vec<Vec<String>> = summary
        .tables
        .iter()
        .map(|table| drawings::of(table, &palette).iter().map(plot::Plot::render).collect())
        .collect::<Result<_, _>>()?;
    let times: Vec<String> = drawings::of_times(&summary.timings, &palette)
        .iter()
        .map(plot::Plot::render)
        .collect::<Result<_, _>>()?;
    write(&mut page, summary, &palette, &drawn, &times).expect("writing to memory does not fail");
    Ok(page)
}

fn write(
    page: &mut String,
    summary: &Summary,
    palette: &Palette,
    drawn: &[Vec<String>],
    times: &[String],
) -> std::fmt::Result {
    let warning = summary
        .incompleteness()
        .map_or_else(String::new, |warning| format!("<p class=\"failure\">{warning}</p>\n"));
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Evaluation: {name}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>Evaluation: {name}</h1>\n<p>{about}</p>\n\
         {warning}<p class=\"made\">{origin}</p>\n",
        name = escaped(&summary.suite),
        about = escaped(summary.about.trim()),
        origin = escaped(&summary.origin()),
    )?;
    writeln!(
        page,
        "<p>Every figure is a mean over seeds ± half the width of its 95 % interval. <b>retrain</b> \
         is the floor: {} networks a seed, trained with other seeds and without the deleted \
         samples, each judged against the others. A method that forgets as retraining does stands \
         where the floor stands: neither an attack that tells nothing nor an accuracy of zero is \
         the aim, and an attack's area <em>below</em> the floor's gives the samples away as well.</p>",
        summary.retrainings
    )?;
    write_overview(page, summary, palette)?;
    for (number, (table, drawn)) in summary.tables.iter().zip(drawn).enumerate() {
        write_table(page, number, table, palette, drawn)?;
    }
    write_times(page, &summary.timings, palette, times)?;
    writeln!(page, "<h2>Columns</h2>\n<dl>")?;
    for figure in Figure::ALL {
        if summary.tables.iter().any(|table| table.floor.figures.contains_key(&figure)) {
            writeln!(page, "<dt>{}</dt><dd>{}</dd>", figure.label(), figure.meaning())?;
        }
    }
    writeln!(page, "</dl>\n</body>\n</html>")
}

fn write_overview(page: &mut String, summary: &Summary, palette: &Palette) -> std::fmt::Result {
    let labels = overview::labels(summary);
    writeln!(
        page,
        "<h2>How close to retraining</h2>\n<p>{}</p>\n<div class=\"wide\"><table><thead><tr>\
         <th></th>",
        overview::MEANING
    )?;
    for label in &labels {
        writeln!(page, "<th>{}{}</th>", swatch(palette.color(label)), escaped(label))?;
    }
    writeln!(page, "</tr></thead><tbody>")?;
    for (number, table) in summary.tables.iter().enumerate() {
        let title = escaped(&table.title());
        write!(page, "<tr><th><a href=\"#table-{number}\">{title}</a></th>")?;
        for standing in overview::standings(table, &labels) {
            match standing {
                Standing::Ranked { met, bars, rank } => {
                    let class = if met == bars { "met" } else { "missed" };
                    write!(
                        page,
                        "<td class=\"{class}\">{met}/{bars} <small>rank {rank:.1}</small></td>"
                    )?;
                }
                Standing::Failed => write!(page, "<td class=\"missed\">failed</td>")?,
                Standing::Absent => write!(page, "<td></td>")?,
            }
        }
        writeln!(page, "</tr>")?;
    }
    writeln!(page, "</tbody></table></div>")
}

fn write_table(
    page: &mut String,
    number: usize,
    table: &Table,
    palette: &Palette,
    drawn: &[String],
) -> std::fmt::Result {
    let columns = table.columns();
    writeln!(
        page,
        "<h2 id=\"table-{number}\">{}</h2>\n<p>{}</p>\n\
         <div class=\"wide\"><table><thead><tr><th>method</th>",
        escaped(&table.title()),
        table.describe()
    )?;
    for figure in &columns {
        write!(page, "<th title=\"{}\">{}</th>", figure.meaning(), figure.label())?;
    }
    writeln!(page, "</tr></thead><tbody>")?;
    write_row(page, &table.floor, None, &columns, 0)?;
    for row in &table.methods {
        write_row(page, row, Some(&table.floor), &columns, palette.color(&row.label))?;
    }
    writeln!(page, "</tbody></table></div>")?;
    for row in &table.methods {
        for failure in &row.failures {
            let (label, failure) = (escaped(&row.label), escaped(failure));
            writeln!(page, "<p class=\"failure\">{label} failed: {failure}</p>")?;
        }
    }
    writeln!(page, "<div class=\"figures\">\n{}\n</div>", drawn.join("\n"))
}

fn write_row(
    page: &mut String,
    row: &Row,
    floor: Option<&Row>,
    columns: &[Figure],
    color: usize,
) -> std::fmt::Result {
    let bars = floor.map(|floor| bars(row, floor)).unwrap_or_default();
    let class = if floor.is_none() { " class=\"floor\"" } else { "" };
    write!(page, "<tr{class}><th>{}{}</th>", swatch(color), escaped(&row.label))?;
    for figure in columns {
        let Some(estimate) = row.figures.get(figure) else {
            write!(page, "<td></td>")?;
            continue;
        };
        let judged = JUDGED.contains(figure).then(|| bars.iter().find(|bar| bar.figure == *figure));
        let class = match judged.flatten() {
            Some(bar) if bar.is_met => " class=\"met\"",
            Some(_) => " class=\"missed\"",
            None => "",
        };
        let text = shown(*figure, estimate);
        let (mean, half_width) = text.split_once(" ± ").unwrap_or((text.as_str(), ""));
        let interval = if half_width.is_empty() {
            String::new()
        } else {
            format!(" <small>± {half_width}</small>")
        };
        write!(page, "<td{class}>{mean}{interval}</td>")?;
    }
    writeln!(page, "</tr>")
}

fn write_times(
    page: &mut String,
    timings: &[TimingTable],
    palette: &Palette,
    drawn: &[String],
) -> std::fmt::Result {
    if timings.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "<h2>Time</h2>\n<p>Seconds of computing on one thread, nothing beside it, without reading \
         or gathering samples; the median of the runs, and in parentheses how many times faster \
         than retraining, and how many times iau-reference's time (ref). Retraining is training alone, without the cross-fitting that a \
         settlement does as well.</p>\n<div class=\"wide\"><table><thead><tr><th></th>\
         <th>of</th><th>deleted</th><th>{}retrain</th>",
        swatch(0)
    )?;
    let mut labels: Vec<&str> = Vec::new();
    for time in timings.iter().flat_map(|table| &table.methods) {
        if !labels.contains(&time.label.as_str()) {
            labels.push(&time.label);
        }
    }
    for label in &labels {
        writeln!(page, "<th>{}{}</th>", swatch(palette.color(label)), escaped(label))?;
    }
    writeln!(page, "</tr></thead><tbody>")?;
    for table in timings {
        write!(
            page,
            "<tr><th>{}, {}: {}</th><td>{}</td><td>{}</td><td>{:.3}</td>",
            escaped(&table.dataset),
            escaped(&table.network),
            escaped(&table.deletion),
            table.train_rows,
            table.deleted,
            table.retraining.seconds
        )?;
        for label in &labels {
            match table.methods.iter().find(|time| time.label == **label) {
                Some(time) => {
                    let faster = table.retraining.seconds / time.seconds;
                    write!(page, "<td>{:.3} <small>({faster:.1} x", time.seconds)?;
                    if let Some(ratio) = table.to_reference(time) {
                        write!(page, ", {ratio:.1} ref")?;
                    }
                    write!(page, ")</small></td>")?;
                }
                None => write!(page, "<td></td>")?,
            }
        }
        writeln!(page, "</tr>")?;
    }
    writeln!(page, "</tbody></table></div>\n<div class=\"figures\">\n{}\n</div>", drawn.join("\n"))
}

fn swatch(color: usize) -> String {
    format!("<span class=\"swatch\" style=\"background:{}\"></span>", plot::hex(color))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
