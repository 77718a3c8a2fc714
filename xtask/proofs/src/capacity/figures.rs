//! The measurements: of each the median of its repetitions, the minimum and the maximum.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::{fs, thread};

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use serde::Serialize;

use super::hand::Account;
use super::place::Place;

/// All figures of one part.
#[derive(Debug, Default)]
pub struct Figures(Vec<Figure>);

#[derive(Debug)]
struct Figure {
    at: &'static str,
    what: String,
    unit: &'static str,
    values: Vec<f64>,
}

/// A figure as it is displayed.
#[derive(Debug, Serialize)]
pub struct Row {
    at: &'static str,
    what: String,
    unit: &'static str,
    median: f64,
    least: f64,
    most: f64,
    repetitions: usize,
}

impl Figures {
    pub fn add(&mut self, place: &Place, what: &str, unit: &'static str, value: f64) {
        self.add_at(place.name(), what, unit, value);
    }

    pub fn add_at(&mut self, at: &'static str, what: &str, unit: &'static str, value: f64) {
        let is_it =
            |known: &&mut Figure| (known.at, &known.what[..], known.unit) == (at, what, unit);
        match self.0.iter_mut().find(is_it) {
            Some(known) => known.values.push(value),
            None => self.0.push(Figure {
                at,
                what: what.to_owned(),
                unit,
                values: vec![value],
            }),
        }
    }

    /// The median of the times, and the 99th percentile.
    pub fn add_times(&mut self, place: &Place, what: &str, account: &Account) {
        for (unit, value) in [("µs, p50", account.half_us), ("µs, p99", account.most_us)] {
            if let Some(value) = value {
                self.add(place, what, unit, value);
            }
        }
    }

    pub fn rows(&self) -> Vec<Row> {
        self.0.iter().map(Figure::row).collect()
    }
}

impl Figure {
    fn row(&self) -> Row {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        Row {
            at: self.at,
            what: self.what.clone(),
            unit: self.unit,
            median: values[values.len() / 2],
            least: values[0],
            most: values[values.len() - 1],
            repetitions: values.len(),
        }
    }
}

/// Three significant digits, and no more than a reader needs.
fn short(value: f64) -> String {
    let digits = match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((&text[..], ""), |_| {
        text.split_at(text.find('.').unwrap_or(text.len()))
    });
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

impl Row {
    fn spread(&self) -> String {
        match self.repetitions {
            1 => String::new(),
            _ => format!("{}–{}", short(self.least), short(self.most)),
        }
    }
}

pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE).force_no_tty();
    table.set_header(["where", "what", "median", "least–most", "unit"]);
    for row in rows {
        table.add_row([
            row.at,
            &row.what,
            &short(row.median),
            &row.spread(),
            row.unit,
        ]);
    }
    for index in [2, 3] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('═'));

/// Writes `rows` between the marks of `part` in a document.
pub fn write(document: &Path, part: &str, rows: &[Row]) -> Result<()> {
    let text = fs::read_to_string(document);
    let mut text = text.with_context(|| format!("reading {}", document.display()))?;
    let mark = format!("<!-- capacity: {part} -->");
    let begin = text.find(&mark).with_context(|| format!("no {mark}"))? + mark.len();
    let len = text[begin..]
        .find(END)
        .with_context(|| format!("no {END} after {mark}"))?;
    text.replace_range(
        begin..begin + len,
        &format!("\n\n{}\n", Markdown { part, rows }),
    );
    fs::write(document, text).with_context(|| format!("writing {}", document.display()))
}

const END: &str = "<!-- end -->";

struct Markdown<'a> {
    part: &'a str,
    rows: &'a [Row],
}

impl fmt::Display for Markdown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}; `cargo xtask capacity --only {}`.\n",
            machine(),
            self.part
        )?;
        writeln!(f, "| where | what | median | least–most | unit |")?;
        writeln!(f, "|---|---|---:|---:|---|")?;
        for row in self.rows {
            let (median, spread) = (short(row.median), row.spread());
            writeln!(
                f,
                "| {} | {} | {median} | {spread} | {} |",
                row.at, row.what, row.unit
            )?;
        }
        Ok(())
    }
}

/// A description of the machine.
pub fn machine() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line
        .and_then(|line| line.split_once(':'))
        .map(|(_, name)| name.trim());
    let kind = if text.contains(" hypervisor") {
        "virtual cores"
    } else {
        "cores"
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = release
        .trim()
        .split('-')
        .next()
        .unwrap_or_default()
        .to_owned();
    format!(
        "{}, {cores} {kind}, Linux {kernel}, {}, {}",
        name.unwrap_or("an unknown processor"),
        version("rustc"),
        version("nats-server")
    )
}

fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let first = |said: String| said.lines().next().unwrap_or_default().to_owned();
    said.map_or_else(|_| format!("no {program}"), first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_and_can_be_read() {
        let mut figures = Figures::default();
        for value in [3.0, 1.0, 2_345_678.0] {
            figures.add_at("here", "it", "messages/s", value);
        }
        let rows = figures.rows();
        assert_eq!((rows.len(), rows[0].median), (1, 3.0));
        assert_eq!(rows[0].spread(), "1.00–2,345,678");
        assert_eq!(
            [short(0.126), short(12.34), short(999.6)],
            ["0.13", "12.3", "1,000"]
        );
    }
}
