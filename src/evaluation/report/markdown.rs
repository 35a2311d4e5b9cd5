//! The tables in Markdown.

use std::fmt::Write as _;

use super::overview::{self, Standing};
use crate::evaluation::{
    figure::Figure,
    statistics::Estimate,
    summary::{Row, Summary, Table},
    timing::TimingTable,
};

pub fn render(summary: &Summary) -> String {
    let mut text = String::new();
    write(&mut text, summary).expect("writing to memory does not fail");
    text
}

fn write(text: &mut String, summary: &Summary) -> std::fmt::Result {
    writeln!(text, "# Evaluation: {}\n\n{}\n", summary.suite, summary.about.trim())?;
    if let Some(warning) = summary.incompleteness() {
        writeln!(text, "**{warning}**\n")?;
    }
    writeln!(text, "{}\n", summary.origin())?;
    writeln!(
        text,
        "Each figure is a mean over seeds ± half the width of its 95 % interval. The first row is \
         the floor: {} retrainings without the deleted samples for each seed, each judged against \
         the others. The aim is this row.\n",
        summary.retrainings
    )?;
    write_overview(text, summary)?;
    for table in &summary.tables {
        write_table(text, table)?;
    }
    write_times(text, &summary.timings)?;
    writeln!(text, "## Columns\n")?;
    for figure in Figure::ALL {
        if summary.tables.iter().any(|table| table.floor.figures.contains_key(&figure)) {
            writeln!(text, "- **{}**: {}", figure.label(), figure.meaning())?;
        }
    }
    Ok(())
}

fn write_overview(text: &mut String, summary: &Summary) -> std::fmt::Result {
    let labels = overview::labels(summary);
    writeln!(text, "## How close to retraining\n\n{}\n", overview::MEANING)?;
    writeln!(text, "| | {} |", labels.join(" | "))?;
    writeln!(text, "|---|{}", "---|".repeat(labels.len()))?;
    for table in &summary.tables {
        let standings = overview::standings(table, &labels);
        let cells = standings.into_iter().map(|standing| match standing {
            Standing::Ranked { met, bars, rank } => format!("{met}/{bars}, rank {rank:.1}"),
            Standing::Failed => "failed".to_owned(),
            Standing::Absent => String::new(),
        });
        writeln!(text, "| {} | {} |", table.title(), cells.collect::<Vec<_>>().join(" | "))?;
    }
    writeln!(text)
}

fn write_table(text: &mut String, table: &Table) -> std::fmt::Result {
    let columns: Vec<Figure> = table.columns();
    writeln!(text, "## {}\n", table.title())?;
    writeln!(text, "{}\n", table.describe())?;
    let heads: Vec<&str> = columns.iter().map(|figure| figure.label()).collect();
    writeln!(text, "| method | {} |", heads.join(" | "))?;
    writeln!(text, "|---|{}", "---|".repeat(columns.len()))?;
    for row in std::iter::once(&table.floor).chain(&table.methods) {
        let cells: Vec<String> = columns.iter().map(|figure| cell(row, *figure)).collect();
        let name = if std::ptr::eq(row, &raw const table.floor) {
            format!("**{} (floor)**", row.label)
        } else {
            row.label.clone()
        };
        writeln!(text, "| {name} | {} |", cells.join(" | "))?;
    }
    writeln!(text)?;
    for row in &table.methods {
        for failure in &row.failures {
            writeln!(text, "- {} failed: {failure}", row.label)?;
        }
    }
    if table.methods.iter().any(|row| !row.failures.is_empty()) {
        writeln!(text)?;
    }
    Ok(())
}

fn write_times(text: &mut String, timings: &[TimingTable]) -> std::fmt::Result {
    if timings.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "## Time\n\nSeconds of computing on one thread, nothing beside it, without reading or \
         gathering samples; the median of the runs.\n\n\
         | deletion | of | deleted | method | seconds | times faster than retraining | times iau-reference's |\n\
         |---|---|---|---|---|---|---|"
    )?;
    for table in timings {
        for time in std::iter::once(&table.retraining).chain(&table.methods) {
            writeln!(
                text,
                "| {}, {}: {} | {} | {} | {} | {:.3} | {:.1} | {} |",
                table.dataset,
                table.network,
                table.deletion,
                table.train_rows,
                table.deleted,
                time.label,
                time.seconds,
                table.retraining.seconds / time.seconds,
                table.to_reference(time).map_or_else(String::new, |ratio| format!("{ratio:.1}"))
            )?;
        }
    }
    writeln!(text)
}

fn cell(row: &Row, figure: Figure) -> String {
    row.figures.get(&figure).map_or_else(String::new, |estimate| shown(figure, estimate))
}

/// `93.1 ± 0.4`: shares in per cent.
pub fn shown(figure: Figure, estimate: &Estimate) -> String {
    let (factor, digits) = if figure.is_share() { (100.0, 1) } else { (1.0, 3) };
    let mean = format!("{:.digits$}", factor * estimate.mean);
    match estimate.half_width {
        Some(half_width) => format!("{mean} ± {:.digits$}", factor * half_width),
        None => mean,
    }
}
