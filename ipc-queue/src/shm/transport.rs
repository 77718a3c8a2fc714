//! The contract, of a queue in shared memory.

use std::sync::atomic::Ordering;

use ipc_proto::{MessageId, QueueSettings};
use ipc_shm::clock;

use super::{CAPABILITIES, CLOSED, PAUSED, Shared, ShmQueue, events, keys};
use crate::capability::{Capabilities, Feature, Unsupported};
use crate::contract::{LeaseInfo, ReceivePort, SendPort, Transport};
use crate::control::{ControlCall, ControlError, ControlFailure};
use crate::dead_letter::{DeadLetter, DeadLetterId};
use crate::error::{DrainError, SendFailure};
use crate::send_options::Key;
use crate::stats::QueueStats;
use crate::wait::Wait;

impl Transport for ShmQueue {
    fn settings(&self) -> &QueueSettings {
        &self.shared.contents.settings
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn id(&self) -> u64 {
        self.shared.queue_id()
    }

    fn payload(&self) -> Option<&str> {
        Some(self.shared.attachment.segment().header().payload.name())
    }

    fn sender(&self) -> Box<dyn SendPort> {
        Box::new(self.shm_sender())
    }

    fn receiver(&self) -> Box<dyn ReceivePort> {
        Box::new(self.shm_receiver())
    }

    fn address(&self) -> String {
        self.shared.address()
    }

    fn close(&self) -> Result<(), ControlError> {
        self.shared.check_usable(ControlCall::Close)?;
        let before = self.shared.flag().fetch_or(CLOSED, Ordering::SeqCst);
        self.shared.attachment.segment().notify_all();
        if before & CLOSED == 0 {
            events::closed(&self.shared);
        }
        self.shared.check_usable(ControlCall::Close)
    }

    fn reopen(&self) -> Result<(), ControlError> {
        self.shared.check_usable(ControlCall::Reopen)?;
        self.check_not_frozen(ControlCall::Reopen)?;
        let before = self.shared.flag().fetch_and(!CLOSED, Ordering::SeqCst);
        if before & CLOSED != 0 {
            events::reopened(&self.shared);
        }
        self.shared.check_usable(ControlCall::Reopen)
    }

    fn is_closed(&self) -> Result<bool, ControlError> {
        self.shared.has_flag(CLOSED, ControlCall::IsClosed)
    }

    fn pause(&self) -> Result<(), ControlError> {
        self.shared.check_usable(ControlCall::Pause)?;
        let before = self.shared.flag().fetch_or(PAUSED, Ordering::SeqCst);
        if before & PAUSED == 0 {
            events::paused(&self.shared);
        }
        self.shared.check_usable(ControlCall::Pause)
    }

    fn resume(&self) -> Result<(), ControlError> {
        self.shared.check_usable(ControlCall::Resume)?;
        self.check_not_frozen(ControlCall::Resume)?;
        let before = self.shared.flag().fetch_and(!PAUSED, Ordering::SeqCst);
        self.shared.items().notify_all();
        if before & PAUSED != 0 {
            events::resumed(&self.shared);
        }
        self.shared.check_usable(ControlCall::Resume)
    }

    fn is_paused(&self) -> Result<bool, ControlError> {
        self.shared.has_flag(PAUSED, ControlCall::IsPaused)
    }

    fn purge(&self) -> Result<u64, ControlError> {
        self.shared.answer(ControlCall::Purge, Shared::purge)
    }

    fn drain(&self, wait: Wait) -> Result<(), DrainError> {
        self.close()?;
        let drained = self.shared.wait_until_drained(wait);
        events::drained(&self.shared, &drained);
        drained
    }

    fn stats(&self) -> Result<QueueStats, ControlError> {
        self.shared.answer(ControlCall::Stats, Shared::stats)
    }

    fn leases(&self) -> Result<Vec<LeaseInfo>, ControlError> {
        self.shared.answer(ControlCall::Leases, |shared| {
            shared.contents.leases(shared.attachment.participants())
        })
    }

    fn dead_letters(&self) -> Result<Vec<DeadLetter>, ControlError> {
        self.shared.answer(ControlCall::DeadLetters, |shared| {
            shared.contents.dead_letters()
        })
    }

    fn requeue(&self, id: DeadLetterId) -> Result<bool, ControlError> {
        self.shared.check_usable(ControlCall::Requeue)?;
        let requeued = self.shared.requeue(id);
        requeued.map_err(|failure| {
            let failure = match failure {
                SendFailure::Closed => ControlFailure::Closed,
                SendFailure::Unavailable(cause) => cause.into(),
                SendFailure::Damaged { reason } => ControlFailure::Damaged { reason },
                other => ControlFailure::NotSent(other),
            };
            failure.of(self.address(), ControlCall::Requeue)
        })
    }

    fn forget(&self, key: Key) -> Result<bool, ControlError> {
        let Some(keys) = &self.shared.contents.keys else {
            let missing = Unsupported::by_settings(Feature::Deduplication);
            return Err(ControlFailure::from(missing).of(self.address(), ControlCall::Forget));
        };
        self.shared.answer(ControlCall::Forget, |shared| {
            let now = keys::nanos(clock::monotonic());
            let forgotten = keys.forget(key.number(), now);
            shared.tell_room();
            forgotten
        })
    }

    fn revoke(&self, message: MessageId) -> Result<bool, ControlError> {
        let call = ControlCall::Revoke;
        let revoked = self.shared.answer(call, |shared| shared.revoke(message))?;
        revoked.map_err(|failure| failure.of(self.address(), call))
    }

    fn drop_message(&self, message: MessageId) -> Result<bool, ControlError> {
        self.shared.answer(ControlCall::DropMessage, |shared| {
            shared.drop_message(message)
        })
    }

    fn discard(&self, id: DeadLetterId) -> Result<bool, ControlError> {
        self.shared
            .answer(ControlCall::Discard, |shared| shared.discard(id))
    }

    fn note_signal(&self, id: DeadLetterId, signal: u8) -> Result<bool, ControlError> {
        self.shared.answer(ControlCall::NoteSignal, |shared| {
            shared.note_signal(id, signal)
        })
    }
}
