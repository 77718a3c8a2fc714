//! The `unix` transport: a queue that another process of this machine serves at a socket.
//!
//! For processes that cannot share memory with the processes of the queue: in containers, in
//! sandboxes. [`UnixServer`] serves any opened queue, of any transport; [`UnixQueue`] uses one that
//! is served.
//!
//! Each handle of a client has its own connection, and each connection has its own thread in the
//! server. The stack of that thread holds the client's deliveries and loans. So there is no table
//! of them to maintain, and no action or inaction of a client delays another client. When the
//! connection ends, for any reason, its deliveries and loans return to the queue.
//!
//! A client may die at any point, stop reading, or send anything. If a server dies, everything in
//! it is lost: a `local:` queue ends with it, but a `shm:` queue does not. Both sides check the
//! identity of their peer (SECURITY.md). Does not cross machines, and does not protect from
//! processes of the same user.

// Read `unix/wire.rs` (the protocol), then `unix/server/connection.rs` (the server's side of a
// connection), then `unix/ports.rs` (the client's handles).

mod client;
mod failures;
mod frame;
mod link;
mod memfd;
mod ports;
mod server;
mod wait_queue;
mod wake_link;
mod wire;
mod wire_error;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc_proto::{MessageId, QueueSettings};

pub use server::{ServeError, UnixServer, UnixServerOptions};

use crate::capability::Capabilities;
use crate::contract::{LeaseInfo, ReceivePort, SendPort, Transport};
use crate::control::{ControlCall, ControlError, ControlFailure};
use crate::dead_letter::{DeadLetter, DeadLetterId};
use crate::error::{DrainError, QueueError};
use crate::open_request::{OpenMode, OpenRequest};
use crate::send_options::Key;
use crate::stats::QueueStats;
use crate::wait::Wait;
use client::{CallError, Client, not_connected};
use failures::{ControlFailed, DrainFailed};
use frame::Received;
use link::Link;
use ports::{UnixReceiver, UnixSender};
use wire::{Answer, Ask};

/// The time for an answer that needs no wait, unless the address has another. Long, so that only a
/// server that hangs exceeds it.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The longest wait in the server of one request for draining. A client repeats the request.
const DRAIN_SLICE: Duration = Duration::from_secs(1);

/// A queue that is served at a socket, opened by this process.
///
/// Each handle connects when it is first used. If its connection has ended, it connects again,
/// provided that the same queue is still served there. The deliveries and loans of a handle are
/// lost with its connection. Every failure to reach the server is an error.
#[derive(Clone, Debug)]
pub struct UnixQueue {
    client: Arc<Client>,
}

impl UnixQueue {
    /// Opens the queue that is served at `path`. A client cannot create it.
    ///
    /// # Errors
    /// [`QueueError::NotFound`] if no server listens there; `Exists`, `SettingsDiffer` and
    /// `PayloadDiffers` as for any queue; `Transport`, with the reason, if the server refuses.
    ///
    /// The server has `answer_limit` to answer each request, in addition to the time that the
    /// request itself may wait. `None`: 30 s. A server that takes longer counts as unreachable.
    pub fn open(
        path: &Path,
        answer_limit: Option<Duration>,
        request: &OpenRequest,
    ) -> Result<Self, QueueError> {
        request.settings.validate()?;
        let answer_limit = answer_limit.unwrap_or(ANSWER_LIMIT);
        let connected = Link::connect(path, answer_limit);
        let (link, welcome) = connected.map_err(|error| not_connected(path, error))?;
        let name = format!("unix:{}", path.display());
        if request.mode == OpenMode::Create {
            return Err(QueueError::Exists { name });
        }
        if let Some(found) = &welcome.payload {
            request.check_payload(&name, found)?;
        }
        request.check(&name, &welcome.settings)?;
        let client = Client::new(path.to_owned(), answer_limit, welcome, link);
        Ok(Self {
            client: Arc::new(client),
        })
    }

    /// Asks the server to remove the queue. `Ok(false)`: no server listens there.
    ///
    /// # Errors
    /// [`ControlFailure::Refused`] if the server does not let its clients remove the queue (see
    /// [`UnixServerOptions::removable`]); `Unreachable` if it does not answer.
    pub fn remove(path: &Path, answer_limit: Option<Duration>) -> Result<bool, ControlError> {
        let call = ControlCall::Remove;
        let error = |failure: ControlFailure| failure.of(format!("unix:{}", path.display()), call);
        let asked_at = Instant::now();
        let link = match Link::connect(path, answer_limit.unwrap_or(ANSWER_LIMIT)) {
            Ok((link, _)) => link,
            Err(link::NotConnected::Nobody) => return Ok(false),
            Err(refused) => return Err(error(not_connected(path, refused).into())),
        };
        let answer = link.call(&Ask::Remove, &frame::Carried::None, Wait::No);
        let removed = match answer.map(|answer| answer.what) {
            Ok(Answer::Flag(removed)) => removed.map_err(ControlFailure::from),
            other => {
                let error = other.map_or_else(CallError::from, |_| CallError::nonsense());
                Err(error.into_failure(&call.to_string(), asked_at.elapsed()))
            }
        };
        removed.map_err(error)
    }

    /// Sends `ask` to the server, and returns its answer if that fits.
    fn control<R>(
        &self,
        call: ControlCall,
        ask: &Ask,
        take: impl FnOnce(Answer) -> Option<Result<R, ControlFailed>>,
    ) -> Result<R, ControlError> {
        let asked_at = Instant::now();
        let answer = self
            .client
            .call(ask)
            .and_then(|answer| take(answer).ok_or_else(CallError::nonsense));
        self.settle(call, asked_at, answer)
    }

    /// Requests a list that arrives in parts. `take` gets each part, and returns the end when that
    /// arrives.
    fn list(
        &self,
        call: ControlCall,
        ask: &Ask,
        mut take: impl FnMut(Received<Answer>) -> Result<Option<Result<(), ControlFailed>>, CallError>,
    ) -> Result<(), ControlError> {
        let asked_at = Instant::now();
        let mut end = Err(CallError::nonsense());
        let asked = self.client.call_for_all(ask, |answer| match take(answer) {
            Ok(None) => false,
            Ok(Some(last)) => {
                end = Ok(last);
                true
            }
            Err(error) => {
                end = Err(error);
                true
            }
        });
        self.settle(call, asked_at, asked.and(end))
    }

    fn settle<R>(
        &self,
        call: ControlCall,
        asked_at: Instant,
        answer: Result<Result<R, ControlFailed>, CallError>,
    ) -> Result<R, ControlError> {
        let failure = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(failed)) => failed.into(),
            Err(error) => error.into_failure(&call.to_string(), asked_at.elapsed()),
        };
        Err(failure.of(self.address(), call))
    }

    fn flag(&self, call: ControlCall, ask: &Ask) -> Result<bool, ControlError> {
        self.control(call, ask, |answer| match answer {
            Answer::Flag(flag) => Some(flag),
            _ => None,
        })
    }

    fn change(&self, call: ControlCall, ask: &Ask) -> Result<(), ControlError> {
        self.control(call, ask, |answer| match answer {
            Answer::Controlled(done) => Some(done),
            _ => None,
        })
    }
}

impl Transport for UnixQueue {
    fn settings(&self) -> &QueueSettings {
        &self.client.welcome.settings
    }

    fn capabilities(&self) -> Capabilities {
        self.client.welcome.capabilities
    }

    fn id(&self) -> u64 {
        self.client.welcome.id
    }

    fn payload(&self) -> Option<&str> {
        self.client.welcome.payload.as_deref()
    }

    fn sender(&self) -> Box<dyn SendPort> {
        Box::new(UnixSender::new(&self.client))
    }

    fn receiver(&self) -> Box<dyn ReceivePort> {
        Box::new(UnixReceiver::new(&self.client))
    }

    fn address(&self) -> String {
        self.client.address()
    }

    fn close(&self) -> Result<(), ControlError> {
        self.change(ControlCall::Close, &Ask::Close)
    }

    fn reopen(&self) -> Result<(), ControlError> {
        self.change(ControlCall::Reopen, &Ask::Reopen)
    }

    fn is_closed(&self) -> Result<bool, ControlError> {
        self.flag(ControlCall::IsClosed, &Ask::IsClosed)
    }

    fn pause(&self) -> Result<(), ControlError> {
        self.change(ControlCall::Pause, &Ask::Pause)
    }

    fn resume(&self) -> Result<(), ControlError> {
        self.change(ControlCall::Resume, &Ask::Resume)
    }

    fn is_paused(&self) -> Result<bool, ControlError> {
        self.flag(ControlCall::IsPaused, &Ask::IsPaused)
    }

    fn purge(&self) -> Result<u64, ControlError> {
        self.control(ControlCall::Purge, &Ask::Purge, |answer| match answer {
            Answer::Purged(purged) => Some(purged),
            _ => None,
        })
    }

    /// Drains in slices: the server has to answer each, so a server that hangs is noticed, however
    /// long the caller waits.
    fn drain(&self, wait: Wait) -> Result<(), DrainError> {
        let started = Instant::now();
        loop {
            let slice = wait.at_most_until(Instant::now() + DRAIN_SLICE);
            let asked_at = Instant::now();
            let answer = self.client.call_apart(&Ask::Drain(slice.into()), slice);
            let answer = answer.and_then(|answer| match answer {
                Answer::Drained(drained) => Ok(drained),
                _ => Err(CallError::nonsense()),
            });
            match answer {
                Ok(Err(DrainFailed::TimedOut { .. })) if !wait.is_over() => {}
                Ok(Err(DrainFailed::TimedOut { left, .. })) => {
                    let (queue, waited) = (self.address(), started.elapsed());
                    return Err(DrainError::TimedOut {
                        queue,
                        waited,
                        left,
                    });
                }
                Ok(Err(DrainFailed::Control(failed))) => {
                    let failure = ControlFailure::from(failed);
                    return Err(failure.of(self.address(), ControlCall::Drain).into());
                }
                other => {
                    let drained = other.map(|_| Ok(()));
                    return Ok(self.settle(ControlCall::Drain, asked_at, drained)?);
                }
            }
        }
    }

    fn stats(&self) -> Result<QueueStats, ControlError> {
        self.control(ControlCall::Stats, &Ask::Stats, |answer| match answer {
            Answer::Stats(stats) => Some(stats.map(|stats| *stats)),
            _ => None,
        })
    }

    fn leases(&self) -> Result<Vec<LeaseInfo>, ControlError> {
        let mut leases = Vec::new();
        self.list(ControlCall::Leases, &Ask::Leases, |answer| {
            match answer.what {
                Answer::Leases(some) => leases.extend(some),
                Answer::Last(end) => return Ok(Some(end)),
                _ => return Err(CallError::nonsense()),
            }
            Ok(None)
        })?;
        Ok(leases)
    }

    fn dead_letters(&self) -> Result<Vec<DeadLetter>, ControlError> {
        let mut letters = Vec::new();
        let most = self.client.most_bytes();
        self.list(ControlCall::DeadLetters, &Ask::DeadLetters, |answer| {
            match answer.what {
                Answer::Letter(mut letter) => {
                    letter.payload = answer.payload.into_bytes(most)?;
                    letters.push(letter);
                }
                Answer::Last(end) => return Ok(Some(end)),
                _ => return Err(CallError::nonsense()),
            }
            Ok(None)
        })?;
        Ok(letters)
    }

    fn requeue(&self, id: DeadLetterId) -> Result<bool, ControlError> {
        self.flag(ControlCall::Requeue, &Ask::Requeue(id))
    }

    fn discard(&self, id: DeadLetterId) -> Result<bool, ControlError> {
        self.flag(ControlCall::Discard, &Ask::Discard(id))
    }

    fn revoke(&self, message: MessageId) -> Result<bool, ControlError> {
        self.flag(ControlCall::Revoke, &Ask::Revoke(message))
    }

    fn drop_message(&self, message: MessageId) -> Result<bool, ControlError> {
        self.flag(ControlCall::DropMessage, &Ask::DropMessage(message))
    }

    fn forget(&self, key: Key) -> Result<bool, ControlError> {
        self.flag(ControlCall::Forget, &Ask::Forget(key))
    }

    fn note_signal(&self, id: DeadLetterId, signal: u8) -> Result<bool, ControlError> {
        self.flag(ControlCall::NoteSignal, &Ask::NoteSignal { id, signal })
    }
}

/// Returns whether a process of this user is a trusted peer. It must be of the same user, or of the
/// superuser, which can read this process's memory anyway.
fn is_trusted(uid: u32) -> bool {
    // All users without a mapping in this user namespace have the same id, so two such ids prove
    // nothing.
    !ipc_shm::is_nobody(uid) && (uid == 0 || uid == nix::unistd::geteuid().as_raw())
}

/// Returns the name of this program.
fn program() -> String {
    const MOST_CHARS: usize = 64;
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default();
    name.to_string_lossy().chars().take(MOST_CHARS).collect()
}
