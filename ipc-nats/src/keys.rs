//! De-duplication keys: a message is sent once while its key is remembered.
//!
//! A key's record is a *claim*: the message that has the key, the time of the claim, and the
//! message's place. The place says what happened to the message. When the place is gone, the claim
//! says it: a process that takes an accepted message out of the queue (by an ack or a drop) first
//! writes into its claim that it was *settled*. So:
//!
//! | the claim says | the place | means |
//! |---|---|---|
//! | settled | any | it was sent |
//! | a place | received before, or in the work queue | it was sent |
//! | a place | on loan, or not in the work queue yet | its sender is about to send it; if that process is dead, it was not sent |
//! | a place | gone | it was never sent: its sender withdrew, or died and was cleared away |
//!
//! So a killed process never leaves a key for which it is unknown whether its message was sent.
//! Each change names the sequence that it replaces, as for places.
//!
//! JetStream's own `Nats-Msg-Id` can't do this. A server that starts again forgets the ids of acked
//! messages. It counts a withdrawn message as sent. It does not say which message has an id.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc_proto::MessageId;
use ipc_queue::transport::SendPortError;
use ipc_queue::{NoRoom, SendFailure, SendOptions};
use serde::{Deserialize, Serialize};

use crate::content::Content;
use crate::priority_stream::Place;
use crate::record::{self, Keyed, Record, State};
use crate::repair::is_untouched;
use crate::request_error::RequestError;
use crate::shared::Shared;
use crate::steps::Steps;

/// The content of a key's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// The message that has the key.
    id: MessageId,
    /// The time of the claim, in nanoseconds since 1970.
    since: u64,
    /// The message's place. `None` once it was sent and settled.
    place: Option<String>,
}

/// The answer to a request for a key.
enum Verdict {
    /// The key is free. A claim must name this sequence, that of the record which it replaces.
    Free(u64),
    InUse,
    Sent(MessageId),
}

/// The fate of a message whose place still exists.
enum Fate {
    Sent,
    /// Its sender is about to send it.
    InUse,
    /// It was not sent, and its place is free now.
    Never,
}

impl Shared {
    /// Claims the key for a message that already has the place `place`; `None`: the message has no
    /// key.
    ///
    /// # Errors
    /// [`SendFailure::Duplicate`], or [`NoRoom::Key`]. The caller must return the place.
    pub(crate) async fn claim(
        self: &Arc<Self>,
        stream: usize,
        options: &SendOptions,
        id: MessageId,
        place: &str,
        until: Instant,
    ) -> Result<Option<Keyed>, SendPortError> {
        let Some(key) = options.key.map(|key| key.number()) else {
            return Ok(None);
        };
        loop {
            let free = self.check_key(stream, options, until).await?;
            let since = record::now();
            let claim = Claim {
                id,
                since,
                place: Some(place.to_owned()),
            };
            let written = self.streams[stream]
                .write_key(key, free, &claim, until)
                .await;
            match written {
                Ok(claim) => return Ok(Some(Keyed { key, claim, since })),
                Err(RequestError::Changed) => {}
                Err(error) => return Err(self.send_failure(error).into()),
            }
        }
    }

    /// Checks which record a claim would replace, before a place is taken for a message that would
    /// be refused.
    pub(crate) async fn check_key(
        self: &Arc<Self>,
        stream: usize,
        options: &SendOptions,
        until: Instant,
    ) -> Result<u64, SendPortError> {
        let Some(key) = options.key else {
            return Ok(0);
        };
        let verdict = self.judge(stream, key.number(), until).await;
        match verdict.map_err(|error| self.send_failure(error))? {
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
        stream: usize,
        key: u64,
        until: Instant,
    ) -> Result<Verdict, RequestError> {
        loop {
            let (seq, claim) = self.streams[stream].read_key(key, until).await?;
            let Some(claim) = claim.filter(|claim| !self.is_over(claim.since)) else {
                return Ok(Verdict::Free(seq));
            };
            let Some(place) = &claim.place else {
                return Ok(Verdict::Sent(claim.id));
            };
            let Some(place) = self.streams[stream].read(place, until).await? else {
                return Ok(Verdict::Free(seq));
            };
            match self.judge_place(stream, place, until).await {
                Ok(Fate::Sent) => return Ok(Verdict::Sent(claim.id)),
                Ok(Fate::InUse) => return Ok(Verdict::InUse),
                Ok(Fate::Never) => return Ok(Verdict::Free(seq)),
                Err(RequestError::Changed) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Forgets a key whose message was sent, in each priority stream. The key's record then has a
    /// claim older than all windows, so the next claim replaces it. The message that had the key
    /// finds a record that is not its own when it is settled.
    pub(crate) async fn forget_key(
        self: &Arc<Self>,
        key: u64,
        steps: &Steps,
    ) -> Result<bool, RequestError> {
        let mut forgotten = false;
        for stream in 0..self.streams.len() {
            loop {
                steps.read("read the record of the key");
                let until = self.connection.soon();
                let Verdict::Sent(id) = self.judge(stream, key, until).await? else {
                    break;
                };
                let (seq, claim) = self.streams[stream].read_key(key, until).await?;
                // Another message may have the key by now.
                if claim.is_none_or(|claim| claim.id != id) {
                    continue;
                }
                let over = Claim {
                    id,
                    since: 0,
                    place: None,
                };
                steps.change("write the record of the key");
                match self.streams[stream].write_key(key, seq, &over, until).await {
                    Ok(_) => forgotten = true,
                    Err(RequestError::Changed) => continue,
                    Err(error) => return Err(error),
                }
                break;
            }
        }
        Ok(forgotten)
    }

    /// Finds the fate of the message that has this place. Settles the place if its sender no longer
    /// can.
    async fn judge_place(
        self: &Arc<Self>,
        stream: usize,
        mut place: Place,
        until: Instant,
    ) -> Result<Fate, RequestError> {
        let is_filled = match place.record.state {
            State::Writing => false,
            State::Ready if is_untouched(&place.record) => true,
            _ => return Ok(Fate::Sent),
        };
        let has_work = is_filled && self.streams[stream].has_work(&place.key, 0, until).await?;
        if !has_work && !self.is_given_up(&place).await {
            return Ok(Fate::InUse);
        }
        if is_filled {
            // The sender may be about to withdraw the message, or to publish it to the work queue.
            // From here on it can't withdraw. The check below finds whether it has published.
            let record = &place.record;
            let written = self.streams[stream].write(
                &place.key,
                place.seq,
                record,
                Content::default(),
                until,
            );
            place.seq = written.await?;
            if has_work || self.streams[stream].has_work(&place.key, 0, until).await? {
                return Ok(Fate::Sent);
            }
        }
        match self.take_back(stream, &place, until).await? {
            true => Ok(Fate::Never),
            false => Err(RequestError::Changed),
        }
    }

    /// Returns whether a message that was just published to the work queue was accepted. It was not
    /// if another process took its place `seq` back in between, because it took this process for
    /// dead.
    pub(crate) async fn is_accepted(
        &self,
        stream: usize,
        place: &str,
        seq: u64,
        record: &Record,
        until: Instant,
    ) -> Result<bool, RequestError> {
        loop {
            let Some(found) = self.streams[stream].read(place, until).await? else {
                return self.was_settled(stream, record, until).await;
            };
            let is_waiting = found.record.state == State::Ready && is_untouched(&found.record);
            if !is_waiting || found.seq == seq {
                return Ok(true);
            }
            // Another process judges it, and may have checked before it was in the work queue.
            let written =
                self.streams[stream].write(place, found.seq, record, Content::default(), until);
            match written.await {
                Ok(_) => return Ok(true),
                Err(RequestError::Changed) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn was_settled(
        &self,
        stream: usize,
        record: &Record,
        until: Instant,
    ) -> Result<bool, RequestError> {
        let Some(keyed) = record.keyed else {
            return Ok(false);
        };
        let (_, claim) = self.streams[stream].read_key(keyed.key, until).await?;
        Ok(claim.is_some_and(|claim| claim.id == record.id && claim.place.is_none()))
    }

    /// Notes that a message was sent and is about to leave the queue. Called before its place is
    /// deleted.
    pub(crate) async fn settle_key(
        &self,
        stream: usize,
        record: &Record,
        until: Instant,
    ) -> Result<(), RequestError> {
        let Some(keyed) = record.keyed.filter(|keyed| !self.is_over(keyed.since)) else {
            return Ok(());
        };
        let settled = Claim {
            id: record.id,
            since: keyed.since,
            place: None,
        };
        let stream = &self.streams[stream];
        match stream
            .write_key(keyed.key, keyed.claim, &settled, until)
            .await
        {
            // Another process settled it before but did not drop the message; or the window is
            // over, and another message has the key.
            Ok(_) | Err(RequestError::Changed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns whether a key claimed at that time is forgotten.
    fn is_over(&self, since: u64) -> bool {
        let window = self.entry.settings.dedup_window.unwrap_or(Duration::ZERO);
        u128::from(record::now().saturating_sub(since)) >= window.as_nanos()
    }
}
