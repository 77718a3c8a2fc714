//! The form of a report for people: tables for little data, totals for much.
//!
//! Does not write anywhere; only [`Look::of_stdout`] asks where the text will go.

use std::env;
use std::fmt::{self, Write};
use std::io::{self, IsTerminal};
use std::path::Path;

use comfy_table::{
    Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle,
    Width,
};
use ipc_node::NodeInfo;

use super::{Report, Transfer};
use crate::fingerprint::Fingerprint;

/// The appearance of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// The width that tables must fit; `None`: no limit.
    pub width_columns: Option<u16>,
    /// Allows escape codes.
    pub coloured: bool,
}

impl Look {
    /// The appearance for standard output: as wide as its terminal, and in colour unless `NO_COLOR`
    /// is set. For a file or a pipe it is [`Look::default`], neither folded nor coloured.
    pub fn of_stdout() -> Self {
        if !io::stdout().is_terminal() {
            return Self::default();
        }
        Self {
            width_columns: Table::new().width(),
            coloured: env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }
}

impl Report {
    /// Several lines for people, each with a line end.
    ///
    /// Up to 20 files are listed; of more, only the totals and the first 20 problems are.
    pub fn to_text(&self, look: Look) -> String {
        let mut text = String::new();
        self.write_text(look, &mut text)
            .expect("a String takes everything");
        text
    }

    fn write_text(&self, look: Look, text: &mut String) -> fmt::Result {
        if (1..=LISTED).contains(&self.fingerprints().count()) && self.files.len() <= LISTED {
            writeln!(text, "{}\n", self.file_table(look))?;
        }
        if !self.workers.is_empty() {
            writeln!(text, "{}\n", self.worker_table(look))?;
        }
        self.write_problems(text)?;
        if !self.files.is_empty() {
            self.write_total(text)?;
        }
        self.write_tasks(text)?;
        self.write_queues(text)
    }

    fn file_table(&self, look: Look) -> Table {
        let mut table = table(look, &["lines", "words", "bytes", "sha256", "path"]);
        for (path, fingerprint) in self.fingerprints() {
            let counts = [fingerprint.lines, fingerprint.words, fingerprint.bytes];
            let sha256 = Cell::new(fingerprint.sha256);
            table.add_row(
                counts
                    .map(number)
                    .into_iter()
                    .chain([sha256, Cell::new(shown(path))]),
            );
        }
        // On a narrow terminal the hash is folded in the middle, not into tiny pieces.
        let needed: u16 = table
            .column_max_content_widths()
            .iter()
            .map(|width| width + PADDING)
            .sum();
        if look.width_columns.is_some_and(|width| width < needed) {
            let half = ColumnConstraint::Absolute(Width::Fixed(32 + PADDING));
            let column = table.column_mut(3);
            column.expect("the header has it").set_constraint(half);
        }
        table
    }

    fn worker_table(&self, look: Look) -> Table {
        let mut table = table(look, &["worker", "pid", "completed", "restarts"]);
        for worker in &self.workers {
            let restarts = number(worker.restarts);
            let restarts = if worker.restarts > 0 {
                restarts.fg(Color::Yellow)
            } else {
                restarts
            };
            let pid = number(worker.pid.into());
            table.add_row([
                Cell::new(&worker.name),
                pid,
                number(worker.completed),
                restarts,
            ]);
        }
        table
    }

    fn write_problems(&self, text: &mut String) -> fmt::Result {
        for (path, problem) in self.problems().take(LISTED) {
            writeln!(
                text,
                "problem: {}: {}",
                shown(path),
                without_controls(problem)
            )?;
        }
        match self.problems().count().saturating_sub(LISTED) {
            0 => Ok(()),
            more => writeln!(
                text,
                "problem: and {more} more, which the JSON report lists"
            ),
        }
    }

    fn write_total(&self, text: &mut String) -> fmt::Result {
        writeln!(
            text,
            "total: {}, {} lines, {} words, {} bytes",
            counted(self.fingerprints().count() as u64, "file"),
            self.sum(|file| file.lines),
            self.sum(|file| file.words),
            self.sum(|file| file.bytes),
        )
    }

    fn write_tasks(&self, text: &mut String) -> fmt::Result {
        let problems = match self.completed.saturating_sub(self.distinct) {
            0 => String::new(),
            problems => format!(" ({problems} with a problem)"),
        };
        writeln!(
            text,
            "tasks: {} of {} done{problems}, {} redelivered, {} dead-lettered",
            self.completed, self.tasks, self.redelivered, self.dead_lettered,
        )
    }

    fn write_queues(&self, text: &mut String) -> fmt::Result {
        let Transfer {
            messages_sent,
            messages_received,
            bytes_transferred,
            errors,
        } = self.stats;
        writeln!(
            text,
            "queues: {messages_sent} messages sent, {messages_received} received, \
             {bytes_transferred} bytes, {}",
            counted(errors, "error"),
        )?;
        let leaked = match self.leaked.as_slice() {
            [] => "nothing leaked".to_owned(),
            names => format!("leaked {}", without_controls(&names.join(", "))),
        };
        let rate = rate(self.sum(|file| file.bytes), self.elapsed_s);
        writeln!(text, "time: {:.2} s{rate}, {leaked}", self.elapsed_s)
    }

    fn sum(&self, field: fn(&Fingerprint) -> u64) -> u64 {
        self.fingerprints()
            .map(|(_, fingerprint)| field(fingerprint))
            .sum()
    }

    fn fingerprints(&self) -> impl Iterator<Item = (&Path, &Fingerprint)> {
        self.files
            .iter()
            .filter_map(|file| Some((&*file.path, file.outcome.as_ref().ok()?)))
    }

    fn problems(&self) -> impl Iterator<Item = (&Path, &String)> {
        self.files
            .iter()
            .filter_map(|file| Some((&*file.path, file.outcome.as_ref().err()?)))
    }
}

/// Every node's statistics, as a table.
#[must_use]
pub fn nodes_to_text(nodes: &[NodeInfo], look: Look) -> String {
    let header = [
        "node", "pid", "health", "sent", "received", "bytes", "errors", "again", "beats",
    ];
    let mut table = table(look, &header);
    let mut nodes: Vec<&NodeInfo> = nodes.iter().collect();
    // `worker-2` before `worker-10`.
    nodes.sort_by_key(|node| (node.name.len(), &node.name));
    for node in nodes {
        let stats = &node.stats;
        let numbers = [
            stats.messages_sent,
            stats.messages_received,
            stats.bytes_transferred,
            stats.errors,
            stats.redeliveries,
            stats.beats,
        ];
        let health = format!("{:?}", node.health).to_lowercase();
        let first = [
            Cell::new(without_controls(&node.name)),
            number(node.pid.into()),
            Cell::new(health),
        ];
        table.add_row(first.into_iter().chain(numbers.map(number)));
    }
    format!("\n{table}\n")
}

/// The number of files, and of problems, that are listed one by one.
const LISTED: usize = 20;

/// One line below the header, and blanks between the columns.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('═'));

/// The blanks around the content of a cell.
const PADDING: u16 = 2;

fn table(look: Look, header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE);
    // The caller chose the appearance, and may write elsewhere than to standard output.
    table.force_no_tty();
    if look.coloured {
        table.enforce_styling();
    }
    if let Some(columns) = look.width_columns {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(columns);
    }
    table.set_header(header.iter().map(|name| Cell::new(name).fg(Color::Cyan)));
    table
}

fn number(number: u64) -> Cell {
    Cell::new(number).set_alignment(CellAlignment::Right)
}

fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

fn rate(bytes: u64, seconds: f64) -> String {
    if bytes > 0 && seconds > 0.0 {
        format!(" ({:.1} MB/s)", bytes as f64 / seconds / 1e6)
    } else {
        String::new()
    }
}

fn shown(path: &Path) -> String {
    without_controls(&path.to_string_lossy())
}

/// File names may contain escape codes, and so may errors that quote them. They must not reach a
/// terminal.
fn without_controls(text: &str) -> String {
    let escaped = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SHA256, sample};
    use super::*;

    #[test]
    fn the_text_lists_few_files_with_their_whole_hash() {
        let text = sample().to_text(Look::default());
        assert_eq!(text.matches(SHA256).count(), 2, "{text}");
        assert!(
            text.contains("total: 2 files, 2 lines, 4 words, 12 bytes\n"),
            "{text}"
        );
        assert!(
            text.contains("3 of 3 done (1 with a problem), 1 redelivered, 0 dead-lettered"),
            "{text}"
        );
        assert!(text.contains("leaked /dev/shm/demo.jobs"), "{text}");
    }

    #[test]
    fn the_text_of_many_files_is_totals_and_the_first_problems() {
        let mut report = sample();
        report.files = (0..30).flat_map(|_| sample().files).collect();
        let text = report.to_text(Look::default());
        assert!(!text.contains(SHA256), "{text}");
        assert!(text.contains("total: 60 files"), "{text}");
        assert_eq!(text.matches("problem: gone").count(), 20, "{text}");
        assert!(text.contains("and 10 more"), "{text}");
    }

    #[test]
    fn escape_codes_come_from_a_coloured_look_and_never_from_a_file_name() {
        assert!(!sample().to_text(Look::default()).contains('\x1b'));
        let coloured = Look {
            coloured: true,
            ..Look::default()
        };
        let text = sample().to_text(coloured);
        assert!(
            text.contains('\x1b') && !text.contains("gone\x1b"),
            "{text}"
        );
    }

    #[test]
    fn tables_fit_the_width_they_are_given() {
        let look = Look {
            width_columns: Some(80),
            coloured: false,
        };
        let mut report = sample();
        report.files[0].path = "long/".repeat(30).into();
        let text = report.to_text(look);
        let (tables, _) = text.rsplit_once("\n\n").unwrap();
        assert!(
            tables.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(!text.contains(SHA256), "folded: {text}");
    }

    #[test]
    fn an_empty_report_is_still_a_report() {
        let text = Report::default().to_text(Look::default());
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("nothing leaked"), "{text}");
    }
}
