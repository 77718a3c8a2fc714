//! The reasons of nacks and burials: a table beside the cells.
//!
//! A slot's tag names the cell and the generation for which it was last taken. The slot is in use
//! exactly while that cell is not free and still has that generation, as with a chunk (`chunk`). So
//! a reason is freed with its message, whichever process dies. A message's slot is one of the few
//! that start at its cell's number. If there are fewer slots than cells, and all of those are in
//! use, the reason is dropped.
//!
//! | meta from | to | by | when |
//! |---|---|---|---|
//! | any | writing, with a unique number | the message's holder | it is about to nack or bury |
//! | that | length and check of the text, for this delivery | the same | the text is written |
//!
//! A text is only shown if its check matches. So a kill between any two lines leaves the earlier
//! reason, the new one or none. A holder that lost its lease, and was stopped halfway, may write
//! into another holder's text. Then the check of that text fails, and there is no reason.

use std::hash::Hasher;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{Ordering::SeqCst, fence};

use super::cell::ClaimWord;
use super::chunk::Tag;
use super::memory::{Memory, REASON_WORDS, Word};
use super::ring::{Claim, Lease, Ring};
use super::word::State;
use crate::settle::MAX_REASON_BYTES;

/// The number of slots that a message's reason may be in.
const CHOICE: u32 = 16;
const TAG: usize = 0;
/// `delivery:8 | length:8 | check:48`.
const META: usize = 1;
const TEXT: usize = 2;
const DELIVERY_SHIFT: u32 = 56;
const LENGTH_SHIFT: u32 = 48;
const CHECK_MASK: u64 = (1 << LENGTH_SHIFT) - 1;
/// A length that no text has: the text is being written.
const WRITING: u64 = 0xff;

const _: () = assert!(8 * (REASON_WORDS - TEXT) == MAX_REASON_BYTES);

impl<M: Memory> Ring<M> {
    /// Stores the reason of a nack or a burial that is about to happen, in place of the earlier
    /// reason. Has no effect if the lease was lost.
    ///
    /// `reason` has at most [`MAX_REASON_BYTES`]. An empty one removes the earlier one.
    pub fn keep_reason(&self, lease: &Lease, reason: &str) {
        if reason.is_empty() && lease.attempt() == 1 {
            return; // No reason is stored yet.
        }
        let tag = self.tag_of(lease.index()).to_word();
        let mut slots = self.reason_slots(lease.index());
        let own = slots.find(|slot| slot[TAG].load(Acquire) == tag);
        let slot = match own {
            Some(slot) => slot,
            None if reason.is_empty() => return,
            None => match self.take_reason_slot(lease.index(), tag) {
                Some(slot) => slot,
                None => return,
            },
        };
        let meta = &slot[META];
        let delivery = u64::from(lease.attempt()) << DELIVERY_SHIFT;
        let writing = delivery | WRITING << LENGTH_SHIFT | number_of(tag, lease);
        loop {
            let seen = meta.load(Acquire);
            // Checked only now: so the value read was written by this holder, or by an earlier one.
            if !self.is_held(lease) {
                return;
            }
            // Failure: an earlier holder had been stopped before its swap, and has made it now. The
            // next round reads its word.
            if meta.swap_if(seen, writing, SeqCst).is_ok() {
                break;
            }
        }
        let bytes = reason.as_bytes();
        for (word, chunk) in slot[TEXT..].iter().zip(bytes.chunks(8)) {
            let mut text = [0; 8];
            text[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(text), SeqCst);
        }
        let length = (bytes.len() as u64) << LENGTH_SHIFT;
        let done = delivery | length | check(tag, lease.attempt(), bytes);
        // Success publishes the text (release). Failed: another process has the message by now.
        let _ = meta.swap_if(writing, done, AcqRel);
    }

    /// Stores the reason of a message from another queue. For the claimer, before it publishes. No
    /// other process writes there, because the slot is taken for this generation.
    pub fn keep_restored_reason(&self, claim: &Claim, deliveries: u8, reason: &str) {
        if reason.is_empty() || reason.len() > MAX_REASON_BYTES {
            return;
        }
        let tag = self.tag_of(claim.index()).to_word();
        let Some(slot) = self.take_reason_slot(claim.index(), tag) else {
            return;
        };
        let bytes = reason.as_bytes();
        for (word, chunk) in slot[TEXT..].iter().zip(bytes.chunks(8)) {
            let mut text = [0; 8];
            text[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(text), SeqCst);
        }
        let delivery = u64::from(deliveries) << DELIVERY_SHIFT;
        let length = (bytes.len() as u64) << LENGTH_SHIFT;
        slot[META].store(delivery | length | check(tag, deliveries, bytes), SeqCst);
    }

    /// Returns the reason given with the last nack or the burial of the message in this state;
    /// empty if none was given or kept. The caller then checks that the message is still there.
    pub fn reason(&self, index: u32, claim: ClaimWord, state: State) -> String {
        let tag = Tag::of(index, claim.occupancy()).to_word();
        let read = |slot: &[M::Word; REASON_WORDS]| {
            let meta = slot[META].load(Acquire);
            let (delivery, length) = ((meta >> DELIVERY_SHIFT) as u8, meta >> LENGTH_SHIFT & 0xff);
            let words = slot[TEXT..].iter();
            let mut bytes: Vec<u8> = words
                .flat_map(|word| word.load(Relaxed).to_le_bytes())
                .collect();
            fence(Acquire);
            let length = usize::try_from(length).ok()?;
            if length > bytes.len() || !claim.counts_delivery(state, delivery) {
                return None;
            }
            bytes.truncate(length);
            let is_whole = check(tag, delivery, &bytes) == meta & CHECK_MASK;
            String::from_utf8(bytes).ok().filter(|_| is_whole)
        };
        // There may be several slots, if an earlier holder was stopped before it took a slot, and
        // took it now.
        let mut own = self
            .reason_slots(index)
            .filter(|slot| slot[TAG].load(Acquire) == tag);
        own.find_map(read).unwrap_or_default()
    }

    /// Returns the slots that the reason of a message in this cell may be in.
    fn reason_slots(&self, index: u32) -> impl Iterator<Item = &[M::Word; REASON_WORDS]> {
        let slots = self.memory().reasons();
        let choice = (0..CHOICE.min(slots)).map(move |step| (index % slots + step) % slots);
        choice.map(|slot| self.memory().reason(slot))
    }

    fn take_reason_slot(&self, index: u32, tag: u64) -> Option<&[M::Word; REASON_WORDS]> {
        self.reason_slots(index).find(|slot| {
            let seen = slot[TAG].load(Acquire);
            // Already taken for this message: by an earlier holder that was stopped before it took
            // the slot.
            if seen == tag {
                return true;
            }
            // As with a chunk, a tag that is over stays over. Failed: the slot is lost, unless the
            // same tag was written, by an earlier holder of this message.
            self.is_over(seen)
                && slot[TAG]
                    .swap_if(seen, tag, AcqRel)
                    .err()
                    .is_none_or(|now| now == tag)
        })
    }
}

/// Returns a number that distinguishes what this delivery writes from what others write: into this
/// slot now, or when it was another message's.
fn number_of(tag: u64, lease: &Lease) -> u64 {
    let mut hasher = siphasher::sip::SipHasher24::new_with_keys(tag, lease.lap_number());
    hasher.write(b"writing");
    hasher.finish() & CHECK_MASK
}

fn check(tag: u64, delivery: u8, text: &[u8]) -> u64 {
    let mut hasher = siphasher::sip::SipHasher24::new_with_keys(tag, delivery.into());
    hasher.write(text);
    hasher.finish() & CHECK_MASK
}
