//! Requests messages from a work queue's consumer.
//!
//! A receiver has one inbox for all answers. A message that arrives after its receiver stopped
//! waiting stays there, and the next receive finds it first. A dropped handle returns it.

use std::time::{Duration, Instant};

use async_nats::{Client, Message, StatusCode, Subscriber};
use futures_util::{FutureExt, StreamExt};
use serde_json::json;

use crate::priority_stream::{Delivered, PriorityStream};
use crate::request_error::RequestError;

#[derive(Debug)]
pub(crate) struct Puller {
    client: Client,
    inbox: String,
    arrivals: Subscriber,
    asked: u64,
}

/// The answer to a request for a message.
#[derive(Debug)]
pub(crate) enum Answer {
    Message(Box<Message>),
    /// No message came within the given time.
    Nothing,
    /// The consumer does not answer, or is away.
    Silence,
}

/// The extra time that the server's answer may take beyond the time it was given.
const GRACE: Duration = Duration::from_secs(1);
/// The time within which the next of several messages must come. The next receive finds later ones.
const NEXT_WITHIN: Duration = Duration::from_millis(20);

impl Puller {
    pub(crate) async fn new(client: &Client) -> Result<Self, RequestError> {
        let inbox = client.new_inbox();
        let arrivals = client.subscribe(format!("{inbox}.*")).await;
        Ok(Self {
            client: client.clone(),
            inbox,
            arrivals: arrivals.map_err(|error| RequestError::Server(error.to_string()))?,
            asked: 0,
        })
    }

    /// A message that arrived late.
    pub(crate) fn late(&mut self) -> Option<Message> {
        loop {
            let arrived = self.arrivals.next().now_or_never()??;
            if arrived.status.is_none() && arrived.reply.is_some() {
                return Some(arrived);
            }
        }
    }

    /// Requests at most `most` of the messages that are available now. Some may be missing: those
    /// that the consumer does not count, or sends late.
    pub(crate) async fn ask_many(
        &mut self,
        stream: &PriorityStream,
        most: usize,
    ) -> Result<Vec<Message>, RequestError> {
        self.asked += 1;
        let question = json!({ "batch": most, "no_wait": true }).to_string();
        let reply = format!("{}.{}", self.inbox, self.asked);
        let subject = stream.next_subject();
        let asked = self
            .client
            .publish_with_reply(subject, reply.clone(), question.into());
        asked
            .await
            .map_err(|error| RequestError::Server(error.to_string()))?;
        let mut came = Vec::new();
        while came.len() < most {
            let next = tokio::time::timeout(NEXT_WITHIN, self.arrivals.next()).await;
            let Ok(Some(arrived)) = next else {
                break;
            };
            let delivered = arrived.reply.as_ref().and_then(|to| Delivered::read(to));
            match (arrived.status, delivered) {
                (None, Some(delivered)) => {
                    // The server sends nothing after the last message.
                    let is_last = delivered.pending == 0 && arrived.subject.as_str() == reply;
                    came.push(arrived);
                    if is_last {
                        break;
                    }
                }
                (Some(_), _) if arrived.subject.as_str() == reply => break,
                _ => {}
            }
        }
        Ok(came)
    }

    /// Requests one message, to come within that time; `None`: now.
    pub(crate) async fn ask(
        &mut self,
        stream: &PriorityStream,
        within: Option<Duration>,
    ) -> Result<Answer, RequestError> {
        self.asked += 1;
        let question = match within {
            None => json!({ "batch": 1, "no_wait": true }),
            Some(time) => {
                let expires_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
                json!({ "batch": 1, "expires": expires_ns })
            }
        };
        let reply = format!("{}.{}", self.inbox, self.asked);
        let question = question.to_string().into();
        let asked = self
            .client
            .publish_with_reply(stream.next_subject(), reply.clone(), question);
        asked
            .await
            .map_err(|error| RequestError::Server(error.to_string()))?;
        let until = Instant::now() + within.unwrap_or_default() + GRACE;
        loop {
            let next = tokio::time::timeout_at(until.into(), self.arrivals.next()).await;
            let Ok(Some(arrived)) = next else {
                return Ok(Answer::Silence);
            };
            match arrived.status {
                None if arrived.reply.is_some() => return Ok(Answer::Message(Box::new(arrived))),
                // The answer to an earlier request.
                _ if arrived.subject.as_str() != reply => {}
                Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => return Ok(Answer::Nothing),
                _ => return Ok(Answer::Silence),
            }
        }
    }
}
