//! The right to write one message where it will be read.

use std::fmt::Debug;
use std::ops::{Deref, DerefMut};

use ipc_proto::MessageId;

use crate::error::SendFailure;
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

    /// Sends what was written.
    ///
    /// # Errors
    /// Never `Full`: the loan held a place; nor `Closed`: it was lent before. [`SendFailure::Removed`] when the queue
    /// is gone, `Forked` in a forked child, and the transport's own trouble.
    #[inline(always)]
    pub fn publish(self) -> Result<MessageId, SendFailure> {
        match self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(loan) => loan.publish(),
            Inner::Buffered(mut loan) => {
                let bytes = std::mem::take(&mut loan.bytes);
                let place = loan.place.take();
                let place = place.expect("a loan is published once, by value");
                place.publish(bytes)
            }
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
