//! The wait queues of a local queue as notifier threads see them (see
//! [`notifier`](crate::notifier)), and owned deliveries.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Shared;
use super::table::Wake;
use crate::error::SettleFailure;
use crate::notifier::{Notifier, WaitQueue};
use crate::settle::Settle;
use crate::settle_once::SettleOnce;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Items = 0,
    Room = 1,
}

/// One of a queue's condition variables, as a wait queue.
#[derive(Debug)]
struct LocalWaitQueue {
    shared: Arc<Shared>,
    side: Side,
}

pub(super) fn notifier(shared: &Arc<Shared>, side: Side) -> Notifier {
    let wait_queue = LocalWaitQueue {
        shared: Arc::clone(shared),
        side,
    };
    Notifier::new(
        Arc::clone(&shared.waiters[side as usize]),
        Arc::new(wait_queue),
    )
}

impl WaitQueue for LocalWaitQueue {
    fn prepare(&self) -> u32 {
        self.shared.changes.load(Ordering::SeqCst)
    }

    fn sleep(&self, heard: u32, limit: Duration) {
        let shared = &*self.shared;
        let mut table = shared.table();
        let (wake, next) = table.look_at_clock(Instant::now());
        shared.wake(&table, wake);
        // Changes are made and counted under this lock, so no wake is missed.
        if shared.changes.load(Ordering::SeqCst) != heard {
            return;
        }
        let until = Some(Instant::now() + limit).into_iter().chain(next).min();
        drop(match self.side {
            Side::Items => shared.sleep_for_item(table, until),
            Side::Room => shared.sleep_for_room(table, until),
        });
    }

    fn wake_one(&self) {
        let wake = match self.side {
            Side::Items => Wake::Receiver,
            Side::Room => Wake::Sender,
        };
        self.shared.wake(&self.shared.table(), wake);
    }

    fn maintain(&self) {
        let mut table = self.shared.table();
        let (wake, _) = table.look_at_clock(Instant::now());
        self.shared.wake(&table, wake);
    }
}

/// The right to settle a delivery.
pub(super) struct LocalHeld {
    pub(super) shared: Arc<Shared>,
    pub(super) ticket: u64,
}

impl SettleOnce for LocalHeld {
    fn settle(&self, how: Settle<'_>) -> Result<(), SettleFailure> {
        self.shared.settle(self.ticket, how)
    }

    fn extend(&self, by: Duration) -> Result<(), SettleFailure> {
        self.shared.extend(self.ticket, by)
    }

    fn queue(&self) -> String {
        self.shared.address()
    }
}
