//! Output of commands: JSON for programs, words for people.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};

use anyhow::{Error, Result};
use serde::Serialize;
use serde_json::Value;

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

    /// `true` once a write has failed. A command that only prints can stop then.
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
