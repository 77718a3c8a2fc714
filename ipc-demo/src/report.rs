//! What a run came to: one object in JSON for programs, tables and sentences for people.
//!
//! Only says what it is told. Whether the numbers add up (as many files as tasks, nothing completed
//! twice) is for the coordinator to find out and for tests to doubt.

use std::env;
use std::fmt::{self, Write};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::{Serialize, Serializer};

use crate::fingerprint::Fingerprint;

/// Everything there is to say about a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// How many tasks there were to do.
    pub tasks: u64,
    /// How many results came back, those of redelivered tasks counted each time.
    pub completed: u64,
    /// How many different tasks have a result.
    pub distinct: u64,
    /// How often a task was delivered again, because whoever held it was killed or let go.
    pub redelivered: u64,
    /// How many tasks were given up.
    pub dead_lettered: u64,
    /// Who worked, in the order they were named.
    pub workers: Vec<WorkerReport>,
    /// What went over the queues.
    pub stats: Transfer,
    /// One entry per file, in the order the files were found.
    pub files: Vec<FileReport>,
    /// How long it took, in seconds.
    pub elapsed_s: f64,
    /// What the run left behind and should not have: the names of queues, segments, files.
    pub leaked: Vec<String>,
}

/// One worker, through all of its restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerReport {
    /// What it is called; a restarted worker keeps its name.
    pub name: String,
    /// The process that bore the name last.
    pub pid: u32,
    /// How many tasks it completed.
    pub completed: u64,
    /// How often it was started again.
    pub restarts: u64,
}

/// What went over the queues, all processes taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Messages handed to a queue.
    pub messages_sent: u64,
    /// Messages taken from a queue, redelivered ones each time.
    pub messages_received: u64,
    /// The payloads of the messages sent.
    pub bytes_transferred: u64,
    /// Sends and receives that failed, timeouts not counted.
    pub errors: u64,
}

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Its path, as [`input`](crate::input) gave it.
    pub path: PathBuf,
    /// Its fingerprint, or why it has none.
    pub outcome: Result<Fingerprint, String>,
}

/// How text is to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Tables are folded to fit; `None` for as wide as they need to be.
    pub width_columns: Option<u16>,
    /// Whether escape codes may be used.
    pub coloured: bool,
}

impl Look {
    /// What suits standard output: as wide as its terminal, and in colour unless `NO_COLOR` is set.
    /// For a file or a pipe it is [`Look::default`], neither folded nor coloured.
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
    /// One object, on several lines, with the fields of this type under their own names.
    ///
    /// An entry of `files` has `path` and either `bytes`, `lines`, `words` and `sha256`, or `error`.
    /// Bytes of a path that are not UTF-8 appear as U+FFFD.
    ///
    /// # Errors
    ///
    /// None that is known of: every field has a form in JSON.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

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
            writeln!(text, "{}", self.file_table(look))?;
        }
        self.write_problems(text)?;
        self.write_totals(text)?;
        if !self.workers.is_empty() {
            writeln!(text, "{}", self.worker_table(look))?;
        }
        self.write_losses(text)
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

    fn write_totals(&self, text: &mut String) -> fmt::Result {
        let sum = |field: fn(&Fingerprint) -> u64| -> u64 {
            self.fingerprints()
                .map(|(_, fingerprint)| field(fingerprint))
                .sum()
        };
        let bytes = sum(|file| file.bytes);
        writeln!(
            text,
            "total: {}, {} lines, {} words, {bytes} bytes in {:.2} s{}",
            counted(self.fingerprints().count() as u64, "file"),
            sum(|file| file.lines),
            sum(|file| file.words),
            self.elapsed_s,
            rate(bytes, self.elapsed_s),
        )?;
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
        )
    }

    fn write_losses(&self, text: &mut String) -> fmt::Result {
        let leaked = match self.leaked.as_slice() {
            [] => "nothing leaked".to_owned(),
            names => format!("leaked {}", without_controls(&names.join(", "))),
        };
        writeln!(
            text,
            "tasks: {} of {} done ({} results), {} redelivered, {} dead-lettered, {leaked}",
            self.distinct, self.tasks, self.completed, self.redelivered, self.dead_lettered,
        )
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

impl Serialize for FileReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let path = self.path.to_string_lossy().into_owned();
        let entry = match &self.outcome {
            Ok(Fingerprint {
                lines,
                words,
                bytes,
                sha256,
            }) => FileEntry::Done {
                path,
                bytes: *bytes,
                lines: *lines,
                words: *words,
                sha256: sha256.to_string(),
            },
            Err(error) => FileEntry::Failed { path, error },
        };
        entry.serialize(serializer)
    }
}

/// The two forms of an entry of `files` in JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum FileEntry<'a> {
    Done {
        path: String,
        bytes: u64,
        lines: u64,
        words: u64,
        sha256: String,
    },
    Failed {
        path: String,
        error: &'a str,
    },
}

/// How many files, and how many problems, are worth listing one by one on a screen.
const LISTED: usize = 20;

fn table(look: Look, header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    // The look was decided by the caller, who may be writing to somewhere else than standard output.
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
    if seconds > 0.0 {
        format!(" ({:.1} MB/s)", bytes as f64 / seconds / 1e6)
    } else {
        String::new()
    }
}

fn shown(path: &Path) -> String {
    without_controls(&path.to_string_lossy())
}

/// File names may contain escape codes, and so may errors that quote them: not to a terminal.
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
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use serde_json::{Value, json};

    use super::*;
    use crate::fingerprint::Progress;

    #[test]
    fn the_json_has_exactly_the_fields_it_promises() {
        let parsed: Value = serde_json::from_str(&sample().to_json().unwrap()).unwrap();
        let expected = json!({
            "tasks": 3, "completed": 4, "distinct": 3, "redelivered": 1, "dead_lettered": 0,
            "workers": [{"name": "worker-1", "pid": 4242, "completed": 4, "restarts": 1}],
            "stats": {
                "messages_sent": 7, "messages_received": 8, "bytes_transferred": 900, "errors": 0
            },
            "files": [
                {"path": "one", "bytes": 6, "lines": 1, "words": 2, "sha256": SHA256},
                {"path": "no\u{fffd}utf8", "bytes": 6, "lines": 1, "words": 2, "sha256": SHA256},
                {"path": "gone\u{1b}[31m", "error": "No such file or directory"},
            ],
            "elapsed_s": 0.5, "leaked": ["/dev/shm/demo.jobs"],
        });
        assert_eq!(parsed, expected);
    }

    #[test]
    fn the_text_lists_few_files_with_their_whole_hash() {
        let text = sample().to_text(Look::default());
        assert_eq!(text.matches(SHA256).count(), 2, "{text}");
        assert!(
            text.contains("total: 2 files, 2 lines, 4 words, 12 bytes in 0.50 s"),
            "{text}"
        );
        assert!(
            text.contains("3 of 3 done (4 results), 1 redelivered, 0 dead-lettered"),
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
        let text = sample().to_text(look);
        let tables = text.lines().filter(|line| line.contains(['─', '┆', '═']));
        assert!(
            tables.into_iter().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }

    #[test]
    fn an_empty_report_is_still_a_report() {
        let text = Report::default().to_text(Look::default());
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("nothing leaked"), "{text}");
    }

    const SHA256: &str = "2750c740c3d2eacf348e4da3c3d2e0812f63adcb996c5fb367187d65104d0da5";

    fn sample() -> Report {
        let mut progress = Progress::default();
        progress.update(b"ab cd\n");
        let done = Ok(progress.finish());
        let file = |path: &[u8], outcome: &Result<Fingerprint, String>| FileReport {
            path: OsStr::from_bytes(path).into(),
            outcome: outcome.clone(),
        };
        let gone = Err("No such file or directory".to_owned());
        Report {
            tasks: 3,
            completed: 4,
            distinct: 3,
            redelivered: 1,
            dead_lettered: 0,
            workers: vec![WorkerReport {
                name: "worker-1".into(),
                pid: 4242,
                completed: 4,
                restarts: 1,
            }],
            stats: Transfer {
                messages_sent: 7,
                messages_received: 8,
                bytes_transferred: 900,
                errors: 0,
            },
            files: vec![
                file(b"one", &done),
                file(b"no\xffutf8", &done),
                file(b"gone\x1b[31m", &gone),
            ],
            elapsed_s: 0.5,
            leaked: vec!["/dev/shm/demo.jobs".into()],
        }
    }
}
