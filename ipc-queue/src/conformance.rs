//! The conformance suite: each promise of [`transport`](crate::transport) is one test, for any
//! transport.
//!
//! Behind the cargo feature `conformance`, which only tests enable. The author of a transport
//! implements how its queues are opened and removed, and gets all tests from one macro, in an
//! integration test:
//!
//! ```
//! use std::sync::Arc;
//!
//! use ipc_queue::conformance::Subject;
//! use ipc_queue::transport::{OpenRequest, Transport};
//! use ipc_queue::{ControlError, LocalQueue, Name, QueueError};
//!
//! struct Local;
//!
//! impl Subject for Local {
//!     fn open(
//!         &self,
//!         name: &Name,
//!         request: &OpenRequest,
//!     ) -> Result<Arc<dyn Transport>, QueueError> {
//!         Ok(Arc::new(LocalQueue::open(name, request)?))
//!     }
//!
//!     fn remove(&self, name: &Name) -> Result<bool, ControlError> {
//!         Ok(LocalQueue::remove(name))
//!     }
//! }
//!
//! ipc_queue::conformance_tests!(Local);
//! ```
//!
//! The tests use only the public contract. None sleeps to let something happen, and none asserts
//! that something was fast. Many rounds of hand-over ensure that handles do fall asleep. Times are
//! only asserted to be long enough. A test that does not end within [`PATIENCE`] contains a handle
//! that was never woken, and fails.
//!
//! Death is tested only as far as [`Subject::holder`] permits: a receiver that dies while it holds
//! a message. Speed is not tested.

mod asynchronous;
mod batch;
mod control;
mod crowd;
mod delivery;
mod ending;
mod in_flight;
mod keys;
mod peers;
mod proxy;
mod retries;
mod room;
mod settling;
mod table;
mod terms;
mod waiting;
mod walk;

pub use asynchronous::*;
pub use batch::*;
pub use control::{
    Proxied, a_closed_queue_can_be_reopened, a_control_call_without_effect_is_an_error,
};
pub use delivery::*;
pub use ending::*;
pub use in_flight::*;
pub use keys::*;
pub use peers::*;
pub use proxy::{Fault, Proxy};
pub use retries::*;
pub use room::*;
pub use settling::*;
pub use table::Table;
pub use terms::*;
pub use waiting::*;

use std::panic;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use ipc_proto::{Backoff, Name, QueueSettings};

use crate::bytes::ByteQueue;
use crate::capability::Feature;
use crate::contract::Transport;
use crate::control::ControlError;
use crate::error::QueueError;
use crate::open_request::{OpenMode, OpenRequest};

/// A transport under test.
pub trait Subject: Send + Sync {
    /// Opens the queue `name`, or creates it, as `request` says. Each call is a separate opening.
    /// If the transport opens a queue once per process, each call acts like another process.
    ///
    /// # Errors
    /// The transport's errors for a name that exists, does not exist, or has other settings.
    fn open(&self, name: &Name, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError>;

    /// Removes the queue `name`. `false` if there was none.
    ///
    /// # Errors
    /// The transport's errors.
    fn remove(&self, name: &Name) -> Result<bool, ControlError>;

    /// Opens the queue `name` through a new proxy, for a transport with a server. The opening must
    /// share nothing with those of [`open`](Self::open): no connection, no cache.
    fn proxied(&self, name: &Name) -> Option<Proxied> {
        let _ = name;
        None
    }

    /// The divisor of the suite's rounds: 1 if calls take microseconds, more if each call asks a
    /// server.
    fn slowness(&self) -> u32 {
        1
    }

    /// Returns a command that starts another process, which opens the queue `name` and calls
    /// [`hold_until_killed`] with it. It may be the test program itself, controlled by its
    /// environment. Only used with transports that notice deaths.
    fn holder(&self, name: &Name) -> Option<Command> {
        let _ = name;
        None
    }
}

/// Returns the promise that checks the declared support of `feature`. If the transport declares
/// it, the feature works. If not, a request for it fails as [`Unsupported`](crate::Unsupported),
/// where it can be requested.
#[must_use]
pub const fn promise_of(feature: Feature) -> &'static str {
    match feature {
        Feature::ZeroCopy => "a_payload_is_read_in_place",
        Feature::DeathNoticed => "a_killed_receivers_message_is_redelivered",
        Feature::Batches => "a_batch_is_sent_and_received_in_order",
        Feature::Priorities => "urgent_messages_go_first_and_others_do_not_starve",
        Feature::Delay => "a_delayed_message_is_not_delivered_early",
        Feature::Expiry => "an_expired_message_is_dropped_and_its_place_is_free",
        Feature::Deduplication => "a_key_is_sent_once_while_it_is_remembered",
        Feature::DropOldest => "a_full_queue_drops_the_oldest_message_on_request",
        Feature::Pause => "a_paused_queue_delivers_nothing_until_it_is_resumed",
        Feature::Purge => "a_purge_drops_only_waiting_messages",
        Feature::Drain => "a_queue_is_drained_when_everything_is_settled",
        Feature::Leases => "leases_can_be_listed",
        Feature::Headers => "headers_travel_with_their_message",
        Feature::Reasons => "a_reason_is_kept_in_the_dead_letter",
        Feature::Snooze => "a_snooze_does_not_count_as_an_attempt",
        Feature::Snapshot => "a_saved_queue_is_restored_completely",
    }
}

/// Declares one test for each promise. The expression is evaluated for each, and creates the
/// subject.
///
/// See the [module](crate::conformance).
#[macro_export]
macro_rules! conformance_tests {
    ($subject:expr) => {
        $crate::conformance_tests!(@promises tests $subject);
    };
    (@promises $what:ident $($subject:expr)?) => {
        $crate::conformance_tests! {
            @$what [$($subject)?]

            every_message_goes_to_exactly_one_receiver_at_a_time
            an_accepted_message_is_delivered_until_it_is_acked
            first_deliveries_keep_each_senders_order
            payloads_of_every_size_arrive_intact
            every_kind_of_message_is_carried
            all_openers_of_a_name_get_the_same_queue
            a_payload_is_read_in_place
            a_killed_receivers_message_is_redelivered
            leases_can_be_listed

            an_acked_message_is_gone
            a_nacked_message_is_redelivered_with_a_higher_attempt
            a_dropped_delivery_is_a_nack
            a_delayed_nack_is_not_redelivered_early
            a_message_past_its_attempt_limit_is_a_dead_letter
            a_buried_message_is_a_dead_letter
            a_dead_letter_can_be_requeued_or_discarded
            a_nack_is_delayed_by_the_queues_backoff
            expired_leases_have_a_separate_limit
            an_expired_lease_is_lost_and_its_message_redelivered
            an_extended_lease_is_kept

            a_batch_is_sent_and_received_in_order
            a_failed_batch_reports_how_many_messages_were_sent
            an_interrupted_batch_reports_how_many_messages_were_sent
            a_batch_is_acked_even_if_one_lease_was_lost
            an_interrupted_batch_of_acks_reports_each_failure

            acks_in_flight_are_confirmed_by_flush
            acks_in_flight_are_confirmed_by_flush_async
            a_dropped_async_flush_hides_no_failure
            a_lost_lease_is_reported_by_flush
            an_interrupted_flush_reports_each_failure
            a_dropped_receiver_confirms_its_acks

            a_delayed_message_is_not_delivered_early
            an_expired_message_is_dropped_and_its_place_is_free
            urgent_messages_go_first_and_others_do_not_starve
            a_key_is_sent_once_while_it_is_remembered
            a_key_outlives_its_message
            a_forgotten_key_can_be_sent_again
            the_promised_number_of_keys_is_remembered
            a_token_grows_with_each_delivery

            headers_travel_with_their_message
            a_reason_is_kept_in_the_dead_letter
            a_snooze_does_not_count_as_an_attempt

            a_control_call_without_effect_is_an_error
            a_closed_queue_can_be_reopened

            a_full_queue_drops_the_oldest_message_on_request
            a_paused_queue_delivers_nothing_until_it_is_resumed
            a_purge_drops_only_waiting_messages
            a_queue_is_drained_when_everything_is_settled
            a_saved_queue_is_restored_completely

            capacity_is_exact
            a_failed_send_returns_the_message
            an_oversized_payload_is_refused_with_the_limit
            a_loan_holds_a_place_until_it_is_published_or_dropped
            an_owned_loan_outlives_its_sender
            a_blocked_receiver_continues_when_a_message_arrives
            a_blocked_sender_continues_when_a_place_is_free
            every_blocking_call_keeps_its_deadline
            an_async_receiver_continues_when_a_message_arrives
            a_dropped_async_receive_loses_nothing
            an_async_sender_continues_when_a_place_is_free
            a_closed_queue_refuses_messages_and_drains
            a_removed_queue_wakes_and_refuses_all_callers
            counts_add_up
        }
    };
    (@tests [$subject:expr] $($promise:ident)*) => {
        $(
            #[test]
            fn $promise() {
                $crate::conformance::hold($subject, $crate::conformance::$promise);
            }
        )*
    };
    (@list [] $($promise:ident)*) => {
        [$((stringify!($promise), $crate::conformance::$promise as $crate::conformance::Promise)),*]
    };
}

/// The test of one promise. Panics if the subject breaks the promise.
pub type Promise = fn(&dyn Subject);

/// Returns all promises by name, in the order of [`transport`](crate::transport), for harnesses
/// other than the macro's.
#[must_use]
pub fn promises() -> Vec<(&'static str, Promise)> {
    crate::conformance_tests!(@promises list).to_vec()
}

/// The time after which a test counts as stuck. A slow subject, of which every request is
/// interrupted in every way, gets three times as much. Not a statement about speed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Tests one promise.
///
/// # Panics
/// If the subject breaks the promise.
pub fn hold(subject: impl Subject + 'static, promise: Promise) {
    let (done, end) = mpsc::channel::<()>();
    let patience = PATIENCE * subject.slowness().min(3);
    // Runs in a separate thread, which is abandoned if it is stuck.
    let name = thread::current().name().unwrap_or("promise").to_owned();
    let test = thread::Builder::new().name(name).spawn(move || {
        let _done = done;
        promise(&subject);
    });
    let test = test.expect("a thread");
    if end.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
        panic!("no end in {patience:?}: a blocked handle was not woken");
    }
    if let Err(broken) = test.join() {
        panic::resume_unwind(broken);
    }
}

/// Returns `len` bytes that no other number gives. From 8 bytes on they also contain the number.
#[must_use]
pub fn content(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(number).fill(&mut bytes);
    if let Some(head) = bytes.first_chunk_mut() {
        *head = number.to_le_bytes();
    }
    bytes
}

/// Returns the number that [`content`] of at least 8 bytes was made from.
///
/// # Panics
/// If a byte of the content changed.
#[must_use]
pub fn number_in(bytes: &[u8]) -> u64 {
    let head = bytes.first_chunk().expect("at least 8 bytes");
    let number = u64::from_le_bytes(*head);
    assert!(
        bytes == content(number, bytes.len()),
        "the content of message {number} ({} bytes) changed in transit",
        bytes.len()
    );
    number
}

/// Returns the number of rounds, where a fast transport has `usual` rounds. It is at least the
/// number of cases that rounds take in rotation.
fn rounds(subject: &dyn Subject, usual: u32) -> u32 {
    const CASES: u32 = 6;
    (usual / subject.slowness().max(1)).max(CASES.min(usual))
}

/// Returns the number of random walks, where a fast transport has `usual` walks.
fn walks(subject: &dyn Subject, usual: u64) -> u64 {
    (usual / u64::from(subject.slowness().max(1))).max(2)
}

const INLINE: u32 = 100;
const LARGEST: u32 = 20_000;

/// The settings of a queue of `capacity` messages, with memory for as many of the largest.
fn settings(capacity: u32) -> QueueSettings {
    QueueSettings {
        capacity,
        inline_bytes: INLINE,
        max_message_bytes: LARGEST,
        pool_bytes: (u64::from(capacity) + 1) * 2 * u64::from(LARGEST.next_multiple_of(64)),
        attempt_limit: 5,
        backoff: Backoff::None,
        lease: None,
        max_participants: 16,
        ..QueueSettings::default()
    }
}

/// One queue, removed at the end of its test.
struct Trial<'s> {
    subject: &'s dyn Subject,
    name: Name,
}

impl<'s> Trial<'s> {
    fn new(subject: &'s dyn Subject) -> Self {
        let name = format!("conformance-{:016x}", fastrand::u64(..));
        Self {
            subject,
            name: Name::new(&name).expect("made of allowed characters"),
        }
    }

    fn create(&self, settings: &QueueSettings) -> ByteQueue {
        let request = OpenRequest {
            mode: OpenMode::Create,
            settings: settings.clone(),
            ..OpenRequest::default()
        };
        let queue = self.subject.open(&self.name, &request);
        ByteQueue::over(queue.expect("a queue of that name is new"))
    }

    /// Opens the queue once more.
    fn open(&self) -> ByteQueue {
        let request = OpenRequest {
            mode: OpenMode::Open,
            ..OpenRequest::default()
        };
        let queue = self.subject.open(&self.name, &request);
        ByteQueue::over(queue.expect("the queue exists"))
    }

    fn remove(&self) -> bool {
        let removed = self.subject.remove(&self.name);
        removed.expect("the queue is ours to remove")
    }

    /// Held by a test's threads: a thread that panics removes the queue, so that the others do not
    /// wait forever.
    fn alarm(&self) -> Alarm<'_> {
        Alarm(self)
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let removed = self.subject.remove(&self.name);
        if !thread::panicking() {
            removed.expect("the queue is ours to remove");
        }
    }
}

struct Alarm<'t>(&'t Trial<'t>);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.0.subject.remove(&self.0.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promise_has_its_test_and_every_test_its_promise() {
        let contract = include_str!("contract.rs");
        let promised: Vec<&str> = contract
            .lines()
            .filter_map(|line| line.strip_prefix("//! - `")?.split_once('`'))
            .map(|(name, _)| name)
            .collect();
        let tested: Vec<&str> = promises().into_iter().map(|(name, _)| name).collect();
        assert_eq!(promised, tested);
        for feature in Feature::ALL {
            assert!(promised.contains(&promise_of(feature)), "{feature}");
        }
    }

    #[test]
    fn a_broken_promise_fails_with_the_reason() {
        struct Nothing;
        impl Subject for Nothing {
            fn open(&self, _: &Name, _: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
                Err(QueueError::Transport("there is nothing here".to_owned()))
            }
            fn remove(&self, _: &Name) -> Result<bool, ControlError> {
                Ok(false)
            }
        }
        let broken = panic::catch_unwind(|| hold(Nothing, an_acked_message_is_gone)).unwrap_err();
        let said = broken.downcast_ref::<String>().expect("a message");
        assert!(said.contains("there is nothing here"), "{said}");
    }

    #[test]
    fn a_single_changed_byte_is_noticed() {
        for len in [9, 16, 1000] {
            let mut bytes = content(7, len);
            assert_eq!(number_in(&bytes), 7);
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            assert!(panic::catch_unwind(|| number_in(&bytes)).is_err());
        }
    }
}
