//! This project's subject: its `shm` transport, through the calls that a program uses. Every
//! message is leased and acked.

use std::time::Duration;

use anyhow::{Context, Result};
use ipc_queue::transport::Wait;
use ipc_queue::{
    ByteDelivery, ByteQueue, ByteReceiver, ByteSender, Queue, QueueOptions,
    Receiver as TypedReceiver, Sender as TypedSender, TryRecvError,
};

use super::waiting::{Adaptive, Waiting};
use super::{Patience, Place, Receiver, Sender, Subject};
use crate::player::Player;
use crate::work::{SMALL, Work};

/// Byte messages, one per call.
#[derive(Clone, Copy, Debug)]
pub struct Shm {
    name: &'static str,
    filling: Filling,
    lease: Option<Duration>,
}

/// The place where a payload is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filling {
    /// In a buffer, then copied.
    Copied,
    /// In a loan.
    Loaned,
    /// In a buffer, then copied, with many messages per call.
    Batched,
}

/// Encoded values.
#[derive(Debug)]
struct Typed;

/// Never reached: the measurement is about having a time-out.
const LEASE: Duration = Duration::from_secs(60);
/// Payloads up to this size get room in the cell.
const INLINE: usize = 1024;
const BATCH: usize = 32;

pub fn list(all: &mut Vec<Box<dyn Player>>) {
    let shm = |name, filling, lease| {
        Box::new(Shm {
            name,
            filling,
            lease,
        })
    };
    all.push(shm("shm", Filling::Copied, None));
    all.push(shm("shm loaned", Filling::Loaned, None));
    all.push(shm("shm batches of 32", Filling::Batched, None));
    all.push(shm("shm lease", Filling::Copied, Some(LEASE)));
    all.push(Box::new(Typed));
}

fn options(place: &Place) -> Result<QueueOptions> {
    let bytes = u32::try_from(place.bytes)?;
    let mut options = QueueOptions::new()
        .capacity(u32::try_from(place.capacity)?)
        .max_message_bytes(bytes);
    if place.bytes <= INLINE {
        options = options.inline_bytes(bytes);
    } else {
        // Half of a pool is for messages of the largest size.
        options = options.pool_bytes(2 * (place.capacity * place.bytes) as u64);
    }
    Ok(options)
}

/// The queues are in the repetition's folder, because `repetition` sets the variable for it.
fn address(place: &Place) -> String {
    format!("shm:bench/{}", place.global_name().to_lowercase())
}

impl Shm {
    fn open(&self, place: &Place) -> Result<ByteQueue> {
        let mut options = options(place)?;
        if let Some(lease) = self.lease {
            options = options.lease(lease);
        }
        Ok(options.open_bytes(address(place))?)
    }
}

impl Subject for Shm {
    type Sender = BytesIn;
    type Receiver = BytesOut;

    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn does(&self, work: Work) -> bool {
        match work {
            Work::OneWay {
                senders, receivers, ..
            } => self.filling != Filling::Batched || (senders, receivers) == (1, 1),
            Work::RoundTrip { .. } => self.filling == Filling::Copied && self.lease.is_none(),
            Work::Alone { bytes } => bytes == SMALL,
            Work::Visit | Work::Create | Work::Open => {
                self.filling == Filling::Copied && self.lease.is_none()
            }
        }
    }

    fn can_be_opened_again(&self) -> bool {
        self.filling == Filling::Copied && self.lease.is_none()
    }

    fn receiver(&self, place: &Place, patience: Patience) -> Result<BytesOut> {
        Ok(BytesOut {
            receiver: self.open(place)?.receiver(),
            batch: self.batch(),
            patience,
            waiting: Adaptive::default(),
        })
    }

    fn sender(&self, place: &Place) -> Result<BytesIn> {
        Ok(BytesIn {
            sender: self.open(place)?.sender(),
            filling: self.filling,
            buffer: vec![0; self.batch() * place.bytes],
        })
    }

    fn remove(&self, place: &Place) -> Result<()> {
        ipc_queue::remove(address(place))?;
        Ok(std::fs::remove_dir_all(&place.folder)?)
    }

    /// One opening gives both ends.
    fn visit(
        &self,
        place: &Place,
        fill: &mut impl FnMut(&mut [u8]),
        read: &mut impl FnMut(&[u8]),
    ) -> Result<()> {
        let queue = self.open(place)?;
        let mut bytes = vec![0; place.bytes];
        fill(&mut bytes);
        queue.sender().send(&bytes)?;
        let receiver = queue.receiver();
        let delivery = receiver.recv()?;
        read(delivery.payload());
        Ok(delivery.ack()?)
    }

    fn batch(&self) -> usize {
        match self.filling {
            Filling::Batched => BATCH,
            Filling::Copied | Filling::Loaned => 1,
        }
    }
}

#[derive(Debug)]
pub struct BytesIn {
    sender: ByteSender,
    filling: Filling,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct BytesOut {
    receiver: ByteReceiver,
    batch: usize,
    patience: Patience,
    waiting: Adaptive,
}

impl BytesOut {
    /// Returns the next message, without ever sleeping.
    #[inline]
    fn spin(&self) -> Result<ByteDelivery<'_>> {
        let mut found = None;
        self.waiting.until(|| {
            found = match self.receiver.try_recv() {
                Err(TryRecvError::Empty) => None,
                received => Some(received),
            };
            found.is_some()
        });
        Ok(found.context("waited until there was one")??)
    }
}

impl Sender for BytesIn {
    #[inline]
    fn send(&mut self, count: usize, len: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        if self.filling == Filling::Batched {
            return self.send_batch(count, len, fill);
        }
        for _ in 0..count {
            if self.filling == Filling::Copied {
                fill(&mut self.buffer);
                self.sender.send(&self.buffer)?;
            } else {
                let mut loan = self.sender.loan(len)?;
                fill(&mut loan);
                loan.publish()?;
            }
        }
        Ok(())
    }
}

impl BytesIn {
    #[inline]
    fn send_batch(
        &mut self,
        count: usize,
        len: usize,
        fill: &mut impl FnMut(&mut [u8]),
    ) -> Result<()> {
        let buffer = &mut self.buffer[..count * len];
        buffer.chunks_exact_mut(len).for_each(fill);
        let mut batch = [&[][..]; BATCH];
        for (payload, bytes) in batch.iter_mut().zip(buffer.chunks_exact(len)) {
            *payload = bytes;
        }
        Ok(self.sender.send_batch(&batch[..count])?)
    }
}

impl Receiver for BytesOut {
    #[inline]
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        if self.batch > 1 {
            for delivery in self.receiver.recv_batch(self.batch, Wait::Forever)? {
                read(delivery.payload());
                delivery.ack()?;
            }
            return Ok(());
        }
        let delivery = match self.patience {
            Patience::Block | Patience::Stream => self.receiver.recv()?,
            Patience::Spin => self.spin()?,
        };
        read(delivery.payload());
        Ok(delivery.ack()?)
    }
}

/// The value of the typed queue: 64 bytes before encoding.
type Value = [u64; SMALL / 8];

impl Subject for Typed {
    type Sender = ValuesIn;
    type Receiver = ValuesOut;

    fn name(&self) -> String {
        "shm typed".to_owned()
    }

    fn note(&self) -> &'static str {
        "eight random u64, encoded and decoded"
    }

    fn does(&self, work: Work) -> bool {
        matches!(
            work,
            Work::OneWay {
                senders: 1,
                receivers: 1,
                bytes: SMALL
            }
        )
    }

    fn receiver(&self, place: &Place, _: Patience) -> Result<ValuesOut> {
        Ok(ValuesOut(self.open(place)?.receiver()))
    }

    fn sender(&self, place: &Place) -> Result<ValuesIn> {
        Ok(ValuesIn(self.open(place)?.sender()))
    }
}

impl Typed {
    fn open(&self, place: &Place) -> Result<Queue<Value>> {
        let options = QueueOptions::new().capacity(u32::try_from(place.capacity)?);
        Ok(options.open(address(place))?)
    }
}

#[derive(Debug)]
pub struct ValuesIn(TypedSender<Value>);

#[derive(Debug)]
pub struct ValuesOut(TypedReceiver<Value>);

impl Sender for ValuesIn {
    #[inline]
    fn send(&mut self, count: usize, _: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        for _ in 0..count {
            let mut bytes = [0; SMALL];
            fill(&mut bytes);
            let (words, _) = bytes.as_chunks::<8>();
            let mut value = Value::default();
            for (word, bytes) in value.iter_mut().zip(words) {
                *word = u64::from_le_bytes(*bytes);
            }
            self.0.send(value)?;
        }
        Ok(())
    }
}

impl Receiver for ValuesOut {
    #[inline]
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        let delivery = self.0.recv()?;
        let value = delivery.data();
        let mut bytes = [0; SMALL];
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(value) {
            *bytes = word.to_le_bytes();
        }
        read(&bytes);
        Ok(delivery.ack()?)
    }
}
