//! Sending: takes a place, which the server refuses when the queue is full, then publishes the
//! payload to the work queue.

mod batch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ipc_proto::{Headers, Kind, MessageId, Priority, SenderId, Timestamp};
use ipc_queue::notifier::Notifier;
use ipc_queue::transport::{BatchPortError, PortLoan, PublishOnce, SendPort, SendPortError, Wait};
use ipc_queue::{Feature, NoRoom, SendFailure, SendOptions, Unavailable, Unsupported};

use crate::capabilities::CAPABILITIES;
use crate::content::Content;
use crate::record::{self, Keyed, Record, State};
use crate::request_error::RequestError;
use crate::runtime::{block_on, spawn};
use crate::shared::{IN_FLIGHT, Lent, Life, Shared, Side, time_left};
use crate::wait_queue;

#[derive(Debug)]
pub(crate) struct NatsSender {
    shared: Arc<Shared>,
    ids: Arc<Ids>,
}

/// The ids of a sender's messages. Its loans share them, and other threads may publish those.
#[derive(Debug)]
struct Ids {
    sender: SenderId,
    /// The sequence of the next message.
    next: AtomicU64,
}

/// A place on loan.
#[derive(Debug)]
struct NatsPlace {
    shared: Arc<Shared>,
    ids: Arc<Ids>,
    ticket: u64,
}

/// The interval at which a sender looks for room by itself.
const LOOKS_EVERY: Duration = Duration::from_millis(500);
/// The number of places that a sender tries before it reads which are free.
const GUESSES: u32 = 2;
/// The time for which the withdrawal of a message that may have been sent is tried.
const WITHDRAWS_FOR: Duration = Duration::from_secs(60);
/// The place of a dead sender is taken back after a while. A sender that took longer than this
/// checks whether it still has its place.
const SURE_FOR: Duration = Duration::from_secs(4);

impl NatsSender {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            ids: Arc::new(Ids {
                sender: SenderId::new(fastrand::u64(1..)),
                next: AtomicU64::new(0),
            }),
        }
    }

    fn check(&self, len: usize) -> Result<(), SendFailure> {
        if self.shared.connection.is_forked() {
            return Err(Unavailable::Forked.into());
        }
        let settings = &self.shared.entry.settings;
        let most = settings.max_message_bytes.max(settings.inline_bytes) as usize;
        if len > most {
            return Err(SendFailure::TooLarge { bytes: len, most });
        }
        Ok(())
    }
}

impl Ids {
    fn take(&self) -> MessageId {
        MessageId::new(self.sender, self.take_some(1))
    }

    /// Takes `count` consecutive ids. Returns the sequence of the first.
    fn take_some(&self, count: u64) -> u64 {
        self.next.fetch_add(count, Ordering::Relaxed)
    }

    /// Returns the ids from `first` on, which no message had. They are left out if others were
    /// taken meanwhile.
    fn give_back(&self, first: u64, count: u64) {
        let taken = first + count;
        let _ = (self.next).compare_exchange(taken, first, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Returns whether a message may have been sent in spite of this failure.
fn is_unknown(failure: &SendFailure) -> bool {
    matches!(
        failure,
        SendFailure::Unavailable(Unavailable::Transport { .. })
    )
}

impl SendPort for NatsSender {
    fn loan_with(
        &self,
        len: usize,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<PortLoan, SendPortError> {
        let checked = options.check(CAPABILITIES);
        checked.map_err(SendFailure::from)?;
        self.check(len)?;
        let stream = self.shared.lane_for(options)?;
        let (key, seq, keyed) = match options.key {
            None => {
                let record = self.shared.record(State::Writing, options.kind);
                let taken = self.shared.take_place(stream, &record, options, wait);
                let (key, seq) = block_on(taken)?;
                (key, seq, None)
            }
            Some(_) => {
                let id = self.ids.take();
                let taken = self.shared.take_keyed_place(stream, id, options, wait);
                let taken = block_on(taken);
                let (key, seq, keyed) =
                    taken.inspect_err(|_| self.ids.give_back(id.sequence, 1))?;
                (key, seq, keyed.map(|keyed| (id, keyed)))
            }
        };
        let ticket = self.shared.new_ticket();
        let lent = Lent {
            stream,
            key,
            seq,
            options: options.clone(),
            keyed,
            since: Instant::now(),
        };
        self.shared.loans().insert(ticket, lent);
        let place = NatsPlace {
            shared: Arc::clone(&self.shared),
            ids: Arc::clone(&self.ids),
            ticket,
        };
        Ok(PortLoan::new(len, place))
    }

    /// Sends without a loan: two requests to the server instead of three.
    fn send(&self, payload: &[u8], kind: Kind, wait: Wait) -> Result<MessageId, SendPortError> {
        self.check(payload.len())?;
        let options = SendOptions::new().kind(kind);
        let stream = self.shared.lane_for(&options)?;
        let id = self.ids.take();
        let content = Content::new(Headers::new(), Bytes::copy_from_slice(payload));
        let sent = block_on(self.shared.send(stream, id, content, &options, wait));
        let may_be_sent = match &sent {
            Ok(_) => true,
            Err(SendPortError::Failed(failure)) => is_unknown(failure),
            Err(_) => false,
        };
        if !may_be_sent {
            self.ids.give_back(id.sequence, 1);
        }
        sent
    }

    fn send_batch(&self, payloads: &[&[u8]], kind: Kind, wait: Wait) -> Result<(), BatchPortError> {
        batch::send(self, payloads, kind, wait)
    }

    fn notifier(&self) -> Notifier {
        wait_queue::notifier(&self.shared, Side::Room)
    }
}

impl PublishOnce for NatsPlace {
    fn publish(&self, payload: Vec<u8>) -> Result<MessageId, SendFailure> {
        let shared = &self.shared;
        let lent = shared.loans().remove(&self.ticket);
        let lent = lent.ok_or_else(|| Unavailable::transport("no such loan"))?;
        if shared.connection.is_forked() {
            return Err(Unavailable::Forked.into());
        }
        if shared.life() == Life::Removed {
            return Err(Unavailable::Removed.into());
        }
        let known = lent.keyed.map(|(id, _)| id);
        let id = known.unwrap_or_else(|| self.ids.take());
        let sent = block_on(shared.publish_loan(lent, id, payload.into()));
        let may_be_sent = match &sent {
            Ok(_) => true,
            Err(failure) => is_unknown(failure),
        };
        if known.is_none() && !may_be_sent {
            self.ids.give_back(id.sequence, 1);
        }
        sent
    }

    fn abandon(&self) {
        let shared = &self.shared;
        let lent = shared.loans().remove(&self.ticket);
        if let Some(lent) = lent.filter(|_| !shared.connection.is_forked()) {
            block_on(shared.abandon(&lent));
        }
    }

    fn queue(&self) -> String {
        self.shared.address()
    }
}

impl Shared {
    /// The priority stream for a message.
    pub(crate) fn lane_for(&self, options: &SendOptions) -> Result<usize, SendFailure> {
        let settings = &self.entry.settings;
        if !settings.priorities && options.priority != Priority::default() {
            return Err(Unsupported::by_settings(Feature::Priorities).into());
        }
        if options.key.is_some() && settings.dedup_window.is_none() {
            return Err(Unsupported::by_settings(Feature::Deduplication).into());
        }
        Ok(if settings.priorities {
            options.priority.index()
        } else {
            0
        })
    }

    /// Takes a place for `record`, and waits for one as `wait` says. Returns its key and its
    /// record's sequence.
    pub(crate) async fn take_place(
        self: &Arc<Self>,
        stream: usize,
        record: &Record,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<(String, u64), SendPortError> {
        let started = Instant::now();
        let mut guesses = 0;
        loop {
            match self.life() {
                Life::Removed => return Err(Unavailable::Removed.into()),
                Life::Closed => return Err(SendFailure::Closed.into()),
                Life::Open => {}
            }
            let heard = self.room.count();
            let key = self.streams[stream].new_key();
            let written =
                self.streams[stream].write(&key, 0, record, Content::default(), self.until(wait));
            match written.await {
                // Closed while the record was on its way: the place may have become free only after
                // that.
                Ok(seq) if self.life() == Life::Closed => {
                    self.withdraw(stream, key, seq);
                    return Err(SendFailure::Closed.into());
                }
                Ok(seq) => return Ok((key, seq)),
                // Another message has that place.
                Err(RequestError::Changed) if guesses < GUESSES => {
                    guesses += 1;
                    continue;
                }
                Err(RequestError::Full | RequestError::Changed) => {}
                Err(error) => {
                    self.forget(stream, key);
                    return Err(self.send_failure(error).into());
                }
            }
            let room = self.look_for_room(stream, options, self.until(wait)).await;
            let room = room.map_err(|error| self.send_failure(error))?;
            if room.made {
                guesses = 0;
                continue;
            }
            let deadline = match time_left(wait, started) {
                Ok(deadline) => deadline,
                Err(waited) => {
                    self.counts.add(|counts| counts.refused += 1);
                    return Err(self.no_place(waited, room.dead));
                }
            };
            self.subscribe(Side::Room).await;
            let slice = room.soon.unwrap_or(LOOKS_EVERY).min(LOOKS_EVERY);
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let limit = left.map_or(slice, |left| left.min(slice));
            let _ = tokio::time::timeout(limit, self.room.after(heard)).await;
        }
    }

    fn no_place(&self, waited: Option<Duration>, dead: u64) -> SendPortError {
        SendPortError::NoRoom {
            missing: NoRoom::Places {
                capacity: self.entry.settings.capacity,
            },
            waited,
            dead,
        }
    }

    /// The same for a message with a key, which is also claimed.
    async fn take_keyed_place(
        self: &Arc<Self>,
        stream: usize,
        id: MessageId,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<(String, u64, Option<Keyed>), SendPortError> {
        self.check_key(stream, options, self.until(wait)).await?;
        let record = self.record(State::Writing, options.kind);
        let (key, seq) = self.take_place(stream, &record, options, wait).await?;
        match self
            .claim(stream, options, id, &key, self.until(wait))
            .await
        {
            Ok(keyed) => Ok((key, seq, keyed)),
            Err(failure) => {
                self.withdraw(stream, key, seq);
                Err(failure)
            }
        }
    }

    pub(crate) async fn send(
        self: &Arc<Self>,
        stream: usize,
        id: MessageId,
        content: Content,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<MessageId, SendPortError> {
        let mut record = self.fresh(id, options, &content);
        let (key, seq) = self.take_place(stream, &record, options, wait).await?;
        let since = Instant::now();
        record.sent_at = Timestamp::from(SystemTime::now());
        let until = self.until(wait);
        let given = self.give_work(stream, &key, seq, record, content, since, until);
        Ok(given.await?)
    }

    pub(crate) async fn publish_loan(
        self: &Arc<Self>,
        lent: Lent,
        id: MessageId,
        payload: Bytes,
    ) -> Result<MessageId, SendFailure> {
        let content = Content::new(lent.options.headers.clone(), payload);
        let mut record = self.fresh(id, &lent.options, &content);
        record.keyed = lent.keyed.map(|(_, keyed)| keyed);
        let until = self.connection.soon();
        let stream = &self.streams[lent.stream];
        let mut place = lent.seq;
        let seq = loop {
            let written = stream.write(&lent.key, place, &record, Content::default(), until);
            let error = match written.await {
                Ok(seq) => break seq,
                Err(error) => error,
            };
            // The task that keeps leases may have just renewed it.
            let ours = self.our_loan(&lent, until).await;
            place = match ours {
                Some(seq) if error == RequestError::Changed && seq != place => seq,
                _ => {
                    self.forget(lent.stream, lent.key);
                    return Err(self.send_failure(error));
                }
            };
        };
        let Lent { stream, key, .. } = lent;
        self.give_work(stream, &key, seq, record, content, Instant::now(), until)
            .await
    }

    pub(crate) async fn abandon(&self, lent: &Lent) {
        if self.life() == Life::Removed {
            return;
        }
        let until = self.connection.soon();
        let stream = &self.streams[lent.stream];
        if stream.erase(&lent.key, lent.seq, until).await == Ok(false)
            && let Some(seq) = self.our_loan(lent, until).await
        {
            let _ = stream.erase(&lent.key, seq, until).await;
        }
        self.notify_free_place(lent.stream, &lent.key).await;
    }

    /// The present sequence of a loan's record, if it still is that loan's.
    async fn our_loan(&self, lent: &Lent, until: Instant) -> Option<u64> {
        let place = self.streams[lent.stream]
            .read(&lent.key, until)
            .await
            .ok()??;
        (place.record.state == State::Writing).then_some(place.seq)
    }

    fn fresh(&self, id: MessageId, options: &SendOptions, content: &Content) -> Record {
        let delayed = !options.delay.is_zero();
        Record {
            id,
            sent_at: Timestamp::from(SystemTime::now()),
            due: if delayed {
                record::after(options.delay)
            } else {
                0
            },
            expires: options.expires_in.map_or(0, record::after),
            object: self.needs_object(content),
            ..self.record(State::Ready, options.kind)
        }
    }

    /// Publishes a message that has had its place since `since` to the work queue. On success the
    /// message is accepted.
    #[expect(clippy::too_many_arguments, reason = "what a message is")]
    async fn give_work(
        self: &Arc<Self>,
        stream: usize,
        key: &str,
        seq: u64,
        record: Record,
        content: Content,
        since: Instant,
        until: Instant,
    ) -> Result<MessageId, SendFailure> {
        let bytes = content.payload.len() as u64;
        let given = async {
            let content = self.store(stream, key, &record, content).await?;
            self.streams[stream]
                .publish(key, seq, &record, content, until)
                .await?;
            let is_unsure = since.elapsed() > SURE_FOR || record.keyed.is_some();
            Ok(!is_unsure || self.is_accepted(stream, key, seq, &record, until).await?)
        };
        match given.await {
            Ok(true) => {}
            Ok(false) => return Err(self.send_failure(RequestError::Changed)),
            Err(error) => {
                self.withdraw(stream, key.to_owned(), seq);
                return Err(self.send_failure(error));
            }
        }
        self.counts.add(|counts| {
            counts.sent += 1;
            counts.bytes_sent += bytes;
        });
        let now = record::now();
        if record.is_delayed(now) {
            self.notify_later(Duration::from_nanos(record.due - now));
        } else {
            self.notify(Side::Items).await;
        }
        if record.expires != 0 {
            // Senders that wait for room may have to check earlier now.
            self.room.notify();
        }
        Ok(record.id)
    }

    /// Takes back a place for which it is unknown whether it was taken. The client repeats requests
    /// to a server that was away when the server is back. The work queue never had the message, so
    /// no receiver can hold it.
    fn forget(self: &Arc<Self>, stream: usize, key: String) {
        const LOOKS: usize = 3;
        const PAUSE: Duration = Duration::from_secs(1);
        let shared = Arc::clone(self);
        spawn(async move {
            let records = &shared.streams[stream];
            for _ in 0..LOOKS {
                let until = Instant::now() + WITHDRAWS_FOR;
                if let Ok(Some(place)) = records.read(&key, until).await
                    && records.erase(&key, place.seq, until).await == Ok(true)
                {
                    shared.notify_free_place(stream, &key).await;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    /// Deletes a message that has lost its place from the work queue, which may have it.
    fn forget_work(self: &Arc<Self>, stream: usize, key: String) {
        let shared = Arc::clone(self);
        spawn(async move {
            shared.streams[stream].drop_work(&key).await;
            shared.notify_free_place(stream, &key).await;
        });
    }

    /// Takes back a message for which it is unknown whether the work queue has it. Without its
    /// place no receiver gets it.
    fn withdraw(self: &Arc<Self>, stream: usize, key: String, seq: u64) {
        let shared = Arc::clone(self);
        spawn(async move {
            let records = &shared.streams[stream];
            // Otherwise it belongs to another process: received, or judged as sent.
            let until = Instant::now() + WITHDRAWS_FOR;
            let erased = records.erase(&key, seq, until).await;
            if erased == Ok(true) {
                records.drop_work(&key).await;
                shared.notify_free_place(stream, &key).await;
            }
        });
    }
}
