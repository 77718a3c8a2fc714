//! Acks in flight: sent to a server, and confirmed later.
//!
//! Each receiver has one window. An ack in it is on its way to the server, and its answer is not
//! read yet. The window is bounded. When it is full, the next ack first waits for the oldest one.
//! If the process or the server dies, an unconfirmed message is acked or delivered again.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::delivery::{ByteDelivery, ack_some};
use crate::error::{BatchAckError, SettleError};
use crate::together::{InFlight, Together};

/// The maximum number of acks that a receiver leaves unconfirmed. A larger batch is in flight
/// alone.
pub const MAX_ACKS_IN_FLIGHT: usize = 64;
/// The age from which an unconfirmed ack is waited for by the next `ack_later` of its receiver.
pub const MAX_ACK_AGE: Duration = Duration::from_secs(1);

/// The acks of one receiver that are in flight, the oldest first.
#[derive(Default)]
pub(crate) struct AckWindow {
    groups: VecDeque<(Instant, InFlight)>,
    /// The number of deliveries in all groups.
    count: usize,
}

/// What one call learns about acks.
#[derive(Default)]
struct Learned {
    acked: usize,
    failures: Vec<SettleError>,
}

impl AckWindow {
    /// Sends the acks of these deliveries. Waits for earlier ones until these have room.
    pub(crate) fn ack<'d>(
        &mut self,
        deliveries: impl Iterator<Item = ByteDelivery<'d>>,
    ) -> Result<(), BatchAckError> {
        let mut together = Together::default();
        let (count, failures) = ack_some(deliveries, &mut together);
        let left = together.len();
        let mut learned = Learned {
            acked: count - failures.len() - left,
            failures: failures.into_iter().map(|(_, failure)| failure).collect(),
        };
        self.make_room(left, &mut learned);
        let before = learned.failures.len();
        let started = together.start(|_, failure| learned.failures.push(failure));
        let in_flight: usize = started.iter().map(InFlight::len).sum();
        learned.acked += left - in_flight - (learned.failures.len() - before);
        self.count += in_flight;
        let now = Instant::now();
        self.groups
            .extend(started.into_iter().map(|acks| (now, acks)));
        learned.check()
    }

    /// Waits until all are confirmed.
    pub(crate) fn flush(&mut self) -> Result<(), BatchAckError> {
        let mut learned = Learned::default();
        while self.confirm_oldest(&mut learned) {}
        learned.check()
    }

    /// Returns the number of acks in flight.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    fn make_room(&mut self, more: usize, learned: &mut Learned) {
        while let Some((since, _)) = self.groups.front() {
            let has_room = self.count + more <= MAX_ACKS_IN_FLIGHT;
            if has_room && since.elapsed() < MAX_ACK_AGE {
                return;
            }
            self.confirm_oldest(learned);
        }
    }

    /// Returns `false` if none are in flight.
    fn confirm_oldest(&mut self, learned: &mut Learned) -> bool {
        let Some((_, acks)) = self.groups.pop_front() else {
            return false;
        };
        let (count, before) = (acks.len(), learned.failures.len());
        self.count -= count;
        acks.confirm(|_, failure| learned.failures.push(failure));
        learned.acked += count - (learned.failures.len() - before);
        true
    }
}

impl Learned {
    fn check(self) -> Result<(), BatchAckError> {
        BatchAckError::check(self.acked, self.failures)
    }
}

impl Drop for AckWindow {
    fn drop(&mut self) {
        // Messages whose acks failed are delivered again.
        let _ = self.flush();
    }
}

impl fmt::Debug for AckWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut window = f.debug_struct("AckWindow");
        window.field("count", &self.count).finish_non_exhaustive()
    }
}
