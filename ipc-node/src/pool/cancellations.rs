//! Cancellations: the jobs that are no longer wanted, and how workers learn of them.
//!
//! A job in a queue cannot be called back, but its receiver can know that it must not run. Each
//! worker has a pipe from the pool as its standard input. The numbers of unwanted jobs arrive
//! through it, and its end is the end of the pool. So cancellation works over every transport, and
//! needs no shared memory.
//!
//! A worker reads its pipe before it begins a job, so it knows everything that was written before.
//! Remote workers have a pipe from the process that started them, which knows nothing about jobs.
//! They run unwanted jobs, and the answers are dropped.
//!
//! A stopped worker does not read. The pool does not wait for it: what does not fit into its pipe
//! is kept and written later.

use std::collections::{HashMap, HashSet};
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

const CANCELLATION_BYTES: usize = 8;
/// A bit of a notice: the job is done, and its number can be forgotten.
const DONE: u64 = 1 << 63;
/// The maximum size of one write. It is written completely or not at all.
const AT_ONCE: usize = 4096;

/// The pool's side.
#[derive(Debug, Default)]
pub(super) struct Cancellations {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    unwanted: HashSet<u64>,
    /// By start number.
    workers: HashMap<u64, Line>,
}

/// One worker's pipe, and what could not be written to it yet.
#[derive(Debug)]
struct Line {
    pipe: PipeWriter,
    backlog: Vec<u8>,
}

impl Cancellations {
    /// Adds a worker that is about to start with the other end of this pipe.
    pub(super) fn enlist(&self, start: u64, pipe: PipeWriter) -> io::Result<()> {
        never_wait(&pipe)?;
        let mut state = self.lock();
        let backlog = state
            .unwanted
            .iter()
            .flat_map(|ticket| ticket.to_le_bytes());
        let mut line = Line {
            backlog: backlog.collect(),
            pipe,
        };
        line.flush();
        state.workers.insert(start, line);
        Ok(())
    }

    /// Removes a worker that is gone, or that has to end.
    pub(super) fn dismiss(&self, start: u64) {
        self.lock().workers.remove(&start);
    }

    /// Removes all workers.
    pub(super) fn dismiss_all(&self) {
        self.lock().workers.clear();
    }

    /// Marks a job as unwanted.
    pub(super) fn unwanted(&self, ticket: u64) {
        let mut state = self.lock();
        if state.unwanted.insert(ticket) {
            state.tell(ticket);
        }
    }

    /// Forgets a job that will not come to any worker again.
    pub(super) fn done(&self, ticket: u64) {
        let mut state = self.lock();
        if state.unwanted.remove(&ticket) {
            state.tell(ticket | DONE);
        }
    }

    /// Returns `true` if the job is unwanted.
    pub(super) fn is_unwanted(&self, ticket: u64) -> bool {
        self.lock().unwanted.contains(&ticket)
    }

    /// Writes what could not be written before. Returns `true` if something is left.
    pub(super) fn flush(&self) -> bool {
        let mut state = self.lock();
        let mut is_left = false;
        for line in state.workers.values_mut() {
            is_left |= line.flush();
        }
        is_left
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&mut self, notice: u64) {
        for line in self.workers.values_mut() {
            line.backlog.extend_from_slice(&notice.to_le_bytes());
            line.flush();
        }
    }
}

impl Line {
    /// Returns `true` if something is left.
    fn flush(&mut self) -> bool {
        while !self.backlog.is_empty() {
            let most = self.backlog.len().min(AT_ONCE);
            match self.pipe.write(&self.backlog[..most]) {
                Ok(written) => drop(self.backlog.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                // The worker is gone, so its pipe has no reader.
                Err(_) => self.backlog.clear(),
            }
        }
        false
    }
}

/// A worker's side: what came through its pipe so far.
#[derive(Debug)]
pub(super) struct Inbox<P> {
    heard: Mutex<Heard<P>>,
}

#[derive(Debug)]
struct Heard<P> {
    pipe: P,
    unwanted: HashSet<u64>,
    /// The beginning of a notice whose rest has not arrived.
    part: Vec<u8>,
}

impl<P: AsFd + Read> Inbox<P> {
    pub(super) fn new(pipe: P) -> io::Result<Self> {
        never_wait(&pipe)?;
        Ok(Self {
            heard: Mutex::new(Heard {
                pipe,
                unwanted: HashSet::new(),
                part: Vec::new(),
            }),
        })
    }

    /// Reads everything that is in the pipe. Returns `true` while the pipe is open.
    pub(super) fn look(&self) -> bool {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chunk = [0; AT_ONCE];
        loop {
            match heard.pipe.read(&mut chunk) {
                Ok(0) => return false,
                Ok(len) => heard.take_in(&chunk[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Returns `true` if the job is unwanted, according to the cancellations read so far.
    pub(super) fn is_unwanted(&self, ticket: u64) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.unwanted.contains(&ticket)
    }
}

impl<P> Heard<P> {
    fn take_in(&mut self, bytes: &[u8]) {
        self.part.extend_from_slice(bytes);
        let (cancellations, rest) = self.part.as_chunks::<CANCELLATION_BYTES>();
        for notice in cancellations {
            let notice = u64::from_le_bytes(*notice);
            if notice & DONE == 0 {
                self.unwanted.insert(notice);
            } else {
                self.unwanted.remove(&(notice & !DONE));
            }
        }
        self.part = rest.to_vec();
    }
}

fn never_wait(pipe: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_knows_cancellations_from_before_and_after_its_start() {
        let cancellations = Cancellations::default();
        cancellations.unwanted(1);
        let (reads, writes) = io::pipe().unwrap();
        cancellations.enlist(1, writes).unwrap();
        let inbox = Inbox::new(reads).unwrap();
        cancellations.unwanted(2);
        assert!(inbox.look());
        assert!(inbox.is_unwanted(1) && inbox.is_unwanted(2) && !inbox.is_unwanted(3));
        cancellations.done(1);
        assert!(inbox.look() && !inbox.is_unwanted(1));
        cancellations.dismiss(1);
        assert!(!inbox.look());
    }

    #[test]
    fn the_pool_does_not_wait_for_a_worker_that_does_not_read() {
        const MANY: u64 = 100_000; // more than fits into a pipe
        let cancellations = Cancellations::default();
        let (reads, writes) = io::pipe().unwrap();
        cancellations.enlist(1, writes).unwrap();
        (1..=MANY).for_each(|ticket| cancellations.unwanted(ticket));
        let inbox = Inbox::new(reads).unwrap();
        while cancellations.flush() {
            assert!(inbox.look());
        }
        assert!(inbox.look());
        assert!((1..=MANY).all(|ticket| inbox.is_unwanted(ticket)));
    }
}
