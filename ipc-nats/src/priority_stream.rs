//! One priority stream of a queue (code: `PriorityStream`): its places and its work, two streams of
//! the server.
//!
//! *Places*: as many numbered subjects as the queue's capacity. Each has at most one record: that
//! of the message which has the place. A sender takes a place by writing a record where there is
//! none, so the number of messages can't exceed the capacity. A record is replaced or deleted only
//! by its sequence, so the second of two writers is refused. Acks and leases are decided by that.
//! The stream has no limit of its own: a full replicated stream of nats-server 2.12 and later also
//! refuses a write that only replaces a record, such as a lease.
//!
//! *Work*: a work queue of the payloads, with one consumer for all receivers. It says which
//! receiver gets what next, and hands out again what the dead had. A lost hand-out causes a delay,
//! and a double one does no harm.
//!
//! A message's *key* is `PLACE-DRAWN`: the number of its place and a random number, both in
//! hexadecimal. So the present message of a place differs from all earlier ones.

mod delivered;
mod keys;
mod listing;
mod vacancies;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, RawMessageErrorKind, RetentionPolicy, StorageType,
};
use bytes::Bytes;
use ipc_proto::{Headers, QueueSettings};
use ipc_queue::transport::shorten_reason;
use serde_json::json;

use crate::connection::{Connection, Refusal, Stored, code};
use crate::content::Content;
use crate::record::{Record, write_place};
use crate::remedy::with_remedy;
use crate::request_error::RequestError;
use vacancies::Vacancies;

pub(crate) use delivered::Delivered;

#[derive(Debug)]
pub(crate) struct PriorityStream {
    pub(crate) connection: Arc<Connection>,
    places: String,
    work: String,
    keys: String,
    /// `None`: the server counts the records ([`Layout::Counted`]).
    vacancies: Option<Vacancies>,
}

/// The way in which the capacity of a queue is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// By the server, which refuses one record too many. For queues of the first version, where a
    /// key is only a random number.
    Counted,
    /// By the numbers of the places.
    Numbered,
}

/// A place that is taken.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) key: String,
    pub(crate) seq: u64,
    pub(crate) record: Record,
    /// Of a dead letter; otherwise nothing.
    pub(crate) content: Content,
    /// When the record was written, by the server's clock, in nanoseconds since 1970. 0: unknown.
    pub(crate) written_at: u64,
}

/// The one consumer of each work stream.
const CONSUMER: &str = "receivers";
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// The key of a record's message.
const KEY: &str = "Ipc-Key";
/// The pause before a retry when there is no subscriber.
const PAUSE: Duration = Duration::from_millis(50);
/// The time for which a retried publish is recognized.
const RECOGNIZED_FOR: Duration = Duration::from_secs(120);

/// The time after which the server hands out a message whose holder died.
///
/// Also the time within which a holder that is cut off from the server must come back. A longer
/// lease runs to its end.
pub(crate) fn ack_wait(settings: &QueueSettings) -> Duration {
    settings
        .lease
        .map_or(DEATH_NOTICED_WITHIN, |lease| lease + MARGIN)
}

const DEATH_NOTICED_WITHIN: Duration = Duration::from_secs(5);
/// Added to the ack wait. A live holder itself returns a message that it held for too long, and
/// must do so before the server does.
const MARGIN: Duration = Duration::from_secs(1);

impl PriorityStream {
    pub(crate) fn new(
        connection: &Arc<Connection>,
        queue: &str,
        index: usize,
        capacity: u32,
        layout: Layout,
    ) -> Self {
        let vacancies = match layout {
            Layout::Counted => None,
            Layout::Numbered => Some(Vacancies::new(capacity)),
        };
        Self {
            connection: Arc::clone(connection),
            vacancies,
            places: format!("ipc-{queue}-places-{index}"),
            work: format!("ipc-{queue}-work-{index}"),
            keys: format!("ipc-{queue}-keys-{index}"),
        }
    }

    pub(crate) async fn create(
        &self,
        settings: &QueueSettings,
        storage: StorageType,
        replicas: usize,
    ) -> Result<(), String> {
        let common = |name: &str| Config {
            name: name.to_owned(),
            subjects: vec![format!("{name}.*")],
            storage,
            num_replicas: replicas,
            discard: DiscardPolicy::New,
            duplicate_window: RECOGNIZED_FOR,
            ..Config::default()
        };
        let places = Config {
            max_messages: match self.vacancies {
                Some(_) => -1,
                None => i64::from(settings.capacity),
            },
            max_messages_per_subject: 1,
            ..common(&self.places)
        };
        let work = Config {
            retention: RetentionPolicy::WorkQueue,
            ..common(&self.work)
        };
        let jetstream = &self.connection.jetstream;
        if let Some(keys) = self.keys_config(settings, common(&self.keys)) {
            let made = jetstream.create_stream(keys).await;
            made.map_err(|e| self.refused(&e))?;
        }
        jetstream
            .create_stream(places)
            .await
            .map_err(|e| self.refused(&e))?;
        let work = jetstream
            .create_stream(work)
            .await
            .map_err(|e| self.refused(&e))?;
        let consumer = pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ack_wait(settings),
            // Attempts are counted in the records. A message whose attempts the server counts as
            // used up would stay forever.
            max_deliver: -1,
            // Leased or delayed messages must not keep the rest from being delivered.
            max_ack_pending: i64::from(settings.capacity) + 1000,
            max_waiting: 1 << 16,
            ..pull::Config::default()
        };
        work.create_consumer(consumer)
            .await
            .map_err(|e| self.refused(&e))?;
        Ok(())
    }

    fn refused(&self, error: &dyn std::error::Error) -> String {
        let servers = &self.connection.servers;
        let what = format!("the NATS server at {servers} can't keep this queue");
        with_remedy(&what, &error)
    }

    /// Deletes those of its streams that exist.
    pub(crate) async fn delete(&self, until: Instant) -> Result<(), RequestError> {
        for stream in [&self.work, &self.places, &self.keys] {
            self.connection.delete_stream(stream, until).await?;
        }
        Ok(())
    }

    // --- places ----------------------------------------------------------------------------------

    /// A key for a new message, with a place that may be free.
    pub(crate) fn new_key(&self) -> String {
        let drawn = fastrand::u64(1..);
        match &self.vacancies {
            Some(vacancies) => format!("{:x}-{drawn:016x}", vacancies.guess()),
            None => format!("{drawn:016x}"),
        }
    }

    /// The number of places that are known to have been free.
    pub(crate) fn known_vacancies(&self) -> usize {
        self.vacancies.as_ref().map_or(0, Vacancies::known)
    }

    /// Notes that another process freed the place of this key.
    pub(crate) fn freed(&self, key: &str) {
        if let (Some(vacancies), Some(place)) = (&self.vacancies, place_number(key)) {
            vacancies.freed(place);
        }
    }

    /// Notes which places are taken.
    pub(crate) fn learn(&self, places: &[Place]) {
        if let Some(vacancies) = &self.vacancies {
            vacancies.learn(places.iter().filter_map(|place| place_number(&place.key)));
        }
    }

    /// The text of this place number in keys.
    pub(crate) fn place_name(&self, number: u64) -> String {
        match self.vacancies {
            Some(_) => format!("{number:x}"),
            None => format!("{number:016x}"),
        }
    }

    /// The subject of the record of a key.
    fn place_subject(&self, key: &str) -> String {
        format!("{}.{}", self.places, place_of(key))
    }

    /// Replaces the record whose sequence is `expected`; 0: takes a new place. Returns the new
    /// record's sequence.
    pub(crate) async fn write(
        &self,
        key: &str,
        expected: u64,
        record: &Record,
        content: Content,
        until: Instant,
    ) -> Result<u64, RequestError> {
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED, expected.to_string().as_str());
        headers.insert(KEY, key);
        record.write(&mut headers);
        content.write(&mut headers);
        let subject = self.place_subject(key);
        match self
            .ask::<Stored>(&subject, Some(&headers), content.payload, until)
            .await
        {
            Ok((stored, _)) => Ok(stored.seq),
            Err((refusal, _)) if refusal.is_full() => Err(RequestError::Full),
            Err((Refusal::Error { code, .. }, again)) if code == code::WRONG_LAST_SEQUENCE => {
                if again {
                    // An earlier try may have written it, if the answer was lost.
                    let found = self.read(key, until).await?;
                    if let Some(place) = found.filter(|place| place.record == *record) {
                        return Ok(place.seq);
                    }
                }
                Err(RequestError::Changed)
            }
            Err((refusal, _)) => Err(self.request_error(&refusal)),
        }
    }

    /// Deletes the record with this sequence. `false`: it was changed or deleted before.
    pub(crate) async fn erase(
        &self,
        key: &str,
        seq: u64,
        until: Instant,
    ) -> Result<bool, RequestError> {
        let subject = format!("$JS.API.STREAM.MSG.DELETE.{}", self.places);
        let question = json!({ "seq": seq, "no_erase": true }).to_string();
        match self
            .ask::<serde_json::Value>(&subject, None, question.into(), until)
            .await
        {
            Ok(_) => {
                self.freed(key);
                Ok(true)
            }
            Err((refusal, again)) if refusal.is_no_message() => {
                // An earlier try may have deleted it, if the answer was lost.
                Ok(again && self.read(key, until).await?.is_none())
            }
            Err((refusal, _)) => Err(self.request_error(&refusal)),
        }
    }

    /// The record of this key, if its message still has its place.
    pub(crate) async fn read(
        &self,
        key: &str,
        until: Instant,
    ) -> Result<Option<Place>, RequestError> {
        let found = self.read_place(place_of(key), until).await?;
        Ok(found.filter(|found| found.key == key))
    }

    /// The record at this place, of any message.
    pub(crate) async fn read_place(
        &self,
        place: &str,
        until: Instant,
    ) -> Result<Option<Place>, RequestError> {
        let subject = format!("{}.{place}", self.places);
        let Some(found) = self.last(&self.places, &subject, until).await? else {
            return Ok(None);
        };
        let mut record = Record::read(&found.headers).ok_or_else(|| self.strange(place))?;
        let written_at = found.time.unix_timestamp_nanos();
        let key = key_in(&found.headers).unwrap_or(place).to_owned();
        let read = Content::read(&found.headers, found.payload.clone());
        // A dead letter can be discarded even if its headers are damaged.
        let content = read.unwrap_or_else(|_| {
            if record.error.is_empty() {
                let damaged = self.malformed(&key).to_string();
                shorten_reason(&damaged).clone_into(&mut record.error);
            }
            Content::new(Headers::new(), found.payload)
        });
        Ok(Some(Place {
            seq: found.sequence,
            record,
            content,
            key,
            written_at: u64::try_from(written_at).unwrap_or_default(),
        }))
    }

    fn strange(&self, key: &str) -> RequestError {
        RequestError::Damaged(format!(
            "the record of message {key} in the stream {} is none of ours: was it written by another program, or a later version?",
            self.places
        ))
    }

    /// The error of a message whose headers were not written by this crate.
    pub(crate) fn malformed(&self, key: &str) -> RequestError {
        RequestError::Damaged(format!(
            "the headers of message {key} in the stream {} or {} are not encoded as ours are: \
             were they changed by another program, or written by a later version?",
            self.places, self.work
        ))
    }

    /// The servers that keep the stream of its places.
    #[cfg(feature = "test-server")]
    pub(crate) async fn cluster(&self) -> Option<async_nats::jetstream::stream::ClusterInfo> {
        let jetstream = &self.connection.jetstream;
        let stream = jetstream.get_stream(&self.places).await.ok()?;
        stream.cached_info().cluster.clone()
    }

    // --- work ------------------------------------------------------------------------------------

    /// Publishes a message, whose record has the sequence `place`, to the work queue.
    pub(crate) async fn publish(
        &self,
        key: &str,
        place: u64,
        record: &Record,
        content: Content,
        until: Instant,
    ) -> Result<(), RequestError> {
        let (subject, headers) = self.work_message(key, place, record, &content);
        let stored = self
            .ask::<Stored>(&subject, Some(&headers), content.payload, until)
            .await;
        stored
            .map(drop)
            .map_err(|(refusal, _)| self.request_error(&refusal))
    }

    /// Hands a message to the connection, which publishes what it is handed in that order. The
    /// result is the server's answer to come; `None`: the connection did not take the message.
    pub(crate) async fn begin_publish(
        &self,
        key: &str,
        place: u64,
        record: &Record,
        content: Content,
    ) -> Option<PublishAckFuture> {
        let (subject, headers) = self.work_message(key, place, record, &content);
        let message = PublishMessage::build().headers(headers);
        let message = message.payload(content.payload);
        let jetstream = &self.connection.jetstream;
        jetstream.send_publish(subject, message).await.ok()
    }

    /// The subject and the headers of a message in the work queue.
    fn work_message(
        &self,
        key: &str,
        place: u64,
        record: &Record,
        content: &Content,
    ) -> (String, HeaderMap) {
        let mut headers = HeaderMap::new();
        // A repeated publish is not stored twice.
        let id = match record.work {
            0 => key.to_owned(),
            work => format!("{key}-{work}"),
        };
        headers.insert("Nats-Msg-Id", id.as_str());
        record.write(&mut headers);
        write_place(&mut headers, place);
        content.write(&mut headers);
        (format!("{}.{key}", self.work), headers)
    }

    /// Returns whether a message is in the work queue under this number ([`Record::work`]).
    pub(crate) async fn has_work(
        &self,
        key: &str,
        work: u64,
        until: Instant,
    ) -> Result<bool, RequestError> {
        let subject = format!("{}.{key}", self.work);
        let found = self.last(&self.work, &subject, until).await?;
        let record = found.and_then(|found| Record::read(&found.headers));
        Ok(record.is_some_and(|record| record.work == work))
    }

    /// Deletes a message whose record is gone from the work queue. If that fails, the next receiver
    /// of it drops it.
    ///
    /// By its sequence: a purge by subject makes the consumers of 2.9 forget messages that come
    /// after it.
    pub(crate) async fn drop_work(&self, key: &str) {
        let subject = format!("{}.{key}", self.work);
        let until = self.connection.soon();
        if let Ok(Some(found)) = self.last(&self.work, &subject, until).await {
            let subject = format!("$JS.API.STREAM.MSG.DELETE.{}", self.work);
            let question = json!({ "seq": found.sequence, "no_erase": true }).to_string();
            let _ = self
                .connection
                .client
                .publish(subject, question.into())
                .await;
        }
    }

    /// Returns whether that is the stream of its work.
    pub(crate) fn is_work(&self, stream: &str) -> bool {
        self.work == stream
    }

    /// The subject on which the next message is requested.
    pub(crate) fn next_subject(&self) -> String {
        format!("$JS.API.CONSUMER.MSG.NEXT.{}.{CONSUMER}", self.work)
    }

    // --- both ------------------------------------------------------------------------------------

    /// The last message of a subject. Repeats the request until there is an answer, or until the
    /// deadline.
    async fn last(
        &self,
        stream: &str,
        subject: &str,
        until: Instant,
    ) -> Result<Option<StreamMessage>, RequestError> {
        let jetstream = &self.connection.jetstream;
        loop {
            let stream = jetstream.get_stream_no_info(stream).await;
            let stream = stream.map_err(|e| RequestError::Server(self.refused(&e)))?;
            let error = match stream.get_last_raw_message_by_subject(subject).await {
                Ok(found) => return Ok(Some(found)),
                Err(error) => error,
            };
            if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) {
                return Ok(None);
            }
            self.check_alive(until).await?;
            if Instant::now() >= until {
                return Err(RequestError::Server(self.refused(&error)));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Like [`Connection::ask`], but checks whether the queue is gone when there is no subscriber.
    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: Bytes,
        until: Instant,
    ) -> Result<(T, bool), (Refusal, bool)> {
        let mut before = false;
        loop {
            let asked = self
                .connection
                .ask(subject, headers, payload.clone(), until);
            let (answer, again) = asked.await;
            let again = again || before;
            match answer {
                Ok(answer) => return Ok((answer, again)),
                Err(Refusal::NobodyListens) if Instant::now() + PAUSE < until => {
                    if self.check_alive(until).await == Err(RequestError::Gone) {
                        let code = code::NO_STREAM;
                        let text = String::new();
                        return Err((Refusal::Error { code, text }, again));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(refusal) => return Err((refusal, again)),
            }
            before = true;
        }
    }

    /// Checks that the streams still exist.
    pub(crate) async fn check_alive(&self, until: Instant) -> Result<(), RequestError> {
        let subject = format!("$JS.API.STREAM.INFO.{}", self.places);
        let asked = self.connection.ask(&subject, None, Bytes::new(), until);
        let (answer, _) = asked.await;
        answer
            .map(|_: serde_json::Value| ())
            .map_err(|refusal| self.request_error(&refusal))
    }

    fn request_error(&self, refusal: &Refusal) -> RequestError {
        self.connection.request_error(refusal)
    }
}

fn key_in(headers: &HeaderMap) -> Option<&str> {
    headers.get(KEY).map(|key| key.as_str())
}

/// The part of a key that names the place.
pub(crate) fn place_of(key: &str) -> &str {
    key.split_once('-').map_or(key, |(place, _)| place)
}

/// `None` for a key that is only a random number.
fn place_number(key: &str) -> Option<u32> {
    let (place, _) = key.split_once('-')?;
    u32::from_str_radix(place, 16).ok()
}
