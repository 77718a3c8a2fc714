//! The number of messages that are left in a queue, for calls that wait until it is drained.

use std::sync::Arc;
use std::time::Instant;

use crate::record::{self, Record, State};
use crate::request_error::RequestError;
use crate::shared::Shared;

impl Shared {
    /// The number of messages that may still have to be delivered or settled, except those that the
    /// receiver `but` holds.
    pub(crate) async fn left(
        self: &Arc<Self>,
        but: Option<u64>,
        until: Instant,
    ) -> Result<u64, RequestError> {
        loop {
            let before = self.last_changes(until).await?;
            let places = self.places(until).await?;
            let mut taken_back = false;
            for (stream, place) in &places {
                taken_back |= self.take_back_unsent(*stream, place, until).await?;
            }
            if taken_back {
                continue;
            }
            let now = record::now();
            let is_left = |record: &Record| {
                let holder = record.holder.as_ref().map(|holder| holder.port);
                let theirs = record.state == State::Leased && but.is_some() && holder == but;
                record.state != State::Dead && !theirs && !record.is_expired(now)
            };
            let left = places.iter().filter(|(_, place)| is_left(&place.record));
            let left = left.count() as u64;
            // Changes made during the reading may not be in the list.
            if left > 0 || self.last_changes(until).await? == before {
                return Ok(left);
            }
        }
    }

    async fn last_changes(&self, until: Instant) -> Result<Vec<u64>, RequestError> {
        let mut changes = Vec::new();
        for stream in &self.streams {
            changes.push(stream.last_change(until).await?);
        }
        Ok(changes)
    }
}
