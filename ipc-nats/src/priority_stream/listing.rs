//! Reads all records of a priority stream, through a consumer that exists only for the time of the
//! listing.
//!
//! A record that existed all the time is in the list. A record that was changed meanwhile may be
//! missing. A caller that must know that nothing is left compares
//! [`last_change`](PriorityStream::last_change) before and after.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use async_nats::Message;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::json;

use super::{Delivered, Place, PriorityStream, RequestError, key_in, place_of};
use crate::content::Content;
use crate::record::Record;

#[derive(Deserialize)]
struct Info {
    state: State,
}

#[derive(Deserialize)]
struct State {
    messages: u64,
    last_seq: u64,
}

/// The time to wait for the next record before it counts as deleted.
const NEXT_WITHIN: Duration = Duration::from_millis(200);

impl PriorityStream {
    /// All taken places, oldest change first, each once; without the contents of dead letters.
    pub(crate) async fn list(&self, until: Instant) -> Result<Vec<Place>, RequestError> {
        Ok(self.count_and_list(until).await?.1)
    }

    /// The number of places that were taken at one moment, and a list of them as above.
    pub(crate) async fn count_and_list(
        &self,
        until: Instant,
    ) -> Result<(u64, Vec<Place>), RequestError> {
        loop {
            let state = self.state(until).await?;
            if state.messages == 0 {
                return Ok((0, Vec::new()));
            }
            if let Some(places) = self.read_up_to(state.last_seq, until).await? {
                return Ok((state.messages, places));
            }
            // The missing records were deleted, or the server was away.
            if Instant::now() >= until {
                let servers = &self.connection.servers;
                let text =
                    format!("the NATS server at {servers} does not list its messages in time");
                return Err(RequestError::Server(text));
            }
        }
    }

    /// A number that distinguishes the state of the records from any later one, except for
    /// deletions.
    pub(crate) async fn last_change(&self, until: Instant) -> Result<u64, RequestError> {
        Ok(self.state(until).await?.last_seq)
    }

    async fn state(&self, until: Instant) -> Result<State, RequestError> {
        let subject = format!("$JS.API.STREAM.INFO.{}", self.places);
        let info = self.ask::<Info>(&subject, None, Bytes::new(), until).await;
        let (info, _) = info.map_err(|(refusal, _)| self.request_error(&refusal))?;
        Ok(info.state)
    }

    /// The records up to that sequence; `None`: some did not arrive.
    async fn read_up_to(
        &self,
        last_seq: u64,
        until: Instant,
    ) -> Result<Option<Vec<Place>>, RequestError> {
        #[derive(Deserialize)]
        struct Created {
            name: String,
            num_pending: u64,
        }
        let client = &self.connection.client;
        let inbox = client.new_inbox();
        let heard = client.subscribe(inbox.clone()).await;
        let mut heard = heard.map_err(|error| RequestError::Server(error.to_string()))?;
        let question = json!({ "stream_name": self.places, "config": {
            "deliver_subject": inbox,
            "deliver_policy": "all",
            "ack_policy": "none",
            "replay_policy": "instant",
            "headers_only": true,
            "mem_storage": true,
            "num_replicas": 1,
            "inactive_threshold": 5_000_000_000_u64,
        }});
        let subject = format!("$JS.API.CONSUMER.CREATE.{}", self.places);
        let question = question.to_string().into();
        let made = self.ask::<Created>(&subject, None, question, until).await;
        let (made, _) = made.map_err(|(refusal, _)| self.request_error(&refusal))?;
        let mut places = Vec::new();
        let mut is_whole = made.num_pending == 0;
        while !is_whole {
            let Ok(Some(message)) = tokio::time::timeout(NEXT_WITHIN, heard.next()).await else {
                break;
            };
            if let Some((place, pending)) = self.place_in(&message)? {
                // While other processes change records, there is always one more to come.
                is_whole = pending == 0 || place.seq >= last_seq;
                places.push(place);
            }
        }
        let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", self.places, made.name);
        // No answer is needed, and the consumer would also end by itself.
        let _ = client.publish(subject, Bytes::new()).await;
        Ok(is_whole.then(|| latest(places)))
    }

    /// The record in a message, and the number of messages after it.
    fn place_in(&self, message: &Message) -> Result<Option<(Place, u64)>, RequestError> {
        let reply = message.reply.as_ref();
        let Some(delivered) = reply.and_then(|reply| Delivered::read(reply)) else {
            return Ok(None);
        };
        let headers = message.headers.as_ref();
        let record = headers.and_then(Record::read);
        let place = message.subject.rsplit('.').next().unwrap_or_default();
        let key = headers.and_then(key_in).unwrap_or(place);
        let place = Place {
            key: key.to_owned(),
            seq: delivered.seq,
            record: record.ok_or_else(|| self.strange(key))?,
            content: Content::default(),
            written_at: delivered.written_at,
        };
        Ok(Some((place, delivered.pending)))
    }
}

/// Keeps the last record of each place: the others were replaced while the list was read.
fn latest(mut places: Vec<Place>) -> Vec<Place> {
    let mut seen = HashSet::new();
    places.reverse();
    places.retain(|place| seen.insert(place_of(&place.key).to_owned()));
    places.reverse();
    places
}
