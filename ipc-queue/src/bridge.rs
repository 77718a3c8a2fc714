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

mod settling;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipc_proto::MessageId;
use thiserror::Error;

use crate::bytes::{ByteQueue, ByteReceiver, ByteSender};
use crate::capability::Feature;
use crate::delivery::ByteDelivery;
use crate::error::{
    RecvError, RecvFailure, RecvPortError, SendError, SendFailure, SendPortError, SettleError,
    Unavailable,
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
            receiver: &receiver,
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
                // A message whose ack failed may come again.
                RecvFailure::Closed if until == Until::Drained => {
                    if trip.confirm_acks()? {
                        break;
                    }
                }
                RecvFailure::Closed => thread::sleep(PAUSE),
                RecvFailure::Unavailable(Unavailable::Transport { .. })
                | RecvFailure::Damaged { .. } => trip.wait_because(&failure.to_string()),
                over => return Err(over.of(receiver.queue()).into()),
            }
        }
        trip.confirm_acks()?;
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
    receiver: &'b ByteReceiver,
    sender: ByteSender,
    stop: &'b AtomicBool,
    note: N,
    carried: Carried,
}

impl<N: FnMut(Note)> Trip<'_, N> {
    /// Publishes and acks each message, in order. Messages left over at the return go back to the
    /// first queue. An end of the second queue is not their fault, so it costs them no attempt.
    fn carry(&mut self, mut held: VecDeque<ByteDelivery<'_>>) -> Result<(), BridgeError> {
        let carried = self.carry_from(&mut held);
        self.give_back(held);
        carried
    }

    fn carry_from(&mut self, held: &mut VecDeque<ByteDelivery<'_>>) -> Result<(), BridgeError> {
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
                self.extend(held);
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
                let why = why.clone();
                if let Some(first) = held.pop_front() {
                    self.bury(first, why)?;
                }
                continue;
            }
            self.ack_all(&mut published)?;
            if !is_passing(&error) {
                return Err(error.into_send(self.sender.queue(), ()).into());
            }
            if self.stop.load(Ordering::Relaxed) {
                let since = *stopping_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= GRACE {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use ipc_proto::{Headers, Kind};

    use super::*;
    use crate::options::QueueOptions;

    fn queue(options: QueueOptions) -> ByteQueue {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("local:bridge-test-{number}");
        options.open_bytes(&name).unwrap()
    }

    fn run_to_the_end(bridge: &Bridge) -> Carried {
        let stop = AtomicBool::new(false);
        bridge.run(Until::Drained, &stop, |_| {}).unwrap()
    }

    #[test]
    fn kinds_and_order_are_kept() {
        let (from, to) = (queue(QueueOptions::new()), queue(QueueOptions::new()));
        let kinds = [Kind::Data, Kind::Control, Kind::Heartbeat, Kind::Shutdown];
        for number in 0..200_u8 {
            let kind = kinds[usize::from(number) % 4];
            from.sender()
                .send_with(&[number], &SendOptions::new().kind(kind).wait(Wait::No))
                .unwrap();
        }
        from.transport().close().unwrap();
        let carried = run_to_the_end(&Bridge::new(from.clone(), to.clone()).batch(7));
        assert_eq!((carried.messages, carried.bytes), (200, 200));
        let receiver = to.receiver();
        for number in 0..200_u8 {
            let delivery = receiver.try_recv().unwrap();
            let kind = kinds[usize::from(number) % 4];
            assert_eq!((delivery.kind(), delivery.payload()), (kind, &[number][..]));
            delivery.ack().unwrap();
        }
        assert_eq!(from.transport().stats().unwrap().acked, 200);
    }

    /// Returns a closed queue that contains a message with headers and one without, and those
    /// headers.
    fn with_and_without_headers() -> (ByteQueue, Headers) {
        let from = queue(QueueOptions::new());
        let options = SendOptions::new().header("traceparent", "00-1-2-01");
        let options = options.unwrap();
        let sender = from.sender();
        sender
            .send_with(b"with", &options.clone().wait(Wait::No))
            .unwrap();
        sender.send(b"without").unwrap();
        from.transport().close().unwrap();
        (from, options.headers)
    }

    #[test]
    fn headers_are_carried() {
        let (from, headers) = with_and_without_headers();
        let to = queue(QueueOptions::new());
        let bridge = Bridge::new(from, to.clone());
        assert!(bridge.carries_headers());
        let carried = run_to_the_end(&bridge);
        assert_eq!((carried.messages, carried.without_headers), (2, 0));
        let receiver = to.receiver();
        assert_eq!(receiver.try_recv().unwrap().headers(), headers);
        assert!(receiver.try_recv().unwrap().headers().is_empty());
    }

    /// The second queue's transport has no headers.
    #[test]
    fn headers_that_the_other_queue_does_not_support_are_dropped_and_counted() {
        let (from, _) = with_and_without_headers();
        let to = queue(QueueOptions::new());
        let bridge = Bridge {
            headers: false,
            ..Bridge::new(from, to.clone())
        };
        let carried = run_to_the_end(&bridge);
        assert_eq!((carried.messages, carried.without_headers), (2, 1));
        assert!(to.receiver().try_recv().unwrap().headers().is_empty());
    }

    #[test]
    fn messages_published_before_a_kill_are_not_published_again() {
        let from = queue(QueueOptions::new());
        let to = queue(QueueOptions::new().dedup_window(Duration::from_secs(3600)));
        let bridge = Bridge::new(from.clone(), to.clone());
        assert!(bridge.is_exactly_once());
        from.sender().send(b"once").unwrap();
        // The state after a kill between publishing and acking.
        let receiver = from.receiver();
        let mut trip = Trip {
            bridge: &bridge,
            receiver: &receiver,
            sender: to.sender(),
            stop: &AtomicBool::new(false),
            note: |_| {},
            carried: Carried::default(),
        };
        let held = receiver.recv().unwrap();
        trip.publish(&held, SLICE).unwrap();
        drop(held);
        from.transport().close().unwrap();
        let carried = run_to_the_end(&bridge);
        assert_eq!((carried.messages, carried.known), (0, 1));
        assert_eq!(to.transport().stats().unwrap().sent, 1);
    }

    #[test]
    fn messages_refused_by_the_other_queue_are_buried_and_the_rest_continues() {
        let from = queue(QueueOptions::new().max_message_bytes(2000));
        let to = queue(QueueOptions::new().inline_bytes(64).max_message_bytes(64));
        for len in [10, 2000, 10] {
            from.sender().send(&vec![7; len]).unwrap();
        }
        from.transport().close().unwrap();
        let mut said = Vec::new();
        let stop = AtomicBool::new(false);
        let carried = Bridge::new(from.clone(), to).run(Until::Drained, &stop, |note| {
            if let Note::Buried { why, .. } = note {
                said.push(why);
            }
        });
        let carried = carried.unwrap();
        assert_eq!((carried.messages, carried.buried), (2, 1));
        assert!(matches!(
            said[..],
            [SendFailure::TooLarge { bytes: 2000, .. }]
        ));
        assert_eq!(
            from.transport().dead_letters().unwrap()[0].payload,
            [7; 2000]
        );
    }

    #[test]
    fn leases_are_extended_while_waiting_for_a_full_queue() {
        let lease = Duration::from_secs(2);
        let from = queue(QueueOptions::new().lease(lease));
        let to = queue(QueueOptions::new().capacity(1));
        to.sender().send(b"in the way").unwrap();
        from.sender().send(b"first").unwrap();
        from.sender().send(b"second").unwrap();
        from.transport().close().unwrap();
        let bridge = Bridge::new(from.clone(), to.clone());
        let carried = thread::scope(|scope| {
            let run = scope.spawn(|| run_to_the_end(&bridge));
            // Each refusal is one slice of waiting; together they are longer than the lease.
            while to.transport().stats().unwrap().refused < 5 {
                thread::yield_now();
            }
            let receiver = to.receiver();
            for said in [&b"in the way"[..], b"first", b"second"] {
                let delivery = receiver.recv().unwrap();
                assert_eq!(delivery.payload(), said);
                delivery.ack().unwrap();
            }
            run.join().unwrap()
        });
        assert_eq!((carried.messages, carried.lost), (2, 0));
        assert_eq!(from.transport().stats().unwrap().redelivered, 0);
    }

    /// A service manager starts a failed bridge again and again.
    #[test]
    fn a_closed_second_queue_costs_messages_no_attempt() {
        let from = queue(QueueOptions::new().attempt_limit(2));
        let to = queue(QueueOptions::new());
        to.transport().close().unwrap();
        from.sender().send(b"first").unwrap();
        from.sender().send(b"second").unwrap();
        let bridge = Bridge::new(from.clone(), to.clone());
        for _ in 0..5 {
            let ended = bridge.run(Until::Stopped, &AtomicBool::new(false), |_| {});
            assert!(matches!(ended, Err(BridgeError::Send(_))), "{ended:?}");
        }
        let stats = from.transport().stats().unwrap();
        assert_eq!((stats.ready, stats.dead), (2, 0));
        let receiver = from.receiver();
        for payload in [&b"first"[..], b"second"] {
            let delivery = receiver.try_recv().unwrap();
            assert_eq!((delivery.payload(), delivery.attempt()), (payload, 1));
            delivery.ack().unwrap();
        }
    }

    #[test]
    fn a_stopped_bridge_returns_messages_without_room() {
        let from = queue(QueueOptions::new());
        let to = queue(QueueOptions::new().capacity(1));
        from.sender().send(b"fits").unwrap();
        from.sender().send(b"does not").unwrap();
        let stop = AtomicBool::new(false);
        let carried = Bridge::new(from.clone(), to).run(Until::Stopped, &stop, |note| {
            if matches!(note, Note::Waiting { .. }) {
                stop.store(true, Ordering::Relaxed);
            }
        });
        assert_eq!(carried.unwrap().messages, 1);
        let stats = from.transport().stats().unwrap();
        assert_eq!((stats.ready, stats.acked), (1, 1));
    }
}
