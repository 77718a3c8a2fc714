//! The `unix` transport: a queue that another process of this machine serves at a socket.
//!
//! For processes that can't share memory with those that hold the queue: in containers, in sandboxes. [`UnixServer`] serves
//! any opened queue, of whatever transport; [`UnixQueue`] uses one that is served. Read `unix/wire.rs` (what is said), then
//! `unix/server/connection.rs` (what the server does for one connection), then `unix/ports.rs` (the client's handles).
//!
//! Each handle of a client has a connection of its own, with a thread of its own in the server, whose stack holds what the
//! client holds: its deliveries and loans. So there is no table of them to keep in order, and nothing that a client does or
//! leaves undone holds up another. When the connection ends, however that comes about, they are given back.
//!
//! A client may die at any point, stop reading, or say anything. A server's death loses what it held itself: a `local:`
//! queue ends with it, a `shm:` queue does not. Both sides check whom they talk to (SECURITY.md).
//! Does not cross machines, and does not protect from processes of the same user.

mod client;
mod door;
mod failures;
mod frame;
mod link;
mod memfd;
mod ports;
mod server;
mod wire;

use std::path::Path;
use std::sync::Arc;

use ipc_proto::QueueSettings;

pub use server::{ServeError, UnixServer, UnixServerOptions};

use crate::capability::{Capabilities, Semantic, Unsupported};
use crate::dead_letter::{DeadLetter, DeadLetterId};
use crate::error::{DrainError, QueueError, SendFailure};
use crate::stats::QueueStats;
use crate::transport::{Holding, OpenMode, OpenRequest, ReceivePort, SendPort, Transport, Wait};
use client::{Client, Trouble, not_connected};
use link::Link;
use ports::{UnixReceiver, UnixSender};
use wire::{Answer, Ask};

/// A queue that is served at a socket, opened by this process.
///
/// Each handle connects when it is first used, and anew when its connection has ended, if the same queue is still
/// served there. What a handle holds is lost with its connection. Every failure to reach the server is an error that says so,
/// except for what can't fail: then statistics are zero, lists empty, and the queue counts as closed.
#[derive(Clone, Debug)]
pub struct UnixQueue {
    client: Arc<Client>,
}

impl UnixQueue {
    /// Opens the queue that is served at `path`. It can't be created from here.
    ///
    /// # Errors
    /// [`QueueError::NotFound`] if nobody serves there, `Exists`, `SettingsDiffer` and `PayloadDiffers` as for any queue,
    /// `Transport` if the server refuses, and says why.
    pub fn open(path: &Path, request: &OpenRequest) -> Result<Self, QueueError> {
        request.settings.validate()?;
        let connected = Link::connect(path);
        let (link, welcome) = connected.map_err(|error| not_connected(path, error))?;
        let name = format!("unix:{}", path.display());
        if request.mode == OpenMode::Create {
            return Err(QueueError::Exists { name });
        }
        check_payload(&name, welcome.payload.as_deref(), &request.payload)?;
        request.check(&name, &welcome.settings)?;
        let client = Client::new(path.to_owned(), welcome, link);
        Ok(Self {
            client: Arc::new(client),
        })
    }

    /// Asks the server to remove the queue. `Ok(false)`: nobody serves there.
    ///
    /// # Errors
    /// [`QueueError::Transport`] if it does not let its clients do that: see [`UnixServerOptions::removable`].
    pub fn remove(path: &Path) -> Result<bool, QueueError> {
        let link = match Link::connect(path) {
            Ok((link, _)) => link,
            Err(link::NotConnected::Nobody) => return Ok(false),
            Err(error) => return Err(not_connected(path, error)),
        };
        let answer = link.call(&Ask::Remove, &frame::Carried::None, Wait::No);
        let answer = answer.map_err(Trouble::from);
        let refused =
            |why: String| QueueError::Transport(format!("unix:{}: {why}", path.display()));
        match answer.map_err(|trouble| refused(trouble.to_string()))?.what {
            Answer::Removed(removed) => removed.map_err(refused),
            _ => Err(refused(Trouble::nonsense().to_string())),
        }
    }

    fn flag(&self, ask: &Ask, otherwise: bool) -> bool {
        match self.client.call(ask) {
            Ok(Answer::Flag(flag)) => flag,
            _ => otherwise,
        }
    }

    fn control(&self, ask: &Ask, semantic: Semantic) -> Result<(), Unsupported> {
        match self.client.call(ask) {
            Ok(Answer::Controlled(done)) => Ok(done?),
            _ => Err(unreachable(semantic)),
        }
    }
}

fn check_payload(name: &str, found: Option<&str>, wanted: &str) -> Result<(), QueueError> {
    let said = |payload: &str| match payload {
        "" => "plain bytes".to_owned(),
        name => name.to_owned(),
    };
    match found {
        Some(found) if found != wanted && wanted != OpenRequest::ANY_PAYLOAD => {
            Err(QueueError::PayloadDiffers {
                name: name.to_owned(),
                found: said(found),
                wanted: said(wanted),
            })
        }
        _ => Ok(()),
    }
}

fn unreachable(semantic: Semantic) -> Unsupported {
    Unsupported {
        semantic,
        reason: "the queue's server can't be reached",
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

    fn close(&self) {
        // Whoever can't reach the queue can't send to it either.
        let _ = self.client.call(&Ask::Close);
    }

    fn is_closed(&self) -> bool {
        self.flag(&Ask::IsClosed, true)
    }

    fn pause(&self) -> Result<(), Unsupported> {
        self.control(&Ask::Pause, Semantic::Pause)
    }

    fn resume(&self) -> Result<(), Unsupported> {
        self.control(&Ask::Resume, Semantic::Pause)
    }

    fn is_paused(&self) -> bool {
        self.flag(&Ask::IsPaused, false)
    }

    fn purge(&self) -> Result<u64, Unsupported> {
        match self.client.call(&Ask::Purge) {
            Ok(Answer::Purged(purged)) => Ok(purged?),
            _ => Err(unreachable(Semantic::Purge)),
        }
    }

    fn drain(&self, wait: Wait) -> Result<(), DrainError> {
        match self.client.call_apart(&Ask::Drain(wait.into()), wait)? {
            Answer::Drained(drained) => Ok(drained?),
            _ => Err(Trouble::nonsense().into()),
        }
    }

    fn stats(&self) -> QueueStats {
        match self.client.call(&Ask::Stats) {
            Ok(Answer::Stats(stats)) => *stats,
            _ => QueueStats::default(),
        }
    }

    fn holdings(&self) -> Result<Vec<Holding>, Unsupported> {
        let (mut holdings, mut refused) = (Vec::new(), None);
        let asked = self.client.call_for_all(&Ask::Holdings, |answer| {
            let Answer::Holdings(some) = answer.what else {
                return true;
            };
            match some {
                Ok(some) => holdings.extend(some),
                Err(lacking) => refused = Some(lacking.into()),
            }
            false
        });
        match (asked, refused) {
            (Ok(()), None) => Ok(holdings),
            (Ok(()), Some(refused)) => Err(refused),
            (Err(_), _) => Err(unreachable(Semantic::Holdings)),
        }
    }

    fn dead_letters(&self) -> Vec<DeadLetter> {
        let mut letters = Vec::new();
        let most = self.client.most_bytes();
        let asked = self.client.call_for_all(&Ask::DeadLetters, |answer| {
            let Answer::Letter(mut letter) = answer.what else {
                return true;
            };
            if let Ok(payload) = answer.payload.into_bytes(most) {
                letter.payload = payload;
                letters.push(letter);
            }
            false
        });
        asked.map_or_else(|_| Vec::new(), |()| letters)
    }

    fn requeue(&self, id: DeadLetterId) -> Result<bool, SendFailure> {
        match self.client.call(&Ask::Requeue(id))? {
            Answer::Requeued(requeued) => Ok(requeued?),
            _ => Err(Trouble::nonsense().into()),
        }
    }

    fn discard(&self, id: DeadLetterId) -> bool {
        self.flag(&Ask::Discard(id), false)
    }

    fn note_signal(&self, id: DeadLetterId, signal: u8) -> bool {
        self.flag(&Ask::NoteSignal { id, signal }, false)
    }
}

/// Whether a process of this user may be talked to: one of the same user, or the superuser's, who can read our memory anyway.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

/// What this process calls itself.
fn program() -> String {
    const MOST_CHARS: usize = 64;
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default();
    name.to_string_lossy().chars().take(MOST_CHARS).collect()
}
