//! Acks in flight: sent to a server, and confirmed later.
//!
//! Each receiver has one window. An ack in it is on its way to the server, and its answer is not
//! read yet. The window is bounded. When it is full, the next ack first waits for the oldest one.
//! If the process or the server dies, an unconfirmed message is acked or delivered again.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::block_on::block_on;
use crate::delivery::{ByteDelivery, ack_some};
use crate::error::{BatchAckError, SettleError};
use crate::process::ThisProcess;
use crate::together::{InFlight, Together};

/// The maximum number of acks that a receiver leaves unconfirmed. A larger batch is in flight
/// alone.
pub const MAX_ACKS_IN_FLIGHT: usize = 64;
/// The age from which an unconfirmed ack is waited for by the next `ack_later` of its receiver.
pub const MAX_ACK_AGE: Duration = Duration::from_secs(1);

/// The acks of one receiver that are in flight, the oldest first.
#[derive(Default)]
pub(crate) struct AckWindow {
    /// Those that another thread waits for, older than all groups.
    elsewhere: Option<Elsewhere>,
    groups: VecDeque<(Instant, InFlight)>,
    /// The number of deliveries of both.
    count: usize,
    /// The results that no call has returned yet.
    learned: Learned,
}

/// The outcomes of acks.
#[derive(Default)]
struct Learned {
    acked: usize,
    failures: Vec<SettleError>,
}

/// Acks that a thread of the blocking pool waits for.
struct Elsewhere {
    count: usize,
    /// A forked copy does not have the thread.
    process: ThisProcess,
    confirmed: Pin<Box<dyn Future<Output = Learned> + Send>>,
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
        self.learned.acked += count - failures.len() - left;
        let failures = failures.into_iter().map(|(_, failure)| failure);
        self.learned.failures.extend(failures);
        self.make_room(left);
        let learned = &mut self.learned;
        let before = learned.failures.len();
        let started = together.start(|_, failure| learned.failures.push(failure));
        let in_flight: usize = started.iter().map(InFlight::len).sum();
        learned.acked += left - in_flight - (learned.failures.len() - before);
        self.count += in_flight;
        let now = Instant::now();
        self.groups
            .extend(started.into_iter().map(|acks| (now, acks)));
        self.report()
    }

    /// Waits until all are confirmed.
    pub(crate) fn flush(&mut self) -> Result<(), BatchAckError> {
        while self.confirm_oldest() {}
        self.report()
    }

    /// Waits until all are confirmed, without blocking the thread. If the future is dropped, the
    /// next call waits for them and returns their failures.
    pub(crate) async fn flush_async(&mut self) -> Result<(), BatchAckError> {
        while self.elsewhere.is_some() || !self.groups.is_empty() {
            poll_fn(|context| self.poll_elsewhere(context)).await;
        }
        self.report()
    }

    /// Returns the number of acks in flight.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Returns what no call has returned yet.
    fn report(&mut self) -> Result<(), BatchAckError> {
        let Learned { acked, failures } = mem::take(&mut self.learned);
        BatchAckError::check(acked, failures)
    }

    fn make_room(&mut self, more: usize) {
        while self.count > 0 {
            let is_fresh = |(since, _): &(Instant, _)| since.elapsed() < MAX_ACK_AGE;
            let has_room = self.count + more <= MAX_ACKS_IN_FLIGHT;
            if has_room && self.elsewhere.is_none() && self.groups.front().is_none_or(is_fresh) {
                return;
            }
            self.confirm_oldest();
        }
    }

    /// Returns `false` if none are in flight.
    fn confirm_oldest(&mut self) -> bool {
        if let Some(elsewhere) = self.elsewhere.take() {
            self.count -= elsewhere.count;
            self.learned.add(elsewhere.wait());
            return true;
        }
        let Some((_, acks)) = self.groups.pop_front() else {
            return false;
        };
        self.count -= acks.len();
        self.learned.confirm(acks);
        true
    }

    /// Lets another thread wait for all acks, and checks whether it is done.
    fn poll_elsewhere(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let groups = &mut self.groups;
        let elsewhere = self
            .elsewhere
            .get_or_insert_with(|| Elsewhere::start(mem::take(groups)));
        let count = elsewhere.count;
        let learned = ready!(elsewhere.confirmed.as_mut().poll(context));
        self.elsewhere = None;
        self.count -= count;
        self.learned.add(learned);
        Poll::Ready(())
    }
}

impl Elsewhere {
    fn start(groups: VecDeque<(Instant, InFlight)>) -> Self {
        let count = groups.iter().map(|(_, acks)| acks.len()).sum();
        let confirm = move || {
            let mut learned = Learned::default();
            for (_, acks) in groups {
                learned.confirm(acks);
            }
            learned
        };
        Self {
            count,
            process: ThisProcess::current(),
            confirmed: Box::pin(blocking::unblock(confirm)),
        }
    }

    fn wait(self) -> Learned {
        if self.process.is_current() {
            return block_on(self.confirmed);
        }
        // The parent learns how they end.
        mem::forget(self.confirmed);
        Learned::default()
    }
}

impl Learned {
    /// Waits until these acks are confirmed.
    fn confirm(&mut self, acks: InFlight) {
        let (count, before) = (acks.len(), self.failures.len());
        acks.confirm(|_, failure| self.failures.push(failure));
        self.acked += count - (self.failures.len() - before);
    }

    fn add(&mut self, other: Self) {
        self.acked += other.acked;
        self.failures.extend(other.failures);
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
