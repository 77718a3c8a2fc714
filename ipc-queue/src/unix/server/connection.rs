//! The server's side of a connection: a thread that reads a request, does it, answers, and so on.
//!
//! It begins by answering questions about the queue, and may become a handle (`sending.rs`,
//! `receiving.rs`) or a notifier (`notifying.rs`). An invalid request ends it, with an answer that
//! has the reason. Other connections do not notice.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc_proto::codec;
use ipc_shm::KeptSocket;

use super::holders::Holder;
use super::{Shared, refuse};
use crate::error::DrainError;
use crate::readiness::WakeFd;
use crate::unix::frame::{self, Carried, Reader, Received};
use crate::unix::wire::{
    Answer, Ask, Greeting, Head, Hello, MAGIC, PROTOCOL, Patience, Refusal, Side,
};
use crate::unix::wire_error::WireError;
use crate::wait::Wait;

/// A client's connection.
pub(super) struct Connection<'s> {
    pub(super) shared: &'s Shared,
    pub(super) socket: &'s KeptSocket,
    pub(super) holder: Holder,
    reader: Reader,
    scratch: Vec<u8>,
}

/// The use of a connection that has become a handle.
pub(super) enum Role {
    Sender,
    Receiver,
    Notifier(Side),
}

/// The event that woke a waiting connection.
pub(super) enum Event {
    Request(Received<Ask>),
    Woken,
    TimeUp,
}

/// The time between two checks that a client that waits for a drain is still there.
const DRAIN_SLICE: Duration = Duration::from_millis(100);
/// The number of leases in one frame, which has room for more.
const HOLDINGS_IN_FRAME: usize = 256;

impl<'s> Connection<'s> {
    pub(super) fn new(
        shared: &'s Shared,
        socket: &'s KeptSocket,
        pid: u32,
        connection: u64,
    ) -> Self {
        Self {
            shared,
            socket,
            holder: Holder {
                connection,
                pid,
                program: Arc::from(""),
            },
            reader: Reader::default(),
            scratch: Vec::new(),
        }
    }

    /// Serves the client until it leaves. `handle` serves the connection once it is a handle.
    pub(super) fn run(
        mut self,
        handle: impl FnOnce(&mut Self, Role, u32) -> Result<(), WireError>,
    ) {
        let Ok(true) = self.shake_hands() else {
            return;
        };
        let role = self.serve();
        match role.and_then(|(role, id)| handle(&mut self, role, id)) {
            Ok(()) | Err(WireError::Ended) => {}
            // The client may still be able to read the reason.
            Err(error) => {
                let _ = self.answer(0, &Answer::Violation(error.to_string()), &Carried::None);
            }
        }
    }

    /// `Ok(false)`: the client was refused.
    fn shake_hands(&mut self) -> Result<bool, WireError> {
        let until = Instant::now().checked_add(self.shared.handshake_limit);
        let refusal = match self.reader.read_raw(self.socket, until) {
            Ok(Some(bytes)) => match codec::decode_prefix::<Head>(&bytes) {
                Ok((head, _)) if head.magic != MAGIC => Refusal::NotOurs,
                Ok((head, _)) if head.protocol != PROTOCOL => {
                    Refusal::Protocol { server: PROTOCOL }
                }
                _ => match codec::decode::<Hello>(&bytes) {
                    Ok(hello) => {
                        self.holder.program = hello.program.into();
                        return self.greet();
                    }
                    Err(_) => Refusal::NotOurs,
                },
            },
            Ok(None) => Refusal::Slow,
            Err(_) => Refusal::NotOurs,
        };
        refuse(self.socket, refusal)?;
        Ok(false)
    }

    fn greet(&mut self) -> Result<bool, WireError> {
        let greeting = Greeting::Welcome(Box::new(self.shared.welcome.clone()));
        frame::write(self.socket, &mut self.scratch, 0, &greeting, &Carried::None)?;
        Ok(true)
    }

    /// Serves the connection until it becomes a handle. Returns its role, and the number of the
    /// request for it.
    fn serve(&mut self) -> Result<(Role, u32), WireError> {
        loop {
            let request = self.next()?;
            let id = request.id;
            match request.what {
                Ask::BecomeSender => return Ok((Role::Sender, id)),
                Ask::BecomeReceiver => return Ok((Role::Receiver, id)),
                Ask::BecomeNotifier(side) => return Ok((Role::Notifier(side), id)),
                Ask::Leases => self.answer_holdings(id)?,
                Ask::DeadLetters => self.answer_letters(id)?,
                Ask::Drain(patience) => self.drain(id, patience)?,
                other => {
                    let answer = self.control(&other)?;
                    self.answer(id, &answer, &Carried::None)?;
                }
            }
        }
    }

    fn control(&self, ask: &Ask) -> Result<Answer, WireError> {
        let queue = &self.shared.queue;
        Ok(match ask {
            Ask::Stats => Answer::Stats(queue.stats().map(Box::new).map_err(Into::into)),
            Ask::IsClosed => Answer::Flag(queue.is_closed().map_err(Into::into)),
            Ask::IsPaused => Answer::Flag(queue.is_paused().map_err(Into::into)),
            Ask::Close => Answer::Controlled(queue.close().map_err(Into::into)),
            Ask::Reopen => Answer::Controlled(queue.reopen().map_err(Into::into)),
            Ask::Pause => Answer::Controlled(queue.pause().map_err(Into::into)),
            Ask::Resume => Answer::Controlled(queue.resume().map_err(Into::into)),
            Ask::Purge => Answer::Purged(queue.purge().map_err(Into::into)),
            Ask::Requeue(id) => Answer::Flag(queue.requeue(*id).map_err(Into::into)),
            Ask::Discard(id) => Answer::Flag(queue.discard(*id).map_err(Into::into)),
            Ask::NoteSignal { id, signal } => {
                Answer::Flag(queue.note_signal(*id, *signal).map_err(Into::into))
            }
            Ask::Forget(key) => Answer::Flag(queue.forget(*key).map_err(Into::into)),
            Ask::Revoke(id) => Answer::Flag(queue.revoke(*id).map_err(Into::into)),
            Ask::DropMessage(id) => Answer::Flag(queue.drop_message(*id).map_err(Into::into)),
            Ask::Remove => Answer::Flag(self.shared.remove()),
            Ask::IsRemoved => Answer::Flag(Ok(self.shared.is_removed())),
            _ => return Err(WireError::Unasked("this connection is not a handle")),
        })
    }

    fn answer_holdings(&mut self, id: u32) -> Result<(), WireError> {
        let end = match self.shared.queue.leases() {
            Ok(mut leases) => {
                self.shared.holders.name(&mut leases);
                for some in leases.chunks(HOLDINGS_IN_FRAME) {
                    let some = Answer::Leases(some.to_vec());
                    self.answer(id, &some, &Carried::None)?;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        };
        self.answer(id, &Answer::Last(end), &Carried::None)
    }

    fn answer_letters(&mut self, id: u32) -> Result<(), WireError> {
        let end = match self.shared.queue.dead_letters() {
            Ok(letters) => {
                for mut letter in letters {
                    let payload = std::mem::take(&mut letter.payload);
                    let payload = [&payload[..]];
                    let carried = Carried::of(&payload).map_err(WireError::io)?;
                    self.answer(id, &Answer::Letter(letter), &carried)?;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        };
        self.answer(id, &Answer::Last(end), &Carried::None)
    }

    /// Drains in slices, so that the departure of the client, or the end of the server, ends the
    /// wait.
    fn drain(&mut self, id: u32, patience: Patience) -> Result<(), WireError> {
        let wait = Wait::from(patience);
        let started = Instant::now();
        let drained = loop {
            let until = wait.at_most_until(Instant::now() + DRAIN_SLICE);
            match self.shared.queue.drain(until) {
                Err(DrainError::TimedOut { queue, left, .. }) => {
                    if wait.is_over() {
                        let waited = started.elapsed();
                        break Err(DrainError::TimedOut {
                            queue,
                            waited,
                            left,
                        });
                    }
                }
                drained => break drained,
            }
            self.check_is_there()?;
        };
        let answer = Answer::Drained(drained.map_err(Into::into));
        self.answer(id, &answer, &Carried::None)
    }

    /// Checks that the client is still connected and sends nothing meanwhile.
    fn check_is_there(&mut self) -> Result<(), WireError> {
        let now = Some(Instant::now());
        match self.reader.read::<Ask>(self.socket, now)? {
            None => Ok(()),
            Some(_) => Err(WireError::Unasked("the last request is not answered yet")),
        }
    }

    /// Returns the next request, without a time limit.
    pub(super) fn next(&mut self) -> Result<Received<Ask>, WireError> {
        let request = self.reader.read(self.socket, None)?;
        request.ok_or(WireError::Ended)
    }

    /// Returns the next request or wake, or the end of the time.
    pub(super) fn next_event(
        &mut self,
        wake_fd: &WakeFd,
        until: Option<Instant>,
    ) -> Result<Event, WireError> {
        loop {
            if let Some(request) = self.reader.take()? {
                return Ok(Event::Request(request));
            }
            let ready = frame::wait_for([self.socket.as_fd(), wake_fd.as_fd()], until);
            let [said, woken] = ready.map_err(WireError::io)?;
            if woken {
                if !wake_fd.clear() {
                    // If it were polled further, a file that took its number might be readable
                    // forever.
                    let lost = "something in this process closed a descriptor of this connection";
                    return Err(WireError::io(io::Error::other(lost)));
                }
                return Ok(Event::Woken);
            }
            if !said {
                return Ok(Event::TimeUp);
            }
            self.reader.fill(self.socket)?;
        }
    }

    pub(super) fn answer(
        &mut self,
        id: u32,
        answer: &Answer,
        carried: &Carried<'_>,
    ) -> Result<(), WireError> {
        frame::write(self.socket, &mut self.scratch, id, answer, carried)
    }
}
