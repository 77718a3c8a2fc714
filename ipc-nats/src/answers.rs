//! Results by key, where the first result for a key counts.
//!
//! Work is done at least once, so sometimes twice. A worker puts its result here before it acks the
//! job. The results are in a stream that keeps one message for each subject and refuses the next.
//! The first answer wins, for all processes, forever (or for as long as answers are kept). A later
//! put returns the first answer.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RawMessageErrorKind};
use bytes::Bytes;
use ipc_queue::transport::Wait;
use thiserror::Error;

use crate::address::NatsAddress;
use crate::connection::{Connection, Refusal, Stored};
use crate::directory;
use crate::remedy::with_remedy;
use crate::runtime::block_on;

/// A set of answers, by key, on a NATS server.
///
/// ```no_run
/// use ipc_nats::{Answers, NatsAddress, Put};
///
/// let answers = Answers::open(&NatsAddress::parse("//127.0.0.1/thumbnails")?, None)?;
/// assert_eq!(answers.put("cat.png", b"64x64")?, Put::First);
/// assert_eq!(answers.put("cat.png", b"65x65")?, Put::Late { first: b"64x64".to_vec() });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Answers {
    connection: Arc<Connection>,
    stream: String,
}

/// The outcome of [`Answers::put`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// This answer is the first.
    First,
    /// There was an answer already.
    Late {
        /// The first answer.
        first: Vec<u8>,
    },
}

/// Why answers can't be read or written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// No answer came before the deadline.
    #[error("no answer came in {waited:?}")]
    TimedOut {
        /// The time waited.
        waited: Duration,
    },
    /// An error of the server.
    #[error("{0}")]
    Server(String),
}

const LOOKS_EVERY: Duration = Duration::from_millis(50);

impl Answers {
    /// Opens the answers with that name, or creates them. New answers are kept for `keep`, or for
    /// ever if it is `None`; existing ones keep their time.
    ///
    /// # Errors
    /// [`AnswerError::Server`].
    pub fn open(address: &NatsAddress, keep: Option<Duration>) -> Result<Self, AnswerError> {
        block_on(async {
            let connection = Connection::to(address).await;
            let connection = connection.map_err(AnswerError::Server)?;
            let stream = format!("ipc-answers-{}", directory::key(address.name.as_str()));
            let config = Config {
                name: stream.clone(),
                subjects: vec![format!("{stream}.*")],
                storage: address.storage(),
                num_replicas: address.replicas,
                max_messages_per_subject: 1,
                discard: DiscardPolicy::New,
                discard_new_per_subject: true,
                max_age: keep.unwrap_or_default(),
                ..Config::default()
            };
            let made = connection.jetstream.get_or_create_stream(config).await;
            made.map_err(|error| {
                let servers = &connection.servers;
                let what = format!("the NATS server at {servers} can't keep answers");
                AnswerError::Server(with_remedy(&what, &error))
            })?;
            Ok(Self { connection, stream })
        })
    }

    /// Puts an answer, and returns whether it is the first. Any bytes can be a key.
    ///
    /// # Errors
    /// [`AnswerError::Server`]: it is not known whether the answer was put. Putting it again is
    /// safe.
    pub fn put(&self, key: impl AsRef<[u8]>, answer: &[u8]) -> Result<Put, AnswerError> {
        let subject = self.subject(key.as_ref());
        block_on(async {
            let mine = format!("{:016x}", fastrand::u64(..));
            let mut headers = HeaderMap::new();
            headers.insert(MINE, mine.as_str());
            let until = self.connection.soon();
            let payload = Bytes::copy_from_slice(answer);
            let asked = self
                .connection
                .ask::<Stored>(&subject, Some(&headers), payload, until);
            match asked.await.0 {
                Ok(_) => return Ok(Put::First),
                Err(refusal) if refusal.is_full_for_subject() => {}
                Err(refusal) => return Err(self.request_error(&refusal)),
            }
            let Some(first) = self.find(&subject).await? else {
                return Err(AnswerError::Server(
                    "the first answer was just forgotten: put it again".to_owned(),
                ));
            };
            // The stored answer may be this one, if the server's reply to an earlier try was lost.
            Ok(if first.1 == mine {
                Put::First
            } else {
                Put::Late { first: first.0 }
            })
        })
    }

    /// The answer, if there is one.
    ///
    /// # Errors
    /// [`AnswerError::Server`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, AnswerError> {
        let found = block_on(self.find(&self.subject(key.as_ref())))?;
        Ok(found.map(|(answer, _)| answer))
    }

    /// Blocks until there is an answer, and returns it.
    ///
    /// # Errors
    /// [`AnswerError::TimedOut`] if it does not come in time; with [`Wait::No`], if it is not
    /// there.
    pub fn wait(&self, key: impl AsRef<[u8]>, wait: Wait) -> Result<Vec<u8>, AnswerError> {
        let subject = self.subject(key.as_ref());
        let started = Instant::now();
        block_on(async {
            loop {
                if let Some((answer, _)) = self.find(&subject).await? {
                    return Ok(answer);
                }
                let is_over = match wait {
                    Wait::No => true,
                    Wait::Until(deadline) => Instant::now() >= deadline,
                    Wait::Forever => false,
                };
                if is_over {
                    let waited = started.elapsed();
                    return Err(AnswerError::TimedOut { waited });
                }
                tokio::time::sleep(LOOKS_EVERY).await;
            }
        })
    }

    /// Removes all answers with that name; `false` if there were none.
    ///
    /// # Errors
    /// [`AnswerError::Server`].
    pub fn remove(address: &NatsAddress) -> Result<bool, AnswerError> {
        block_on(async {
            let connection = Connection::to(address).await;
            let connection = connection.map_err(AnswerError::Server)?;
            let stream = format!("ipc-answers-{}", directory::key(address.name.as_str()));
            Ok(connection.jetstream.delete_stream(stream).await.is_ok())
        })
    }

    fn subject(&self, key: &[u8]) -> String {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}.k{hex}", self.stream)
    }

    /// The answer, and the id of the put that stored it.
    async fn find(&self, subject: &str) -> Result<Option<(Vec<u8>, String)>, AnswerError> {
        let stream = self
            .connection
            .jetstream
            .get_stream_no_info(&self.stream)
            .await;
        let stream = stream.map_err(|error| AnswerError::Server(error.to_string()))?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(found) => {
                let whose = found.headers.get(MINE).map(ToString::to_string);
                Ok(Some((found.payload.to_vec(), whose.unwrap_or_default())))
            }
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(self.request_error(&Refusal::Silent(error.to_string()))),
        }
    }

    fn request_error(&self, refusal: &Refusal) -> AnswerError {
        AnswerError::Server(self.connection.explain(refusal))
    }
}

/// The header that distinguishes two puts of the same bytes.
const MINE: &str = "Ipc-Put";

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Answers").field(&self.stream).finish()
    }
}
