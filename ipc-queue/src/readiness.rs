//! A descriptor to poll, for programs with their own reactor: `epoll`, `poll`, tokio's `AsyncFd`.
//!
//! It is a pipe of this process, and the notifier thread writes to it (see
//! [`notifier`](crate::notifier)). It leaves nothing in the file system, and ends with its process.
//! If it is closed by mistake, nothing is written to a file that gets its number.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Wake, Waker};

use ipc_shm::WakePipe;

use crate::bytes::{ByteReceiver, ByteSender};
use crate::notifier::{Notifier, Waiter};
use crate::receiver::Receiver;
use crate::sender::Sender;

/// Becomes readable when it is time to try: a message may have arrived, or a place may be free.
///
/// Never read from it. Before each wait, [`arm`](Self::arm) it, then try until there is nothing
/// more, then wait until it is readable.
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
    wake_fd: Arc<WakeFd>,
    waiter: Waiter,
}

/// A waker with a descriptor: readable once it is woken, until it is cleared.
#[derive(Debug)]
pub(crate) struct WakeFd(Arc<WakePipe>);

impl WakeFd {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(WakePipe::new()?)))
    }

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    /// Makes the descriptor unreadable. `false` if the descriptor was lost.
    pub(crate) fn clear(&self) -> bool {
        self.0.clear()
    }
}

impl AsFd for WakeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Wake for WakeFd {
    fn wake(self: Arc<Self>) {
        // The descriptor is lost; `arm` reports it.
        let _ = self.0.notify();
    }
}

impl Readiness {
    fn new(notifier: Notifier) -> io::Result<Self> {
        Ok(Self {
            wake_fd: WakeFd::new()?,
            waiter: notifier.waiter(),
        })
    }

    /// Makes the descriptor unreadable until it is time to try again. After this call, try for
    /// everything that arrived before it.
    ///
    /// # Errors
    /// The notifier thread cannot be started, or something in this process closed the descriptor.
    /// In the second case create another readiness.
    pub fn arm(&mut self) -> io::Result<()> {
        if !self.wake_fd.clear() {
            return Err(io::Error::other(
                "something in this process closed the descriptor of this readiness: create \
                 another one",
            ));
        }
        self.waiter.register(&self.wake_fd.waker())
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake_fd.as_fd()
    }
}

impl std::os::fd::AsRawFd for Readiness {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl ByteReceiver {
    /// Returns a descriptor that becomes readable when it is time to try to receive.
    ///
    /// # Errors
    /// The process has too many descriptors.
    pub fn readiness(&self) -> io::Result<Readiness> {
        Readiness::new(self.notifier())
    }
}

impl ByteSender {
    /// Returns a descriptor that becomes readable when it is time to try to send.
    ///
    /// # Errors
    /// The process has too many descriptors.
    pub fn readiness(&self) -> io::Result<Readiness> {
        Readiness::new(self.notifier())
    }
}

impl<T> Receiver<T> {
    /// Returns a descriptor that becomes readable when it is time to try to receive.
    ///
    /// # Errors
    /// The process has too many descriptors.
    pub fn readiness(&self) -> io::Result<Readiness> {
        self.bytes().readiness()
    }
}

impl<T> Sender<T> {
    /// Returns a descriptor that becomes readable when it is time to try to send.
    ///
    /// # Errors
    /// The process has too many descriptors.
    pub fn readiness(&self) -> io::Result<Readiness> {
        self.bytes().readiness()
    }
}
