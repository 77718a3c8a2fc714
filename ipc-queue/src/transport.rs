//! The contract: what every transport does, and what its users may rely on.
//!
//! A transport moves payloads, plain bytes, from senders to receivers, and keeps each until somebody
//! acknowledges it. Typed values, addresses and encodings are built once on top ([`Queue`](crate::Queue)).
//!
//! Whoever writes one writes a [`Transport`] with its eight methods that have no default, a [`SendPort`] and a
//! [`ReceivePort`] with one each, and the ends of a loan and of a delivery, [`PublishOnce`](crate::PublishOnce) and
//! [`SettleOnce`](crate::SettleOnce), with two each. What a default does is right for every transport, and slower or less
//! than some could do: it sends batches one by one, looks every few milliseconds for those who wait without a thread, and
//! refuses the features that are a matter of choice. `docs/writing-a-transport.md` walks through a small one.
//!
//! # The promises
//!
//! Each is one test in the conformance suite, of the same name, and runs against every transport.
//!
//! Delivery
//! - `every_message_goes_to_exactly_one_receiver_at_a_time`
//! - `an_accepted_message_is_delivered_until_it_is_acked`: from the moment a send returns `Ok`; a receiver that
//!   looks after that finds it.
//! - `first_deliveries_keep_each_senders_order`: each receiver gets what one handle sent in the order of its sends,
//!   as long as nothing was given back, delayed, lost or requeued. No order is promised after that, between
//!   handles, nor between loans that one handle held at the same time.
//! - `payloads_of_every_size_arrive_intact`: from 0 bytes to the queue's largest.
//! - `every_kind_of_message_is_carried`: with its id and its time, the same at every delivery.
//! - `everybody_who_opens_a_name_gets_the_same_queue`: with the settings that it was created with, for as long as
//!   it is not removed, also while nobody has it open.
//! - `a_payload_is_read_where_it_was_written`: where [`capabilities`](Transport::capabilities) says so.
//! - `a_killed_receivers_message_comes_again`: at once, not when its lease ends; likewise.
//! - `who_holds_what_can_be_asked`: likewise; elsewhere asking is [`Unsupported`].
//!
//! Settling
//! - `an_acked_message_is_gone`
//! - `a_nacked_message_comes_again_with_a_higher_attempt`
//! - `a_dropped_delivery_is_a_nack`: also one dropped by a panic.
//! - `a_delayed_nack_comes_back_not_before_its_time`
//! - `a_message_past_its_attempt_limit_is_a_dead_letter`: however its last delivery ended.
//! - `a_buried_message_is_a_dead_letter`
//! - `a_dead_letter_can_be_requeued_or_discarded`: requeued in its own place, also when the queue is full, with its id.
//! - `a_nack_waits_as_the_queues_policy_says`: unless the receiver chooses a delay. A message comes back at once when its
//!   receiver dies or lets its lease end.
//! - `leases_that_end_are_limited_by_themselves`: a message of which more leases ended than the queue allows is a dead
//!   letter, whatever attempts it has left.
//! - `an_expired_lease_is_lost_and_the_message_comes_again`: not before its time. What the former holder does
//!   then is refused and changes nothing; what it reads stays as it is until it lets go.
//! - `an_extended_lease_is_kept`
//!
//! Batches
//! - `a_batch_is_sent_and_received_in_its_order`: each message of it an ordinary message, settled by itself.
//! - `a_batch_that_can_not_be_sent_says_how_much_of_it_was`: the first ones, and why the next was not.
//!
//! Terms, where [`capabilities`](Transport::capabilities) says so; elsewhere asking for them is
//! [`Unsupported`], be it by a message's options or by the settings of a queue to be created
//! - `a_delayed_message_comes_not_before_its_time`
//! - `an_expired_message_is_dropped_and_its_place_is_free`: unless somebody holds it then.
//! - `urgent_messages_go_first_and_others_do_not_wait_for_ever`: each that waited for the queue's aging time counts as
//!   of the next higher priority. Capacity holds for each priority.
//! - `a_key_is_sent_once_while_it_is_remembered`: who sends it again is told which message has it. A key is taken while a
//!   loan has it, and free again if that comes to nothing. A key without bytes is refused.
//! - `a_key_outlives_its_message`: a key is remembered for the queue's window from the send on, whether its message is acked, purged,
//!   buried, requeued, discarded, expired or dropped to make room for another.
//! - `a_forgotten_key_can_be_sent_again`: after [`forget`](Transport::forget). A message with it that is still in the queue stays.
//! - `as_many_keys_are_remembered_as_the_queue_says`: at least `dedup_keys` of them. If there is no place for another,
//!   the send fails as `KeysFull`, and no key is forgotten early.
//! - `a_token_grows_with_each_delivery`: everywhere.
//!
//! - `headers_travel_with_their_message`: through redelivery, as a dead letter, and when it is requeued.
//! - `a_reason_is_kept_in_the_dead_letter`: what the last nack or the burial said.
//! - `a_snoozed_message_comes_back_without_losing_an_attempt`: not before its time.
//!
//! Control
//! - `a_control_call_that_did_not_happen_is_an_error`: everywhere. No unanswered question is taken for zero, for an empty
//!   list or for success.
//! - `a_closed_queue_can_be_opened_again`: everywhere.
//!
//! Control, likewise
//! - `a_full_queue_drops_the_oldest_if_told_to`: of those that wait.
//! - `a_paused_queue_delivers_nothing_until_it_is_resumed`
//! - `a_purge_drops_what_waits_and_nothing_else`
//! - `a_queue_is_drained_when_everything_was_settled`: and takes nothing from the beginning.
//! - `a_saved_queue_comes_back_with_everything`: see `snapshot`.
//!
//! Flow
//! - `capacity_is_exact`: loans count, and leased, delayed and dead messages.
//! - `a_failed_send_hands_the_message_back`
//! - `too_large_a_payload_is_refused_with_the_limit`: at once, also when there is no place.
//! - `a_loan_holds_a_place_until_it_is_published_or_dropped`
//! - `a_blocked_receiver_goes_on_when_a_message_comes`: of several, as many as messages come.
//! - `a_blocked_sender_goes_on_when_a_place_is_free`: of several, as many as places become free.
//! - `every_blocking_call_keeps_its_deadline`: it does not give up before, and does then; what is there it takes even
//!   then.
//! - `an_async_receiver_goes_on_when_a_message_comes`: as those that block, and mixed with them.
//! - `a_dropped_async_receive_loses_nothing`: neither a message, nor a wake-up that somebody else waits for.
//! - `an_async_sender_goes_on_when_a_place_is_free`
//! - `a_closed_queue_takes_nothing_and_drains`: what was lent before may still be published. Receivers get `Closed` only
//!   when everything was settled, save what they hold themselves, so that a crash at the end loses nothing.
//!   (Whether what another receiver of the same opening holds is waited for is up to the transport.)
//! - `a_removed_queue_wakes_and_refuses_everybody`: loans too.
//! - `counts_add_up`: sent is acked, plus dead letters dropped, plus what expired, was purged or overflowed,
//!   plus what is in the queue now, loans aside;
//!   received is acked, nacked, buried, lost, plus leased now.

use std::any::Any;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use ipc_proto::{Backoff, Kind, MessageId, PayloadName, QueueSettings};
use serde::{Deserialize, Serialize};

use crate::bell::Bell;
use crate::capability::{Capabilities, Feature, Unsupported};
use crate::control::{ControlCall, ControlError, ControlFailure};
use crate::dead_letter::{DeadLetter, DeadLetterId};
use crate::error::{DrainError, QueueError};
use crate::send_options::{Key, SendOptions};
use crate::stats::QueueStats;

pub use crate::connector::{Connector, register};
pub use crate::error::{BatchPortError, RecvPortError, SendPortError};
pub use crate::port::{PortDelivery, PortLoan, PublishOnce, SettleOnce};

/// A queue, opened through some transport. Dropping it detaches; the queue stays.
pub trait Transport: Any + Debug + Send + Sync {
    /// What the queue was created with.
    fn settings(&self) -> &QueueSettings;

    /// Which of the features that not every transport has this one has.
    ///
    /// Of queues in general: one that was created without priorities or keys refuses them all the same.
    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
    }

    /// A number that tells this queue from all others, also from those of the same name before and after it.
    fn id(&self) -> u64;

    /// A handle for sending, for one thread at a time.
    fn sender(&self) -> Box<dyn SendPort>;

    /// A handle for receiving, for one thread at a time.
    fn receiver(&self) -> Box<dyn ReceivePort>;

    /// What the queue's payloads are: the text of a [`PayloadName`], as they were called when the
    /// queue was created; empty for plain bytes; `None` if the transport does not know. A typed
    /// queue reads its encoding here.
    fn payload(&self) -> Option<&str> {
        None
    }
    /// The queue's address, as errors and logs name it: without credentials.
    fn address(&self) -> String;

    /// Closes the queue: it takes no more messages, and what is in it is still delivered. Wakes all blocked calls.
    ///
    /// # Errors
    /// [`ControlError`], as every call below: the queue was not closed, or whether it was is unknown.
    fn close(&self) -> Result<(), ControlError>;

    /// Opens a closed queue again: it takes messages. Without effect on a queue that is open.
    ///
    /// # Errors
    /// [`ControlError`].
    fn reopen(&self) -> Result<(), ControlError>;

    /// Whether the queue is closed.
    ///
    /// # Errors
    /// [`ControlError`].
    fn is_closed(&self) -> Result<bool, ControlError> {
        let stats = self.stats();
        Ok(stats
            .map_err(|error| error.during(ControlCall::IsClosed))?
            .closed)
    }

    /// Delivers nothing more until [`resume`](Self::resume). What was delivered can be settled, and sending goes on. A
    /// receive that had begun may still succeed.
    ///
    /// Pausing is a property of the queue: it lasts when all processes are gone.
    ///
    /// # Errors
    /// [`ControlError`]; `Unsupported` if the transport can't pause.
    fn pause(&self) -> Result<(), ControlError> {
        Err(self.unsupported(ControlCall::Pause, Feature::Pause))
    }

    /// Delivers again. Wakes all receivers.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    fn resume(&self) -> Result<(), ControlError> {
        Err(self.unsupported(ControlCall::Resume, Feature::Pause))
    }

    /// Whether the queue is paused.
    ///
    /// # Errors
    /// [`ControlError`].
    fn is_paused(&self) -> Result<bool, ControlError> {
        let stats = self.stats();
        Ok(stats
            .map_err(|error| error.during(ControlCall::IsPaused))?
            .paused)
    }

    /// Drops all messages that wait to be delivered, delayed ones included, and returns their number. Leased messages and
    /// dead letters stay. A message that is sent meanwhile may be dropped or not.
    ///
    /// # Errors
    /// [`ControlError`]; `Unsupported` if the transport can't purge. A call that was cut off may have dropped some messages.
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

    /// Counters since the queue was created, and what it holds now.
    ///
    /// # Errors
    /// [`ControlError`].
    fn stats(&self) -> Result<QueueStats, ControlError>;

    /// The present leases: which process holds which message.
    ///
    /// Read without stopping anything: a message that is settled meanwhile may be missing or still listed.
    ///
    /// # Errors
    /// [`ControlError`]; `Unsupported` if the transport can't say.
    fn leases(&self) -> Result<Vec<LeaseInfo>, ControlError> {
        Err(self.unsupported(ControlCall::Leases, Feature::Leases))
    }

    /// The dead letters, oldest place first.
    ///
    /// # Errors
    /// [`ControlError`].
    fn dead_letters(&self) -> Result<Vec<DeadLetter>, ControlError>;

    /// Makes a dead letter a message that waits to be delivered again, in its own place, so also in a full queue. It keeps
    /// its id and the time it was sent; attempts are counted anew, and it does not expire any more. `Ok(false)`: there is no such
    /// dead letter any more.
    ///
    /// # Errors
    /// [`ControlError`]; [`ControlFailure::Closed`] if the queue is closed. The dead
    /// letter stays as it is, unless the outcome is unknown.
    fn requeue(&self, id: DeadLetterId) -> Result<bool, ControlError>;

    /// Drops a dead letter. `Ok(false)`: there is no such dead letter any more.
    ///
    /// # Errors
    /// [`ControlError`].
    fn discard(&self, id: DeadLetterId) -> Result<bool, ControlError>;

    /// Forgets a key: a message with it is sent again as if none had been. `Ok(false)`: the queue does not remember the key, or a
    /// message with it is just being sent. Messages that are in the queue stay.
    ///
    /// # Errors
    /// [`ControlError`]; `Unsupported` if the transport has no keys, or this queue was created without.
    fn forget(&self, key: Key) -> Result<bool, ControlError> {
        let _ = key;
        Err(self.unsupported(ControlCall::Forget, Feature::Deduplication))
    }

    /// Notes in a dead letter which signal ended its last receiver. Only the process that started that receiver learns the
    /// signal. `Ok(false)`: the letter is gone, ended otherwise, or the transport keeps no signals.
    ///
    /// # Errors
    /// [`ControlError`].
    fn note_signal(&self, id: DeadLetterId, signal: u8) -> Result<bool, ControlError> {
        let _ = (id, signal);
        Ok(false)
    }

    /// For transports: the error of a call that they do not support.
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

/// Sends. Only [`loan_with`](Self::loan_with) must be written: [`PortLoan::new`] makes one of an ordinary buffer, and
/// [`SendOptions::check`] refuses what the transport has not.
pub trait SendPort: Debug + Send {
    /// Memory for a payload of `len` bytes, and a place in the queue for it.
    ///
    /// # Errors
    /// [`SendPortError::NoRoom`] when the wait is over; [`SendFailure::Unsupported`] for options that the
    /// transport does not support, and [`SendFailure::Duplicate`] for a key that the queue remembers.
    fn loan_with(
        &self,
        len: usize,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<PortLoan<'_>, SendPortError>;

    /// As [`loan_with`](Self::loan_with), for a message of that kind and no other options.
    ///
    /// # Errors
    /// As `loan_with`, but for what is said of options.
    fn loan(&self, len: usize, kind: Kind, wait: Wait) -> Result<PortLoan<'_>, SendPortError> {
        self.loan_with(len, &SendOptions::new().kind(kind), wait)
    }

    /// Sends a copy of `payload`.
    ///
    /// # Errors
    /// As [`loan`](Self::loan) and [`PortLoan::publish`].
    fn send(&self, payload: &[u8], kind: Kind, wait: Wait) -> Result<MessageId, SendPortError> {
        let mut loan = self.loan(payload.len(), kind, wait)?;
        loan.copy_from_slice(payload);
        loan.publish().map_err(|error| error.failure.into())
    }

    /// Sends copies of all `payloads`, in their order; waits as told for each that there is no room for.
    ///
    /// # Errors
    /// [`BatchPortError`] says how many were sent before the first that could not be.
    fn send_batch(&self, payloads: &[&[u8]], kind: Kind, wait: Wait) -> Result<(), BatchPortError> {
        for (sent, payload) in payloads.iter().enumerate() {
            self.send(payload, kind, wait)
                .map_err(|error| BatchPortError { sent, error })?;
        }
        Ok(())
    }

    /// What rings when there may be room, for those who wait without a thread.
    fn bell(&self) -> Bell {
        Bell::polling()
    }

    /// Whether there may be room for another one, after what was sent last.
    fn has_more(&self) -> bool {
        true
    }
}

/// Receives. Only [`recv`](Self::recv) must be written: [`PortDelivery::new`] makes a delivery of a copied payload.
pub trait ReceivePort: Debug + Send {
    /// The next message.
    ///
    /// # Errors
    /// [`RecvPortError::Empty`] with [`Wait::No`], `TimedOut` with a deadline.
    fn recv(&self, wait: Wait) -> Result<PortDelivery, RecvPortError>;

    /// Appends the next messages, at most `most`: waits as told for the first, then takes what else is there.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), if there was not even a first.
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

    /// What rings when there may be a message, for those who wait without a thread.
    fn bell(&self) -> Bell {
        Bell::polling()
    }

    /// Whether there may be another one behind what was received last.
    fn has_more(&self) -> bool {
        true
    }
}

/// A message in somebody's hands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseInfo {
    /// What its holder is called: a process's program, or a thread.
    pub holder: String,
    /// The holder's process, in that process's PID namespace.
    pub pid: u32,
    /// Which message.
    pub message: MessageId,
    /// How often it was delivered, this time included.
    pub attempt: u8,
}

/// How long to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until then.
    Until(Instant),
    /// For as long as it takes.
    #[default]
    Forever,
}

impl Wait {
    /// For so long from now; for ever, if that is beyond what the clock can say.
    #[must_use]
    pub fn at_most(time: Duration) -> Self {
        Instant::now()
            .checked_add(time)
            .map_or(Self::Forever, Self::Until)
    }

    /// The same, but for no longer than until `limit`.
    #[must_use]
    pub(crate) fn at_most_until(self, limit: Instant) -> Self {
        match self {
            Self::No => Self::No,
            Self::Until(deadline) => Self::Until(deadline.min(limit)),
            Self::Forever => Self::Until(limit),
        }
    }

    /// Whether there is no time left.
    #[must_use]
    pub(crate) fn is_over(self) -> bool {
        match self {
            Self::No => true,
            Self::Until(deadline) => Instant::now() >= deadline,
            Self::Forever => false,
        }
    }
}

/// How a delivery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle<'r> {
    /// The work is done: the message is never delivered again.
    Ack,
    /// The attempt failed: the message is delivered again, or is a dead letter if this was its last attempt.
    Nack {
        /// The time until then; `None`: as the queue's [`Backoff`] says.
        delay: Option<Duration>,
        /// What went wrong; empty if nothing was said. At most [`MAX_REASON_BYTES`] are kept.
        reason: &'r str,
    },
    /// The message is put off: it is delivered again after the delay, and this was not an attempt.
    Snooze {
        /// The time until then.
        delay: Duration,
    },
    /// The message is never delivered again, but kept as a dead letter.
    Bury {
        /// What is wrong with it; empty if nothing was said.
        reason: &'r str,
    },
}

/// A [`Settle`] that borrows nothing: for another thread, or for a server. Reasons are shortened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OwnedSettle {
    Ack,
    Nack {
        delay: Option<Duration>,
        reason: String,
    },
    Snooze {
        delay: Duration,
    },
    Bury {
        reason: String,
    },
}

impl From<Settle<'_>> for OwnedSettle {
    fn from(how: Settle<'_>) -> Self {
        let kept = |reason| shorten_reason(reason).to_owned();
        match how {
            Settle::Ack => Self::Ack,
            Settle::Nack { delay, reason } => Self::Nack {
                delay,
                reason: kept(reason),
            },
            Settle::Snooze { delay } => Self::Snooze { delay },
            Settle::Bury { reason } => Self::Bury {
                reason: kept(reason),
            },
        }
    }
}

impl OwnedSettle {
    pub(crate) fn as_settle(&self) -> Settle<'_> {
        match self {
            Self::Ack => Settle::Ack,
            Self::Nack { delay, reason } => Settle::Nack {
                delay: *delay,
                reason,
            },
            Self::Snooze { delay } => Settle::Snooze { delay: *delay },
            Self::Bury { reason } => Settle::Bury { reason },
        }
    }
}

/// The longest reason of a failure that is kept, in bytes; longer ones are shortened.
pub const MAX_REASON_BYTES: usize = 240;

/// A reason as it is kept: its beginning, at most [`MAX_REASON_BYTES`].
#[must_use]
pub fn shorten_reason(reason: &str) -> &str {
    ipc_proto::shortened(reason, MAX_REASON_BYTES)
}

/// For transports: the delay of a nack after the failure with this number, by the queue's settings unless the receiver
/// chose one.
#[must_use]
pub fn nack_delay(settings: &QueueSettings, chosen: Option<Duration>, failures: u8) -> Duration {
    chosen.unwrap_or_else(|| {
        let chance = match settings.backoff {
            Backoff::Exponential { .. } => fastrand::u64(..),
            _ => 0,
        };
        settings.backoff.delay(failures.into(), chance)
    })
}

/// What happens if a queue exists, or does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpenMode {
    /// Open it, or create it.
    #[default]
    OpenOrCreate,
    /// Open it; [`QueueError::NotFound`] if there is none.
    Open,
    /// Create it; [`QueueError::Exists`] if there is one.
    Create,
}

pub(crate) fn payload_differs(name: &str, found: &str, wanted: &str) -> QueueError {
    let short = |payload: &str| {
        let Ok(payload) = payload.parse::<PayloadName>();
        payload.short()
    };
    QueueError::PayloadDiffers {
        name: name.to_owned(),
        found: short(found),
        wanted: short(wanted),
    }
}

/// What an opener wants.
#[derive(Clone, Debug, Default)]
pub struct OpenRequest {
    /// Whether it may exist, or must.
    pub mode: OpenMode,
    /// What to create it with.
    pub settings: QueueSettings,
    /// The settings that an existing queue must agree on, by name.
    pub insist_on: Vec<&'static str>,
    /// What the payloads are: the text of a [`PayloadName`]; empty for plain bytes, or
    /// [`ANY_PAYLOAD`](Self::ANY_PAYLOAD).
    pub payload: String,
    /// What this process wants to be there.
    pub attach_as: AttachAs,
}

/// What a process is to a queue that it opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachAs {
    /// One of those that the queue is for; counted against `max_participants`.
    #[default]
    Participant,
    /// One that looks or acts for a moment; not counted while one of the slots for tools is free.
    Tool,
}

impl OpenRequest {
    /// For `payload`: whatever the type of an existing queue's payloads is, it is opened as one of plain bytes.
    pub const ANY_PAYLOAD: &str = "*";

    /// Whether a transport that can do so much can create a queue with these settings.
    ///
    /// # Errors
    /// [`Unsupported`] names the first feature that they need and it has not.
    pub fn check_capabilities(&self, capabilities: Capabilities) -> Result<(), Unsupported> {
        let needed = [
            (self.settings.priorities, Feature::Priorities),
            (self.settings.dedup_window.is_some(), Feature::Deduplication),
        ];
        for (is_needed, feature) in needed {
            if is_needed && !capabilities.has(feature) {
                return Err(Unsupported::by_transport(feature));
            }
        }
        Ok(())
    }

    /// Compares the name of an existing queue's payloads with the one wanted.
    ///
    /// # Errors
    /// [`QueueError::PayloadDiffers`] names both.
    pub fn check_payload(&self, name: &str, found: &str) -> Result<(), QueueError> {
        if found == self.payload || self.payload == Self::ANY_PAYLOAD {
            return Ok(());
        }
        Err(payload_differs(name, found, &self.payload))
    }

    /// Compares an existing queue's settings with those insisted on.
    ///
    /// # Errors
    /// [`QueueError::SettingsDiffer`] names the first that differs.
    pub fn check(&self, name: &str, found: &QueueSettings) -> Result<(), QueueError> {
        let wanted = &self.settings;
        for ((field, found), (_, wanted)) in found.fields().into_iter().zip(wanted.fields()) {
            if self.insist_on.contains(&field) && found != wanted {
                return Err(QueueError::SettingsDiffer {
                    name: name.to_owned(),
                    field,
                    found,
                    wanted,
                });
            }
        }
        Ok(())
    }
}
