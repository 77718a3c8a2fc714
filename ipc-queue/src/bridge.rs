//! Moves messages from one queue to another, of any transports.
//!
//! A bridge leases each message from the first queue and publishes it to the second, with its id as
//! de-duplication key. Only then it acks. So a bridge that is killed between any two lines loses
//! nothing: messages that were not acked are delivered again. Those already published are
//! recognized by their key and not sent twice, for as long as the second queue remembers keys
//! ([`dedup_window`](crate::QueueOptions::dedup_window)). If the second queue has no keys, a kill
//! may duplicate a message that was just being published: delivery is at least once. Several
//! bridges between the same two queues share the work.
//!
//! Kinds, payloads and headers are carried. A queue without [`Feature::Headers`] gets the messages
//! without their headers; [`Carried::without_headers`] counts these. Each message gets a new id and
//! time. Priorities, delays and expiry times are not carried: they were instructions to the first
//! queue. A kill costs each message in hand an attempt, like the death of any receiver. Past the
//! limit, the message is a dead letter of the first queue.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipc_proto::MessageId;
use thiserror::Error;

use crate::bytes::{ByteQueue, ByteSender};
use crate::capability::Feature;
use crate::delivery::{ByteDelivery, ack_each};
use crate::error::{
    RecvError, RecvFailure, RecvPortError, SendError, SendFailure, SendPortError, SettleError,
    SettleFailure, Unavailable,
};
use crate::send_options::SendOptions;
use crate::wait::Wait;

/// A bridge from one queue to another.
///
/// ```
/// use std::sync::atomic::AtomicBool;
/// use ipc_queue::{Bridge, ByteQueue, Until};
///
/// let (from, to) = (ByteQueue::open("local:here")?, ByteQueue::open("local:there")?);
/// from.sender().send(b"over the river")?;
/// from.transport().close()?;
/// let bridge = Bridge::new(from, to.clone());
/// let carried = bridge.run(Until::Drained, &AtomicBool::new(false), |_| {})?;
/// assert_eq!(carried.messages, 1);
/// assert_eq!(to.receiver().recv()?.payload(), b"over the river");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Bridge {
    from: ByteQueue,
    to: ByteQueue,
    batch: usize,
    keys: bool,
    headers: bool,
}

/// The condition that ends a bridge's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The first queue is closed and drained.
    Drained,
    /// No condition: the bridge runs until it is stopped.
    Stopped,
}

/// The work that a bridge has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Carried {
    /// Messages published to the second queue.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Messages that the second queue already had, by their keys: published before a kill, but not
    /// acked.
    pub known: u64,
    /// Messages that the second queue does not take. They are now dead letters of the first.
    pub buried: u64,
    /// Messages whose lease was lost before they were acked. They are delivered again.
    pub lost: u64,
    /// Messages with headers that arrived without them, because the second queue does not carry
    /// headers.
    pub without_headers: u64,
}

/// A report of a running bridge.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Note {
    /// More messages were carried.
    Progress(Carried),
    /// The second queue does not take this message. It is now a dead letter of the first.
    Buried {
        /// The message's id.
        id: MessageId,
        /// The reason.
        why: SendFailure,
    },
    /// The bridge cannot continue now, and tries again.
    Waiting {
        /// The temporary obstacle.
        why: String,
    },
}

/// The reason why a bridge cannot continue. Messages that it held return to the first queue.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// Nothing more can be received from the first queue.
    #[error("receiving from the first queue: {0}")]
    Recv(#[from] RecvError),
    /// Nothing more can be sent to the second queue.
    #[error("sending to the second queue: {0}")]
    Send(#[from] SendError),
    /// A received message cannot be settled.
    #[error("settling in the first queue: {0}")]
    Settle(#[from] SettleError),
}

/// The longest wait before leases are extended and the stop flag is checked.
const SLICE: Duration = Duration::from_millis(500);
/// The pause between two tries on a queue that has no message, or that fails at once.
const PAUSE: Duration = Duration::from_millis(100);
/// The extension of leases if the queue has no time-out; its transport may have one.
const LEASE: Duration = Duration::from_secs(30);
/// The time that a stopped bridge waits for room for the messages it holds.
const GRACE: Duration = Duration::from_secs(1);

impl Bridge {
    /// Creates a bridge from `from` to `to`.
    #[must_use]
    pub fn new(from: ByteQueue, to: ByteQueue) -> Self {
        let transport = to.transport();
        let keys = transport.capabilities().has(Feature::Deduplication)
            && transport.settings().dedup_window.is_some();
        let headers = transport.capabilities().has(Feature::Headers);
        Self {
            from,
            to,
            batch: 64,
            keys,
            headers,
        }
    }

    /// Holds at most `most` messages at a time. Default: 64.
    #[must_use]
    pub fn batch(mut self, most: usize) -> Self {
        self.batch = most.max(1);
        self
    }

    /// Returns whether each message gets to the second queue exactly once, because that queue has
    /// keys. Without keys it is at least once.
    #[must_use]
    pub fn is_exactly_once(&self) -> bool {
        self.keys
    }

    /// Returns whether the second queue takes the headers of messages.
    #[must_use]
    pub fn carries_headers(&self) -> bool {
        self.headers
    }

    /// Carries messages until the work is done or `stop` is set. Then it finishes the messages it
    /// holds, or returns those that the second queue has no room for.
    ///
    /// # Errors
    /// [`BridgeError`] when one of the queues cannot be used any more. Temporary obstacles are
    /// waited for: a full queue, a paused queue, a failing transport.
    pub fn run(
        &self,
        until: Until,
        stop: &AtomicBool,
        note: impl FnMut(Note),
    ) -> Result<Carried, BridgeError> {
        let receiver = self.from.receiver();
        let mut trip = Trip {
            bridge: self,
            sender: self.to.sender(),
            stop,
            note,
            carried: Carried::default(),
        };
        while !stop.load(Ordering::Relaxed) {
            let mut batch = Vec::new();
            let received = receiver.port_recv_batch(self.batch, Wait::at_most(PAUSE), &mut batch);
            let failure = match received {
                Ok(()) => {
                    trip.carry(batch.into())?;
                    continue;
                }
                Err(RecvPortError::Failed(failure)) => failure,
                Err(RecvPortError::Paused) => {
                    thread::sleep(PAUSE);
                    continue;
                }
                Err(RecvPortError::TimedOut { .. } | RecvPortError::Empty) => continue,
            };
            match failure {
                RecvFailure::Closed if until == Until::Drained => break,
                RecvFailure::Closed => thread::sleep(PAUSE),
                RecvFailure::Unavailable(Unavailable::Transport { .. })
                | RecvFailure::Damaged { .. } => trip.wait_because(&failure.to_string()),
                over => return Err(over.of(receiver.queue()).into()),
            }
        }
        Ok(trip.carried)
    }

    /// Returns the interval at which leases are extended.
    fn slice(&self) -> Duration {
        let lease = self.from.transport().settings().lease;
        let third = lease.map_or(SLICE, |lease| lease / 3);
        third.clamp(Duration::from_millis(1), SLICE)
    }
}

/// One run of a bridge.
struct Trip<'b, N> {
    bridge: &'b Bridge,
    sender: ByteSender,
    stop: &'b AtomicBool,
    note: N,
    carried: Carried,
}

impl<N: FnMut(Note)> Trip<'_, N> {
    /// Publishes and acks each message, in order. Messages left over at the return go back to the
    /// first queue.
    fn carry(&mut self, mut held: VecDeque<ByteDelivery<'_>>) -> Result<(), BridgeError> {
        let slice = self.bridge.slice();
        let mut extended_at = Instant::now();
        let mut stopping_since = None;
        let mut said_why = false;
        // Published, and not acked yet. Without keys, a kill would double all of them: then each is
        // acked at once.
        let mut published = Vec::new();
        while let Some(first) = held.front() {
            if extended_at.elapsed() >= slice {
                self.ack_all(&mut published)?;
                self.extend(&held);
                extended_at = Instant::now();
            }
            let error = match self.publish(first, slice) {
                Ok(()) => {
                    published.extend(held.pop_front());
                    if !self.bridge.keys {
                        self.ack_all(&mut published)?;
                    }
                    continue;
                }
                Err(error) => error,
            };
            if let SendPortError::Failed(why) = &error
                && is_this_ones(why)
            {
                let (why, id) = (why.clone(), first.id());
                let first = held.pop_front();
                // With the reason, so that the list of dead letters shows it.
                let buried = first.map(|first| first.bury_with(&why.to_string()));
                self.end(buried.unwrap_or(Ok(())))?;
                self.carried.buried += 1;
                (self.note)(Note::Buried { id, why });
                continue;
            }
            self.ack_all(&mut published)?;
            if !is_passing(&error) {
                return Err(error.into_send(self.sender.queue(), ()).into());
            }
            if self.stop.load(Ordering::Relaxed) {
                let since = *stopping_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= GRACE {
                    self.give_back(held);
                    return Ok(());
                }
            }
            if !said_why {
                said_why = true;
                let why = error.to_string();
                (self.note)(Note::Waiting { why });
            }
            if answers_at_once(&error) {
                thread::sleep(slice.min(PAUSE));
            }
        }
        self.ack_all(&mut published)?;
        (self.note)(Note::Progress(self.carried));
        Ok(())
    }

    fn ack_all(&mut self, published: &mut Vec<ByteDelivery<'_>>) -> Result<(), SettleError> {
        let (_, failures) = ack_each(published.drain(..));
        for (_, failure) in failures {
            self.end(Err(failure))?;
        }
        Ok(())
    }

    /// Returns unsent messages to the first queue, for other receivers at once. Counts no attempt
    /// if the transport can snooze.
    fn give_back(&self, held: VecDeque<ByteDelivery<'_>>) {
        let capabilities = self.bridge.from.transport().capabilities();
        for delivery in held {
            // A message whose lease is lost is delivered again anyway.
            let _ = match capabilities.has(Feature::Snooze) {
                true => delivery.snooze(Duration::ZERO),
                false => delivery.nack_after(Duration::ZERO),
            };
        }
    }

    /// Publishes one message, or finds that it was published before.
    fn publish(
        &mut self,
        delivery: &ByteDelivery<'_>,
        slice: Duration,
    ) -> Result<(), SendPortError> {
        let wait = Wait::at_most(slice);
        let mut options = SendOptions::new().kind(delivery.kind()).wait(wait);
        if self.bridge.keys {
            options = options.key(self.key(delivery.id()));
        }
        let headers = delivery.headers();
        let loses_headers = !self.bridge.headers && !headers.is_empty();
        if !loses_headers {
            options = options.headers(headers);
        }
        let payload = delivery.payload();
        let mut loan = match self.sender.port_loan_with(payload.len(), &options) {
            Ok(loan) => loan,
            Err(SendPortError::Failed(SendFailure::Duplicate { .. })) => {
                self.carried.known += 1;
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        loan.copy_from_slice(payload);
        if let Err(error) = delivery.check_whole() {
            return Err(SendFailure::damaged(error.to_string()).into());
        }
        match loan.publish_port() {
            Ok(_) => {
                self.carried.messages += 1;
                self.carried.bytes += payload.len() as u64;
                self.carried.without_headers += u64::from(loses_headers);
            }
            Err(SendFailure::Duplicate { .. }) => self.carried.known += 1,
            Err(failure) => return Err(failure.into()),
        }
        Ok(())
    }

    /// Returns the message's key in the second queue: the same for every bridge and every delivery.
    fn key(&self, id: MessageId) -> [u8; 24] {
        let queue = self.bridge.from.transport().id();
        let parts = [queue, id.sender.get(), id.sequence];
        let mut key = [0; 24];
        for (bytes, part) in key.chunks_exact_mut(8).zip(parts) {
            bytes.copy_from_slice(&part.to_le_bytes());
        }
        key
    }

    /// Errors are ignored: settling reports a lost lease.
    fn extend(&self, held: &VecDeque<ByteDelivery<'_>>) {
        let lease = self.bridge.from.transport().settings().lease;
        for delivery in held {
            let _ = delivery.extend(lease.unwrap_or(LEASE));
        }
    }

    fn end(&mut self, settled: Result<(), SettleError>) -> Result<(), SettleError> {
        use SettleFailure::{LeaseLost, Unavailable as Lost};
        let Err(error) = settled else { return Ok(()) };
        match error.failure {
            // The message is delivered again, and is then recognized by its key.
            LeaseLost | Lost(Unavailable::Transport { .. }) => {
                self.carried.lost += 1;
                Ok(())
            }
            _ => Err(error),
        }
    }

    fn wait_because(&mut self, why: &str) {
        let why = why.to_owned();
        (self.note)(Note::Waiting { why });
        thread::sleep(SLICE);
    }
}

/// Returns whether the failure concerns only this message, so that others may succeed.
fn is_this_ones(failure: &SendFailure) -> bool {
    matches!(
        failure,
        SendFailure::TooLarge { .. } | SendFailure::Unsupported(_) | SendFailure::Encode(_)
    )
}

/// Returns whether waiting may help.
fn is_passing(error: &SendPortError) -> bool {
    matches!(error, SendPortError::NoRoom { .. }) || answers_at_once(error)
}

/// Returns whether the failure may have been reported without a wait.
fn answers_at_once(error: &SendPortError) -> bool {
    use SendFailure::{KeysFull, Unavailable as Lost};
    matches!(
        error,
        SendPortError::Failed(KeysFull { .. } | Lost(Unavailable::Transport { .. }))
    )
}
