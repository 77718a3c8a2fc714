//! The ends of deliveries. The record decides; the work queue is informed afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use ipc_queue::transport::{
    AckTogether, AcksInFlight, Settle, SettleOnce, nack_delay, shorten_reason,
};
use ipc_queue::{DeadReason, SettleFailure, Unavailable};

use tokio::task::JoinHandle;

use crate::content::Content;
use crate::record::{self, Record, State};
use crate::request_error::RequestError;
use crate::runtime::{block_on, start};
use crate::shared::{Held, IN_FLIGHT, Life, Shared, Side};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Ack,
    Nack(Duration),
    /// Delayed, without counting an attempt.
    Snooze(Duration),
    Bury,
    /// Its holder held it too long.
    Expire,
}

/// The longest delay that the server is asked for; after that the request is repeated.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// The sign of life of a holder.
pub(crate) const PROGRESS: &str = "+WPI";
const ACK: &str = "+ACK";
const TERM: &str = "+TERM";

impl Shared {
    pub(crate) fn settle(
        self: &Arc<Self>,
        ticket: u64,
        how: Settle<'_>,
    ) -> Result<(), SettleFailure> {
        if self.connection.is_forked() {
            return Err(Unavailable::Forked.into());
        }
        let Some(mut held) = self.held().remove(&ticket) else {
            self.counts.add(|counts| counts.leases_lost += 1);
            return Err(SettleFailure::LeaseLost);
        };
        let end = match how {
            Settle::Ack => End::Ack,
            Settle::Nack { delay, reason } => {
                held.record.error = shorten_reason(reason).to_owned();
                let failures = held.record.nacks.saturating_add(1);
                End::Nack(nack_delay(&self.entry.settings, delay, failures))
            }
            Settle::Snooze { delay } => End::Snooze(delay),
            Settle::Bury { reason } => {
                held.record.error = shorten_reason(reason).to_owned();
                End::Bury
            }
        };
        let ended = block_on(self.end(held, end));
        self.counts.add(|counts| match (&ended, end) {
            (Ok(()), End::Ack) => counts.acked += 1,
            (Ok(()), End::Nack(_) | End::Snooze(_)) => counts.nacked += 1,
            (Ok(()), End::Bury) => counts.buried += 1,
            (Err(SettleFailure::LeaseLost), _) => counts.leases_lost += 1,
            _ => {}
        });
        ended
    }

    pub(crate) fn extend(&self, ticket: u64, by: Duration) -> Result<(), SettleFailure> {
        if self.connection.is_forked() {
            return Err(Unavailable::Forked.into());
        }
        // A lost lease is counted by the settlement that follows, also if that is the drop.
        block_on(self.extend_held(ticket, by))
    }

    /// Writes the record once more, which fails if another process took the message since. A process
    /// that was stopped for long does not notice that by itself.
    async fn extend_held(&self, ticket: u64, by: Duration) -> Result<(), SettleFailure> {
        let held = |held: &Held| {
            let (key, record) = (held.key.clone(), held.record.clone());
            (held.stream, key, held.seq, record, held.reply.clone())
        };
        let held = self.held().get(&ticket).map(held);
        let (stream, key, seq, record, reply) = held.ok_or(SettleFailure::LeaseLost)?;
        // Before the write, so that the server does not hand the message out again meanwhile. If
        // this is lost, the next sign of life is as good.
        let _ = self.connection.client.publish(reply, PROGRESS.into()).await;
        let until = self.connection.soon();
        let (stream, content) = (&self.streams[stream], Content::default());
        let mut written = stream.write(&key, seq, &record, content, until).await;
        if matches!(written, Err(RequestError::Changed))
            && let Ok(Some(place)) = stream.read(&key, until).await
            && place.record == record
        {
            // Only an earlier extension, of which no answer came, has written the same.
            written = Ok(place.seq);
        }
        let mut table = self.held();
        let seq = written.map_err(|error| {
            if matches!(error, RequestError::Changed) {
                table.remove(&ticket);
            }
            self.settle_error(error)
        })?;
        // Gone if its time was over before.
        let held = table.get_mut(&ticket).ok_or(SettleFailure::LeaseLost)?;
        (held.seq, held.reported_at) = (seq, Instant::now());
        if held.ends_at.is_some() {
            // A time that the clock can't represent counts as never.
            held.ends_at = Instant::now().checked_add(by);
        }
        drop(table);
        self.changed.notify_one();
        Ok(())
    }

    /// Ends a delivery that was removed from the table.
    pub(crate) async fn end(self: &Arc<Self>, held: Held, end: End) -> Result<(), SettleFailure> {
        if self.life() == Life::Removed {
            return Err(self.settle_error(RequestError::Gone));
        }
        let until = self.connection.soon();
        let ended = match end {
            End::Ack => self.acknowledge(&held, until).await,
            End::Bury => {
                self.bury(&held, held.record.clone(), DeadReason::Buried, until)
                    .await
            }
            End::Nack(delay) => {
                let mut record = held.record.clone();
                record.nacks = record.nacks.saturating_add(1);
                self.again(&held, record, delay, DeadReason::Nacked, until)
                    .await
            }
            End::Snooze(delay) => {
                let mut record = held.record.clone();
                record.attempt = record.attempt.saturating_sub(1);
                self.put_off(&held, record, delay, until).await
            }
            End::Expire => {
                let mut record = held.record.clone();
                record.expiries = record.expiries.saturating_add(1);
                self.counts.add(|counts| counts.expiries += 1);
                self.again(&held, record, Duration::ZERO, DeadReason::Expired, until)
                    .await
            }
        };
        ended.map_err(|error| self.settle_error(error))
    }

    async fn acknowledge(&self, held: &Held, until: Instant) -> Result<(), RequestError> {
        self.free_place(held, until).await?;
        self.notify_free_place(held.stream, &held.key).await;
        Ok(())
    }

    /// Acknowledges several deliveries with their requests in flight. Reports the free places
    /// together.
    async fn acknowledge_all(&self, tickets: &[u64]) -> Vec<Result<(), SettleFailure>> {
        let freed = tickets.iter().copied();
        let freed = freed.map(|ticket| self.free_held_place(ticket));
        let ended: Vec<_> = stream::iter(freed).buffered(IN_FLIGHT).collect().await;
        for index in 0..self.streams.len() {
            let freed = ended
                .iter()
                .flatten()
                .filter(|(stream, _)| *stream == index);
            let keys: Vec<&str> = freed.map(|(_, key)| key.as_str()).collect();
            self.notify_free_places(index, &keys).await;
        }
        ended.into_iter().map(|ended| ended.map(drop)).collect()
    }

    /// Deletes the record of a delivery. Returns its stream and its place.
    async fn free_held_place(&self, ticket: u64) -> Result<(usize, String), SettleFailure> {
        // Removed only when its turn comes: until then its lease is kept.
        let held = self.held().remove(&ticket);
        let held = held.ok_or(SettleFailure::LeaseLost)?;
        if self.life() == Life::Removed {
            return Err(self.settle_error(RequestError::Gone));
        }
        let freed = self.free_place(&held, self.connection.soon()).await;
        freed.map_err(|error| self.settle_error(error))?;
        Ok((held.stream, held.key))
    }

    async fn acknowledge_and_count(&self, tickets: &[u64]) -> Vec<Result<(), SettleFailure>> {
        let ended = self.acknowledge_all(tickets).await;
        self.counts.add(|counts| {
            for ended in &ended {
                match ended {
                    Ok(()) => counts.acked += 1,
                    Err(SettleFailure::LeaseLost) => counts.leases_lost += 1,
                    Err(_) => {}
                }
            }
        });
        ended
    }

    /// Deletes the record of a delivery that is done, and what belongs to it.
    async fn free_place(&self, held: &Held, until: Instant) -> Result<(), RequestError> {
        let stream = &self.streams[held.stream];
        self.settle_key(held.stream, &held.record, until).await?;
        if !stream.erase(&held.key, held.seq, until).await? {
            return Err(RequestError::Changed);
        }
        self.finish(held, ACK).await;
        self.drop_object(held.stream, &held.key, &held.record).await;
        Ok(())
    }

    /// Lets the message be delivered again, unless its attempts are used up.
    async fn again(
        self: &Arc<Self>,
        held: &Held,
        record: Record,
        delay: Duration,
        reason: DeadReason,
        until: Instant,
    ) -> Result<(), RequestError> {
        if self.is_enough(&record) {
            return self.bury(held, record, reason, until).await;
        }
        self.put_off(held, record, delay, until).await
    }

    /// Lets the message be delivered again after the delay.
    async fn put_off(
        self: &Arc<Self>,
        held: &Held,
        mut record: Record,
        delay: Duration,
        until: Instant,
    ) -> Result<(), RequestError> {
        record.state = State::Ready;
        record.due = if delay.is_zero() {
            0
        } else {
            record::after(delay)
        };
        self.connection.process.clone_into(&mut record.process);
        let stream = &self.streams[held.stream];
        stream
            .write(&held.key, held.seq, &record, Content::default(), until)
            .await?;
        self.give_back(&held.reply, delay).await;
        if delay.is_zero() {
            self.notify(Side::Items).await;
        } else {
            self.notify_later(delay.min(LONGEST_DELAY));
            if self.life() == Life::Closed {
                self.control.notify();
            }
        }
        Ok(())
    }

    /// Returns whether a message reached one of the queue's limits, and is a dead letter.
    pub(crate) fn is_enough(&self, record: &Record) -> bool {
        let settings = &self.entry.settings;
        record.attempt >= settings.attempt_limit
            || record.expiries >= settings.expiry_limit
            || record.crashes >= settings.crash_limit
    }

    /// Makes a message a dead letter: its record carries its content from now on.
    pub(crate) async fn bury(
        &self,
        held: &Held,
        mut record: Record,
        reason: DeadReason,
        until: Instant,
    ) -> Result<(), RequestError> {
        record.state = State::Dead;
        record.reason = Some(reason);
        record.due = 0;
        let stream = &self.streams[held.stream];
        stream
            .write(&held.key, held.seq, &record, held.content.clone(), until)
            .await?;
        self.finish(held, TERM).await;
        if self.life() == Life::Closed {
            self.notify(Side::Room).await;
        }
        Ok(())
    }

    /// Removes a message from the work queue. Its record already says so: a receiver that still
    /// gets it drops it.
    async fn finish(&self, held: &Held, word: &'static str) {
        self.finish_work(&held.reply, word).await;
    }

    pub(crate) async fn finish_work(&self, reply: &str, word: &'static str) {
        let client = &self.connection.client;
        let _ = client.publish(reply.to_owned(), word.into()).await;
    }

    /// Returns a message to the work queue. If this request is lost, the server hands the message
    /// out in time.
    pub(crate) async fn give_back(&self, reply: &str, delay: Duration) {
        let word = if delay.is_zero() {
            "-NAK".to_owned()
        } else {
            let delay_ns = delay.min(LONGEST_DELAY).as_nanos();
            format!("-NAK {{\"delay\": {delay_ns}}}")
        };
        let client = &self.connection.client;
        let answered = client.request(reply.to_owned(), word.into());
        let _ = tokio::time::timeout(self.connection.time, answered).await;
    }
}

/// The right to settle a delivery.
pub(crate) struct NatsHeld {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ticket: u64,
}

impl SettleOnce for NatsHeld {
    fn settle(&self, how: Settle<'_>) -> Result<(), SettleFailure> {
        self.shared.settle(self.ticket, how)
    }

    fn extend(&self, by: Duration) -> Result<(), SettleFailure> {
        self.shared.extend(self.ticket, by)
    }

    fn together(&self) -> Option<(Arc<dyn AckTogether>, u64)> {
        Some((Arc::clone(&self.shared) as _, self.ticket))
    }

    fn queue(&self) -> String {
        self.shared.address()
    }
}

impl AckTogether for Shared {
    fn ack_all(&self, tickets: &[u64]) -> Vec<Result<(), SettleFailure>> {
        if self.connection.is_forked() {
            return vec![Err(Unavailable::Forked.into()); tickets.len()];
        }
        block_on(self.acknowledge_and_count(tickets))
    }

    fn start_acks(self: Arc<Self>, tickets: &[u64]) -> Option<Box<dyn AcksInFlight>> {
        if self.connection.is_forked() {
            return None;
        }
        let (shared, tickets) = (Arc::clone(&self), tickets.to_vec());
        let count = tickets.len();
        let task = start(async move { shared.acknowledge_and_count(&tickets).await });
        let shared = self;
        Some(Box::new(NatsAcks {
            shared,
            count,
            task,
        }))
    }
}

/// Acks whose requests a task of the runtime has sent.
struct NatsAcks {
    shared: Arc<Shared>,
    count: usize,
    task: JoinHandle<Vec<Result<(), SettleFailure>>>,
}

impl AcksInFlight for NatsAcks {
    fn confirm(self: Box<Self>) -> Vec<Result<(), SettleFailure>> {
        // The task does not exist in a forked child.
        if self.shared.connection.is_forked() {
            return vec![Err(Unavailable::Forked.into()); self.count];
        }
        let ended = block_on(self.task);
        ended.unwrap_or_else(|error| {
            let failure = Unavailable::transport(format!("the acks were interrupted: {error}"));
            vec![Err(failure.into()); self.count]
        })
    }
}
