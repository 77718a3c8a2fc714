//! The results for the mutants, for people and programs.

use std::fmt;
use std::time::Duration;

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use serde::Serialize;

use super::list::Mutant;
use super::trial::Verdict;

/// All results.
#[derive(Debug, Serialize)]
pub struct Report {
    seconds: f64,
    caught: usize,
    survived: usize,
    mutants: Vec<Line>,
}

/// The result for one mutant.
#[derive(Debug, Serialize)]
pub struct Line {
    name: String,
    file: String,
    why: String,
    #[serde(flatten)]
    pub verdict: Verdict,
    seconds: f64,
}

impl Line {
    pub fn new(mutant: &Mutant, verdict: Verdict, time: Duration) -> Self {
        Self {
            name: mutant.name.clone(),
            file: mutant.file.display().to_string(),
            why: mutant.why.clone(),
            verdict,
            seconds: time.as_secs_f64(),
        }
    }
}

impl Report {
    pub fn new(mutants: Vec<Line>, time: Duration) -> Self {
        let count = |which: fn(&Verdict) -> bool| {
            let of_kind = mutants.iter().filter(|line| which(&line.verdict));
            of_kind.count()
        };
        Self {
            seconds: time.as_secs_f64(),
            caught: count(|verdict| {
                verdict.is_as_expected() || matches!(verdict, Verdict::CaughtElsewhere(_))
            }),
            survived: count(|verdict| *verdict == Verdict::Survived),
            mutants,
        }
    }

    /// Returns whether each mutant was caught.
    pub fn is_clean(&self) -> bool {
        self.caught == self.mutants.len()
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, why, .. } = self;
        write!(f, "{name}: {}: {why}", outcome(&self.verdict))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(STYLE).force_no_tty();
        table.set_header(["mutant", "", "by", "s"]);
        for line in &self.mutants {
            let by = match &line.verdict {
                Verdict::Caught(by) | Verdict::CaughtElsewhere(by) => first(by),
                _ => String::new(),
            };
            let seconds = format!("{:.1}", line.seconds);
            let outcome = outcome(&line.verdict).to_owned();
            table.add_row([line.name.clone(), outcome, by, seconds]);
        }
        if let Some(column) = table.column_mut(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "{table}")?;
        write!(
            f,
            "{} mutants in {:.0} s: {} caught, {} survived",
            self.mutants.len(),
            self.seconds,
            self.caught,
            self.survived
        )
    }
}

fn outcome(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Caught(_) => "caught",
        Verdict::CaughtHanging => "caught: hangs",
        Verdict::CaughtElsewhere(_) => "caught, but not where the list says",
        Verdict::Survived => "SURVIVED",
        Verdict::DoesNotCompile => "DOES NOT COMPILE",
    }
}

fn first(by: &[String]) -> String {
    match by {
        [] => String::new(),
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one}, {} more", rest.len()),
    }
}

/// Prints each mutant's name and harm.
pub fn list(mutants: &[Mutant]) {
    for Mutant { name, why, .. } in mutants {
        println!("{name}: {why}");
    }
}

const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('═'));
