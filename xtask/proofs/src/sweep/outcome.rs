//! The findings of a survivor: the messages, with their deliveries or causes of death, or no queue
//! at all.

use std::fmt;

use ipc_queue::{DeadReason, Headers, SendOptions};
use serde::{Deserialize, Serialize};

use crate::scenarios::numbered;

/// Payload sizes: one that fits its cell, one that needs a chunk.
pub const INLINE: usize = 40;
pub const CHUNKED: usize = 1500;
/// Messages with this number or a higher one are chunked.
pub const FIRST_CHUNKED: u64 = 100;
/// Messages with this number or a higher one need less than half as long a chunk.
pub const FIRST_SHORT: u64 = 180;
const SHORT: usize = 500;

/// Messages that are sent with a key.
pub const KEYED_INLINE: u64 = 70;
pub const KEYED_CHUNKED: u64 = 170;

/// The options of a message with the key that its number makes.
pub fn keyed(number: u64) -> SendOptions {
    SendOptions::new().key(format!("message {number}"))
}

/// Messages that are sent with headers. The first is in its cell with them, the second in a chunk
/// because of them, the third in a chunk anyway. The last is in a chunk
/// longer than any payload without headers needs.
pub const HEADED_INLINE: u64 = 71;
pub const HEADED_FAR: u64 = 72;
pub const HEADED_CHUNKED: u64 = 171;
pub const HEADED_LARGEST: u64 = 172;

/// The headers that a message with this number has; most have none.
pub fn headers(number: u64) -> Headers {
    let value = match number {
        HEADED_INLINE | HEADED_CHUNKED => format!("{number}"),
        HEADED_FAR | HEADED_LARGEST => format!("{number:0200}"),
        _ => return Headers::new(),
    };
    let mut headers = Headers::new();
    headers.insert("h", value).expect("a valid header");
    headers
}

/// The options of a message with the headers that its number makes.
pub fn headed(number: u64) -> SendOptions {
    SendOptions::new().headers(headers(number))
}

/// Reasons that receivers give, by their numbers. Number 0 means no reason.
pub const REASONS: [&str; 3] = [
    "",
    "the database is away",
    "a reason that is long enough to be written in many steps, \
     each of which may be the last one of the process that writes it",
];

/// A message and its fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    number: u64,
    /// The number of its deliveries; the last one is to the survivor, unless it is dead.
    attempt: u8,
    dead: Option<DeadReason>,
    /// The index of its dead letter's reason in [`REASONS`].
    said: u8,
}

/// The whole content of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    exists: bool,
    closed: bool,
    paused: bool,
    messages: Vec<Message>,
}

/// The content that must be found before the operation and after it. After a death at any
/// instruction between, it must be one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    pub before: Outcome,
    pub after: Outcome,
    /// Other allowed contents, for an operation on several messages, which is done in parts.
    pub between: Vec<Outcome>,
    pub stepped: Stepped,
}

/// The stepped thread of the actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stepped {
    Main,
    Watcher,
}

impl Message {
    /// Delivered to the survivor as delivery number `attempt`.
    pub const fn comes(number: u64, attempt: u8) -> Self {
        Self {
            number,
            attempt,
            dead: None,
            said: 0,
        }
    }

    /// A dead letter after this many deliveries.
    pub const fn dead(number: u64, attempts: u8, reason: DeadReason) -> Self {
        Self {
            number,
            attempt: attempts,
            dead: Some(reason),
            said: 0,
        }
    }

    /// The same dead letter with one of [`REASONS`].
    pub const fn saying(self, said: u8) -> Self {
        Self { said, ..self }
    }

    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The payload that its number makes.
    pub fn payload(number: u64) -> Vec<u8> {
        let bytes = match number {
            ..FIRST_CHUNKED => INLINE,
            ..FIRST_SHORT => CHUNKED,
            _ => SHORT,
        };
        numbered::message(number, bytes)
    }

    /// The number of a message. Every byte of the payload must be right.
    pub fn number_of(payload: &[u8]) -> Result<u64, String> {
        let number = numbered::read(payload)?;
        if payload == Self::payload(number) {
            Ok(number)
        } else {
            let len = payload.len();
            Err(format!("message {number} has {len} bytes, or others' ones"))
        }
    }
}

impl Outcome {
    /// A queue with these messages.
    pub fn of(messages: impl IntoIterator<Item = Message>) -> Self {
        let mut messages: Vec<_> = messages.into_iter().collect();
        messages.sort_by_key(|message| (message.number, message.attempt, message.dead.is_some()));
        Self {
            exists: true,
            closed: false,
            paused: false,
            messages,
        }
    }

    /// No queue.
    pub const fn absent() -> Self {
        Self {
            exists: false,
            closed: false,
            paused: false,
            messages: Vec::new(),
        }
    }

    /// The same in a closed queue.
    pub fn closed(self) -> Self {
        Self {
            closed: true,
            ..self
        }
    }

    /// The same in a paused queue.
    pub fn paused(self) -> Self {
        Self {
            paused: true,
            ..self
        }
    }
}

impl Expectation {
    /// Returns whether this outcome is allowed after a death between the beginning and the end.
    pub fn allows(&self, outcome: &Outcome) -> bool {
        *outcome == self.before || *outcome == self.after || self.between.contains(outcome)
    }
}

impl Expectation {
    /// Returns whether a survivor that took and acked what it could may leave this of the
    /// operation's messages.
    pub fn could_leave(&self, outcome: &Outcome) -> bool {
        let numbers: Vec<_> = outcome.messages.iter().map(Message::number).collect();
        let known = |number: &u64| self.numbers().any(|known| known == *number);
        let twice = numbers.windows(2).any(|pair| pair[0] == pair[1]);
        outcome.exists && !twice && numbers.iter().all(known)
    }

    /// The messages that the operation finds or makes.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        let outcomes = [&self.before, &self.after].into_iter().chain(&self.between);
        outcomes.flat_map(|outcome| outcome.messages.iter().map(Message::number))
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} or {}", self.before, self.after)?;
        self.between
            .iter()
            .try_for_each(|outcome| write!(f, " or {outcome}"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.exists {
            return f.write_str("no queue");
        }
        let shown: Vec<_> = self.messages.iter().map(ToString::to_string).collect();
        let closed = if self.closed { "closed " } else { "" };
        let paused = if self.paused { "paused " } else { "" };
        write!(f, "{closed}{paused}[{}]", shown.join(", "))
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number, attempt, ..
        } = self;
        match self.dead {
            None => write!(f, "{number} at attempt {attempt}"),
            Some(reason) => write!(
                f,
                "{number} dead after {attempt}, {reason:?}, reason {}",
                self.said
            ),
        }
    }
}
