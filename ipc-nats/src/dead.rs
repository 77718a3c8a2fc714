//! Dead letters: records that carry their payload and their headers.

use std::time::Instant;

use ipc_queue::{DeadLetter, DeadLetterId, DeadReason};

use crate::content::Content;
use crate::priority_stream::{Place, PriorityStream, place_of};
use crate::record::State;
use crate::request_error::RequestError;
use crate::shared::{Shared, Side};
use crate::steps::Steps;

impl Shared {
    pub(crate) async fn dead_letters(
        &self,
        steps: &Steps,
    ) -> Result<Vec<DeadLetter>, RequestError> {
        steps.read("list the records");
        let until = self.connection.soon();
        let mut letters = Vec::new();
        for (stream, place) in self.places(until).await? {
            if place.record.state != State::Dead {
                continue;
            }
            // The listing has no payloads.
            steps.read("read a dead letter");
            let found = self.streams[stream].read(&place.key, until).await?;
            if let Some(place) = found.filter(|found| found.record.state == State::Dead) {
                letters.push(self.letter(stream, place).await?);
            }
        }
        Ok(letters)
    }

    async fn letter(&self, stream: usize, place: Place) -> Result<DeadLetter, RequestError> {
        let record = &place.record;
        let payload = self
            .fetch(stream, &place.key, record, &place.content.payload)
            .await?;
        let id = DeadLetterId::new(number(&place.key), place.seq);
        let message = (record.kind, record.id, record.sent_at);
        let reason = record.reason.unwrap_or(DeadReason::Unknown);
        let mut letter = DeadLetter::new(id, message, reason, payload);
        letter.attempts = record.attempt;
        letter.nacks = record.nacks;
        letter.expiries = record.expiries;
        letter.crashes = record.crashes;
        letter.last_worker = record.holder.as_ref().map(|holder| holder.pid);
        letter.error = record.error.clone();
        letter.headers = place.content.headers;
        Ok(letter)
    }

    /// The place of the dead letter with this id, if the letter is still there.
    async fn find(&self, id: DeadLetterId) -> Result<Option<(usize, Place)>, RequestError> {
        let until = self.connection.soon();
        let (place, version) = id.parts();
        for (index, stream) in self.streams.iter().enumerate() {
            let found = stream.read_place(&stream.place_name(place), until).await?;
            let found = found.filter(|found| found.seq == version);
            if let Some(found) = found.filter(|found| found.record.state == State::Dead) {
                return Ok(Some((index, found)));
            }
        }
        Ok(None)
    }

    /// Makes a dead letter ready again, at its own place.
    ///
    /// First the work queue gets the payload again, with the letter's sequence as its number. Then
    /// the record changes. If this process is killed in between, the receiver that gets the payload
    /// finds the letter with that number and takes it. So a ready record always has a work message.
    pub(crate) async fn requeue(
        &self,
        id: DeadLetterId,
        steps: &Steps,
    ) -> Result<bool, RequestError> {
        let requeued = self.try_requeue(id, steps).await?;
        if requeued {
            self.notify(Side::Items).await;
        }
        Ok(requeued)
    }

    async fn try_requeue(&self, id: DeadLetterId, steps: &Steps) -> Result<bool, RequestError> {
        steps.read("read the dead letter");
        let Some((stream, place)) = self.find(id).await? else {
            return Ok(false);
        };
        let (stream, key) = (&self.streams[stream], &place.key);
        let until = self.connection.soon();
        let mut record = place.record.requeued(place.seq);
        self.connection.process.clone_into(&mut record.process);
        // It is there if another process was killed at this point, or is at this point now.
        steps.read("look for its message in the work queue");
        if !stream.has_work(key, record.work, until).await? {
            steps.change("give it to the work queue");
            stream
                .publish(key, place.seq, &record, place.content, until)
                .await?;
        }
        steps.change("make its record ready");
        match stream
            .write(key, place.seq, &record, Content::default(), until)
            .await
        {
            Ok(_) => Ok(true),
            Err(RequestError::Changed) => self.was_requeued(stream, key, record.work, until).await,
            Err(error) => Err(error),
        }
    }

    /// Returns whether a letter that no longer exists was requeued, and not discarded.
    async fn was_requeued(
        &self,
        stream: &PriorityStream,
        key: &str,
        work: u64,
        until: Instant,
    ) -> Result<bool, RequestError> {
        if let Some(found) = stream.read(key, until).await? {
            return Ok(found.record.work == work);
        }
        // Either the requeued message was acked since, which also removes its work message, or the
        // letter was discarded.
        let was_discarded = stream.has_work(key, work, until).await?;
        if was_discarded {
            stream.drop_work(key).await;
        }
        Ok(!was_discarded)
    }

    pub(crate) async fn discard(
        &self,
        id: DeadLetterId,
        steps: &Steps,
    ) -> Result<bool, RequestError> {
        steps.read("read the dead letter");
        match self.find(id).await? {
            Some((stream, place)) => {
                steps.change("delete the dead letter");
                self.drop_letter(stream, &place).await
            }
            None => Ok(false),
        }
    }

    async fn drop_letter(&self, stream: usize, place: &Place) -> Result<bool, RequestError> {
        let until = self.connection.soon();
        self.settle_key(stream, &place.record, until).await?;
        let dropped = self.streams[stream]
            .erase(&place.key, place.seq, until)
            .await?;
        if dropped {
            self.drop_object(stream, &place.key, &place.record).await;
            self.notify_free_place(stream, &place.key).await;
        }
        Ok(dropped)
    }
}

fn number(key: &str) -> u64 {
    u64::from_str_radix(place_of(key), 16).unwrap_or_default()
}
