//! The right to write one message where it will be read.

use std::ops::{Deref, DerefMut};

use ipc_proto::MessageId;

use crate::error::{SendError, SendFailure};
use crate::port::PortLoan;
#[cfg(target_os = "linux")]
use crate::shm::ShmLoan;

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
    Port(Box<PortLoan<'a>>),
}

impl<'a> From<PortLoan<'a>> for Loan<'a> {
    fn from(loan: PortLoan<'a>) -> Self {
        Self(Inner::Port(Box::new(loan)))
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
            Inner::Port(loan) => loan.publish(),
        }
    }

    /// Like [`publish`](Self::publish), for ports, whose handle names the queue.
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
            Inner::Port(loan) => loan,
        }
    }
}

impl DerefMut for Loan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            #[cfg(target_os = "linux")]
            Inner::Shm(loan) => loan.bytes_mut(),
            Inner::Port(loan) => loan,
        }
    }
}
