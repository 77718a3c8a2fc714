//! A descriptor to poll, for those who run their own reactor: `epoll`, `poll`, tokio's `AsyncFd`.
//!
//! It is a pipe of this process, written to by the doorman (see [`bell`](crate::bell)): nothing in
//! the file system, and gone with its process. Nothing is written to a file that took its number
//! after it was closed by mistake.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Wake, Waker};

use ipc_shm::Notifier;

use crate::bell::{Bell, Listener};
use crate::bytes::{ByteReceiver, ByteSender};
use crate::receiver::Receiver;
use crate::sender::Sender;

/// Becomes readable when it is time to look: a message may have come, or a place may be free.
///
/// Never read it. Before each wait: [`arm`](Self::arm) it, then try until there is nothing more, then wait until it is
/// readable.
///
/// ```
/// use std::os::fd::AsFd;
/// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
///
/// let queue = ipc_queue::Queue::<u32>::open("local:polled")?;
/// let receiver = queue.receiver();
/// let mut readiness = receiver.readiness()?;
/// readiness.arm()?;
/// assert!(receiver.try_recv().is_err());
/// queue.sender().send(7)?;
/// poll(&mut [PollFd::new(readiness.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
/// readiness.arm()?;
/// receiver.try_recv()?.ack()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Readiness {
    ringer: Arc<Ringer>,
    listener: Listener,
}

/// A waker that is a descriptor: readable once it was woken, until it is cleared.
#[derive(Debug)]
pub(crate) struct Ringer(Arc<Notifier>);

impl Ringer {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(Notifier::new()?)))
    }

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    /// Makes it unreadable; `false` if its descriptor was lost.
    pub(crate) fn clear(&self) -> bool {
        self.0.clear()
    }
}

impl AsFd for Ringer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Wake for Ringer {
    fn wake(self: Arc<Self>) {
        // Lost: `arm` says so.
        let _ = self.0.notify();
    }
}

impl Readiness {
    fn new(bell: Bell) -> io::Result<Self> {
        Ok(Self {
            ringer: Ringer::new()?,
            listener: bell.listener(),
        })
    }

    /// Makes it unreadable until it is time to look once more. Whatever came before this must be looked for after it.
    ///
    /// # Errors
    /// The thread that rings can't be started, or something in this process closed the descriptor: then make another.
    pub fn arm(&mut self) -> io::Result<()> {
        if !self.ringer.clear() {
            return Err(io::Error::other(
                "something in this process closed the descriptor of this readiness: make another",
            ));
        }
        self.listener.listen(&self.ringer.waker())
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ringer.as_fd()
    }
}

impl std::os::fd::AsRawFd for Readiness {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl ByteReceiver {
    /// A descriptor that tells when to try to receive.
    ///
    /// # Errors
    /// The process has too many descriptors.
    pub fn readiness(&self) -> io::Result<Readiness> {
        Readiness::new(self.bell())
    }
}

impl ByteSender {
    /// A descriptor that tells when to try to send.
    ///
    /// # Errors
    /// The process has too many descriptors.
    pub fn readiness(&self) -> io::Result<Readiness> {
        Readiness::new(self.bell())
    }
}

impl<T> Receiver<T> {
    /// A descriptor that tells when to try to receive.
    ///
    /// # Errors
    /// The process has too many descriptors.
    pub fn readiness(&self) -> io::Result<Readiness> {
        self.bytes().readiness()
    }
}

impl<T> Sender<T> {
    /// A descriptor that tells when to try to send.
    ///
    /// # Errors
    /// The process has too many descriptors.
    pub fn readiness(&self) -> io::Result<Readiness> {
        self.bytes().readiness()
    }
}
