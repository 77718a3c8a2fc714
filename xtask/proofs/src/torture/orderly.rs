//! Order, where it is promised: a second queue, in which nothing is returned, delayed or lost.
//!
//! Every sender also sends into it, and may be killed or stopped while it does. This process is its
//! only receiver, and lives. So each sender's messages must come complete and in the order of its
//! sends, whatever happens to the senders.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use ipc_proto::{Kind, MessageId, Name, QueueSettings, SenderId};
use ipc_queue::shm::ShmSender;
use ipc_queue::transport::{OpenMode, OpenRequest, SendPort, SendPortError, Transport, Wait};
use ipc_queue::{ByteQueue, SendFailure, ShmQueue};
use ipc_shm::Namespace;

use super::payload;

/// Receives until the queue is closed.
pub struct Orderly {
    queue: ShmQueue,
    namespace: Namespace,
    thread: JoinHandle<Result<Came>>,
}

/// The received messages.
#[derive(Debug, Default)]
pub struct Came {
    /// The number of messages of each sender.
    counts: HashMap<SenderId, u64>,
    /// Messages that came too early, too late, or twice.
    pub out_of_order: u64,
    /// Payloads that differed from what was sent.
    pub corrupt: u64,
}

impl Orderly {
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let queue = open(namespace, OpenMode::Create)?;
        let receiver = ByteQueue::over(Arc::new(open(namespace, OpenMode::Open)?)).receiver();
        let thread = thread::Builder::new()
            .name("orderly".to_owned())
            .spawn(move || {
                let mut came = Came::default();
                loop {
                    let mut batch = match receiver.recv_batch(fastrand::usize(1..10), Wait::Forever)
                    {
                        Ok(batch) => batch,
                        Err(error) if error.is_closed() => return Ok(came),
                        Err(error) => return Err(error).context("receiving in order"),
                    };
                    for delivery in batch.iter() {
                        came.corrupt += u64::from(!payload::is_whole(delivery.payload()));
                        came.note(delivery.id());
                    }
                    if fastrand::bool() {
                        batch.ack()?;
                    }
                    for delivery in batch {
                        delivery.ack()?;
                    }
                }
            })?;
        Ok(Self {
            queue,
            namespace: namespace.clone(),
            thread,
        })
    }

    /// Called when no sender is left.
    pub fn finish(self) -> Result<Came> {
        self.queue.close()?;
        let came = match self.thread.join() {
            Ok(came) => came?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        drop(self.queue);
        ShmQueue::remove(&self.namespace, &name())?;
        Ok(came)
    }
}

impl Came {
    fn note(&mut self, id: MessageId) {
        let next = self.counts.entry(id.sender).or_default();
        // A sender publishes every number that it uses, unless it dies in between.
        self.out_of_order += u64::from(id.sequence != *next);
        *next = (id.sequence + 1).max(*next);
    }

    /// Returns whether an accepted message came.
    pub fn has(&self, id: MessageId) -> bool {
        let count = self.counts.get(&id.sender);
        count.is_some_and(|count| id.sequence < *count)
    }
}

/// Sends one message or a batch, if there is room soon. Returns the ids of those that were sent.
pub fn send(sender: &mut Sender) -> Result<Vec<MessageId>> {
    let wait = Wait::at_most(Duration::from_millis(fastrand::u64(..5)));
    let count = match fastrand::u32(..3) {
        0 => fastrand::usize(2..12),
        _ => 1,
    };
    let payloads: Vec<Vec<u8>> = (0..count).map(|_| random_payload()).collect();
    let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    let sent = match sender.port.send_batch(&payloads, Kind::Data, wait) {
        Ok(()) => count,
        Err(cut) => match cut.error {
            SendPortError::NoRoom { .. } | SendPortError::Failed(SendFailure::Closed) => cut.sent,
            error => return Err(error).context("a batch was refused"),
        },
    };
    let first = sender.sent;
    sender.sent += sent as u64;
    let ids = (first..sender.sent).map(|number| MessageId::new(sender.port.id(), number));
    Ok(ids.collect())
}

/// Sends into the orderly queue, and counts.
pub struct Sender {
    port: ShmSender,
    sent: u64,
}

impl Sender {
    pub fn open(namespace: &Namespace) -> Result<Self> {
        let port = open(namespace, OpenMode::Open)?.shm_sender();
        Ok(Self { port, sent: 0 })
    }
}

fn random_payload() -> Vec<u8> {
    let mut payload = vec![0; fastrand::usize(..=64)];
    payload::fill(&mut payload, fastrand::u64(..));
    payload
}

pub fn open(namespace: &Namespace, mode: OpenMode) -> Result<ShmQueue> {
    let request = OpenRequest {
        mode,
        settings: QueueSettings {
            capacity: 8,
            inline_bytes: 64,
            max_participants: 64,
            ..QueueSettings::default()
        },
        ..OpenRequest::default()
    };
    Ok(ShmQueue::open(namespace, &name(), &request)?)
}

fn name() -> Name {
    Name::new("orderly").expect("a valid name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_a_repetition_and_a_swap_are_noticed() {
        let id = |sequence| MessageId::new(SenderId::new(7), sequence);
        for (sequences, wrong) in [
            (&[0, 1, 2][..], 0),
            (&[0, 2], 1),
            (&[0, 0], 1),
            (&[0, 2, 1, 3], 2),
        ] {
            let mut came = Came::default();
            sequences
                .iter()
                .for_each(|sequence| came.note(id(*sequence)));
            assert_eq!(came.out_of_order, wrong, "{sequences:?}");
            assert!(came.has(id(0)) && !came.has(id(9)));
        }
    }
}
