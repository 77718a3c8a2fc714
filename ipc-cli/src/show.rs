//! Output of commands: JSON for programs, words for people.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use anyhow::{Error, Result};
use ipc_proto::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::secrets;
use crate::table::Table;

/// Standard output, as JSON or as text.
///
/// A failed write does not stop a command, because its effect on queues matters more.
/// [`finish`](Self::finish) reports the failure at the end.
#[derive(Debug)]
pub struct Show {
    json: bool,
    /// The first write that failed.
    failed: RefCell<Option<io::Error>>,
    /// `true` if the failed write would have reported something that was done.
    done: Cell<bool>,
}

impl Show {
    pub fn new(json: bool) -> Self {
        Self {
            json,
            failed: RefCell::default(),
            done: Cell::default(),
        }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints `value` for programs, or `words` for people.
    pub fn say(&self, value: &impl Serialize, words: impl FnOnce() -> String) {
        if self.json {
            match serde_json::to_string(value) {
                Ok(json) => self.line(&json),
                Err(error) => self.note(Err(error.into())),
            }
        } else {
            self.line(&words());
        }
    }

    /// Like `say`, about something that was done.
    pub fn done(&self, value: &impl Serialize, words: impl FnOnce() -> String) {
        self.done.set(true);
        self.say(value, words);
    }

    /// Prints rows, as one list or one table.
    pub fn rows(&self, rows: &[Value], table: impl FnOnce() -> Table) {
        if self.json {
            self.say(&rows, String::new);
        } else {
            self.line(&table().to_string());
        }
    }

    pub fn line(&self, text: &str) {
        let text = secrets::without_logins(text.trim_end());
        self.note(write(&[text.as_bytes(), b"\n"].concat()));
    }

    /// Prints a payload with a line end.
    ///
    /// # Errors
    /// The payload was not written completely.
    pub fn payload(&self, payload: &[u8]) -> io::Result<()> {
        let end: &[u8] = if payload.ends_with(b"\n") { b"" } else { b"\n" };
        write(&[payload, end].concat())
    }

    fn note(&self, written: io::Result<()>) {
        if let Err(error) = written {
            self.failed.borrow_mut().get_or_insert(error);
        }
    }

    /// Whether a write has failed; a command that only prints can stop then.
    pub fn has_failed(&self) -> bool {
        self.failed.borrow().is_some()
    }

    /// Checks that everything was written so far. A reader that left is not an error.
    ///
    /// # Errors
    /// The first write that failed for another reason.
    pub fn finish(&self) -> Result<()> {
        match self.failed.take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(self.unwritten(&error)),
            _ => Ok(()),
        }
    }

    fn unwritten(&self, error: &io::Error) -> Error {
        let done = if self.done.get() {
            "done, but the answer is lost: "
        } else {
            ""
        };
        Exit::Failed.error(format!("{done}writing to standard output: {error}"))
    }
}

/// Writes and flushes all bytes, or fails.
fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Prints a note that is not an error.
pub fn note(text: &str) {
    to_stderr(&format!("note: {text}\n"));
}

/// A failed write to standard error can't be reported.
pub fn to_stderr(text: &str) {
    let text = secrets::without_logins(text);
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// Returns `true` if standard output is a pipe or terminal whose reader is gone.
pub fn is_reader_gone() -> bool {
    let out = io::stdout();
    let mut polled = [PollFd::new(out.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
    poll(&mut polled, PollTimeout::ZERO).is_ok()
        && polled[0]
            .revents()
            .is_some_and(|events| events.intersects(gone))
}

/// Returns `true` if the terminal understands colors and cursor movements, and the user wants
/// colors.
pub fn wants_colors(is_terminal: bool) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_terminal && !is_dumb() && !is_set("NO_COLOR")
}

pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Returns `true` if standard output is a terminal that can be drawn on.
pub fn can_draw() -> bool {
    io::stdout().is_terminal() && !is_dumb()
}

/// Formats a duration in at most two units.
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

/// Returns the time since `at`.
pub fn age(at: Timestamp) -> Duration {
    let now = Timestamp::from(SystemTime::now()).as_nanos();
    Duration::from_nanos(now.saturating_sub(at.as_nanos()))
}

/// Formats a number of bytes in a suitable unit.
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

/// Formats bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
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
    fn sizes_and_times_are_rounded_to_be_readable() {
        assert_eq!(
            (bytes(1023), bytes(1536)),
            ("1023 B".into(), "1.5 KiB".into())
        );
        assert_eq!(time(Duration::from_nanos(1_234_567)), "1ms");
        assert_eq!(time(Duration::from_secs(3_723)), "1h 2m");
    }
}
