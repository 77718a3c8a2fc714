//! Owned loans of a queue in shared memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ipc_proto::{Kind, MessageId};

use super::{LevelSender, ShmLoan, Terms};
use crate::error::SendFailure;
use crate::port::{PortLoan, PublishOnce};
use crate::shm::payload::OwnedWritable;

/// A message being written in shared memory, which borrows nothing. It is counted and published
/// through a separate sender, in any thread.
#[derive(Debug)]
pub(crate) struct OwnedShmLoan {
    /// In a mutex, because its cursor is for one thread. It is never locked for long.
    sender: Mutex<LevelSender>,
    kind: Kind,
    terms: Option<Box<Terms>>,
    /// `None` once the message is published or dropped.
    payload: Option<OwnedWritable>,
}

impl ShmLoan<'_> {
    /// Returns the same loan without a borrow of its sender.
    pub(crate) fn into_owned(mut self) -> OwnedShmLoan {
        // With both taken, the drop of this one does nothing.
        let (terms, payload) = (self.terms.take(), self.payload.take());
        OwnedShmLoan {
            sender: Mutex::new(self.sender.another()),
            kind: self.kind,
            terms,
            payload: payload.map(|payload| payload.into_owned(&self.sender.level.payloads)),
        }
    }

    /// Returns a loan for a port: the payload is written elsewhere and copied.
    pub(in crate::shm) fn into_port(self) -> PortLoan {
        let loan = self.into_owned();
        PortLoan::new(loan.bytes().len(), ShmPlace(Mutex::new(loan)))
    }
}

impl OwnedShmLoan {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.payload.as_ref().map_or(&[], OwnedWritable::bytes)
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let payload = self.payload.as_mut();
        payload.map_or(&mut [], OwnedWritable::bytes_mut)
    }

    /// Publishes the message. Called once.
    pub(crate) fn publish(&mut self) -> Result<MessageId, SendFailure> {
        self.take().expect("a loan is published once").publish()
    }

    /// Returns the queue's address, for errors.
    pub(crate) fn address(&self) -> String {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.address()
    }

    /// Moves everything into a loan that borrows this one's sender.
    fn take(&mut self) -> Option<ShmLoan<'_>> {
        let sender = &*self
            .sender
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let payload = self.payload.take()?;
        Some(ShmLoan {
            sender,
            kind: self.kind,
            terms: self.terms.take(),
            payload: Some(payload.into_borrowed(&sender.level.payloads)),
        })
    }
}

impl Drop for OwnedShmLoan {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// A loan through a port: the payload is written elsewhere and copied.
#[derive(Debug)]
struct ShmPlace(Mutex<OwnedShmLoan>);

impl ShmPlace {
    fn loan(&self) -> MutexGuard<'_, OwnedShmLoan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PublishOnce for ShmPlace {
    fn publish(&self, payload: Vec<u8>) -> Result<MessageId, SendFailure> {
        let mut loan = self.loan();
        loan.bytes_mut().copy_from_slice(&payload);
        loan.publish()
    }

    fn abandon(&self) {
        drop(self.loan().take());
    }

    fn may_block(&self) -> bool {
        false
    }

    fn queue(&self) -> String {
        self.loan().address()
    }
}
