//! Lending places: a payload is written where it will be read.

use std::mem;

use ipc_proto::{Kind, MessageId};
use ipc_shm::clock;

use super::{Lack, LevelSender, Terms};
use crate::error::{SendFailure, SendPortError, Unavailable};
use crate::send_options::{OverflowPolicy, SendOptions};
use crate::shm::payload::Writable;
use crate::shm::waiting::Gone;
use crate::wait::Wait;

/// A message being written in shared memory.
#[derive(Debug)]
pub(crate) struct ShmLoan<'a> {
    pub(super) sender: &'a LevelSender,
    pub(super) kind: Kind,
    /// The other terms of the message. Boxed, because they are rare and a loan should stay small.
    pub(super) terms: Option<Box<Terms>>,
    /// `None` once the message is published or dropped.
    pub(super) payload: Option<Writable<'a>>,
}

impl LevelSender {
    /// Lends a place, as [`SendPort::loan`](crate::transport::SendPort::loan).
    ///
    /// Inlined into the sending program, so that the loan is constructed in its final place.
    #[inline(always)]
    pub(in crate::shm) fn loan(
        &self,
        len: usize,
        kind: Kind,
        wait: Wait,
    ) -> Result<ShmLoan<'_>, SendPortError> {
        match self.try_lend(len, kind) {
            Ok(payload) => {
                self.spin.hit();
                Ok(self.loan_of(payload, kind))
            }
            Err(lack) => self.loan_later(len, kind, wait, lack),
        }
    }

    #[cold]
    fn loan_later(
        &self,
        len: usize,
        kind: Kind,
        wait: Wait,
        lack: Lack,
    ) -> Result<ShmLoan<'_>, SendPortError> {
        let payload = self.wait_for_room(len, kind, wait, lack)?;
        Ok(self.loan_of(payload, kind))
    }

    #[inline(always)]
    fn loan_of<'a>(&'a self, payload: Writable<'a>, kind: Kind) -> ShmLoan<'a> {
        ShmLoan {
            sender: self,
            kind,
            terms: None,
            payload: Some(payload),
        }
    }

    /// Lends a place, as [`SendPort::loan_with`](crate::transport::SendPort::loan_with). The
    /// priority is that of this level.
    pub(in crate::shm) fn loan_with(
        &self,
        len: usize,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<ShmLoan<'_>, SendPortError> {
        let (payload, key) = match (options.key, options.overflow) {
            (Some(key), _) => {
                let (payload, held) = self.lend_keyed(len, options, key, wait)?;
                (payload, Some(held))
            }
            (None, OverflowPolicy::DropOldest) => (self.lend_dropping(len, options, wait)?, None),
            (None, OverflowPolicy::Wait) if !options.headers.is_empty() => {
                (self.lend_with_headers(len, options, wait)?, None)
            }
            (None, OverflowPolicy::Wait) => (self.lend(len, options.kind, wait)?, None),
        };
        let terms = Terms {
            delay: options.delay,
            expires_in: options.expires_in,
            key,
            has_headers: !options.headers.is_empty(),
        };
        Ok(ShmLoan {
            sender: self,
            kind: options.kind,
            terms: (terms != Terms::default()).then(|| Box::new(terms)),
            payload: Some(payload),
        })
    }
}

impl<'a> ShmLoan<'a> {
    pub(crate) fn sender(&self) -> &'a LevelSender {
        self.sender
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.payload.as_ref().map_or(&[], Writable::bytes)
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.payload.as_mut().map_or(&mut [], Writable::bytes_mut)
    }

    #[inline(always)]
    pub(crate) fn publish(mut self) -> Result<MessageId, SendFailure> {
        let payload = self
            .payload
            .take()
            .expect("a loan is published once, by value");
        let (sender, shared) = (self.sender, &*self.sender.shared);
        // A closed queue takes messages whose place was lent before it was closed.
        if let Err(gone) = shared.usable() {
            // In a forked copy the claim is the parent's. In a truncated file it belongs to no
            // process.
            if !matches!(gone, Gone::Forked | Gone::Truncated) {
                sender.give_back(payload.into_claim());
            }
            return Err(Unavailable::from(gone).into());
        }
        let len = payload.len();
        let id = match self.terms.take() {
            None => {
                let stamp = sender.stamp(clock::wall());
                sender.publish(payload, self.kind, stamp)?;
                stamp.id
            }
            Some(terms) => sender.publish_on(payload, self.kind, *terms)?,
        };
        // Both were taken, so there is nothing left to return.
        mem::forget(self);
        sender.sent(1, len);
        Ok(id)
    }
}

impl Drop for ShmLoan<'_> {
    #[inline]
    fn drop(&mut self) {
        let key = self.terms.take().and_then(|terms| terms.key);
        if (self.payload.is_some() || key.is_some())
            && self.sender.shared.attachment.is_this_process()
        {
            key.into_iter()
                .for_each(|held| self.sender.give_back_key(held));
            let payload = self.payload.take();
            payload
                .into_iter()
                .for_each(|payload| self.sender.give_back(payload.into_claim()));
        }
    }
}
