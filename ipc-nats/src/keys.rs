//! Keys: that a message is sent once while its key is remembered.
//!
//! A key's record is a *claim*: which message has it, since when, and that message's place. What became of the message its place
//! says, and when that is gone, the claim: whoever takes a message out of the queue that was accepted (acks it, drops it) first
//! writes into its claim that it was *settled*. So
//!
//! | the claim says | the place | means |
//! |---|---|---|
//! | settled | any | it was sent |
//! | a place | received before, or in the work queue | it was sent |
//! | a place | on loan, or not in the work queue yet | somebody is about to send it; nobody any more, if that process is dead |
//! | a place | gone | it was never sent: its sender withdrew, or died and was cleared away |
//!
//! and there is no instruction after which a killed process leaves a key of which nobody knows whether its message was sent.
//! Each change names the sequence that it replaces, here as there.
//!
//! JetStream's own `Nats-Msg-Id` can't do this: a server forgets the ids of messages that were acked when it starts again, it
//! takes a message that was withdrawn for sent, and does not say which message has an id.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc_proto::MessageId;
use ipc_queue::transport::SendPortError;
use ipc_queue::{NoRoom, SendFailure, SendOptions};
use serde::{Deserialize, Serialize};

use crate::content::Content;
use crate::lane::{Place, Trouble};
use crate::record::{self, Record, State};
use crate::repair::is_untouched;
use crate::shared::Shared;
use crate::steps::Steps;

/// What a key's record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// Which message has it.
    id: MessageId,
    /// Since when, in nanoseconds since 1970.
    since: u64,
    /// Its place; `None`: it was sent and settled.
    place: Option<String>,
}

/// What a message's record says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keyed {
    key: u64,
    /// The sequence of the key's record.
    claim: u64,
    since: u64,
}

/// Whether a key can be had.
enum Verdict {
    /// By whoever replaces the record of this sequence.
    Free(u64),
    InUse,
    Sent(MessageId),
}

/// What became of a message whose place is still there.
enum Fate {
    Sent,
    /// Its sender is about to send it.
    InUse,
    /// It was not sent, and its place is free now.
    Never,
}

impl Shared {
    /// Takes the key for a message that has the place `place` already; `None`: it has no key.
    ///
    /// # Errors
    /// [`SendFailure::Duplicate`], or [`NoRoom::Key`]. The place is the caller's to give back.
    pub(crate) async fn claim(
        self: &Arc<Self>,
        lane: usize,
        options: &SendOptions,
        id: MessageId,
        place: &str,
        until: Instant,
    ) -> Result<Option<Keyed>, SendPortError> {
        let Some(key) = options.key.map(|key| key.number()) else {
            return Ok(None);
        };
        loop {
            let free = self.check_key(lane, options, until).await?;
            let since = record::now();
            let claim = Claim {
                id,
                since,
                place: Some(place.to_owned()),
            };
            let written = self.lanes[lane].write_key(key, free, &claim, until).await;
            match written {
                Ok(claim) => return Ok(Some(Keyed { key, claim, since })),
                Err(Trouble::Changed) => {}
                Err(trouble) => return Err(self.send_failure(trouble).into()),
            }
        }
    }

    /// Which record a claim would replace; before a place is taken for a message that nobody wants.
    pub(crate) async fn check_key(
        self: &Arc<Self>,
        lane: usize,
        options: &SendOptions,
        until: Instant,
    ) -> Result<u64, SendPortError> {
        let Some(key) = options.key else {
            return Ok(0);
        };
        let verdict = self.judge(lane, key.number(), until).await;
        match verdict.map_err(|trouble| self.send_failure(trouble))? {
            Verdict::Free(seq) => Ok(seq),
            Verdict::InUse => Err(SendPortError::NoRoom {
                missing: NoRoom::Key,
                waited: None,
                dead: 0,
            }),
            Verdict::Sent(of) => {
                self.counts.add(|counts| counts.duplicates += 1);
                Err(SendFailure::Duplicate { of }.into())
            }
        }
    }

    async fn judge(
        self: &Arc<Self>,
        lane: usize,
        key: u64,
        until: Instant,
    ) -> Result<Verdict, Trouble> {
        loop {
            let (seq, claim) = self.lanes[lane].read_key(key, until).await?;
            let Some(claim) = claim.filter(|claim| !self.is_over(claim.since)) else {
                return Ok(Verdict::Free(seq));
            };
            let Some(place) = &claim.place else {
                return Ok(Verdict::Sent(claim.id));
            };
            let Some(place) = self.lanes[lane].read(place, until).await? else {
                return Ok(Verdict::Free(seq));
            };
            match self.judge_place(lane, place, until).await {
                Ok(Fate::Sent) => return Ok(Verdict::Sent(claim.id)),
                Ok(Fate::InUse) => return Ok(Verdict::InUse),
                Ok(Fate::Never) => return Ok(Verdict::Free(seq)),
                Err(Trouble::Changed) => {}
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// Forgets a key whose message was sent, in each lane: its record then says that it was claimed before all windows, so the
    /// next claim replaces it, and the message that had it finds another record than its own when it is settled.
    pub(crate) async fn forget_key(
        self: &Arc<Self>,
        key: u64,
        steps: &Steps,
    ) -> Result<bool, Trouble> {
        let mut forgotten = false;
        for lane in 0..self.lanes.len() {
            loop {
                steps.read("read the record of the key");
                let until = self.connection.soon();
                let Verdict::Sent(id) = self.judge(lane, key, until).await? else {
                    break;
                };
                let (seq, claim) = self.lanes[lane].read_key(key, until).await?;
                // Another message may have it by now.
                if claim.is_none_or(|claim| claim.id != id) {
                    continue;
                }
                let over = Claim {
                    id,
                    since: 0,
                    place: None,
                };
                steps.change("write the record of the key");
                match self.lanes[lane].write_key(key, seq, &over, until).await {
                    Ok(_) => forgotten = true,
                    Err(Trouble::Changed) => continue,
                    Err(trouble) => return Err(trouble),
                }
                break;
            }
        }
        Ok(forgotten)
    }

    /// What became of the message that has this place. Settles it, if its sender can't any more.
    async fn judge_place(
        self: &Arc<Self>,
        lane: usize,
        mut place: Place,
        until: Instant,
    ) -> Result<Fate, Trouble> {
        let is_filled = match place.record.state {
            State::Writing => false,
            State::Ready if is_untouched(&place.record) => true,
            _ => return Ok(Fate::Sent),
        };
        let has_work = is_filled && self.lanes[lane].has_work(&place.key, 0, until).await?;
        if !has_work && !self.is_given_up(&place).await {
            return Ok(Fate::InUse);
        }
        if is_filled {
            // Its sender may just withdraw it, or give it to the work queue: from here on it can't do the one, and
            // looks whether it did the other.
            let record = &place.record;
            let written =
                self.lanes[lane].write(&place.key, place.seq, record, Content::default(), until);
            place.seq = written.await?;
            if has_work || self.lanes[lane].has_work(&place.key, 0, until).await? {
                return Ok(Fate::Sent);
            }
        }
        match self.take_back(lane, &place, until).await? {
            true => Ok(Fate::Never),
            false => Err(Trouble::Changed),
        }
    }

    /// Whether a message that was just given to the work queue was accepted: nobody took its place `seq` back in between,
    /// believing this process dead.
    pub(crate) async fn is_accepted(
        &self,
        lane: usize,
        place: &str,
        seq: u64,
        record: &Record,
        until: Instant,
    ) -> Result<bool, Trouble> {
        loop {
            let Some(found) = self.lanes[lane].read(place, until).await? else {
                return self.was_settled(lane, record, until).await;
            };
            let is_waiting = found.record.state == State::Ready && is_untouched(&found.record);
            if !is_waiting || found.seq == seq {
                return Ok(true);
            }
            // Somebody judges it, and may have looked before it was in the work queue.
            let written =
                self.lanes[lane].write(place, found.seq, record, Content::default(), until);
            match written.await {
                Ok(_) => return Ok(true),
                Err(Trouble::Changed) => {}
                Err(trouble) => return Err(trouble),
            }
        }
    }

    async fn was_settled(
        &self,
        lane: usize,
        record: &Record,
        until: Instant,
    ) -> Result<bool, Trouble> {
        let Some(keyed) = record.keyed else {
            return Ok(false);
        };
        let (_, claim) = self.lanes[lane].read_key(keyed.key, until).await?;
        Ok(claim.is_some_and(|claim| claim.id == record.id && claim.place.is_none()))
    }

    /// Notes that a message was sent and is about to go. Before its place goes.
    pub(crate) async fn settle_key(
        &self,
        lane: usize,
        record: &Record,
        until: Instant,
    ) -> Result<(), Trouble> {
        let Some(keyed) = record.keyed.filter(|keyed| !self.is_over(keyed.since)) else {
            return Ok(());
        };
        let settled = Claim {
            id: record.id,
            since: keyed.since,
            place: None,
        };
        let lane = &self.lanes[lane];
        match lane
            .write_key(keyed.key, keyed.claim, &settled, until)
            .await
        {
            // Settled before by one who did not come to drop it; or the window is over, and another message has the key.
            Ok(_) | Err(Trouble::Changed) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    /// Whether a key that was claimed then is forgotten.
    fn is_over(&self, since: u64) -> bool {
        let window = self.entry.settings.dedup_window.unwrap_or(Duration::ZERO);
        u128::from(record::now().saturating_sub(since)) >= window.as_nanos()
    }
}
