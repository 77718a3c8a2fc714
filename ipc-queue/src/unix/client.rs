//! The state that the handles of one opening share: the server's address, and its description of
//! the queue.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::frame::{Carried, Received};
use super::link::{Link, Lost, NotConnected};
use super::wake_link::WaitQueues;
use super::wire::{Answer, Ask, Welcome};
use super::wire_error::WireError;
use crate::control::{ControlFailure, Outcome};
use crate::error::{QueueError, Unavailable};
use crate::wait::Wait;

/// One opening of a served queue.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) path: PathBuf,
    /// The time for an answer that needs no wait.
    pub(super) answer_limit: Duration,
    pub(super) welcome: Welcome,
    /// The connection for control calls of all threads.
    home: Mutex<Arc<Link>>,
    pub(super) wait_queues: WaitQueues,
}

/// The reason why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    Removed,
    Forked,
    /// A failure of the connection.
    Connection {
        reason: String,
        outcome: Outcome,
    },
}

impl Client {
    pub(super) fn new(
        path: PathBuf,
        answer_limit: Duration,
        welcome: Welcome,
        first: Link,
    ) -> Self {
        Self {
            path,
            answer_limit,
            welcome,
            home: Mutex::new(Arc::new(first)),
            wait_queues: WaitQueues::default(),
        }
    }

    /// Returns the queue's address.
    pub(super) fn address(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// Returns the size of the largest payload.
    pub(super) fn most_bytes(&self) -> usize {
        let settings = &self.welcome.settings;
        settings.max_message_bytes.max(settings.inline_bytes) as usize
    }

    /// Returns a new connection to the same queue.
    pub(super) fn connect(&self) -> Result<Link, CallError> {
        match self.try_connect() {
            // The socket's file is removed with the queue, but an existing connection can still
            // ask.
            Err(CallError::Connection { .. }) if self.was_removed() => Err(CallError::Removed),
            connected => connected,
        }
    }

    fn try_connect(&self) -> Result<Link, CallError> {
        match Link::connect(&self.path, self.answer_limit) {
            Ok((link, welcome)) if welcome.id == self.welcome.id => Ok(link),
            // Another queue is served there now.
            Ok(_) => Err(CallError::Removed),
            Err(NotConnected::Nobody) => Err(CallError::not_done(format!(
                "no server listens at unix:{} any more",
                self.path.display()
            ))),
            Err(error) => Err(CallError::not_done(
                not_connected(&self.path, error).to_string(),
            )),
        }
    }

    fn was_removed(&self) -> bool {
        let home = Arc::clone(&self.home());
        let answer = home.call(&Ask::IsRemoved, &Carried::None, Wait::No);
        matches!(answer, Ok(answer) if matches!(answer.what, Answer::Flag(Ok(true))))
    }

    /// Sends a request about the queue.
    pub(super) fn call(&self, ask: &Ask) -> Result<Answer, CallError> {
        self.at_home(|link| {
            let answer = link.call(ask, &Carried::None, Wait::No)?;
            Ok(answer.what)
        })
    }

    /// Sends a request that has several answers.
    pub(super) fn call_for_all(
        &self,
        ask: &Ask,
        mut last: impl FnMut(Received<Answer>) -> bool,
    ) -> Result<(), CallError> {
        self.at_home(|link| link.call_for_all(ask, Wait::No, &mut last))
    }

    /// Sends a request that may take long, over a separate connection that delays no other thread.
    pub(super) fn call_apart(&self, ask: &Ask, wait: Wait) -> Result<Answer, CallError> {
        let answer = self.connect()?.call(ask, &Carried::None, wait)?;
        Ok(answer.what)
    }

    fn at_home<R>(&self, mut ask: impl FnMut(&Link) -> Result<R, Lost>) -> Result<R, CallError> {
        match ask(&*self.present_home()?) {
            Err(Lost::Before(_)) => Ok(ask(&*self.present_home()?)?),
            answered => Ok(answered?),
        }
    }

    /// Returns the connection, and connects again if it has ended.
    fn present_home(&self) -> Result<Arc<Link>, CallError> {
        let mut home = self.home();
        if !home.is_ours() {
            return Err(CallError::Forked);
        }
        if !home.is_up() {
            *home = Arc::new(self.try_connect()?);
        }
        Ok(Arc::clone(&home))
    }

    fn home(&self) -> MutexGuard<'_, Arc<Link>> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn not_connected(path: &std::path::Path, error: NotConnected) -> QueueError {
    let path = path.display();
    match error {
        NotConnected::Nobody => QueueError::NotFound {
            name: format!("unix:{path}"),
        },
        NotConnected::Refused(refusal) => QueueError::Transport(format!("unix:{path}: {refusal}")),
        NotConnected::Stranger { uid } => QueueError::Transport(format!(
            "unix:{path} is served by user {uid}: it must be the same user as this process's, or \
             the superuser"
        )),
        NotConnected::Wire(error) => QueueError::Transport(format!("unix:{path}: {error}")),
    }
}

impl CallError {
    pub(super) fn nonsense() -> Self {
        Self::Connection {
            reason: "the server's answer does not fit the request".to_owned(),
            outcome: Outcome::Unknown,
        }
    }

    fn not_done(reason: String) -> Self {
        let outcome = Outcome::NotDone;
        Self::Connection { reason, outcome }
    }

    /// Returns the failure of a control call that waited this long for an answer to `request`.
    pub(super) fn into_failure(self, request: &str, waited: Duration) -> ControlFailure {
        match self {
            Self::Removed => Unavailable::Removed.into(),
            Self::Forked => Unavailable::Forked.into(),
            Self::Connection { reason, outcome } => ControlFailure::Unreachable {
                request: request.to_owned(),
                waited,
                reason,
                outcome,
            },
        }
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Removed => Unavailable::Removed.fmt(f),
            Self::Forked => Unavailable::Forked.fmt(f),
            Self::Connection {
                reason,
                outcome: Outcome::NotDone,
            } => f.write_str(reason),
            Self::Connection { reason, outcome } => write!(f, "{reason}: {outcome}"),
        }
    }
}

impl From<Lost> for CallError {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Forked => Self::Forked,
            Lost::Before(reason) => Self::not_done(reason),
            Lost::Meanwhile(reason) => Self::Connection {
                reason,
                outcome: Outcome::Unknown,
            },
        }
    }
}

impl From<WireError> for CallError {
    fn from(error: WireError) -> Self {
        Self::Connection {
            reason: error.to_string(),
            outcome: Outcome::Unknown,
        }
    }
}

impl From<CallError> for Unavailable {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Removed => Self::Removed,
            CallError::Forked => Self::Forked,
            connection @ CallError::Connection { .. } => Self::transport(connection.to_string()),
        }
    }
}

impl From<Lost> for Unavailable {
    fn from(lost: Lost) -> Self {
        CallError::from(lost).into()
    }
}
