//! The client's side of a connection.
//!
//! Several threads may wait on it at once: a handle for a message, and a thread that settles an
//! earlier delivery. There is no separate reader thread. The first thread that waits reads for all.
//! When its own answer has arrived, another thread takes over. A misbehaving server can at most end
//! the connection; every waiting thread then gets an error.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc_shm::{Generation, KeptSocket};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use super::frame::{self, Carried, Reader, Received};
use super::wire::{Answer, Ask, Greeting, Head, Hello, MAGIC, PROTOCOL, Refusal, Welcome};
use super::wire_error::WireError;
use crate::wait::Wait;

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Link {
    socket: KeptSocket,
    answer_limit: Duration,
    /// The process that connected. A forked child is another process, and would read this process's
    /// answers. A pid is not enough: in another PID namespace, a child may have its parent's.
    process: Generation,
    /// A buffer for writing, and the right to write.
    scratch: Mutex<Vec<u8>>,
    /// Used by the thread that has set [`Inbox::is_being_read`].
    reader: Mutex<Reader>,
    inbox: Mutex<Inbox>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Inbox {
    last_id: u32,
    /// The open requests by number, with the answers received so far.
    answers: HashMap<u32, VecDeque<Received<Answer>>>,
    /// The number of wakes received.
    wakes: u32,
    /// Set while a thread reads.
    is_being_read: bool,
    /// The reason why nothing more arrives.
    end: Option<String>,
}

/// The reason why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// This process was forked from the one that connected.
    Forked,
    /// The connection had ended before: nothing was requested.
    Before(String),
    /// The connection ended meanwhile. It is unknown whether the server did what was requested.
    Meanwhile(String),
}

/// The reason why there is no connection.
#[derive(Debug)]
pub(super) enum NotConnected {
    /// There is no socket, or no process listens at it.
    Nobody,
    Refused(Refusal),
    /// The server belongs to another user.
    Stranger {
        uid: u32,
    },
    Wire(WireError),
}

impl Link {
    /// `answer_limit` is the time for an answer that needs no wait.
    pub(super) fn connect(
        path: &Path,
        answer_limit: Duration,
    ) -> Result<(Self, Welcome), NotConnected> {
        let socket = connect_within(path, answer_limit)?;
        check_server(&socket)?;
        let wire = |error| NotConnected::Wire(WireError::io(error));
        let mut link = Self {
            socket: KeptSocket::new(socket).map_err(wire)?,
            answer_limit,
            process: Generation::current(),
            scratch: Mutex::default(),
            reader: Mutex::default(),
            inbox: Mutex::default(),
            came: Condvar::new(),
        };
        let welcome = link.shake_hands()?;
        Ok((link, welcome))
    }

    fn shake_hands(&mut self) -> Result<Welcome, NotConnected> {
        let head = Head {
            magic: MAGIC,
            protocol: PROTOCOL,
        };
        let program = crate::unix::program();
        let hello = Hello { head, program };
        let limit = self.answer_limit;
        // A server that is full refuses before it reads, so a failed write must not hide its
        // answer.
        let said = frame::write_raw(&self.socket, &hello);
        let reader = self
            .reader
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let greeting = reader.read::<Greeting>(&self.socket, Some(Instant::now() + limit));
        match greeting.map_err(|error| said.err().unwrap_or(error)) {
            Ok(Some(greeting)) => match greeting.what {
                Greeting::Welcome(welcome) => Ok(*welcome),
                Greeting::Refused(refusal) => Err(NotConnected::Refused(refusal)),
            },
            Ok(None) => Err(NotConnected::Wire(WireError::Io(silence(limit)))),
            Err(error) => Err(NotConnected::Wire(error)),
        }
    }

    /// Returns whether requests can be sent, as far as is known.
    pub(super) fn is_up(&self) -> bool {
        self.process.is_current() && self.inbox().end.is_none()
    }

    pub(super) fn is_ours(&self) -> bool {
        self.process.is_current()
    }

    /// Sends a request and waits for the answer: as long as the server may wait, plus the answer
    /// limit.
    pub(super) fn call(
        &self,
        ask: &Ask,
        carried: &Carried<'_>,
        wait: Wait,
    ) -> Result<Received<Answer>, Lost> {
        let id = self.ask(ask, carried)?;
        self.answer(id, wait)
    }

    /// Waits for the only answer to request `id`.
    pub(super) fn answer(&self, id: u32, wait: Wait) -> Result<Received<Answer>, Lost> {
        let answer = self.next_answer(id, wait);
        self.inbox().answers.remove(&id);
        answer
    }

    /// Like [`call`](Self::call), for a request with several answers. `last` recognizes the last
    /// one.
    pub(super) fn call_for_all(
        &self,
        ask: &Ask,
        wait: Wait,
        mut last: impl FnMut(Received<Answer>) -> bool,
    ) -> Result<(), Lost> {
        let id = self.ask(ask, &Carried::None)?;
        let end = loop {
            match self.next_answer(id, wait).map(&mut last) {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(lost) => break Err(lost),
            }
        };
        self.inbox().answers.remove(&id);
        end
    }

    /// Sends a request that has no answer.
    pub(super) fn tell(&self, ask: &Ask) {
        if let Ok(id) = self.ask(ask, &Carried::None) {
            self.inbox().answers.remove(&id);
        }
    }

    /// Sends a request, and returns its number. Its answer stays here until it is read.
    pub(super) fn ask(&self, ask: &Ask, carried: &Carried<'_>) -> Result<u32, Lost> {
        if !self.is_ours() {
            return Err(Lost::Forked);
        }
        let id = {
            let mut inbox = self.inbox();
            if let Some(end) = &inbox.end {
                return Err(Lost::Before(end.clone()));
            }
            inbox.last_id = inbox.last_id.checked_add(1).unwrap_or(1);
            let id = inbox.last_id;
            inbox.answers.insert(id, VecDeque::new());
            id
        };
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let written = frame::write(&self.socket, &mut scratch, id, ask, carried);
        drop(scratch);
        written.map(|()| id).map_err(|error| {
            // Half of the frame may have been written. The server acts on whole frames only.
            let why = self.end(self.inbox(), &error);
            Lost::Before(why)
        })
    }

    fn next_answer(&self, id: u32, wait: Wait) -> Result<Received<Answer>, Lost> {
        let limit = self.answer_limit;
        let until = match wait {
            Wait::No => Some(Instant::now() + limit),
            Wait::Until(deadline) => deadline.max(Instant::now()).checked_add(limit),
            Wait::Forever => None,
        };
        let take = |inbox: &mut Inbox| inbox.answers.get_mut(&id)?.pop_front();
        match self.wait_until(until, take) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => {
                let silent = WireError::Io(silence(limit));
                Err(Lost::Meanwhile(self.end(self.inbox(), &silent)))
            }
            Err(why) => Err(Lost::Meanwhile(why)),
        }
    }

    /// Returns the number of wakes received so far.
    pub(super) fn wakes(&self) -> u32 {
        self.inbox().wakes
    }

    /// Waits until the number of wakes differs from `heard`, at most until `until`. `Err`: the
    /// connection has ended.
    pub(super) fn wait_for_wake(&self, heard: u32, until: Instant) -> Result<(), String> {
        let woken = |inbox: &mut Inbox| (inbox.wakes != heard).then_some(());
        self.wait_until(Some(until), woken).map(drop)
    }

    /// Waits until `take` returns something. `Ok(None)`: the time is up. `Err`: nothing more
    /// arrives.
    fn wait_until<R>(
        &self,
        until: Option<Instant>,
        mut take: impl FnMut(&mut Inbox) -> Option<R>,
    ) -> Result<Option<R>, String> {
        let mut inbox = self.inbox();
        loop {
            if let Some(taken) = take(&mut inbox) {
                return Ok(Some(taken));
            }
            if let Some(end) = &inbox.end {
                return Err(end.clone());
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(None);
            }
            inbox = if inbox.is_being_read {
                self.sleep(inbox, until)
            } else {
                self.read(inbox, until)
            };
        }
    }

    /// Sleeps while another thread reads.
    fn sleep<'l>(
        &self,
        inbox: MutexGuard<'l, Inbox>,
        until: Option<Instant>,
    ) -> MutexGuard<'l, Inbox> {
        match until {
            None => self
                .came
                .wait(inbox)
                .unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                let woken = self.came.wait_timeout(inbox, left);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Reads one frame, for whichever thread waits for it.
    fn read<'l>(
        &'l self,
        mut inbox: MutexGuard<'l, Inbox>,
        until: Option<Instant>,
    ) -> MutexGuard<'l, Inbox> {
        inbox.is_being_read = true;
        drop(inbox);
        let read = {
            let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
            reader.read(&self.socket, until)
        };
        let mut inbox = self.inbox();
        inbox.is_being_read = false;
        match read {
            Ok(Some(frame)) => {
                if let Err(error) = inbox.put(frame) {
                    self.end(inbox, &error);
                    return self.inbox();
                }
            }
            Ok(None) => {}
            Err(error) => {
                self.end(inbox, &error);
                return self.inbox();
            }
        }
        // Wakes the thread that the frame is for, and another one that continues to read.
        self.came.notify_all();
        inbox
    }

    fn end(&self, mut inbox: MutexGuard<'_, Inbox>, error: &WireError) -> String {
        let why = inbox.end.get_or_insert_with(|| error.to_string()).clone();
        self.came.notify_all();
        // The shutdown makes the server take back whatever open requests produce, such as
        // deliveries.
        if let Ok(socket) = self.socket.stream() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        why
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    fn put(&mut self, frame: Received<Answer>) -> Result<(), WireError> {
        match frame.what {
            Answer::Wake => self.wakes = self.wakes.wrapping_add(1),
            Answer::Violation(why) => self.end = Some(format!("the server hung up: {why}")),
            _ => {
                let asked = self.answers.get_mut(&frame.id);
                let asked = asked.ok_or(WireError::Unasked("an answer without a request"))?;
                asked.push_back(frame);
            }
        }
        Ok(())
    }
}

/// Connects to a socket. A server that is stopped accepts no connection, and after a while the
/// kernel keeps no more of them waiting for it. The write time-out of a socket also limits this
/// wait.
fn connect_within(path: &Path, limit: Duration) -> Result<UnixStream, NotConnected> {
    let deadline = Instant::now().checked_add(limit);
    let wire = |error| NotConnected::Wire(WireError::io(error));
    let address = SocketAddrUnix::new(path).map_err(|error| not_connected(error.into()))?;
    let family = AddressFamily::UNIX;
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = UnixStream::from(socket.map_err(|error| wire(error.into()))?);
    socket.set_write_timeout(Some(limit)).map_err(wire)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            // A signal: the wait begins again.
            Err(Errno::INTR) if deadline.is_none_or(|end| Instant::now() < end) => {}
            Err(Errno::INTR | Errno::AGAIN) => {
                return Err(NotConnected::Wire(WireError::Io(silence(limit))));
            }
            Err(error) => return Err(not_connected(error.into())),
        }
    }
}

fn silence(limit: Duration) -> String {
    format!("the server did not answer within {limit:?}")
}

fn not_connected(error: io::Error) -> NotConnected {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => NotConnected::Nobody,
        _ => NotConnected::Wire(WireError::io(error)),
    }
}

/// Checks the server's user: a socket of another user would get this user's messages.
fn check_server(socket: &UnixStream) -> Result<(), NotConnected> {
    let peer = rustix::net::sockopt::socket_peercred(socket);
    let uid = peer.map_err(|error| NotConnected::Wire(WireError::io(error)))?;
    let uid = uid.uid.as_raw();
    if crate::unix::is_trusted(uid) {
        Ok(())
    } else {
        Err(NotConnected::Stranger { uid })
    }
}
