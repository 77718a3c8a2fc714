//! Receiving: requests the next message from a work queue, then takes it by its record.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use async_nats::Message;
use futures_util::StreamExt;
use futures_util::stream;
use ipc_queue::notifier::Notifier;
use ipc_queue::transport::{PortDelivery, ReceivePort, RecvPortError, Wait, shorten_reason};
use ipc_queue::{DeadReason, Headers, Metadata, RecvFailure, Unavailable};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

use crate::content::Content;
use crate::priority_stream::{Delivered, Place, PriorityStream};
use crate::pull::{Answer, Puller};
use crate::record::{self, Holder, Record, State};
use crate::request_error::RequestError;
use crate::runtime::{block_on, spawn};
use crate::settle::NatsHeld;
use crate::shared::{Held, IN_FLIGHT, Life, Shared, Side, time_left};
use crate::wait_queue;

#[derive(Debug)]
pub(crate) struct NatsReceiver {
    shared: Arc<Shared>,
    /// Distinguishes its deliveries from those of other receivers.
    id: u64,
    /// Created at first use. Only one thread uses it at a time.
    puller: Mutex<Option<Puller>>,
    /// An error about a message of a batch whose first messages were received. The next call
    /// returns it.
    later: std::sync::Mutex<Option<RecvPortError>>,
}

/// A received message.
struct Taken {
    ticket: u64,
    metadata: Metadata,
    headers: Headers,
    payload: Vec<u8>,
}

/// The lifetime of one request to the consumer.
const SLICE: Duration = Duration::from_secs(5);
/// The interval at which a receiver checks by itself whether a closed queue is drained, or a paused
/// one resumed.
const LOOKS_EVERY: Duration = Duration::from_millis(250);
/// The time that handing out a ready message may take before a receive that does not wait finds
/// nothing.
const HANDED_OUT_WITHIN: Duration = Duration::from_millis(500);
const SHORTLY: Duration = Duration::from_millis(5);

impl NatsReceiver {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            id: fastrand::u64(1..),
            puller: Mutex::default(),
            later: std::sync::Mutex::default(),
        }
    }

    fn later(&self) -> std::sync::MutexGuard<'_, Option<RecvPortError>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn puller(&self) -> Result<MappedMutexGuard<'_, Puller>, RecvPortError> {
        let mut puller = self.puller.lock().await;
        if puller.is_none() {
            let made = Puller::new(&self.shared.connection.client).await;
            *puller = Some(made.map_err(|error| self.shared.recv_error(error))?);
        }
        Ok(MutexGuard::map(puller, |puller| {
            puller.as_mut().expect("it was just made")
        }))
    }

    async fn receive(&self, wait: Wait) -> Result<Taken, RecvPortError> {
        let shared = &self.shared;
        let puller = &mut *self.puller().await?;
        let started = Instant::now();
        loop {
            if shared.life() == Life::Removed {
                return Err(Unavailable::Removed.into());
            }
            let (control, items) = (shared.control.count(), shared.items.count());
            let time = time_left(wait, started);
            if let Some(taken) = self.late(puller).await? {
                return Ok(taken);
            }
            // With several priority streams there is no single request that all would answer.
            let looks = time.is_err() || shared.streams.len() > 1;
            if looks && !shared.is_paused() {
                let exactly = time.is_err();
                if let Some(taken) = self.look(puller, exactly, self.shared.until(wait)).await? {
                    return Ok(taken);
                }
            }
            if shared.life() == Life::Closed && self.is_drained(self.shared.until(wait)).await? {
                return Err(RecvFailure::Closed.into());
            }
            let deadline = match time {
                Ok(deadline) => deadline,
                Err(None) if shared.is_paused() => return Err(RecvPortError::Paused),
                Err(None) => return Err(RecvPortError::Empty),
                Err(Some(waited)) => return Err(RecvPortError::TimedOut { waited }),
            };
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let limit = |slice: Duration| left.map_or(slice, |left| left.min(slice));
            if shared.is_paused() || looks {
                let slice = limit(LOOKS_EVERY);
                let either = async {
                    tokio::select! {
                        () = shared.control.after(control) => {}
                        () = shared.items.after(items) => {}
                    }
                };
                let _ = tokio::time::timeout(slice, either).await;
                continue;
            }
            let slice = match shared.life() {
                Life::Open => limit(SLICE),
                _ => limit(LOOKS_EVERY),
            };
            let answer = tokio::select! {
                answer = puller.ask(&shared.streams[0], Some(slice)) => answer,
                () = shared.control.after(control) => continue,
            };
            if let Some(taken) = self.answered(0, answer, wait).await? {
                return Ok(taken);
            }
        }
    }

    /// Receives at most `most` available messages, in order: with one request for all, then a lease
    /// for each, several at a time. Receives none if there are several priority streams.
    async fn receive_some(&self, most: usize) -> Result<Vec<Taken>, RecvPortError> {
        let shared = &self.shared;
        let [stream] = &shared.streams[..] else {
            return Ok(Vec::new());
        };
        if most == 0 || shared.is_paused() {
            return Ok(Vec::new());
        }
        let mut puller = self.puller().await?;
        let came = puller.ask_many(stream, most).await;
        let came = came.map_err(|error| shared.recv_error(error))?;
        let takes = came.into_iter().map(|message| self.take(message));
        let taken: Vec<_> = stream::iter(takes).buffered(IN_FLIGHT).collect().await;
        let (mut batch, mut later) = (Vec::new(), None);
        for taken in taken {
            match taken {
                Ok(taken) => batch.extend(taken),
                // It is a dead letter by now. After any other error the server hands it out again
                // in time.
                Err(RecvPortError::Failed(failure)) if failure.is_of_one_message() => {
                    later = later.or(Some(failure.into()));
                }
                Err(_) => {}
            }
        }
        if later.is_some() {
            *self.later() = later;
        }
        Ok(batch)
    }

    /// Appends the messages that are available now. The next call reports which are damaged. Any
    /// other error will occur again.
    fn recv_some(&self, most: usize, into: &mut Vec<PortDelivery>) {
        let some = block_on(self.receive_some(most)).unwrap_or_default();
        into.extend(some.into_iter().map(|taken| self.delivery(taken)));
    }

    fn delivery(&self, taken: Taken) -> PortDelivery {
        let right = NatsHeld {
            shared: Arc::clone(&self.shared),
            ticket: taken.ticket,
        };
        let queue = self.shared.entry.id;
        let delivery = PortDelivery::new(queue, taken.metadata, taken.payload, right);
        delivery.with_headers(taken.headers)
    }

    /// A message that arrived after an earlier call stopped waiting.
    async fn late(&self, puller: &mut Puller) -> Result<Option<Taken>, RecvPortError> {
        if self.shared.is_paused() {
            return Ok(None);
        }
        while let Some(message) = puller.late() {
            if let Some(taken) = self.take(message).await? {
                return Ok(Some(taken));
            }
        }
        Ok(None)
    }

    async fn answered(
        &self,
        stream: usize,
        answer: Result<Answer, RequestError>,
        wait: Wait,
    ) -> Result<Option<Taken>, RecvPortError> {
        let shared = &self.shared;
        match answer.map_err(|error| shared.recv_error(error))? {
            Answer::Message(message) => self.take(*message).await,
            Answer::Nothing => Ok(None),
            Answer::Silence => {
                let alive = shared.streams[stream]
                    .check_alive(self.shared.until(wait))
                    .await;
                alive.map_err(|error| shared.recv_error(error))?;
                tokio::time::sleep(SHORTLY).await;
                Ok(None)
            }
        }
    }

    /// The next available message. With `exactly`, "none" is exact. Without it, "none" is what the
    /// consumer knows, which may lag a little.
    async fn look(
        &self,
        puller: &mut Puller,
        exactly: bool,
        until: Instant,
    ) -> Result<Option<Taken>, RecvPortError> {
        let shared = &self.shared;
        let patience = Instant::now() + HANDED_OUT_WITHIN;
        let mut within = None;
        loop {
            let mut silent = false;
            for stream in self.order() {
                loop {
                    let answer = puller.ask(&shared.streams[stream], within).await;
                    silent |= matches!(answer, Ok(Answer::Silence));
                    let came = matches!(answer, Ok(Answer::Message(_)));
                    let taken = self.answered(stream, answer, Wait::Until(until)).await?;
                    if taken.is_some() {
                        return Ok(taken);
                    }
                    if !came {
                        break;
                    }
                }
            }
            if !exactly || Instant::now() >= until {
                return Ok(None);
            }
            let is_ready = self.is_anything_ready(until).await;
            let is_ready = is_ready.map_err(|error| shared.recv_error(error))?;
            if !is_ready || (!silent && Instant::now() >= patience) {
                return Ok(None);
            }
            within = Some(SHORTLY);
        }
    }

    /// The priority streams, in the order in which to try them.
    fn order(&self) -> Vec<usize> {
        (0..self.shared.streams.len()).rev().collect()
    }

    async fn is_anything_ready(&self, until: Instant) -> Result<bool, RequestError> {
        let places = self.shared.places(until).await?;
        let now = record::now();
        Ok(places
            .iter()
            .any(|(_, place)| place.record.state == State::Ready && !place.record.is_delayed(now)))
    }

    async fn is_drained(&self, until: Instant) -> Result<bool, RecvPortError> {
        let left = self.shared.left(Some(self.id), until).await;
        let left = left.map_err(|error| self.shared.recv_error(error))?;
        Ok(left == 0)
    }

    /// Takes a message from the work queue, if its record agrees.
    async fn take(&self, message: Message) -> Result<Option<Taken>, RecvPortError> {
        let taken = self.try_take(message).await;
        taken.map_err(|error| self.shared.recv_error(error))
    }

    async fn try_take(&self, message: Message) -> Result<Option<Taken>, RequestError> {
        let shared = &self.shared;
        let reported_at = Instant::now();
        let until = shared.connection.soon();
        let Some(handed) = Handed::read(&message, &shared.streams) else {
            return Ok(None);
        };
        let stream = &shared.streams[handed.stream];
        let mut place = match handed.place() {
            Some(place) => Some(place),
            None => stream.read(&handed.key, until).await?,
        };
        loop {
            let Some(found) = place else {
                // It was acked or dropped, but the message about that was lost.
                shared.finish_work(&handed.reply, "+ACK").await;
                return Ok(None);
            };
            match self.take_place(&handed, found, reported_at, until).await {
                Err(RequestError::Changed) => place = stream.read(&handed.key, until).await?,
                other => return other,
            }
        }
    }

    async fn take_place(
        &self,
        handed: &Handed,
        place: Place,
        reported_at: Instant,
        until: Instant,
    ) -> Result<Option<Taken>, RequestError> {
        let shared = &self.shared;
        let stream = &shared.streams[handed.stream];
        let Place {
            key,
            seq,
            mut record,
            ..
        } = place;
        if record.state == State::Dead && seq == handed.work {
            // Its requeuer was killed before it could write that into the record.
            record = record.requeued(seq);
        }
        let is_over = self.is_not_deliverable(handed, &key, seq, &record, until);
        if is_over.await? {
            return Ok(None);
        }
        let lease = shared.entry.settings.lease;
        let mut held = Held {
            stream: handed.stream,
            key,
            seq,
            record: record.clone(),
            content: handed.content.clone(),
            reply: handed.reply.clone(),
            ends_at: lease.map(|lease| Instant::now() + lease),
            reported_at,
        };
        if record.state == State::Leased {
            let reason = shared.how_it_ended(&mut record).await;
            if shared.is_enough(&record) {
                shared.bury(&held, record, reason, until).await?;
                return Ok(None);
            }
        }
        record.attempt = record.attempt.saturating_add(1);
        if handed.is_damaged {
            // Reported once: then it is a dead letter, and not handed out again.
            let damaged = stream.malformed(&held.key);
            record.error = shorten_reason(&damaged.to_string()).to_owned();
            shared
                .bury(&held, record, DeadReason::Buried, until)
                .await?;
            return Err(damaged);
        }
        record.state = State::Leased;
        shared.connection.process.clone_into(&mut record.process);
        record.holder = Some(self.holder());
        held.seq = stream
            .write(&held.key, seq, &record, Content::default(), until)
            .await?;
        self.hand_out(handed, held, record).await.map(Some)
    }

    /// Finishes the work of a message that can't be delivered now: it is dead, has expired, or is
    /// delayed. Returns `true` if it did.
    async fn is_not_deliverable(
        &self,
        handed: &Handed,
        key: &str,
        seq: u64,
        record: &Record,
        until: Instant,
    ) -> Result<bool, RequestError> {
        let shared = &self.shared;
        let now = record::now();
        if record.state == State::Dead || record.work != handed.work {
            shared.finish_work(&handed.reply, "+TERM").await;
            return Ok(true);
        }
        if record.is_expired(now) {
            shared.settle_key(handed.stream, record, until).await?;
            let stream = &shared.streams[handed.stream];
            if !stream.erase(key, seq, until).await? {
                return Err(RequestError::Changed);
            }
            shared.counts.add(|counts| counts.expired += 1);
            shared.finish_work(&handed.reply, "+ACK").await;
            shared.drop_object(handed.stream, key, record).await;
            shared.notify_free_place(handed.stream, key).await;
            return Ok(true);
        }
        if record.is_delayed(now) {
            let left = Duration::from_nanos(record.due - now);
            shared.give_back(&handed.reply, left).await;
            return Ok(true);
        }
        Ok(false)
    }

    /// Fetches the payload of a message whose lease is written, and registers the delivery.
    async fn hand_out(
        &self,
        handed: &Handed,
        mut held: Held,
        record: Record,
    ) -> Result<Taken, RequestError> {
        let shared = &self.shared;
        let Content { headers, payload } = &handed.content;
        let payload = shared
            .fetch(handed.stream, &held.key, &record, payload)
            .await?;
        let metadata = record.metadata(held.seq);
        shared.counts.add(|counts| {
            counts.received += 1;
            counts.bytes_received += payload.len() as u64;
            counts.redelivered += u64::from(record.attempt > 1);
        });
        held.record = record;
        let ticket = shared.new_ticket();
        shared.held().insert(ticket, held);
        shared.changed.notify_one();
        Ok(Taken {
            ticket,
            metadata,
            headers: headers.clone(),
            payload,
        })
    }

    fn holder(&self) -> Holder {
        let thread = std::thread::current();
        Holder {
            name: thread.name().unwrap_or_default().to_owned(),
            pid: std::process::id(),
            port: self.id,
        }
    }
}

/// A message that the work queue handed out.
struct Handed {
    stream: usize,
    key: String,
    reply: String,
    /// Without headers, if these are damaged.
    content: Content,
    is_damaged: bool,
    /// The record as sent, with its sequence; `None` for a redelivery.
    first: Option<(u64, Record)>,
    /// The number under which it was published ([`Record::work`]).
    work: u64,
}

impl Handed {
    /// `None`: it does not belong to these priority streams.
    fn read(message: &Message, streams: &[PriorityStream]) -> Option<Self> {
        let reply = message.reply.as_ref()?.to_string();
        let delivered = Delivered::read(&reply)?;
        let (name, key) = message.subject.as_str().rsplit_once('.')?;
        let stream = streams.iter().position(|stream| stream.is_work(name))?;
        let headers = message.headers.as_ref()?;
        let sent = record::read_place(headers).zip(Record::read(headers));
        let work = sent.as_ref().map_or(0, |(_, record)| record.work);
        let read = Content::read(headers, message.payload.clone());
        let is_damaged = read.is_err();
        let bare = |_| Content::new(Headers::new(), message.payload.clone());
        Some(Self {
            stream,
            key: key.to_owned(),
            reply,
            content: read.unwrap_or_else(bare),
            is_damaged,
            first: sent.filter(|_| delivered.times == 1),
            work,
        })
    }

    /// The message's place, if its record must be as it was when it was sent.
    fn place(&self) -> Option<Place> {
        let (seq, record) = self.first.clone()?;
        Some(Place {
            key: self.key.clone(),
            seq,
            record,
            content: Content::default(),
            written_at: 0,
        })
    }
}

impl Shared {
    /// Finds out how a delivery ended that its holder did not settle, and notes that in the record.
    async fn how_it_ended(&self, record: &mut Record) -> DeadReason {
        let is_ours = record.process == self.connection.process;
        if is_ours {
            record.expiries = record.expiries.saturating_add(1);
            self.counts.add(|counts| counts.expiries += 1);
            DeadReason::Expired
        } else {
            record.crashes = record.crashes.saturating_add(1);
            self.counts.add(|counts| counts.crashes += 1);
            DeadReason::Crashed
        }
    }
}

impl ReceivePort for NatsReceiver {
    fn recv(&self, wait: Wait) -> Result<PortDelivery, RecvPortError> {
        if self.shared.connection.is_forked() {
            return Err(Unavailable::Forked.into());
        }
        if let Some(error) = self.later().take() {
            return Err(error);
        }
        let taken = block_on(self.receive(wait))?;
        Ok(self.delivery(taken))
    }

    fn recv_batch(
        &self,
        most: usize,
        wait: Wait,
        into: &mut Vec<PortDelivery>,
    ) -> Result<(), RecvPortError> {
        if most == 0 {
            return Ok(());
        }
        if self.shared.connection.is_forked() {
            return Err(Unavailable::Forked.into());
        }
        if let Some(error) = self.later().take() {
            return Err(error);
        }
        let before = into.len();
        self.recv_some(most, into);
        if into.len() == before {
            into.push(self.recv(wait)?);
            self.recv_some(most - 1, into);
        }
        // Messages that the consumer did not know of yet. A caller that waits gets them next time.
        while wait == Wait::No && into.len() - before < most && self.later().is_none() {
            match self.recv(Wait::No) {
                Ok(delivery) => into.push(delivery),
                Err(RecvPortError::Failed(failure)) if failure.is_of_one_message() => {
                    *self.later() = Some(failure.into());
                }
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn notifier(&self) -> Notifier {
        wait_queue::notifier(&self.shared, Side::Items)
    }
}

impl Drop for NatsReceiver {
    fn drop(&mut self) {
        let Some(mut puller) = self.puller.get_mut().take() else {
            return;
        };
        if self.shared.connection.is_forked() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        spawn(async move {
            while let Some(message) = puller.late() {
                if let Some(reply) = &message.reply {
                    shared.give_back(reply, Duration::ZERO).await;
                }
            }
        });
    }
}
