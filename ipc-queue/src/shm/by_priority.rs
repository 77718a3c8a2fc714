//! The handles of a queue in shared memory: one for each priority, and the choice between them.
//!
//! A queue without priorities has one level, and its handles forward at once. With priorities a
//! receiver checks the levels in the order that `aging` gives, and takes from the first that has a
//! message. It sleeps on the one event that all levels share. The levels may change between check
//! and take: the order is a preference, not a promise to the nanosecond.

use std::time::{Duration, SystemTime};

use ipc_proto::{Kind, MessageId, Priority, SenderId, Timestamp};

use super::Hold;
use super::receiver::{LevelReceiver, ShmDelivery};
use super::ring::Lease;
use super::sender::{LevelSender, ShmLoan};
use super::spin::Spin;
use super::tally::Side;
use crate::aging;
use crate::capability::{Feature, Unsupported};
use crate::contract::{ReceivePort, SendPort};
use crate::error::{BatchPortError, RecvPortError, SendFailure, SendPortError};
use crate::notifier::Notifier;
use crate::port::{PortDelivery, PortLoan};
use crate::send_options::SendOptions;
use crate::wait::Wait;

/// Sends into one queue in shared memory. For one thread; clone it for more.
#[derive(Debug)]
pub struct ShmSender {
    shared: Hold,
    normal: LevelSender,
    /// The senders of the other priorities, if there are any.
    others: Box<[LevelSender]>,
}

/// Receives from one queue in shared memory. For one thread; clone it for more.
#[derive(Debug)]
pub struct ShmReceiver {
    shared: Hold,
    normal: LevelReceiver,
    /// The receivers of the other priorities, if there are any.
    others: Box<[LevelReceiver]>,
    spin: Spin,
}

/// Returns the level of a priority. The default priority has the first level, which every queue
/// has.
pub(super) const fn level_of(priority: Priority) -> usize {
    match priority {
        Priority::Normal => 0,
        Priority::Low => 1,
        Priority::High => 2,
        Priority::Urgent => 3,
    }
}

/// Returns the priority of a level.
pub(super) fn priority_of(level: usize) -> Priority {
    let mut all = Priority::ALL.into_iter();
    all.find(|priority| level_of(*priority) == level)
        .unwrap_or_default()
}

impl ShmSender {
    pub(super) fn new(shared: &Hold) -> Self {
        let id = SenderId::new(fastrand::u64(1..));
        let sender = |level| LevelSender::new(shared.clone(), level, id);
        Self {
            normal: sender(0),
            others: (1..shared.contents.levels.len()).map(sender).collect(),
            shared: shared.clone(),
        }
    }

    /// Returns the sender id of this handle's messages.
    #[must_use]
    pub fn id(&self) -> SenderId {
        self.normal.id()
    }

    /// Returns the sender for level `number`, which must exist.
    pub(super) fn level(&self, number: usize) -> &LevelSender {
        match number.checked_sub(1) {
            None => &self.normal,
            Some(other) => &self.others[other],
        }
    }

    /// Sends a copy of `payload`.
    ///
    /// # Errors
    /// As [`SendPort::loan`].
    #[inline(always)]
    pub(crate) fn send(
        &self,
        payload: &[u8],
        kind: Kind,
        wait: impl FnOnce() -> Wait,
    ) -> Result<MessageId, SendPortError> {
        self.normal.send(payload, kind, wait)
    }

    /// Lends a place, as [`SendPort::loan`].
    #[inline(always)]
    pub(crate) fn lend(
        &self,
        len: usize,
        kind: Kind,
        wait: Wait,
    ) -> Result<ShmLoan<'_>, SendPortError> {
        self.normal.loan(len, kind, wait)
    }

    /// Lends a place, as [`SendPort::loan_with`].
    pub(crate) fn lend_with(
        &self,
        len: usize,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<ShmLoan<'_>, SendPortError> {
        let checked = options.check(super::CAPABILITIES);
        checked.map_err(SendFailure::from)?;
        let level = level_of(options.priority);
        if level > self.others.len() {
            let missing = Unsupported::by_settings(Feature::Priorities);
            return Err(SendFailure::from(missing).into());
        }
        self.at(level).loan_with(len, options, wait)
    }

    /// Returns whether there may be room for another message, after the last claim.
    fn has_more(&self) -> bool {
        self.normal.has_more() || self.others.iter().any(LevelSender::has_more)
    }

    /// Returns the sender for that level, which must exist.
    pub(super) fn at(&self, level: usize) -> &LevelSender {
        match level {
            0 => &self.normal,
            other => &self.others[other - 1],
        }
    }
}

impl Clone for ShmSender {
    fn clone(&self) -> Self {
        Self::new(&self.shared)
    }
}

impl SendPort for ShmSender {
    fn loan_with(
        &self,
        len: usize,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<PortLoan, SendPortError> {
        Ok(self.lend_with(len, options, wait)?.into_port())
    }

    fn send(&self, payload: &[u8], kind: Kind, wait: Wait) -> Result<MessageId, SendPortError> {
        self.send(payload, kind, || wait)
    }

    fn send_batch(&self, payloads: &[&[u8]], kind: Kind, wait: Wait) -> Result<(), BatchPortError> {
        self.normal.send_all(payloads, kind, wait)
    }

    fn notifier(&self) -> Notifier {
        self.shared.room_notifier()
    }

    fn has_more(&self) -> bool {
        self.has_more()
    }
}

impl ShmReceiver {
    pub(super) fn new(shared: &Hold) -> Self {
        let receiver = |level| LevelReceiver::new(shared.clone(), level);
        Self {
            normal: receiver(0),
            others: (1..shared.contents.levels.len()).map(receiver).collect(),
            spin: Spin::default(),
            shared: shared.clone(),
        }
    }

    /// Returns the next message.
    #[inline(always)]
    pub(crate) fn receive(
        &self,
        wait: impl FnOnce() -> Wait,
    ) -> Result<ShmDelivery<'_>, RecvPortError> {
        if self.others.is_empty() {
            self.normal.receive(wait)
        } else {
            self.receive_most_urgent(wait())
        }
    }

    #[inline(never)]
    fn receive_most_urgent(&self, wait: Wait) -> Result<ShmDelivery<'_>, RecvPortError> {
        let (level, lease) = match self.try_take()? {
            Some(taken) => {
                self.spin.hit();
                taken
            }
            None => self.wait_for_item(wait)?,
        };
        level.start(&lease);
        level.deliver(lease)
    }

    /// Receives a batch, as [`ReceivePort::recv_batch`].
    pub(crate) fn receive_batch<'a, D: From<ShmDelivery<'a>>>(
        &'a self,
        most: usize,
        wait: Wait,
        into: &mut Vec<D>,
    ) -> Result<(), RecvPortError> {
        if self.others.is_empty() {
            return self.normal.receive_some(most, wait, into);
        }
        if most > 0 {
            into.push(self.receive(|| wait)?.into());
        }
        let more = std::iter::from_fn(|| self.receive(|| Wait::No).ok());
        into.extend(more.take(most.saturating_sub(1)).map(D::from));
        Ok(())
    }

    /// Returns whether there may be another message after the last one found.
    pub(crate) fn has_more(&self) -> bool {
        self.levels().any(LevelReceiver::has_more)
    }

    fn wait_for_item(&self, wait: Wait) -> Result<(&LevelReceiver, Lease), RecvPortError> {
        let attempt = || self.try_take().transpose();
        let more = || self.has_more();
        let shared = &*self.shared;
        let side = Some(Side::Receive);
        let waited = shared.wait_for(shared.items(), side, wait, &self.spin, attempt, more);
        waited.unwrap_or_else(|waited| Err(shared.nothing_came(waited)))
    }

    /// Takes from the first level, in the preferred order, that has a message.
    fn try_take(&self) -> Result<Option<(&LevelReceiver, Lease)>, RecvPortError> {
        for priority in self.order() {
            let level = self.at(level_of(priority));
            if let Some(lease) = level.try_take()? {
                return Ok(Some((level, lease)));
            }
        }
        Ok(None)
    }

    fn order(&self) -> [Priority; Priority::COUNT] {
        let now = Timestamp::from(SystemTime::now()).as_nanos();
        let waited = Priority::ALL.map(|priority| {
            let sent_at = self.at(level_of(priority)).next_sent_at()?;
            Some(Duration::from_nanos(now.saturating_sub(sent_at.as_nanos())))
        });
        aging::order(waited, self.shared.contents.settings.aging)
    }

    fn levels(&self) -> impl Iterator<Item = &LevelReceiver> {
        std::iter::once(&self.normal).chain(&self.others)
    }

    fn at(&self, level: usize) -> &LevelReceiver {
        match level {
            0 => &self.normal,
            other => &self.others[other - 1],
        }
    }
}

impl Clone for ShmReceiver {
    fn clone(&self) -> Self {
        Self::new(&self.shared)
    }
}

impl ReceivePort for ShmReceiver {
    fn recv(&self, wait: Wait) -> Result<PortDelivery, RecvPortError> {
        let received = self.receive(|| wait);
        Ok(received?.into_port())
    }

    fn notifier(&self) -> Notifier {
        self.shared.items_notifier()
    }

    fn has_more(&self) -> bool {
        self.has_more()
    }
}
