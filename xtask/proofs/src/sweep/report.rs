//! The result of a sweep, for people and programs.

use std::fmt;
use std::time::Duration;

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use serde::Serialize;

use super::Case;
use super::run::Tally;

/// The figures of a sweep.
#[derive(Debug, Serialize)]
pub struct Report {
    quick: bool,
    seconds: f64,
    operations: usize,
    states: u64,
    instructions: u64,
    crash_states: u64,
    real_kills: u64,
    stops: u64,
    violations: usize,
    /// The violations, each with enough data to repeat it.
    found: Vec<String>,
    by_operation: Vec<Line>,
}

/// The figures of one operation.
#[derive(Debug, Serialize)]
struct Line {
    operation: &'static str,
    states: u64,
    instructions: u64,
    crash_states: u64,
    real_kills: u64,
    stops: u64,
    violations: usize,
}

impl Report {
    pub fn new(tallies: Vec<(Case, Tally)>, quick: bool, time: Duration) -> Self {
        let mut total = Tally::default();
        let mut by_operation: Vec<(&'static str, Tally)> = Vec::new();
        for ((operation, _), tally) in tallies {
            total.add(tally.clone());
            match by_operation.last_mut() {
                Some((name, sum)) if *name == operation.name => sum.add(tally),
                _ => by_operation.push((operation.name, tally)),
            }
        }
        Self {
            quick,
            seconds: time.as_secs_f64(),
            operations: by_operation.len(),
            states: total.states,
            instructions: total.instructions,
            crash_states: total.crash_states,
            real_kills: total.real_kills,
            stops: total.stops,
            violations: total.violations.len(),
            found: total.violations,
            by_operation: by_operation.into_iter().map(Line::from).collect(),
        }
    }

    pub fn is_clean(&self) -> bool {
        self.violations == 0
    }
}

impl From<(&'static str, Tally)> for Line {
    fn from((operation, tally): (&'static str, Tally)) -> Self {
        Self {
            operation,
            states: tally.states,
            instructions: tally.instructions,
            crash_states: tally.crash_states,
            real_kills: tally.real_kills,
            stops: tally.stops,
            violations: tally.violations.len(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(STYLE).force_no_tty();
        let header = [
            "operation",
            "states",
            "instructions",
            "crash states",
            "real kills",
            "stops",
            "violations",
        ];
        table.set_header(header);
        for line in &self.by_operation {
            table.add_row(line.cells());
        }
        table.add_row(self.total().cells());
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "{table}")?;
        for (rank, violation) in self.found.iter().take(SHOWN).enumerate() {
            writeln!(f, "{}. {violation}", rank + 1)?;
        }
        if self.found.len() > SHOWN {
            writeln!(f, "... and {} more", self.found.len() - SHOWN)?;
        }
        write!(
            f,
            "{} operations from {} states: {} violations in {:.1} s",
            self.operations, self.states, self.violations, self.seconds
        )
    }
}

/// One line below the header, and blanks between the columns.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('═'));

/// The number of violations that are displayed; all are in the JSON.
const SHOWN: usize = 20;

impl Report {
    fn total(&self) -> Line {
        Line {
            operation: "total",
            states: self.states,
            instructions: self.instructions,
            crash_states: self.crash_states,
            real_kills: self.real_kills,
            stops: self.stops,
            violations: self.violations,
        }
    }
}

impl Line {
    fn cells(&self) -> [String; 7] {
        [
            self.operation.to_owned(),
            self.states.to_string(),
            self.instructions.to_string(),
            self.crash_states.to_string(),
            self.real_kills.to_string(),
            self.stops.to_string(),
            self.violations.to_string(),
        ]
    }
}

/// Lists what can be swept.
pub fn list(cases: &[Case]) {
    let mut last = "";
    for (operation, state) in cases {
        if operation.name != last {
            println!("{:13} {}", operation.name, operation.what);
        }
        println!("{:13}   {}", "", state.name);
        last = operation.name;
    }
}
