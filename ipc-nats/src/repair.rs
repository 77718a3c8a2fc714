//! Makes room: drops expired messages, and frees the places of dead senders.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipc_queue::{OverflowPolicy, SendOptions};

use crate::priority_stream::Place;
use crate::record::{self, Record, State};
use crate::request_error::RequestError;
use crate::shared::Shared;

/// The time without a sign of life after which a place that was never filled is taken back. It
/// exceeds the time for which a sender trusts its place, and the longest silence of a live lender,
/// by more than clocks should differ.
pub(crate) fn given_up_after() -> Duration {
    Duration::from_millis(GIVEN_UP_AFTER_MS.load(Ordering::Relaxed))
}

/// Only tests change it.
pub(crate) static GIVEN_UP_AFTER_MS: AtomicU64 = AtomicU64::new(30_000);
/// Before that, a live process may be connecting again, after a server of its cluster was lost.
const KNOWN_AFTER: Duration = Duration::from_secs(5);

/// The result of a search for room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// There may be room now.
    pub(crate) made: bool,
    /// The number of places that dead letters take.
    pub(crate) dead: u64,
    /// The time until there may be room, because something expires.
    pub(crate) soon: Option<Duration>,
}

impl Shared {
    /// Searches a full priority stream for places that can be taken back.
    pub(crate) async fn look_for_room(
        self: &Arc<Self>,
        stream: usize,
        options: &SendOptions,
        until: Instant,
    ) -> Result<Room, RequestError> {
        let (taken, places) = self.streams[stream].count_and_list(until).await?;
        // This must precede the changes below: each place freed there is noted as free.
        self.streams[stream].learn(&places);
        let mut room = Room::default();
        let now = record::now();
        for place in &places {
            let record = &place.record;
            if record.state == State::Dead {
                room.dead += 1;
            } else if record.is_expired(now) {
                let dropped = self.drop_message(stream, place, until).await?;
                self.counts
                    .add(|counts| counts.expired += u64::from(dropped));
                room.made = true;
            } else if record.state == State::Ready && record.expires != 0 {
                let left = Duration::from_nanos(record.expires - now);
                room.soon = Some(room.soon.map_or(left, |soon| soon.min(left)));
            }
        }
        for place in &places {
            room.made |= self.take_back_unsent(stream, place, until).await?;
        }
        if room.made {
            return Ok(room);
        }
        room.made = taken < u64::from(self.entry.settings.capacity);
        if !room.made && options.overflow == OverflowPolicy::DropOldest {
            room.made = self.drop_oldest(stream, &places, until).await?;
        }
        Ok(room)
    }

    async fn drop_oldest(
        self: &Arc<Self>,
        stream: usize,
        places: &[Place],
        until: Instant,
    ) -> Result<bool, RequestError> {
        let now = record::now();
        let waits =
            |place: &&Place| place.record.state == State::Ready && !place.record.is_delayed(now);
        let oldest = places
            .iter()
            .filter(waits)
            .min_by_key(|place| place.record.sent_at);
        let Some(oldest) = oldest else {
            return Ok(false);
        };
        let dropped = self.drop_message(stream, oldest, until).await?;
        self.counts
            .add(|counts| counts.overflowed += u64::from(dropped));
        Ok(true)
    }

    /// Takes back a place whose sender died before its message was accepted.
    pub(crate) async fn take_back_unsent(
        self: &Arc<Self>,
        stream: usize,
        place: &Place,
        until: Instant,
    ) -> Result<bool, RequestError> {
        match place.record.state {
            // Its sender is refused when it tries to fill it.
            State::Writing if self.is_given_up(place).await => {
                self.take_back(stream, place, until).await
            }
            // Its sender may be publishing it to the work queue, and would not notice: it trusts
            // its place for a while.
            State::Ready if is_untouched(&place.record) && is_old(place, given_up_after()) => {
                if self.streams[stream].has_work(&place.key, 0, until).await? {
                    return Ok(false);
                }
                self.take_back(stream, place, until).await
            }
            _ => Ok(false),
        }
    }

    /// Returns whether the sender that has a place is gone: its process is not connected, or its
    /// lease keeper would have renewed the place.
    pub(crate) async fn is_given_up(&self, place: &Place) -> bool {
        is_old(place, given_up_after())
            || is_old(place, KNOWN_AFTER) && !self.connection.lives(&place.record.process).await
    }

    /// Drops a waiting message. `false`: another process was faster.
    pub(crate) async fn drop_message(
        self: &Arc<Self>,
        stream: usize,
        place: &Place,
        until: Instant,
    ) -> Result<bool, RequestError> {
        self.settle_key(stream, &place.record, until).await?;
        self.take_back(stream, place, until).await
    }

    /// Frees a place and its content. `false`: another process was faster.
    pub(crate) async fn take_back(
        self: &Arc<Self>,
        stream: usize,
        place: &Place,
        until: Instant,
    ) -> Result<bool, RequestError> {
        let dropped = self.streams[stream]
            .erase(&place.key, place.seq, until)
            .await?;
        if dropped {
            self.streams[stream].drop_work(&place.key).await;
            self.drop_object(stream, &place.key, &place.record).await;
        }
        Ok(dropped)
    }
}

/// Returns whether a record was written longer ago than `time`.
fn is_old(place: &Place, time: Duration) -> bool {
    u128::from(record::now().saturating_sub(place.written_at)) > time.as_nanos()
}

/// Returns whether no receiver ever had the message.
pub(crate) fn is_untouched(record: &Record) -> bool {
    // A snoozed message has no attempts, but had a holder.
    record.attempt == 0 && record.holder.is_none() && record.work == 0
}

#[cfg(test)]
mod tests {
    use ipc_proto::Kind;

    use super::*;
    use crate::record::Holder;

    #[test]
    fn a_snoozed_message_is_known_to_have_been_received() {
        let mut record = Record::new(State::Ready, "process", Kind::Data);
        assert!(is_untouched(&record));
        // The state after a snooze of its first delivery.
        record.holder = Some(Holder {
            name: String::new(),
            pid: 1,
            port: 1,
        });
        assert!(!is_untouched(&record));
    }
}
