//! Describing and publishing a message that was written.

use std::time::Duration;

use ipc_proto::{Kind, MessageId, Timestamp};
use ipc_shm::clock;

use super::{Lack, LevelSender, Stamp, Terms, Whence};
use crate::error::{SendFailure, Unavailable};
use crate::shm::cell::Body;
use crate::shm::due::Due;
use crate::shm::keys::nanos;
use crate::shm::payload::Writable;
use crate::shm::ring::{Claim, Publication};

impl LevelSender {
    /// Returns the stamp of the next message.
    #[inline(always)]
    pub(super) fn stamp(&self, sent_at: Timestamp) -> Stamp {
        let sequence = self.sequence.get();
        self.sequence.set(sequence + self.step);
        Stamp {
            id: MessageId::new(self.id, sequence),
            sent_at,
            expires_at: None,
            key_slot: None,
        }
    }

    /// Publishes a message. The caller notifies receivers.
    #[inline(always)]
    pub(super) fn publish(
        &self,
        payload: Writable<'_>,
        kind: Kind,
        stamp: Stamp,
    ) -> Result<Whence, SendFailure> {
        self.describe(&payload, stamp);
        self.publish_described(payload, kind, stamp)
    }

    #[inline(always)]
    pub(super) fn publish_described(
        &self,
        payload: Writable<'_>,
        kind: Kind,
        stamp: Stamp,
    ) -> Result<Whence, SendFailure> {
        let (chunk, len) = (payload.chunk(), payload.len());
        match self.level.ring.publish(payload.into_claim()) {
            Publication::Done => Ok(Whence::InTurn),
            Publication::SteppedOver(claim) => self.publish_at_end(claim, chunk, len, kind, stamp),
            Publication::Lost => Err(self.lost()),
        }
    }

    /// Publishes a message with these terms. The caller notifies receivers.
    #[cold]
    pub(super) fn publish_on(
        &self,
        payload: Writable<'_>,
        kind: Kind,
        mut terms: Terms,
    ) -> Result<MessageId, SendFailure> {
        let mut stamp = self.stamp(clock::wall());
        let (Some(mut held), Some(keys)) = (terms.key.take(), &self.shared.contents.keys) else {
            self.publish_timed(payload, kind, &terms, stamp)?;
            return Ok(stamp.id);
        };
        stamp.key_slot = Some(held.slot());
        let window = self
            .shared
            .contents
            .settings
            .dedup_window
            .unwrap_or_default();
        let until = nanos(clock::monotonic().saturating_add(window));
        keys.place(&mut held, self.name(payload.claim()), stamp.id, until);
        let published = self.publish_timed(payload, kind, &terms, stamp);
        match published {
            Ok(()) => keys.sent(held),
            Err(_) => keys.give_back(held),
        }
        self.shared.tell_room();
        published.map(|()| stamp.id)
    }

    pub(super) fn publish_timed(
        &self,
        payload: Writable<'_>,
        kind: Kind,
        terms: &Terms,
        mut stamp: Stamp,
    ) -> Result<(), SendFailure> {
        if terms.delay.is_zero() && terms.expires_in.is_none() {
            self.describe_all(&payload, stamp, terms.has_headers);
            return self.publish_described(payload, kind, stamp).map(drop);
        }
        let shared = &*self.shared;
        let now = clock::monotonic();
        let after = |time: Duration| Due::not_before(now.saturating_add(time));
        stamp.expires_at = terms.expires_in.map(after);
        // Before the message is visible: a process that finds it must know that the clock matters.
        shared.set_timed();
        let next = if terms.delay.is_zero() {
            self.describe_all(&payload, stamp, terms.has_headers);
            self.publish_described(payload, kind, stamp)?;
            stamp.expires_at
        } else {
            let due = after(terms.delay);
            self.describe_all(&payload, stamp, terms.has_headers);
            let claim = payload.into_claim();
            self.level.ring.note_delay(&claim, due);
            self.done(self.level.ring.publish_delayed(claim))?;
            Some(due)
        };
        next.into_iter().for_each(|due| shared.look_by(due));
        Ok(())
    }

    #[inline(always)]
    pub(super) fn describe(&self, payload: &Writable<'_>, stamp: Stamp) {
        let cell = self.level.ring.cell(payload.claim().index());
        cell.set_body(Body {
            // At most max_message_bytes, which is a u32.
            len: payload.len() as u32,
            chunk: payload.chunk(),
        });
        cell.set_envelope(stamp.id, stamp.sent_at);
        if let Some(at) = stamp.expires_at {
            cell.set_expiry(at.millis());
        }
    }

    pub(super) fn describe_all(&self, payload: &Writable<'_>, stamp: Stamp, has_headers: bool) {
        self.describe(payload, stamp);
        if has_headers {
            let cell = self.level.ring.cell(payload.claim().index());
            cell.mark_headers();
        }
    }

    /// Moves the message to a place at the end, because receivers stepped over its cell while it
    /// was written. This sender's next message must not overtake it. If there is no place, it
    /// stays.
    #[cold]
    pub(super) fn publish_at_end(
        &self,
        old: Claim,
        chunk: Option<u32>,
        len: usize,
        kind: Kind,
        stamp: Stamp,
    ) -> Result<Whence, SendFailure> {
        let shared = &*self.shared;
        let claimed = self
            .level
            .ring
            .claim(shared.seat, kind, &mut self.cursor.borrow_mut());
        let Some(new) = claimed else {
            self.done(self.publish_late(old))?;
            return Ok(Whence::AtEnd);
        };
        // The queue was closed meanwhile. A process that checks whether any message is left might
        // check the new place before the move and the old one after it.
        if shared.check_open().is_err() {
            self.give_back(new);
            self.done(self.publish_late(old))?;
            return Ok(Whence::AtEnd);
        }
        // As this sender recorded it before.
        let body = self.level.ring.cell(old.index()).body().before_headers();
        // The headers of a payload in a chunk move with the chunk.
        let all = match body {
            Some(body) if chunk.is_none() => {
                let trailer = self.level.payloads.trailer_bytes(old.index(), body);
                len + trailer.map_err(|bad| SendFailure::damaged(bad.reason))?
            }
            _ => len,
        };
        let mut target = self
            .writable(new, chunk, all)
            .map_err(|lack| self.failure(lack))?;
        let old = match chunk {
            None => {
                let source = self
                    .writable(old, None, all)
                    .map_err(|lack| self.failure(lack))?;
                source.copy_to(&mut target);
                source.into_claim()
            }
            Some(chunk) if self.level.ring.hand_over(chunk, &old, target.claim()) => old,
            Some(_) => {
                self.give_back(target.into_claim());
                return Err(self.lost());
            }
        };
        let target = target.cut(len);
        self.describe_all(&target, stamp, body.is_some());
        if let (Some(slot), Some(keys)) = (stamp.key_slot, &shared.contents.keys) {
            keys.move_to(slot, self.name(target.claim()));
        }
        // If it is stepped over once more, it stays where it is. Otherwise this might never end.
        let published = match self.level.ring.publish(target.into_claim()) {
            Publication::SteppedOver(claim) => self.publish_late(claim),
            other => other,
        };
        // Not earlier: a crash in between would lose the message.
        self.give_back(old);
        self.done(published)?;
        Ok(Whence::AtEnd)
    }

    pub(super) fn publish_late(&self, claim: Claim) -> Publication {
        let cursor = &mut self.cursor.borrow_mut();
        self.level.ring.publish_late(claim, cursor)
    }

    pub(super) fn done(&self, publication: Publication) -> Result<(), SendFailure> {
        match publication {
            Publication::Done => Ok(()),
            Publication::SteppedOver(_) | Publication::Lost => Err(self.lost()),
        }
    }

    /// Returns the error for a place that this sender had before.
    #[cold]
    pub(super) fn failure(&self, lack: Lack) -> SendFailure {
        match lack {
            Lack::Over(failure) => failure,
            Lack::Place | Lack::Memory | Lack::Key => self.lost(),
        }
    }

    #[cold]
    pub(super) fn lost(&self) -> SendFailure {
        let reason = "a cell that was being written is somebody else's";
        let damaged = |_| SendFailure::damaged(reason);
        let gone = |gone| SendFailure::from(Unavailable::from(gone));
        self.shared.usable().map_or_else(gone, damaged)
    }
}
