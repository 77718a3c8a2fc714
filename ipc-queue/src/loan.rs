//! The right to write one message where it will be read.

use std::fmt::Debug;
use std::ops::{Deref, DerefMut};

use ipc_proto::MessageId;

use crate::error::{SendError, SendFailure};
#[cfg(target_os = "linux")]
use crate::shm::ShmLoan;

/// For transports: the right to fill one place, as it was lent. Exactly one of its methods is called, once.
pub trait PublishOnce: Debug {
    /// Accepts what was written.
    ///
    /// # Errors
    /// Not `Full`: the loan held a place; see [`Loan::publish`].
    fn publish(&self, payload: Vec<u8>) -> Result<MessageId, SendFailure>;

    /// Takes the place back.
    fn abandon(&self);

    /// The queue's address, without credentials, for errors.
    fn queue(&self) -> String;
}

/// Memory for one payload, and a place in the queue for it. Dropped unpublished, it leaves nothing.
///
/// The memory's content is undefined at first: it may hold parts of earlier messages.
#[derive(Debug)]
#[must_use = "dropped without `publish` it sends nothing"]
pub struct Loan<'a>(Inner<'a>);

#[derive(Debug)]
enum Inner<'a> {
    #[cfg(target_os = "linux")]
    Shm(ShmLoan<'a>),
    Buffered(Box<Buffered<'a>>),
}

/// A loan of a transport that copies: an ordinary buffer.
#[derive(Debug)]
struct Buffered<'a> {
    /// Taken when it is published.
    place: Option<Box<dyn PublishOnce + 'a>>,
    bytes: Vec<u8>,
}

impl<'a> Loan<'a> {
    /// For transports: a loan of an ordinary buffer of `len` bytes, for `place`, which gets it back.
    pub fn buffered(len: usize, place: impl PublishOnce + 'a) -> Self {
        Self(Inner::Buffered(Box::new(Buffered {
            place: Some(Box::new(place)),
            bytes: vec![0; len],
        })))
    }

    #[cfg(target_os = "linux")]
    #[inline(always)]
    pub(crate) fn shm(loan: ShmLoan<'a>) -> Self {
        Self(Inner::Shm(loan))
    }

    /// Sends what was written, and returns the message's id.
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
            Inner::Buffered(mut loan) => {
                let bytes = std::mem::take(&mut loan.bytes);
                let place = loan.place.take();
                let place = place.expect("a loan is published once, by value");
                let published = place.publish(bytes);
                published.map_err(|failure| failure.of(place.queue()))
            }
        }
    }

    /// As [`publish`](Self::publish), for ports, whose handle names the queue.
    #[inline(always)]
    pub(crate) fn publish_port(self) -> Result<MessageId, SendFailure> {
        self.publish().map_err(|error| error.failure)
    }
}

impl Deref for Loan<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(loan) => loan.bytes(),
            Inner::Buffered(loan) => &loan.bytes,
        }
    }
}

impl DerefMut for Loan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(loan) => loan.bytes_mut(),
            Inner::Buffered(loan) => &mut loan.bytes,
        }
    }
}

impl Drop for Buffered<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            place.abandon();
        }
    }
}
