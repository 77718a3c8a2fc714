//! How things are shown: tables and words for people, JSON for programs.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use anyhow::{Error, Result};
use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table};
use ipc_proto::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

/// For whom.
#[derive(Clone, Copy, Debug)]
pub struct Show {
    json: bool,
}

impl Show {
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    pub fn is_json(self) -> bool {
        self.json
    }

    /// A value for programs, or else words for people.
    pub fn say(self, value: &impl Serialize, words: impl FnOnce() -> String) -> Result<()> {
        if self.json {
            return line(&serde_json::to_string(value)?);
        }
        line(&words())
    }

    /// Rows, as one list or one table.
    pub fn rows(self, rows: &[Value], table: impl FnOnce() -> Table) -> Result<()> {
        if self.json {
            return line(&serde_json::to_string(rows)?);
        }
        line(&table().to_string())
    }
}

/// Prints a line. A reader that left is an error that [`is_closed_pipe`] knows.
pub fn line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end())?;
    out.flush()?;
    Ok(())
}

pub fn is_closed_pipe(error: &Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// A table with these columns; those that begin with `#` hold numbers.
pub fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(columns.iter().map(|column| {
            Cell::new(column.trim_start_matches('#')).add_attribute(Attribute::Bold)
        }));
    for (index, column) in columns.iter().enumerate() {
        if column.starts_with('#')
            && let Some(column) = table.column_mut(index)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A count that is nothing to worry about.
pub fn count(number: u64) -> Cell {
    Cell::new(number)
}

/// A count that should be zero.
pub fn bad_count(number: u64) -> Cell {
    let cell = Cell::new(number);
    if number == 0 {
        cell
    } else {
        cell.fg(Color::Red)
    }
}

pub fn colored(text: impl ToString, color: Color) -> Cell {
    Cell::new(text.to_string()).fg(color)
}

/// How long, in two units at most.
pub fn time(time: Duration) -> String {
    let rounded = match time {
        time if time < Duration::from_millis(1) => Duration::from_micros(time.as_micros() as u64),
        time if time < Duration::from_secs(10) => Duration::from_millis(time.as_millis() as u64),
        time => Duration::from_secs(time.as_secs()),
    };
    let text = humantime::format_duration(rounded).to_string();
    text.split_whitespace()
        .take(2)
        .collect::<Vec<_>>()
        .join(" ")
}

/// How long ago that was.
pub fn age(at: Timestamp) -> Duration {
    let now = Timestamp::from(SystemTime::now()).as_nanos();
    Duration::from_nanos(now.saturating_sub(at.as_nanos()))
}

/// Bytes in a unit that fits.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// A payload for people: its text if it is one, else its bytes in hexadecimal.
pub fn payload(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => text.to_owned(),
        _ => hex(bytes),
    }
}

/// The beginning of a payload, on one line.
pub fn excerpt(bytes: &[u8]) -> String {
    const CHARS: usize = 60;
    let head = &bytes[..bytes.len().min(4 * CHARS)];
    let head = match std::str::from_utf8(head) {
        Err(error) if error.error_len().is_none() => &head[..error.valid_up_to()],
        _ => head,
    };
    let text: String = payload(head)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    match text.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None if head.len() < bytes.len() => format!("{text}…"),
        None => text,
    }
}

/// A payload for programs: its text if it is one, and its bytes always.
pub fn payload_json(bytes: &[u8]) -> Value {
    json!({ "text": std::str::from_utf8(bytes).ok(), "hex": hex(bytes), "bytes": bytes.len() })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_text_or_hexadecimal_and_short() {
        assert_eq!(payload(b"resize a.png\n"), "resize a.png\n");
        assert_eq!(payload(b"\x01\xff"), "01ff");
        assert_eq!(excerpt(b"two\nlines"), "two lines");
        let long = "é".repeat(1000);
        let short = excerpt(long.as_bytes());
        assert_eq!((short.chars().count(), short.ends_with('…')), (61, true));
    }

    #[test]
    fn sizes_and_times_are_rounded_to_what_can_be_read() {
        assert_eq!(
            (bytes(1023), bytes(1536)),
            ("1023 B".into(), "1.5 KiB".into())
        );
        assert_eq!(time(Duration::from_nanos(1_234_567)), "1ms");
        assert_eq!(time(Duration::from_secs(3_723)), "1h 2m");
    }
}
