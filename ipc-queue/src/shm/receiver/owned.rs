//! Owned deliveries of a queue in shared memory.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::LevelReceiver;
use crate::error::{SettleFailure, Unavailable};
use crate::settle::Settle;
use crate::settle_once::SettleOnce;
use crate::shm::payload::OwnedReadable;

/// The right to read and to settle a received message. It counts and settles through a separate
/// receiver, in any thread.
#[derive(Debug)]
pub(crate) struct OwnedShmDelivery {
    receiver: Mutex<LevelReceiver>,
    payload: OwnedReadable,
}

impl OwnedShmDelivery {
    pub(super) fn new(receiver: LevelReceiver, payload: OwnedReadable) -> Self {
        Self {
            receiver: Mutex::new(receiver),
            payload,
        }
    }

    fn receiver(&self) -> MutexGuard<'_, LevelReceiver> {
        (self.receiver.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

impl SettleOnce for OwnedShmDelivery {
    fn settle(&self, how: Settle<'_>) -> Result<(), SettleFailure> {
        self.receiver().settle(self.payload.lease(), how)
    }

    fn extend(&self, by: Duration) -> Result<(), SettleFailure> {
        self.receiver().extend(self.payload.lease(), by)
    }

    fn may_block(&self) -> bool {
        false
    }

    fn payload(&self) -> Option<&[u8]> {
        Some(self.payload.bytes())
    }

    fn check_whole(&self) -> Result<(), Unavailable> {
        self.receiver().check_whole()
    }

    fn queue(&self) -> String {
        self.receiver().queue()
    }
}
