//! Restoring a message of another queue as it was there: with its id, its attempts and its state.
//!
//! Only for a process that has the queue for itself ([`Frozen`](crate::shm::Frozen)): the queue is
//! closed for all others. The process may die between any two lines. Until the publishing swap the
//! cell says `WRITING` and names the process, so recovery frees it, and the message is only where
//! it came from. After the swap the message is complete.

use std::time::Duration;

use ipc_shm::clock;

use super::{LevelSender, Stamp, payload};
use crate::error::SendFailure;
use crate::shm::cell::{Cause, Tally};
use crate::shm::due::Due;
use crate::shm::tally::Sent;
use crate::shm::word::CellKind;
use crate::shm::{LETTERS, NotPut};
use crate::snapshot::record::{StoredMessage, StoredState};

impl LevelSender {
    /// Restores a message. Its remaining times are counted from now, after `passed` is subtracted.
    pub(in crate::shm) fn put(
        &self,
        message: &StoredMessage,
        passed: Duration,
    ) -> Result<(), NotPut> {
        let shared = &*self.shared;
        let ring = &self.level.ring;
        let trailer = match message.headers.is_empty() {
            true => Vec::new(),
            false => payload::trailer(&message.headers),
        };
        let (len, all) = (message.payload.len(), message.payload.len() + trailer.len());
        let cursor = &mut self.cursor.borrow_mut();
        let claim = ring.claim(shared.seat, message.kind, cursor);
        let claim = claim.ok_or(NotPut::NoPlace)?;
        let mut chunk = None;
        if all > self.inline_limit(!trailer.is_empty()) {
            let units = self.level.payloads.geometry().units_of(all);
            let limit = match trailer.is_empty() {
                true => self.level.payloads.geometry().plain_units,
                false => self.level.payloads.geometry().units,
            };
            let found = self.free_chunk(units, limit);
            chunk = found.and_then(|found| self.allocate(found, limit, &claim));
            if chunk.is_none() {
                self.give_back(claim);
                return Err(NotPut::NoMemory);
            }
        }
        let place = self.writable(claim, chunk, all);
        let mut place = place.map_err(|lack| NotPut::Failed(self.failure(lack)))?;
        place.bytes_mut()[..len].copy_from_slice(&message.payload);
        place.bytes_mut()[len..].copy_from_slice(&trailer);
        let place = place.cut(len);
        let now = clock::monotonic();
        let after = |left_ms: u64| {
            let left = Duration::from_millis(left_ms).saturating_sub(passed);
            Due::not_before(now.saturating_add(left))
        };
        let expires_at = message.expires_in_ms.map(after);
        let delayed_until = match message.state {
            StoredState::Delayed { left_ms } => Some(after(left_ms)),
            StoredState::Ready | StoredState::Dead => None,
        };
        let stamp = Stamp {
            id: message.id,
            sent_at: message.sent_at,
            expires_at,
            key_slot: None,
        };
        if expires_at.is_some() || delayed_until.is_some() {
            shared.set_timed();
        }
        self.describe_all(&place, stamp, !trailer.is_empty());
        let claim = place.into_claim();
        let tally = Tally::restored(
            [message.nacks, message.expiries, message.crashes],
            Cause::of_number(message.last_end),
            message.last_worker,
            message.signal,
        );
        ring.cell(claim.index())
            .restore_tally(tally, message.deliveries);
        ring.keep_restored_reason(&claim, message.deliveries, &message.reason);
        if let Some(due) = delayed_until {
            ring.note_delay_after(&claim, message.deliveries, due);
        }
        let kind = match message.state {
            StoredState::Ready => CellKind::Ready,
            StoredState::Delayed { .. } => CellKind::Delayed,
            StoredState::Dead => CellKind::Dead,
        };
        if kind == CellKind::Dead {
            // Before the message is visible: a sender that finds the queue full must be told why.
            let flag = shared.flag();
            flag.fetch_or(LETTERS, std::sync::atomic::Ordering::SeqCst);
        }
        let published = ring.publish_restored(claim, kind, message.deliveries);
        self.done(published)
            .map_err(|failure: SendFailure| NotPut::Failed(failure))?;
        self.lane.add(Sent::Messages, 1);
        self.lane.add(Sent::Bytes, len as u64);
        let next = delayed_until.into_iter().chain(expires_at);
        next.for_each(|due| shared.look_by(due));
        Ok(())
    }

    /// Returns the size of the largest payload, including headers, that needs no chunk.
    pub(in crate::shm) fn inline_limit(&self, has_headers: bool) -> usize {
        match has_headers {
            true => self.level.payloads.geometry().inline_bytes,
            false => self.most_inline,
        }
    }
}
