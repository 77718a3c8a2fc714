//! Who among the clients has which message.
//!
//! The queue itself knows the server only, which receives for all of them.

use std::collections::HashMap;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use ipc_proto::MessageId;

use crate::transport::LeaseInfo;

/// What the clients hold.
#[derive(Debug, Default)]
pub(super) struct Holders {
    by_message: Mutex<HashMap<MessageId, Holder>>,
    /// Whether somebody waits for others to let go.
    awaited: AtomicBool,
    waiting: Mutex<HashMap<u64, Waker>>,
}

/// Who holds a message.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) connection: u64,
    pub(super) pid: u32,
    pub(super) program: Arc<str>,
}

impl Holders {
    pub(super) fn took(&self, message: MessageId, holder: &Holder) {
        self.by_message().insert(message, holder.clone());
    }

    /// Also when the lease was lost: then somebody else may have it by now.
    pub(super) fn let_go(&self, message: MessageId, connection: u64) {
        let mut holders = self.by_message();
        if holders
            .get(&message)
            .is_some_and(|holder| holder.connection == connection)
        {
            holders.remove(&message);
        }
        drop(holders);
        self.returned();
    }

    /// A delivery or a loan has ended, and the queue knows.
    pub(super) fn returned(&self) {
        if self.awaited.load(Ordering::SeqCst) {
            for waker in self.waiting().values() {
                waker.wake_by_ref();
            }
        }
    }

    /// Wakes it whenever something is returned from now on, until it leaves.
    pub(super) fn await_returns(&self, connection: u64, waker: Waker) {
        self.waiting().insert(connection, waker);
        self.awaited.store(true, Ordering::SeqCst);
    }

    pub(super) fn leave(&self, connection: u64) {
        self.waiting().remove(&connection);
    }

    /// Names the clients where the queue names us.
    pub(super) fn name(&self, leases: &mut [LeaseInfo]) {
        let holders = self.by_message();
        let ours = process::id();
        for lease in leases.iter_mut().filter(|lease| lease.pid == ours) {
            if let Some(holder) = holders.get(&lease.message) {
                lease.pid = holder.pid;
                lease.holder = holder.program.to_string();
            }
        }
    }

    fn by_message(&self) -> MutexGuard<'_, HashMap<MessageId, Holder>> {
        let holders = self.by_message.lock();
        holders.unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
