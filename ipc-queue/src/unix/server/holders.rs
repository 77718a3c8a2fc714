//! The clients and the messages that they hold.
//!
//! The queue itself only knows the server, which receives for all its clients.

use std::collections::HashMap;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use ipc_proto::MessageId;

use crate::contract::LeaseInfo;

/// The messages that clients hold.
#[derive(Debug, Default)]
pub(super) struct Holders {
    by_message: Mutex<HashMap<MessageId, Holder>>,
    /// Set once a connection waits for others to return messages.
    awaited: AtomicBool,
    waiting: Mutex<HashMap<u64, Waker>>,
}

/// The holder of a message.
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

    /// Compares the connection first: if a lease was lost, another connection may hold the
    /// message now.
    pub(super) fn let_go(&self, messages: &[MessageId], connection: u64) {
        let mut holders = self.by_message();
        for message in messages {
            let holder = holders.get(message);
            if holder.is_some_and(|holder| holder.connection == connection) {
                holders.remove(message);
            }
        }
        drop(holders);
        self.returned();
    }

    /// Called after a delivery or a loan has ended in the queue.
    pub(super) fn returned(&self) {
        if self.awaited.load(Ordering::SeqCst) {
            for waker in self.waiting().values() {
                waker.wake_by_ref();
            }
        }
    }

    /// Wakes `waker` at each return from now on, until [`leave`](Self::leave).
    pub(super) fn await_returns(&self, connection: u64, waker: Waker) {
        self.waiting().insert(connection, waker);
        self.awaited.store(true, Ordering::SeqCst);
    }

    pub(super) fn leave(&self, connection: u64) {
        self.waiting().remove(&connection);
    }

    /// Replaces this server by its clients in the queue's list of leases.
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
