//! Sending a batch: takes the places of several messages at the same time, then publishes these
//! messages to the work queue, all in flight.
//!
//! Places are taken in any order, because no receiver sees them. Messages are handed to the
//! connection in the order of the batch, and the server stores what one connection publishes in the
//! order in which it comes. If one of them is not stored, later ones may be. Those are taken back
//! before the failed one is tried again, so that no receiver gets them first. A receiver that
//! already has one keeps it: then that message counts as sent.
//!
//! A process that dies meanwhile has sent some of the first messages. The places of the others are
//! taken back like those of any dead sender.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, future, stream};
use ipc_proto::{Headers, Kind, MessageId, SenderId, Timestamp};
use ipc_queue::transport::{BatchPortError, SendPortError, Wait};
use ipc_queue::{SendFailure, SendOptions, Unavailable};

use super::{GUESSES, IN_FLIGHT, NatsSender, SURE_FOR};
use crate::content::Content;
use crate::priority_stream::PriorityStream;
use crate::record::Record;
use crate::request_error::RequestError;
use crate::runtime::block_on;
use crate::shared::{Life, Shared, Side};

/// A batch on its way.
struct Batch<'a> {
    shared: &'a Arc<Shared>,
    stream: usize,
    options: SendOptions,
    wait: Wait,
    sender: SenderId,
    /// The sequence of the first message.
    first: u64,
    payloads: &'a [&'a [u8]],
    /// The messages that were sent.
    sent: Vec<bool>,
    /// The number of ids used, including those of messages that were published but may not count as
    /// sent.
    used: usize,
}

/// A message of a batch.
#[derive(Clone)]
struct Message {
    /// Its index in the batch.
    index: usize,
    record: Record,
    content: Content,
}

/// A message that has a place.
struct Placed {
    message: Message,
    key: String,
    seq: u64,
    since: Instant,
}

/// Sends these messages.
pub(super) fn send(
    sender: &NatsSender,
    payloads: &[&[u8]],
    kind: Kind,
    wait: Wait,
) -> Result<(), BatchPortError> {
    let refused = payloads.iter().enumerate().find_map(|(index, payload)| {
        let failure = sender.check(payload.len()).err()?;
        Some(BatchPortError::new(index, failure.into()))
    });
    let count = refused.as_ref().map_or(payloads.len(), |error| error.sent);
    let options = SendOptions::new().kind(kind);
    let stream = sender.shared.lane_for(&options);
    let stream = stream.map_err(|failure| BatchPortError::new(0, failure.into()))?;
    let mut batch = Batch {
        shared: &sender.shared,
        stream,
        options,
        wait,
        sender: sender.ids.sender,
        first: sender.ids.take_some(count as u64),
        payloads: &payloads[..count],
        sent: vec![false; count],
        used: 0,
    };
    let end = block_on(batch.send());
    let (first, used) = (batch.first, batch.used as u64);
    sender.ids.give_back(first + used, count as u64 - used);
    match (end, refused) {
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(refused)) => Err(refused),
        (Err(error), _) => {
            let sent = batch.sent.iter().take_while(|sent| **sent).count();
            Err(BatchPortError::new(sent, error))
        }
    }
}

impl Batch<'_> {
    async fn send(&mut self) -> Result<(), SendPortError> {
        let mut is_full = false;
        loop {
            let most = self.most_at_once(is_full);
            let left = (0..self.sent.len()).filter(|index| !self.sent[*index]);
            let messages: Vec<_> = left.take(most).map(|index| self.message(index)).collect();
            let Some(first) = messages.first().cloned() else {
                return Ok(());
            };
            let count = messages.len();
            let mut placed = match is_full && count == 1 {
                true => Vec::new(),
                false => self.place(messages).await?,
            };
            is_full = placed.len() < count;
            if placed.is_empty() {
                placed.push(self.wait_for_place(first).await?);
                is_full = true;
            }
            self.publish(placed).await?;
        }
    }

    /// The number of places that are tried at the same time.
    fn most_at_once(&self, is_full: bool) -> usize {
        let capacity = self.shared.entry.settings.capacity as usize;
        let most = match is_full {
            true => self.stream().known_vacancies(),
            false => capacity,
        };
        most.clamp(1, IN_FLIGHT)
    }

    fn stream(&self) -> &PriorityStream {
        &self.shared.streams[self.stream]
    }

    fn message(&self, index: usize) -> Message {
        let payload = Bytes::copy_from_slice(self.payloads[index]);
        let content = Content::new(Headers::new(), payload);
        let id = MessageId::new(self.sender, self.first + index as u64);
        let record = self.shared.fresh(id, &self.options, &content);
        Message {
            index,
            record,
            content,
        }
    }

    fn check_life(&self) -> Result<(), SendFailure> {
        match self.shared.life() {
            Life::Removed => Err(Unavailable::Removed.into()),
            Life::Closed => Err(SendFailure::Closed),
            Life::Open => Ok(()),
        }
    }

    // --- places ----------------------------------------------------------------------------------

    /// Takes a place for the message, and waits for one as the caller allows.
    async fn wait_for_place(&self, message: Message) -> Result<Placed, SendPortError> {
        let taken = self
            .shared
            .take_place(self.stream, &message.record, &self.options, self.wait);
        let (key, seq) = taken.await?;
        Ok(Placed {
            message,
            key,
            seq,
            since: Instant::now(),
        })
    }

    /// Tries to take a place for each of these messages. Returns the first of them, as many as
    /// there were places.
    async fn place(&self, messages: Vec<Message>) -> Result<Vec<Placed>, SendPortError> {
        self.check_life()?;
        let until = self.shared.until(self.wait);
        let (mut placed, mut left) = (Vec::new(), messages);
        let mut error = None;
        for _ in 0..=GUESSES {
            let since = Instant::now();
            let tries = left.drain(..).map(|message| self.try_place(message, until));
            let tried: Vec<_> = stream::iter(tries).buffered(IN_FLIGHT).collect().await;
            let mut is_full = false;
            for (message, key, written) in tried {
                match written {
                    Ok(seq) => placed.push(Placed {
                        message,
                        key,
                        seq,
                        since,
                    }),
                    Err(RequestError::Changed) => left.push(message),
                    Err(RequestError::Full) => {
                        left.push(message);
                        is_full = true;
                    }
                    Err(other) => {
                        self.shared.forget(self.stream, key);
                        error = error.or(Some(other));
                    }
                }
            }
            if left.is_empty() || is_full || error.is_some() {
                break;
            }
        }
        if let Some(error) = error {
            self.release(placed);
            return Err(self.shared.send_failure(error).into());
        }
        // The places may have become free only after the queue was closed.
        if let Err(failure) = self.check_life() {
            self.release(placed);
            return Err(failure.into());
        }
        let filled = self.close_gaps(placed, left, until).await;
        filled.map_err(|error| self.shared.send_failure(error).into())
    }

    async fn try_place(
        &self,
        message: Message,
        until: Instant,
    ) -> (Message, String, Result<u64, RequestError>) {
        let stream = self.stream();
        let key = stream.new_key();
        let written = stream.write(&key, 0, &message.record, Content::default(), until);
        let written = written.await;
        (message, key, written)
    }

    /// Gives the places of later messages to earlier ones that have none.
    async fn close_gaps(
        &self,
        mut placed: Vec<Placed>,
        mut without: Vec<Message>,
        until: Instant,
    ) -> Result<Vec<Placed>, RequestError> {
        placed.sort_unstable_by_key(|placed| placed.message.index);
        without.sort_unstable_by_key(|message| message.index);
        let mut moves = Vec::new();
        for message in without {
            let is_later = |last: &mut Placed| last.message.index > message.index;
            let Some(place) = placed.pop_if(is_later) else {
                break;
            };
            moves.push(self.give_to(message, place, until));
        }
        let moved: Vec<_> = stream::iter(moves).buffered(IN_FLIGHT).collect().await;
        let mut error = None;
        for moved in moved {
            match moved {
                Ok(place) => placed.push(place),
                Err(other) => error = Some(other),
            }
        }
        if let Some(error) = error {
            self.release(placed);
            return Err(error);
        }
        placed.sort_unstable_by_key(|placed| placed.message.index);
        Ok(placed)
    }

    async fn give_to(
        &self,
        message: Message,
        place: Placed,
        until: Instant,
    ) -> Result<Placed, RequestError> {
        let Placed { key, seq, .. } = place;
        let since = Instant::now();
        let record = &message.record;
        let written = self
            .stream()
            .write(&key, seq, record, Content::default(), until);
        match written.await {
            Ok(seq) => Ok(Placed {
                message,
                key,
                seq,
                since,
            }),
            Err(error) => {
                self.shared.forget(self.stream, key);
                Err(error)
            }
        }
    }

    /// Takes back the places of messages that no receiver may get.
    fn release(&self, placed: impl IntoIterator<Item = Placed>) {
        for place in placed {
            self.shared.withdraw(self.stream, place.key, place.seq);
        }
    }

    // --- work ------------------------------------------------------------------------------------

    /// Publishes messages that have their places, in their order.
    async fn publish(&mut self, mut placed: Vec<Placed>) -> Result<(), SendFailure> {
        let until = self.shared.until(self.wait);
        let stored = self.store(&mut placed).await;
        let mut answers = Vec::with_capacity(placed.len());
        for Placed {
            message, key, seq, ..
        } in &mut placed
        {
            self.used = self.used.max(message.index + 1);
            message.record.sent_at = Timestamp::from(SystemTime::now());
            let content = message.content.clone();
            let stream = &self.shared.streams[self.stream];
            // This returns as soon as the connection has the request, so the requests keep their
            // order.
            let answer = stream.begin_publish(key, *seq, &message.record, content);
            answers.push(answer.await);
        }
        let answers = answers.into_iter().map(async |answer| match answer {
            Some(answer) => answer.await.is_ok(),
            None => false,
        });
        let answers = future::join_all(answers).await;
        let published = answers.iter().take_while(|stored| **stored).count();
        let later = placed.split_off(published);
        let mut failure = None;
        for place in placed {
            let sent = self.check_sent(place, until).await;
            failure = failure.or(sent.err());
        }
        if let Err(error) = self.republish(later, until).await {
            failure = failure.or(Some(error));
        }
        self.shared.notify(Side::Items).await;
        match failure.or(stored.err()) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Stores the payloads that are too large for a message. After an error, only the messages
    /// before it are left.
    async fn store(&self, placed: &mut Vec<Placed>) -> Result<(), SendFailure> {
        for at in 0..placed.len() {
            let Placed { message, key, .. } = &mut placed[at];
            if message.record.object.is_none() {
                continue;
            }
            let content = std::mem::take(&mut message.content);
            let stored = self
                .shared
                .store(self.stream, key, &message.record, content);
            match stored.await {
                Ok(content) => message.content = content,
                Err(error) => {
                    let rest = placed.split_off(at);
                    self.release(rest);
                    return Err(self.shared.send_failure(error));
                }
            }
        }
        Ok(())
    }

    /// Counts a published message as sent, if it is.
    async fn check_sent(&mut self, place: Placed, until: Instant) -> Result<(), SendFailure> {
        let Placed {
            message,
            key,
            seq,
            since,
        } = place;
        let shared = self.shared;
        if since.elapsed() > SURE_FOR {
            let accepted = shared.is_accepted(self.stream, &key, seq, &message.record, until);
            match accepted.await {
                Ok(true) => {}
                Ok(false) => return Err(shared.send_failure(RequestError::Changed)),
                Err(error) => {
                    shared.withdraw(self.stream, key, seq);
                    return Err(shared.send_failure(error));
                }
            }
        }
        self.count(message.index);
        Ok(())
    }

    fn count(&mut self, index: usize) {
        self.sent[index] = true;
        let bytes = self.payloads[index].len() as u64;
        self.shared.counts.add(|counts| {
            counts.sent += 1;
            counts.bytes_sent += bytes;
        });
    }

    /// Takes the later ones of these messages back, then publishes the first again. It is unknown
    /// which of them the work queue has. The caller tries those that were taken back again.
    async fn republish(
        &mut self,
        mut placed: Vec<Placed>,
        until: Instant,
    ) -> Result<(), SendFailure> {
        if placed.is_empty() {
            return Ok(());
        }
        let later = placed.split_off(1);
        let shared = self.shared;
        let mut failure = None;
        for place in later {
            let stream = &shared.streams[self.stream];
            match stream.erase(&place.key, place.seq, until).await {
                Ok(true) => shared.forget_work(self.stream, place.key),
                // A receiver has it, or another process judged that it was sent.
                Ok(false) => self.count(place.message.index),
                Err(error) => {
                    shared.withdraw(self.stream, place.key, place.seq);
                    failure = Some(shared.send_failure(error));
                }
            }
        }
        for place in placed {
            let (message, stream) = (&place.message, &shared.streams[self.stream]);
            let content = message.content.clone();
            let published = stream.publish(&place.key, place.seq, &message.record, content, until);
            if let Err(error) = published.await {
                shared.withdraw(self.stream, place.key, place.seq);
                return Err(shared.send_failure(error));
            }
            self.check_sent(place, until).await?;
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}
