//! The contract: what every transport does, and what its users may rely on.
//!
//! A transport moves payloads (plain bytes) from senders to receivers, and keeps each until a
//! receiver acknowledges it. Typed values, addresses and encodings are built on top, once
//! ([`Queue`](crate::Queue)).
//!
//! To write a transport, implement [`Transport`] with its eleven methods without a default, and
//! [`SendPort`] and [`ReceivePort`] with one each. Also implement the ends of a loan and of a
//! delivery: [`PublishOnce`] and [`SettleOnce`], with two
//! methods each. The defaults are correct for every transport, but may be slower or do less than a
//! native implementation. They send batches one by one, wake async waiters every few milliseconds,
//! and refuse optional features. `docs/writing-a-transport.md` explains a small transport.
//!
//! # The promises
//!
//! Each promise is a test of the same name in the conformance suite, which runs against every
//! transport.
//!
//! Delivery
//! - `every_message_goes_to_exactly_one_receiver_at_a_time`
//! - `an_accepted_message_is_delivered_until_it_is_acked`: from the moment a send returns `Ok`. A
//!   receiver that tries after that finds the message.
//! - `first_deliveries_keep_each_senders_order`: each receiver gets the messages of one handle in
//!   the order of their sends, until one is returned, delayed, lost or requeued. No order is
//!   promised after that, nor between handles, nor between loans that one handle held at the same
//!   time.
//! - `payloads_of_every_size_arrive_intact`: from 0 bytes to the queue's largest.
//! - `every_kind_of_message_is_carried`: with its id and its time, the same at every delivery.
//! - `all_openers_of_a_name_get_the_same_queue`: with the settings that it was created with.
//!   It exists until it is removed, even while no process has it open.
//! - `a_payload_is_read_in_place`: if [`capabilities`](Transport::capabilities)
//!   declares it.
//! - `a_killed_receivers_message_is_redelivered`: at once, not when its lease ends; if declared.
//! - `leases_can_be_listed`: if declared. Otherwise the call is [`Unsupported`].
//!
//! Settling
//! - `an_acked_message_is_gone`
//! - `a_nacked_message_is_redelivered_with_a_higher_attempt`
//! - `a_dropped_delivery_is_a_nack`: including one that is dropped by a panic.
//! - `a_delayed_nack_is_not_redelivered_early`
//! - `a_message_past_its_attempt_limit_is_a_dead_letter`: however its last delivery ended.
//! - `a_buried_message_is_a_dead_letter`
//! - `a_dead_letter_can_be_requeued_or_discarded`: requeued in place, with its id, even if the
//!   queue is full.
//! - `a_nack_is_delayed_by_the_queues_backoff`: unless the receiver chooses a delay. If its
//!   receiver dies or its lease expires, a message is delivered again at once.
//! - `expired_leases_have_a_separate_limit`: a message of which more leases expired than the
//!   queue allows is a dead letter, regardless of its remaining attempts.
//! - `an_expired_lease_is_lost_and_its_message_redelivered`: not before its time. What the former
//!   holder does then is refused and changes nothing. The payload that it reads does not change
//!   until it releases the delivery.
//! - `an_extended_lease_is_kept`
//!
//! Batches
//! - `a_batch_is_sent_and_received_in_order`: each is an ordinary message, settled by itself.
//! - `a_failed_batch_reports_how_many_messages_were_sent`: the number of messages sent, and the
//!   reason why the next was not.
//! - `an_interrupted_batch_reports_how_many_messages_were_sent`: for example by the end of a
//!   connection. It is unknown whether later messages than those were sent. Those that were arrive
//!   in order, and the others leave nothing in the queue.
//! - `a_batch_is_acked_even_if_one_lease_was_lost`: the lost one is reported.
//! - `an_interrupted_batch_of_acks_reports_each_failure`: each message whose ack is not reported
//!   as failed is gone.
//!
//! Acks in flight, with [`ack_later`](crate::ByteReceiver::ack_later). A transport without a server
//! acks at once
//! - `acks_in_flight_are_confirmed_by_flush`: after a successful flush the messages are gone. No
//!   more acks are in flight than [`MAX_ACKS_IN_FLIGHT`](crate::MAX_ACKS_IN_FLIGHT), or than one
//!   batch has.
//! - `acks_in_flight_are_confirmed_by_flush_async`: likewise, without blocking the thread.
//! - `a_dropped_async_flush_hides_no_failure`: the acks stay in flight, and a later call reports
//!   those that failed.
//! - `a_lost_lease_is_reported_by_flush`: once, by its id, and the other messages are acked.
//! - `an_interrupted_flush_reports_each_failure`: each message whose ack is not reported as failed
//!   is gone. Each other one is gone or delivered again.
//! - `a_dropped_receiver_confirms_its_acks`: it waits for them as `flush` does.
//!
//! Options, if [`capabilities`](Transport::capabilities) declares them. Otherwise a request is
//! [`Unsupported`], in a message's options or in the settings of a queue to be created
//! - `a_delayed_message_is_not_delivered_early`
//! - `an_expired_message_is_dropped_and_its_place_is_free`: unless a receiver holds it then.
//! - `urgent_messages_go_first_and_others_do_not_starve`: for each aging time that a message
//!   waited, it counts as one priority higher. The capacity applies to each priority.
//! - `a_key_is_sent_once_while_it_is_remembered`: a second send with the key returns the first
//!   message's id. A loan takes its key, and frees it if it is not published. An empty key is
//!   refused.
//! - `a_key_outlives_its_message`: a key is remembered for the queue's window from the send on,
//!   whether its message is acked, purged, buried, requeued, discarded, expired or dropped to make
//!   room.
//! - `a_forgotten_key_can_be_sent_again`: after [`forget`](Transport::forget). A message with the
//!   key that is still in the queue stays.
//! - `the_promised_number_of_keys_is_remembered`: at least `dedup_keys` of them. If there is no
//!   place for another, the send fails as `KeysFull`, and no key is forgotten early.
//! - `a_token_grows_with_each_delivery`: on every transport.
//!
//! - `headers_travel_with_their_message`: through redelivery, as a dead letter, and when requeued.
//! - `a_reason_is_kept_in_the_dead_letter`: the reason given with the last nack or the burial.
//! - `a_snooze_does_not_count_as_an_attempt`: not before its time.
//!
//! Control
//! - `a_control_call_without_effect_is_an_error`: on every transport. A call without an answer
//!   never counts as zero, as an empty list or as success.
//! - `a_closed_queue_can_be_reopened`: on every transport.
//!
//! Control, if declared
//! - `a_full_queue_drops_the_oldest_message_on_request`: the oldest of the waiting messages.
//! - `a_paused_queue_delivers_nothing_until_it_is_resumed`
//! - `a_purge_drops_only_waiting_messages`
//! - `a_queue_is_drained_when_everything_is_settled`: and it takes no message from the beginning
//!   of the drain.
//! - `a_saved_queue_is_restored_completely`: see `snapshot`.
//!
//! Flow
//! - `capacity_is_exact`: loans count, and so do leased, delayed and dead messages.
//! - `a_failed_send_returns_the_message`
//! - `an_oversized_payload_is_refused_with_the_limit`: at once, even if the queue is full.
//! - `a_loan_holds_a_place_until_it_is_published_or_dropped`
//! - `an_owned_loan_outlives_its_sender`: and the handles of its queue, in any thread.
//! - `a_blocked_receiver_continues_when_a_message_arrives`: of several, as many as there are
//!   messages.
//! - `a_blocked_sender_continues_when_a_place_is_free`: of several, as many as places become free.
//! - `every_blocking_call_keeps_its_deadline`: it gives up at the deadline, not before. Even then
//!   it takes a message or a place that is available.
//! - `an_async_receiver_continues_when_a_message_arrives`: like blocking receivers, and mixed with
//!   them.
//! - `a_dropped_async_receive_loses_nothing`: neither a message, nor a wake for another waiter.
//! - `an_async_sender_continues_when_a_place_is_free`
//! - `a_closed_queue_refuses_messages_and_drains`: loans from before may still be published.
//!   Receivers get `Closed` only when every message is settled, except those that they hold
//!   themselves, so that a crash at the end loses nothing. (A transport decides whether a receiver
//!   also waits for messages held by other receivers of the same opening.)
//! - `a_removed_queue_wakes_and_refuses_all_callers`: also the holders of loans.
//! - `counts_add_up`: sent messages are those acked, plus dead letters dropped, plus those expired,
//!   purged or overflowed, plus those in the queue now, without loans. Received messages are those
//!   acked, nacked, buried or lost, plus those leased now.

use std::any::Any;
use std::fmt::Debug;

use ipc_proto::{Kind, MessageId, QueueSettings};
use serde::{Deserialize, Serialize};

use crate::capability::{Capabilities, Feature, Unsupported};
use crate::control::{ControlCall, ControlError, ControlFailure};
use crate::dead_letter::{DeadLetter, DeadLetterId};
use crate::error::DrainError;
use crate::notifier::Notifier;
use crate::send_options::{Key, SendOptions};
use crate::stats::QueueStats;

pub use crate::error::{BatchPortError, RecvPortError, SendPortError};
pub use crate::open_request::{AttachAs, OpenMode, OpenRequest};
pub use crate::port::{PortDelivery, PortLoan, PublishOnce};
pub use crate::settle::{MAX_REASON_BYTES, Settle, nack_delay, shorten_reason};
pub use crate::settle_once::{AckTogether, AcksInFlight, SettleOnce};
pub use crate::wait::Wait;

/// A queue, opened through a transport. Dropping it detaches; the queue stays.
pub trait Transport: Any + Debug + Send + Sync {
    /// Returns the settings that the queue was created with.
    fn settings(&self) -> &QueueSettings;

    /// Returns the features that this transport supports.
    ///
    /// This is about queues in general: a queue that was created without priorities or keys still
    /// refuses them.
    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
    }

    /// Returns a number that differs from that of every other queue, including earlier and later
    /// queues of the same name.
    fn id(&self) -> u64;

    /// Returns a handle for sending, for one thread at a time.
    fn sender(&self) -> Box<dyn SendPort>;

    /// Returns a handle for receiving, for one thread at a time.
    fn receiver(&self) -> Box<dyn ReceivePort>;

    /// Returns the name of the queue's payloads: the text of a
    /// [`PayloadName`](ipc_proto::PayloadName), as given when the queue was created. It is empty
    /// for plain bytes, and `None` if the transport does not know it. A typed queue reads its
    /// encoding from it.
    fn payload(&self) -> Option<&str> {
        None
    }
    /// Returns the queue's address for errors and logs, without credentials.
    fn address(&self) -> String;

    /// Closes the queue. It takes no more messages, and those in it are still delivered. Wakes all
    /// blocked calls.
    ///
    /// # Errors
    /// [`ControlError`], as for every call below: the call did not happen, or its outcome is
    /// unknown.
    fn close(&self) -> Result<(), ControlError>;

    /// Opens a closed queue again, so that it takes messages. Has no effect on a queue that is
    /// open.
    ///
    /// # Errors
    /// [`ControlError`].
    fn reopen(&self) -> Result<(), ControlError>;

    /// Returns whether the queue is closed.
    ///
    /// # Errors
    /// [`ControlError`].
    fn is_closed(&self) -> Result<bool, ControlError> {
        let stats = self.stats();
        Ok(stats
            .map_err(|error| error.during(ControlCall::IsClosed))?
            .closed)
    }

    /// Stops delivery until [`resume`](Self::resume). Delivered messages can be settled, and
    /// sending continues. A receive that has begun may still succeed.
    ///
    /// Pausing is a property of the queue: it lasts after all processes have detached.
    ///
    /// # Errors
    /// [`ControlError`]; `Unsupported` if the transport can't pause.
    fn pause(&self) -> Result<(), ControlError> {
        Err(self.unsupported(ControlCall::Pause, Feature::Pause))
    }

    /// Resumes delivery. Wakes all receivers.
    ///
    /// # Errors
    /// Those of [`pause`](Self::pause).
    fn resume(&self) -> Result<(), ControlError> {
        Err(self.unsupported(ControlCall::Resume, Feature::Pause))
    }

    /// Returns whether the queue is paused.
    ///
    /// # Errors
    /// [`ControlError`].
    fn is_paused(&self) -> Result<bool, ControlError> {
        let stats = self.stats();
        Ok(stats
            .map_err(|error| error.during(ControlCall::IsPaused))?
            .paused)
    }

    /// Drops all messages that wait to be delivered, including delayed ones, and returns their
    /// number. Leased messages and dead letters stay. A message that is sent during the call may or
    /// may not be dropped.
    ///
    /// # Errors
    /// [`ControlError`]; `Unsupported` if the transport can't purge. An interrupted call may have
    /// dropped some messages.
    fn purge(&self) -> Result<u64, ControlError> {
        Err(self.unsupported(ControlCall::Purge, Feature::Purge))
    }

    /// Closes the queue, then waits until every message in it is settled. Dead letters stay.
    ///
    /// # Errors
    /// [`DrainError::TimedOut`] says how many messages are left.
    fn drain(&self, wait: Wait) -> Result<(), DrainError> {
        let _ = wait;
        Err(self.unsupported(ControlCall::Drain, Feature::Drain).into())
    }

    /// Returns the counters since the queue was created, and its present contents.
    ///
    /// # Errors
    /// [`ControlError`].
    fn stats(&self) -> Result<QueueStats, ControlError>;

    /// Returns the current leases: which process holds which message.
    ///
    /// Read while the queue is in use: a message that is settled meanwhile may be missing, or still
    /// listed.
    ///
    /// # Errors
    /// [`ControlError`]; `Unsupported` if the transport cannot list leases.
    fn leases(&self) -> Result<Vec<LeaseInfo>, ControlError> {
        Err(self.unsupported(ControlCall::Leases, Feature::Leases))
    }

    /// Returns the dead letters, ordered by place, the oldest first.
    ///
    /// # Errors
    /// [`ControlError`].
    fn dead_letters(&self) -> Result<Vec<DeadLetter>, ControlError>;

    /// Makes a dead letter wait for delivery again, in place, so it works on a full queue too. The
    /// message keeps its id and its time of sending. Its attempts are counted from 1 again, and it
    /// no longer expires. `Ok(false)`: this dead letter no longer exists.
    ///
    /// # Errors
    /// [`ControlError`]; [`ControlFailure::Closed`] if the queue is closed. The dead
    /// letter stays as it is, unless the outcome is unknown.
    fn requeue(&self, id: DeadLetterId) -> Result<bool, ControlError>;

    /// Drops a dead letter. `Ok(false)`: this dead letter no longer exists.
    ///
    /// # Errors
    /// [`ControlError`].
    fn discard(&self, id: DeadLetterId) -> Result<bool, ControlError>;

    /// Forgets a key, so that a message with it can be sent again. `Ok(false)`: the queue does not
    /// remember the key, or a message with it is just being sent. Messages that are in the queue
    /// stay.
    ///
    /// # Errors
    /// [`ControlError`]; `Unsupported` if the transport has no keys, or this queue was created
    /// without keys.
    fn forget(&self, key: Key) -> Result<bool, ControlError> {
        let _ = key;
        Err(self.unsupported(ControlCall::Forget, Feature::Deduplication))
    }

    /// Takes a message back from the receiver that holds it, such as one that is stuck. Its lease
    /// ends as if its time were up, which counts as an expiry. The message is delivered again, or
    /// is a dead letter past the queue's limits. The former holder can't settle it any more.
    /// `Ok(false)`: no receiver holds that message.
    ///
    /// # Errors
    /// [`ControlError`]; `Unsupported` if the transport cannot.
    fn revoke(&self, message: MessageId) -> Result<bool, ControlError> {
        let _ = message;
        Err(self.unsupported(ControlCall::Revoke, Feature::Leases))
    }

    /// Drops one message that waits to be delivered, delayed or not, as [`purge`](Self::purge)
    /// drops all of them. `Ok(false)`: no such message waits; a receiver may hold it.
    ///
    /// # Errors
    /// [`ControlError`]; `Unsupported` if the transport cannot.
    fn drop_message(&self, message: MessageId) -> Result<bool, ControlError> {
        let _ = message;
        Err(self.unsupported(ControlCall::DropMessage, Feature::Purge))
    }

    /// Records in a dead letter the signal that ended its last receiver. Only the process that
    /// started that receiver knows the signal. `Ok(false)`: the letter no longer exists or ended
    /// otherwise, or the transport records no signals.
    ///
    /// # Errors
    /// [`ControlError`].
    fn note_signal(&self, id: DeadLetterId, signal: u8) -> Result<bool, ControlError> {
        let _ = (id, signal);
        Ok(false)
    }

    /// For transports: returns the error of a call that the transport does not support.
    fn unsupported(&self, call: ControlCall, feature: Feature) -> ControlError {
        ControlFailure::from(Unsupported::by_transport(feature)).of(self.address(), call)
    }
}

impl dyn Transport {
    /// Returns this transport as a `T`, if it is one.
    #[must_use]
    pub fn downcast_ref<T: Transport>(&self) -> Option<&T> {
        let any: &dyn Any = self;
        any.downcast_ref()
    }
}

/// Sends. Only [`loan_with`](Self::loan_with) is required: [`PortLoan::new`] creates a loan of an
/// ordinary buffer, and [`SendOptions::check`] refuses options that the transport does not support.
pub trait SendPort: Debug + Send {
    /// Returns memory for a payload of `len` bytes, and a place in the queue for it.
    ///
    /// # Errors
    /// [`SendPortError::NoRoom`] when the wait is over. A failure of
    /// [`SendFailure::Unsupported`](crate::SendFailure::Unsupported) for options that the transport
    /// does not support, and [`SendFailure::Duplicate`](crate::SendFailure::Duplicate) for a key
    /// that the queue remembers.
    fn loan_with(
        &self,
        len: usize,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<PortLoan, SendPortError>;

    /// Like [`loan_with`](Self::loan_with), for a message of kind `kind` without other options.
    ///
    /// # Errors
    /// Those of `loan_with`, except those about options.
    fn loan(&self, len: usize, kind: Kind, wait: Wait) -> Result<PortLoan, SendPortError> {
        self.loan_with(len, &SendOptions::new().kind(kind), wait)
    }

    /// Sends a copy of `payload`.
    ///
    /// # Errors
    /// Those of [`loan`](Self::loan) and [`PortLoan::publish`].
    fn send(&self, payload: &[u8], kind: Kind, wait: Wait) -> Result<MessageId, SendPortError> {
        let mut loan = self.loan(payload.len(), kind, wait)?;
        loan.copy_from_slice(payload);
        loan.publish().map_err(|error| error.failure.into())
    }

    /// Sends copies of all `payloads`, in their order. Waits for room for each as `wait` says.
    ///
    /// # Errors
    /// [`BatchPortError`] has the number of messages that were sent before the first failure. If
    /// the transport lost its server, later messages may have been sent as well.
    fn send_batch(&self, payloads: &[&[u8]], kind: Kind, wait: Wait) -> Result<(), BatchPortError> {
        for (sent, payload) in payloads.iter().enumerate() {
            self.send(payload, kind, wait)
                .map_err(|error| BatchPortError { sent, error })?;
        }
        Ok(())
    }

    /// Returns the notification source that wakes async waiters when there may be room.
    fn notifier(&self) -> Notifier {
        Notifier::polling()
    }

    /// Returns whether there may be room for another message, after the last one sent.
    fn has_more(&self) -> bool {
        true
    }
}

/// Receives. Only [`recv`](Self::recv) is required: [`PortDelivery::new`] creates a delivery of a
/// copied payload.
pub trait ReceivePort: Debug + Send {
    /// Returns the next message.
    ///
    /// # Errors
    /// [`RecvPortError::Empty`] with [`Wait::No`], `TimedOut` with a deadline.
    fn recv(&self, wait: Wait) -> Result<PortDelivery, RecvPortError>;

    /// Appends the next messages, at most `most`. Waits for the first as `wait` says, then takes
    /// those that are ready.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv), if not even a first message was received.
    fn recv_batch(
        &self,
        most: usize,
        wait: Wait,
        into: &mut Vec<PortDelivery>,
    ) -> Result<(), RecvPortError> {
        if most > 0 {
            into.push(self.recv(wait)?);
        }
        let more = std::iter::from_fn(|| self.recv(Wait::No).ok());
        into.extend(more.take(most.saturating_sub(1)));
        Ok(())
    }

    /// Returns the notification source that wakes async waiters when there may be a message.
    fn notifier(&self) -> Notifier {
        Notifier::polling()
    }

    /// Returns whether there may be another message behind the last one received.
    fn has_more(&self) -> bool {
        true
    }
}

/// A lease: a message, and the process that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LeaseInfo {
    /// The holder's name: the program of its process, or its thread.
    pub holder: String,
    /// The holder's process, in that process's PID namespace.
    pub pid: u32,
    /// The message's id.
    pub message: MessageId,
    /// The number of its deliveries, including this one.
    pub attempt: u8,
}

impl LeaseInfo {
    /// Describes a lease, for transports.
    #[must_use]
    pub const fn new(holder: String, pid: u32, message: MessageId, attempt: u8) -> Self {
        Self {
            holder,
            pid,
            message,
            attempt,
        }
    }
}
