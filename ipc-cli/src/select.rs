//! Selects messages of a queue for `export`, `delete` and `move`.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use ipc_proto::{Headers, Kind, MessageId, Priority, Timestamp};
use ipc_queue::shm::Waiting;
use ipc_queue::{ByteQueue, DeadLetter, DeadLetterId};
use serde_json::{Value, json};

use crate::address::Subject;
use crate::exit::Exit;
use crate::format;
use crate::headers;
use crate::payload::Payloads;

/// A message must be in one of the states, and match every other given condition.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Which messages")]
pub struct Selection {
    /// Only the message with this id; can be given several times
    #[arg(long = "id", value_name = "MESSAGE")]
    pub ids: Vec<String>,
    /// Only messages sent longer ago than this
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub older_than: Option<Duration>,
    /// Only messages sent more recently than this
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub younger_than: Option<Duration>,
    /// Only messages with this header, as NAME=VALUE; can be given several times
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<OsString>,
    /// Only messages in these states, separated by commas [default: ready,delayed]
    #[arg(
        long = "state",
        value_enum,
        value_name = "STATES",
        value_delimiter = ','
    )]
    pub states: Vec<MessageState>,
    /// At most this many messages, the oldest ones
    #[arg(long, value_name = "MESSAGES")]
    pub limit: Option<usize>,
}

/// The state of a selectable message. A message that a receiver holds can't be selected: see
/// `revoke`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MessageState {
    Ready,
    Delayed,
    Dead,
}

/// A message that was selected.
pub struct Selected {
    pub id: MessageId,
    pub kind: Kind,
    pub priority: Priority,
    sent_at: Timestamp,
    state: MessageState,
    attempts: u8,
    /// Its id as a dead letter, if it is one.
    letter: Option<DeadLetterId>,
    error: String,
    pub headers: Headers,
    pub payload: Vec<u8>,
}

impl Selection {
    /// Returns `true` if any condition was given.
    pub fn is_given(&self) -> bool {
        let filters = [self.older_than, self.younger_than];
        !(self.ids.is_empty() && self.headers.is_empty() && self.states.is_empty())
            || filters.iter().any(Option::is_some)
            || self.limit.is_some()
    }

    fn wants(&self, state: MessageState) -> bool {
        match self.states.is_empty() {
            true => state != MessageState::Dead,
            false => self.states.contains(&state),
        }
    }

    /// Returns the selected messages, oldest first.
    ///
    /// # Errors
    /// A queue that is not in shared memory shows only its dead letters.
    pub fn find(&self, queue: &str, subject: &Subject) -> Result<Vec<Selected>> {
        let headers = self.headers.iter().map(|header| headers::parse(header));
        let headers: Vec<_> = headers.collect::<Result<_>>()?;
        let mut all = Vec::new();
        if self.wants(MessageState::Ready) || self.wants(MessageState::Delayed) {
            let Subject::Mapped(inspector) = subject else {
                return Err(Exit::Refused.error(format!(
                    "{queue} is not in shared memory: of its messages only dead letters can be \
                     seen without receiving them (--state dead)"
                )));
            };
            all.extend(
                inspector
                    .waiting(usize::MAX)
                    .into_iter()
                    .map(Selected::waiting),
            );
        }
        if self.wants(MessageState::Dead) {
            let letters = match subject {
                Subject::Mapped(inspector) => inspector.dead_letters(),
                Subject::Asked(queue) => queue.transport().dead_letters()?,
            };
            all.extend(letters.into_iter().map(dead));
        }
        all.retain(|message| self.wants(message.state) && self.agrees(message, &headers));
        all.sort_by_key(|message| message.sent_at);
        all.truncate(self.limit.unwrap_or(usize::MAX));
        Ok(all)
    }

    fn agrees(&self, message: &Selected, headers: &[(String, Vec<u8>)]) -> bool {
        let age = format::age(message.sent_at);
        let id = message.id.to_string();
        (self.ids.is_empty() || self.ids.contains(&id))
            && self.older_than.is_none_or(|limit| age > limit)
            && self.younger_than.is_none_or(|limit| age < limit)
            && headers.iter().all(|(name, value)| {
                let found = message.headers.iter().find(|(found, _)| found == name);
                found.is_some_and(|(_, found)| found == value)
            })
    }
}

impl Selected {
    /// A message that waits.
    pub fn waiting(message: Waiting) -> Self {
        Self {
            id: message.message,
            kind: message.kind,
            priority: message.priority,
            sent_at: message.sent_at,
            state: match message.delayed {
                true => MessageState::Delayed,
                false => MessageState::Ready,
            },
            attempts: message.attempts,
            letter: None,
            error: String::new(),
            headers: message.headers,
            payload: message.payload,
        }
    }

    /// For programs: a line that `import` and `send --json` read.
    pub fn line(&self, payloads: &Payloads) -> Value {
        json!({
            "message": self.id.to_string(),
            "kind": format!("{:?}", self.kind).to_lowercase(),
            "priority": format!("{:?}", self.priority).to_lowercase(),
            "state": format!("{:?}", self.state).to_lowercase(),
            "age_seconds": format::age(self.sent_at).as_secs_f64(),
            "attempts": self.attempts,
            "error": self.error,
            "headers": headers::json(&self.headers),
            "payload": payloads.json(&self.payload),
        })
    }

    /// Takes it out of its queue. Returns `false` if it is no longer there, or if a receiver holds
    /// it now.
    pub fn delete(&self, queue: &ByteQueue) -> Result<bool> {
        let transport = queue.transport();
        let deleted = match self.letter {
            Some(letter) => transport.discard(letter),
            None => transport.drop_message(self.id),
        };
        deleted.with_context(|| format!("deleting {}", self.id))
    }
}

fn dead(letter: DeadLetter) -> Selected {
    Selected {
        id: letter.message,
        kind: letter.kind,
        priority: Priority::Normal,
        sent_at: letter.sent_at,
        state: MessageState::Dead,
        attempts: letter.attempts,
        letter: Some(letter.id),
        error: letter.error,
        headers: letter.headers,
        payload: letter.payload,
    }
}
