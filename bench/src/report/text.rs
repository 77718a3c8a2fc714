//! The figures for the terminal.

use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, Color, LineStyle, Table, TableStyle};

use super::Report;
use super::targets::Verdict;
use crate::schedule::Summary;
use crate::work::Unit;

pub fn render(report: &Report) -> String {
    let mut text = String::new();
    for work in report.works() {
        let _ = writeln!(text, "\n{work}\n{}", table(report.rows_of(work)));
    }
    if !report.targets.is_empty() {
        let _ = writeln!(text, "\ntargets\n{}", targets(&report.targets));
    }
    for (subject, note) in &report.notes {
        let _ = writeln!(text, "{subject}: {note}");
    }
    for (what, why) in &report.skipped {
        let _ = writeln!(text, "not measured: {what}: {why}");
    }
    text
}

fn table<'a>(rows: impl Iterator<Item = &'a Summary>) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_header([
        "subject",
        "median",
        "min",
        "max",
        "samples",
        "distance",
        "placement",
    ]);
    for row in rows {
        table.add_row([
            row.subject.clone(),
            figure(row.median, row.unit),
            figure(row.min, row.unit),
            figure(row.max, row.unit),
            row.samples.to_string(),
            row.distance.name().to_owned(),
            row.placement.name().to_owned(),
        ]);
    }
    for column in 1..=4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn targets(verdicts: &[Verdict]) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_header(["", "against", "wanted", "got", "distance", "ok"]);
    for verdict in verdicts {
        let (ok, color) = match (verdict.got, verdict.is_ok()) {
            (None, _) => ("not measured", Color::Yellow),
            (Some(_), true) => ("yes", Color::Green),
            (Some(_), false) => ("no", Color::Red),
        };
        let got = verdict.got.map(|(_, ratio)| format!("{ratio:.2}×"));
        let distance = verdict.got.map(|(distance, _)| distance.name());
        table.add_row([
            Cell::new(&verdict.work),
            Cell::new(&verdict.against),
            Cell::new(verdict.wanted.describe()),
            Cell::new(got.unwrap_or_default()).set_alignment(CellAlignment::Right),
            Cell::new(distance.unwrap_or_default()),
            Cell::new(ok).fg(color),
        ]);
    }
    table
}

/// Returns a figure in readable form.
pub fn figure(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Kills | Unit::Messages | Unit::Crates | Unit::Number => format!("{value:.0}"),
        Unit::Share => format!("{:.0} %", value * 100.0),
        Unit::PerSecond => format!("{value:.0} /s"),
        Unit::WakeUpsPerSecond => format!("{value:.1} /s"),
        Unit::NanosecondsPerSecond => format!("{:.1} µs/s", value / 1e3),
        Unit::Bytes => format!("{:.0} KiB", value / 1024.0),
        Unit::MessagesPerSecond => match value {
            1e6.. => format!("{:.2} M/s", value / 1e6),
            1e3.. => format!("{:.1} k/s", value / 1e3),
            _ => format!("{value:.0} /s"),
        },
        Unit::Nanoseconds => match value {
            1e9.. => format!("{:.1} s", value / 1e9),
            1e6.. => format!("{:.1} ms", value / 1e6),
            1e3.. => format!("{:.1} µs", value / 1e3),
            _ => format!("{value:.0} ns"),
        },
    }
}

const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─'));
