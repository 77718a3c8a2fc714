//! The content of the queue when an operation begins.

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipc_queue::transport::Wait;
use ipc_queue::{ByteDelivery, ByteQueue, DeadReason, Loan, SendOptions};

use super::actor::Play;
use super::outcome::{FIRST_CHUNKED, FIRST_SHORT, Message};

/// The queue, opened twice by the actor: for itself, and as a peer that lives.
pub struct Set {
    pub queue: ByteQueue,
    pub peer: ByteQueue,
    /// A survivor's findings if nothing else happens than the actor's death.
    pub content: Vec<Message>,
}

/// A situation. Messages have numbers from 1 in the order of their sending; chunked ones from 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenery {
    /// Nothing was ever sent.
    Empty,
    /// 1 is ready.
    OneReady,
    /// 1 and 2 are ready, of 3.
    LastPlace,
    /// 1, 2 and 3 are ready.
    Full,
    /// 1 is ready, after the ring went round more than once.
    LaterLap,
    /// 100 is ready; one of two chunks is used.
    ChunkReady,
    /// 100 and 101 are ready; both chunks are used.
    NoChunk,
    /// The memory of a chunk was divided into shorter ones.
    ShortChunks,
    /// The same, and 181 is ready; its chunk is between two free ones.
    ShortChunkReady,
    /// The peer holds 1; 2 is ready.
    PeerHolds,
    /// The peer writes; 2 is ready behind.
    PeerWrites,
    /// 1 was returned with a delay.
    Delayed,
    /// 1 was buried.
    Letter,
    /// 1 was returned.
    GivenBack,
    /// 1 was returned twice.
    GivenBackTwice,
    /// 2 and 3 are ready; the free cell is one that senders do not reach in FIFO order.
    SparePlace,
    /// A process was asleep waiting for a message, or appears to be.
    Awaited,
    /// The peer's lease of 1 expired, and it may still be reading.
    Expired,
    /// The same with the chunked 100.
    ChunkExpired,
}

impl Scenery {
    pub fn set(self, play: &Play) -> Result<Set> {
        let (queue, peer) = (play.attach()?, play.attach()?);
        self.arrange(play, &queue, &peer)?;
        Ok(Set {
            queue,
            peer,
            content: self.content(),
        })
    }

    fn content(self) -> Vec<Message> {
        let fresh = |numbers: &[u64]| -> Vec<_> {
            let comes = |number: &u64| Message::comes(*number, 1);
            numbers.iter().map(comes).collect()
        };
        match self {
            Self::Empty | Self::ShortChunks | Self::Awaited => vec![],
            Self::OneReady | Self::LaterLap => fresh(&[1]),
            Self::LastPlace => fresh(&[1, 2]),
            Self::Full => fresh(&[1, 2, 3]),
            Self::ChunkReady => fresh(&[FIRST_CHUNKED]),
            Self::NoChunk => fresh(&[FIRST_CHUNKED, FIRST_CHUNKED + 1]),
            Self::ShortChunkReady => fresh(&[FIRST_SHORT + 1]),
            Self::PeerHolds => vec![Message::comes(1, 2), Message::comes(2, 1)],
            Self::PeerWrites => fresh(&[2]),
            Self::Delayed | Self::GivenBack | Self::Expired => vec![Message::comes(1, 2)],
            Self::ChunkExpired => vec![Message::comes(FIRST_CHUNKED, 2)],
            Self::Letter => vec![Message::dead(1, 1, DeadReason::Buried)],
            Self::GivenBackTwice => vec![Message::comes(1, 3)],
            Self::SparePlace => fresh(&[2, 3]),
        }
    }

    fn arrange(self, play: &Play, queue: &ByteQueue, peer: &ByteQueue) -> Result<()> {
        match self {
            Self::Empty => Ok(()),
            Self::OneReady => send(queue, [1]),
            Self::LastPlace => send(queue, 1..=2),
            Self::Full => send(queue, 1..=3),
            Self::LaterLap => {
                (0..4).try_for_each(|_| pass(queue))?;
                send(queue, [1])
            }
            Self::ChunkReady => send(queue, [FIRST_CHUNKED]),
            Self::NoChunk => send(queue, FIRST_CHUNKED..FIRST_CHUNKED + 2),
            Self::ShortChunks => send_and_ack(queue, FIRST_SHORT..FIRST_SHORT + 3, 3),
            Self::ShortChunkReady => send_and_ack(queue, FIRST_SHORT..FIRST_SHORT + 2, 1),
            Self::PeerHolds => {
                send(queue, [1])?;
                kept(receive(peer)?);
                send(queue, [2])
            }
            Self::PeerWrites => {
                kept(loan(peer, 1)?);
                send(queue, [2])
            }
            Self::Delayed => {
                send(queue, [1])?;
                Ok(receive(queue)?.nack_after(MOMENT)?)
            }
            Self::Letter => {
                send(queue, [1])?;
                Ok(receive(queue)?.bury()?)
            }
            Self::GivenBack => {
                send(queue, [1])?;
                Ok(receive(queue)?.nack()?)
            }
            Self::GivenBackTwice => {
                send(queue, [1])?;
                receive(queue)?.nack()?;
                Ok(receive(queue)?.nack()?)
            }
            Self::SparePlace => {
                send(queue, [1])?;
                receive(queue)?.nack()?;
                receive(queue)?.ack()?;
                send(queue, 2..=3)
            }
            Self::Awaited => {
                let receiver = peer.receiver();
                let waited = receiver.recv_timeout(MOMENT);
                ensure!(waited.is_err(), "there was something to receive");
                Ok(())
            }
            Self::Expired => expire(play, queue, peer, 1),
            Self::ChunkExpired => expire(play, queue, peer, FIRST_CHUNKED),
        }
    }
}

/// Short, and over after a wait of the same length.
pub const MOMENT: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends these messages; there is room for them.
pub fn send(queue: &ByteQueue, numbers: impl IntoIterator<Item = u64>) -> Result<()> {
    let sender = queue.sender();
    for number in numbers {
        let sent = sender.try_send(&Message::payload(number));
        sent.with_context(|| format!("sending {number}"))?;
    }
    Ok(())
}

/// Receives a message, which must be there, for as long as this process lives.
pub fn receive(queue: &ByteQueue) -> Result<ByteDelivery<'static>> {
    let receiver = Box::leak(Box::new(queue.receiver()));
    receiver.recv_within(Wait::No).context("receiving")
}

/// Takes a place for this message, for as long as this process lives.
pub fn loan(queue: &ByteQueue, number: u64) -> Result<Loan<'static>> {
    loan_with(queue, number, &SendOptions::new())
}

/// The same, for a message with these options.
pub fn loan_with(queue: &ByteQueue, number: u64, options: &SendOptions) -> Result<Loan<'static>> {
    let sender = Box::leak(Box::new(queue.sender()));
    let payload = Message::payload(number);
    let mut loan = sender
        .loan_with(payload.len(), &options.clone().wait(Wait::No))
        .context("asking for a loan")?;
    loan.copy_from_slice(&payload);
    Ok(loan)
}

/// Leaks a value, so that it is never dropped.
pub fn kept<T>(held: T) {
    std::mem::forget(held);
}

/// Sends a message and acks it.
pub fn pass(queue: &ByteQueue) -> Result<()> {
    send(queue, [99])?;
    Ok(receive(queue)?.ack()?)
}

/// Sends these messages and acks the first few.
fn send_and_ack(queue: &ByteQueue, numbers: Range<u64>, acked: usize) -> Result<()> {
    send(queue, numbers)?;
    (0..acked).try_for_each(|_| Ok(receive(queue)?.ack()?))
}

/// Ends a lease: shortens it, and waits until it is over.
pub fn shorten(delivery: &ByteDelivery<'_>) -> Result<()> {
    delivery.extend(MOMENT)?;
    thread::sleep(3 * MOMENT);
    Ok(())
}

/// Receives message 1 and lets its lease expire, in a process whose watcher runs by itself.
pub fn expire_unwatched(queue: &ByteQueue) -> Result<()> {
    let held = receive(queue)?;
    shorten(&held)?;
    kept(held);
    let deadline = Instant::now() + PATIENCE;
    while queue.transport().stats()?.ready == 0 {
        ensure!(Instant::now() < deadline, "the lease does not end");
        thread::sleep(MOMENT);
    }
    Ok(())
}

fn expire(play: &Play, queue: &ByteQueue, peer: &ByteQueue, number: u64) -> Result<()> {
    send(queue, [number])?;
    let held = receive(peer)?;
    shorten(&held)?;
    kept(held);
    play.look()?;
    let ready = queue.transport().stats()?.ready;
    ensure!(ready == 1, "the lease did not expire");
    Ok(())
}
