//! Dead letters: records that carry their payload.

use std::sync::Arc;
use std::time::Instant;

use ipc_proto::{MessageId, SenderId};
use ipc_queue::transport::Wait;
use ipc_queue::{DeadLetter, DeadLetterId, DeadReason, Headers, SendFailure, SendOptions};

use crate::lane::{Place, Trouble};
use crate::record::State;
use crate::shared::{OPERATION, Shared, Side};

impl Shared {
    pub(crate) async fn dead_letters(&self) -> Result<Vec<DeadLetter>, Trouble> {
        let until = Instant::now() + OPERATION;
        let mut letters = Vec::new();
        for (lane, place) in self.places(until).await? {
            if place.record.state != State::Dead {
                continue;
            }
            // The listing has no payloads.
            let found = self.lanes[lane].read(&place.key, until).await?;
            if let Some(place) = found.filter(|found| found.record.state == State::Dead) {
                letters.push(self.letter(lane, place).await?);
            }
        }
        Ok(letters)
    }

    async fn letter(&self, lane: usize, place: Place) -> Result<DeadLetter, Trouble> {
        let record = &place.record;
        let payload = self.fetch(lane, &place.key, record, &place.payload).await?;
        Ok(DeadLetter {
            id: DeadLetterId::new(number(&place.key), place.seq),
            message: record.id,
            kind: record.kind,
            sent_at: record.sent_at,
            attempts: record.attempt,
            reason: record.reason.unwrap_or(DeadReason::Unknown),
            nacks: record.nacks,
            expiries: record.expiries,
            crashes: record.crashes,
            last_worker: record.holder.as_ref().map(|holder| holder.pid),
            signal: None,
            error: String::new(),
            headers: Headers::new(),
            payload,
        })
    }

    /// The dead letter's place, if it is still the one that is meant.
    async fn find(&self, id: DeadLetterId) -> Result<Option<(usize, Place)>, Trouble> {
        let until = Instant::now() + OPERATION;
        let (place, version) = id.parts();
        for (index, lane) in self.lanes.iter().enumerate() {
            let found = lane.read(&format!("{place:016x}"), until).await?;
            let found = found.filter(|found| found.seq == version);
            if let Some(found) = found.filter(|found| found.record.state == State::Dead) {
                return Ok(Some((index, found)));
            }
        }
        Ok(None)
    }

    pub(crate) async fn requeue(self: &Arc<Self>, id: DeadLetterId) -> Result<bool, SendFailure> {
        let failure = |trouble| self.send_failure(trouble);
        let Some((lane, place)) = self.find(id).await.map_err(failure)? else {
            return Ok(false);
        };
        let record = &place.record;
        let payload = self.fetch(lane, &place.key, record, &place.payload);
        let payload = payload.await.map_err(failure)?;
        let options = SendOptions::new().kind(record.kind);
        let copy = MessageId::new(SenderId::new(fastrand::u64(1..)), 0);
        self.send(lane, copy, payload.into(), &options, Wait::No)
            .await?;
        self.drop_letter(lane, &place).await.map_err(failure)?;
        Ok(true)
    }

    pub(crate) async fn discard(&self, id: DeadLetterId) -> Result<bool, Trouble> {
        match self.find(id).await? {
            Some((lane, place)) => self.drop_letter(lane, &place).await,
            None => Ok(false),
        }
    }

    async fn drop_letter(&self, lane: usize, place: &Place) -> Result<bool, Trouble> {
        let until = Instant::now() + OPERATION;
        self.settle_key(lane, &place.record, until).await?;
        let dropped = self.lanes[lane].erase(&place.key, place.seq, until).await?;
        if dropped {
            self.drop_object(lane, &place.key, &place.record).await;
            self.tell(Side::Room).await;
        }
        Ok(dropped)
    }
}

fn number(key: &str) -> u64 {
    u64::from_str_radix(key, 16).unwrap_or_default()
}
