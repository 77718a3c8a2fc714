//! The right to write one message where it will be read.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use ipc_proto::MessageId;

use crate::error::{SendError, SendFailure};
use crate::port::PortLoan;
#[cfg(target_os = "linux")]
use crate::shm::{OwnedShmLoan, ShmLoan};

/// Memory for one payload, and a place in the queue for it. Dropping it unpublished leaves nothing
/// behind.
///
/// The memory's content is undefined at first: it may hold parts of earlier messages.
#[derive(Debug)]
#[must_use = "dropped without `publish` it sends nothing"]
pub struct Loan<'a>(Inner<'a>);

#[derive(Debug)]
enum Inner<'a> {
    #[cfg(target_os = "linux")]
    Shm(ShmLoan<'a>),
    Port(Box<PortLoan>, PhantomData<&'a ()>),
}

/// A loan that borrows nothing: it can be kept across `await`, filled and published by another
/// thread, and outlive its sender and its queue's handles.
///
/// Dropping it unpublished frees its place, and so does the death of its process. In shared memory
/// the payload is written where it will be read; elsewhere it is a buffer.
///
/// ```
/// let queue = ipc_queue::ByteQueue::open("local:rendered")?;
/// let mut frame = queue.sender().loan(3)?.into_owned();
/// let render = std::thread::spawn(move || {
///     frame.copy_from_slice(b"abc");
///     frame.publish()
/// });
/// render.join().expect("no panic")?;
/// assert_eq!(queue.receiver().recv()?.payload(), b"abc");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "dropped without `publish` it sends nothing"]
pub struct OwnedLoan(OwnedInner);

#[derive(Debug)]
enum OwnedInner {
    #[cfg(target_os = "linux")]
    Shm(Box<OwnedShmLoan>),
    Port(Box<PortLoan>),
}

impl From<PortLoan> for Loan<'_> {
    fn from(loan: PortLoan) -> Self {
        Self(Inner::Port(Box::new(loan), PhantomData))
    }
}

#[cfg(target_os = "linux")]
impl<'a> From<ShmLoan<'a>> for Loan<'a> {
    #[inline(always)]
    fn from(loan: ShmLoan<'a>) -> Self {
        Self(Inner::Shm(loan))
    }
}

impl Loan<'_> {
    /// Sends the written payload, and returns the message's id.
    ///
    /// # Errors
    /// [`SendError`] when the queue was removed, in a forked child, or when the transport fails.
    #[inline(always)]
    pub fn publish(self) -> Result<MessageId, SendError> {
        match self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(loan) => {
                let sender = loan.sender();
                loan.publish()
                    .map_err(|failure| failure.of(sender.address()))
            }
            Inner::Port(loan, _) => loan.publish(),
        }
    }

    /// Returns the same loan without a borrow of its sender. What was written stays; in shared
    /// memory nothing is copied.
    ///
    /// There, its message has a sender id of its own. The order of this message and of those that
    /// its sender sends in the meantime is not defined.
    pub fn into_owned(self) -> OwnedLoan {
        OwnedLoan(match self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(loan) => OwnedInner::Shm(Box::new(loan.into_owned())),
            Inner::Port(loan, _) => OwnedInner::Port(loan),
        })
    }

    /// Like [`publish`](Self::publish), for ports, whose handle names the queue.
    #[inline(always)]
    pub(crate) fn publish_port(self) -> Result<MessageId, SendFailure> {
        self.publish().map_err(|error| error.failure)
    }
}

impl OwnedLoan {
    /// Sends the written payload, and returns the message's id.
    ///
    /// # Errors
    /// Those of [`Loan::publish`].
    pub fn publish(self) -> Result<MessageId, SendError> {
        match self.0 {
            #[cfg(target_os = "linux")]
            OwnedInner::Shm(mut loan) => {
                let published = loan.publish();
                published.map_err(|failure| failure.of(loan.address()))
            }
            OwnedInner::Port(loan) => loan.publish(),
        }
    }

    /// Sends the written payload without blocking the thread, even if a server must be asked. Works
    /// with any executor. A future that is dropped may or may not have sent it.
    ///
    /// # Errors
    /// Those of [`publish`](Self::publish).
    pub async fn publish_async(self) -> Result<MessageId, SendError> {
        match self.0 {
            OwnedInner::Port(loan) if loan.may_block() => {
                blocking::unblock(move || loan.publish()).await
            }
            quick => Self(quick).publish(),
        }
    }
}

impl Deref for Loan<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(loan) => loan.bytes(),
            Inner::Port(loan, _) => loan,
        }
    }
}

impl DerefMut for Loan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(loan) => loan.bytes_mut(),
            Inner::Port(loan, _) => loan,
        }
    }
}

impl Deref for OwnedLoan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            #[cfg(target_os = "linux")]
            OwnedInner::Shm(loan) => loan.bytes(),
            OwnedInner::Port(loan) => loan,
        }
    }
}

impl DerefMut for OwnedLoan {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            #[cfg(target_os = "linux")]
            OwnedInner::Shm(loan) => loan.bytes_mut(),
            OwnedInner::Port(loan) => loan,
        }
    }
}
