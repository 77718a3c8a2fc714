//! The stream of the keys of a priority stream: one record for each, changed by compare-and-swap
//! like those of places.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Config;
use ipc_proto::QueueSettings;

use super::{EXPECTED, PriorityStream, RECOGNIZED_FOR, RequestError};
use crate::connection::{Refusal, Stored, code};
use crate::keys::Claim;

/// Records outlive the window by more than clocks should differ: the times in them say when they
/// are over.
const MARGIN: Duration = Duration::from_secs(30);

impl PriorityStream {
    /// The configuration of the stream, if the queue has keys; the rest is as in `others`.
    pub(super) fn keys_config(&self, settings: &QueueSettings, others: Config) -> Option<Config> {
        let window = settings.dedup_window?;
        Some(Config {
            max_messages_per_subject: 1,
            max_age: window + MARGIN,
            // The server allows none that is longer than messages are kept.
            duplicate_window: RECOGNIZED_FOR.min(window + MARGIN),
            ..others
        })
    }

    /// The content of a key's record, and its sequence; 0 if there is none.
    pub(crate) async fn read_key(
        &self,
        key: u64,
        until: Instant,
    ) -> Result<(u64, Option<Claim>), RequestError> {
        let subject = self.key_subject(key);
        let Some(found) = self.last(&self.keys, &subject, until).await? else {
            return Ok((0, None));
        };
        let claim = serde_json::from_slice(&found.payload);
        let claim = claim.map_err(|_| self.strange(&subject))?;
        Ok((found.sequence, Some(claim)))
    }

    /// Replaces the record whose sequence is `expected`; 0: there is none. Returns the new record's
    /// sequence.
    pub(crate) async fn write_key(
        &self,
        key: u64,
        expected: u64,
        claim: &Claim,
        until: Instant,
    ) -> Result<u64, RequestError> {
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED, expected.to_string().as_str());
        let text = serde_json::to_vec(claim).expect("a claim has an encoding");
        let subject = self.key_subject(key);
        let stored = self.ask::<Stored>(&subject, Some(&headers), text.into(), until);
        match stored.await {
            Ok((stored, _)) => Ok(stored.seq),
            Err((Refusal::Error { code, .. }, _)) if code == code::WRONG_LAST_SEQUENCE => {
                // An earlier try may have written it, if the answer was lost.
                match self.read_key(key, until).await? {
                    (seq, Some(found)) if found == *claim => Ok(seq),
                    _ => Err(RequestError::Changed),
                }
            }
            Err((refusal, _)) => Err(self.request_error(&refusal)),
        }
    }

    fn key_subject(&self, key: u64) -> String {
        format!("{}.{key:016x}", self.keys)
    }
}
