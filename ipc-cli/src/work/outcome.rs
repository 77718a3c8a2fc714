//! Maps how a command ended to how its message is settled.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;

/// `EX_DATAERR` of sysexits: the message is invalid, and will be invalid the next time.
pub const BURY: i32 = 65;
/// `EX_TEMPFAIL` of sysexits: not now.
pub const SNOOZE: i32 = 75;

/// The reason for which `ipc work` killed a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killed {
    /// It ran for longer than `--time-limit`.
    TimeLimit,
    /// Its message was, or will be, delivered to another receiver.
    LeaseLost,
}

/// What happens to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Acked,
    Nacked {
        reason: String,
    },
    Snoozed {
        reason: String,
    },
    Buried {
        reason: String,
    },
    /// Nothing: it belongs to another receiver.
    LeaseLost,
}

impl Outcome {
    /// Decides by the command's exit status and the last line of its standard error.
    pub fn of(status: ExitStatus, killed: Option<Killed>, last_line: &str) -> Self {
        let with_line = |end: String| match last_line {
            "" => end,
            line => format!("{end}: {line}"),
        };
        match (killed, status.code()) {
            (Some(Killed::LeaseLost), _) => Self::LeaseLost,
            (Some(Killed::TimeLimit), _) => Self::Nacked {
                reason: with_line("killed at the time limit".to_owned()),
            },
            (None, Some(0)) => Self::Acked,
            (None, Some(BURY)) => Self::Buried {
                reason: with_line(format!("exit code {BURY}")),
            },
            (None, Some(SNOOZE)) => Self::Snoozed {
                reason: with_line(format!("exit code {SNOOZE}")),
            },
            (None, Some(code)) => Self::Nacked {
                reason: with_line(format!("exit code {code}{}", of_shell(code))),
            },
            (None, None) => Self::Nacked {
                reason: with_line(signal_of(status).unwrap_or("ended").to_owned()),
            },
        }
    }

    /// For programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Acked => "acked",
            Self::Nacked { .. } => "nacked",
            Self::Snoozed { .. } => "snoozed",
            Self::Buried { .. } => "buried",
            Self::LeaseLost => "lease_lost",
        }
    }

    pub fn reason(&self) -> &str {
        match self {
            Self::Nacked { reason } | Self::Snoozed { reason } | Self::Buried { reason } => reason,
            Self::Acked | Self::LeaseLost => "",
        }
    }
}

/// Returns the signal that ended a command.
pub fn signal_of(status: ExitStatus) -> Option<&'static str> {
    let signal = Signal::try_from(status.signal()?);
    Some(signal.map_or("a real-time signal", Signal::as_str))
}

/// Explains an exit code above 128, as a shell uses it.
fn of_shell(code: i32) -> String {
    match Signal::try_from(code - 128) {
        Ok(signal) if code > 128 => format!(" ({signal})"),
        _ => String::new(),
    }
}

/// The last nonblank line of a text that arrives in pieces, shortened.
#[derive(Debug, Default)]
pub struct LastLine {
    line: Vec<u8>,
    /// The beginning of the next line.
    begun: Vec<u8>,
}

impl LastLine {
    /// More than the longest reason that is kept.
    const MAX_BYTES: usize = 1024;

    pub fn add(&mut self, text: &[u8]) {
        for piece in text.split_inclusive(|byte| *byte == b'\n') {
            let room = Self::MAX_BYTES.saturating_sub(self.begun.len());
            self.begun.extend(piece.iter().take(room));
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        if !self.begun.trim_ascii().is_empty() {
            self.line.clone_from(&self.begun);
        }
        self.begun.clear();
    }

    pub fn into_text(mut self) -> String {
        self.end_line();
        let text = String::from_utf8_lossy(&self.line);
        let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        plain.collect::<String>().trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(pieces: &[&str]) -> String {
        let mut last = LastLine::default();
        for piece in pieces {
            last.add(piece.as_bytes());
        }
        last.into_text()
    }

    #[test]
    fn the_last_line_is_found_across_pieces_and_blank_lines_do_not_count() {
        assert_eq!(last(&["first\nsec", "ond\n", "\n  \n"]), "second");
        assert_eq!(last(&["first\n", "no end"]), "no end");
        assert_eq!(last(&[]), "");
        let long = "x".repeat(100_000);
        assert_eq!(last(&[&long, "\n"]).len(), LastLine::MAX_BYTES);
    }

    #[test]
    fn the_reason_names_the_code_or_the_signal() {
        let of = |raw| Outcome::of(ExitStatus::from_raw(raw), None, "disk full");
        assert_eq!(of(0), Outcome::Acked);
        assert_eq!(of(3 << 8).reason(), "exit code 3: disk full");
        assert_eq!(of(137 << 8).reason(), "exit code 137 (SIGKILL): disk full");
        assert_eq!(of(9).reason(), "SIGKILL: disk full");
        assert_eq!(
            (of(65 << 8).name(), of(75 << 8).name()),
            ("buried", "snoozed")
        );
        let lost = Outcome::of(ExitStatus::from_raw(9), Some(Killed::LeaseLost), "");
        assert_eq!(lost, Outcome::LeaseLost);
    }
}
