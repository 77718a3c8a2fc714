//! This project's subject: its `shm` transport, through the calls that a program uses. Every
//! message is leased and acked.

use std::time::Duration;

use anyhow::{Context, Result};
use ipc_queue::transport::Wait;
use ipc_queue::{ByteDelivery, ByteQueue, ByteReceiver, ByteSender, QueueOptions, TryRecvError};

use super::waiting::{Adaptive, Waiting};
use super::{Patience, Place, Receiver, Sender, Subject};
use crate::player::Player;
use crate::work::{SMALL, Work};

/// Byte messages.
#[derive(Clone, Copy, Debug)]
pub struct Shm {
    name: &'static str,
    filling: Filling,
    settling: Settling,
    settings: Settings,
}

/// The place where a payload is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filling {
    /// In a buffer, then copied.
    Copied,
    /// In a loan.
    Loaned,
    /// Each in a buffer of its own, then copied by one call.
    Batched,
    /// As in a batch, but copied by a call each.
    Spread,
}

/// The acks of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settling {
    /// Each message of a batch by itself.
    Singly,
    /// The whole batch by one call.
    Together,
    /// Without a wait for their confirmation.
    Later,
}

/// The settings of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settings {
    /// Room in the cell for messages of exactly this size.
    Fitting,
    /// The same, and a lease time-out.
    Leased,
    /// None given.
    Default,
}

/// Never reached: the measurement is about having a time-out.
const LEASE: Duration = Duration::from_secs(60);
/// Payloads up to this size get room in the cell.
const INLINE: usize = 1024;
const BATCH: usize = 32;

pub fn list(all: &mut Vec<Box<dyn Player>>) {
    let shm = |name, filling, settling, settings| {
        Box::new(Shm {
            name,
            filling,
            settling,
            settings,
        })
    };
    let single = |name, filling, settings| shm(name, filling, Settling::Singly, settings);
    let batched = |name, settling| shm(name, Filling::Batched, settling, Settings::Fitting);
    all.push(single(
        "shm as opened, bytes",
        Filling::Copied,
        Settings::Default,
    ));
    all.push(single("shm", Filling::Copied, Settings::Fitting));
    all.push(single("shm loaned", Filling::Loaned, Settings::Fitting));
    all.push(batched("shm batches of 32", Settling::Together));
    all.push(batched("shm batches of 32, acked singly", Settling::Singly));
    all.push(single(
        "shm, 32 buffers",
        Filling::Spread,
        Settings::Fitting,
    ));
    all.push(single("shm lease", Filling::Copied, Settings::Leased));
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
pub fn address(place: &Place) -> String {
    format!("shm:bench/{}", place.global_name().to_lowercase())
}

impl Shm {
    fn open(&self, place: &Place) -> Result<ByteQueue> {
        let options = match self.settings {
            Settings::Fitting => options(place)?,
            Settings::Leased => options(place)?.lease(LEASE),
            Settings::Default => QueueOptions::new(),
        };
        Ok(options.open_bytes(address(place))?)
    }
}

impl Subject for Shm {
    type Sender = BytesIn;
    type Receiver = BytesOut;

    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn note(&self) -> &'static str {
        match (self.filling, self.settings) {
            (_, Settings::Default) => "default settings",
            (Filling::Batched, _) => "at most half of the queue's capacity in a batch",
            (Filling::Spread, _) => "filled as the batches are, then sent one by one",
            _ => "",
        }
    }

    fn does(&self, work: Work) -> bool {
        let is_one_to_one = matches!(
            work,
            Work::OneWay {
                senders: 1,
                receivers: 1,
                ..
            }
        );
        match (self.filling, self.settings) {
            (Filling::Copied, Settings::Fitting) => match work {
                Work::Alone { bytes } => bytes == SMALL,
                _ => true,
            },
            (Filling::Copied, Settings::Default) => {
                let is_small = is_one_to_one && work.bytes() == SMALL;
                is_small || matches!(work, Work::RoundTrip { .. })
            }
            (Filling::Batched, _) if self.settling == Settling::Singly => {
                is_one_to_one && work.bytes() == SMALL
            }
            (Filling::Batched, _) => is_one_to_one || work == Work::Alone { bytes: SMALL },
            (Filling::Spread, _) => is_one_to_one && work.bytes() > INLINE,
            (Filling::Copied | Filling::Loaned, _) => match work {
                Work::OneWay { .. } => true,
                Work::Alone { bytes } => bytes == SMALL,
                _ => false,
            },
        }
    }

    fn does_crowds(&self) -> bool {
        Subject::can_be_opened_again(self)
    }

    fn can_be_opened_again(&self) -> bool {
        self.filling == Filling::Copied && self.settings == Settings::Fitting
    }

    fn receiver(&self, place: &Place, patience: Patience) -> Result<BytesOut> {
        let batch = match self.filling {
            Filling::Batched => batch(place),
            _ => 1,
        };
        let receiver = self.open(place)?.receiver();
        Ok(BytesOut::new(receiver, batch, self.settling, patience))
    }

    fn sender(&self, place: &Place) -> Result<BytesIn> {
        let bytes = self.batch(place) * place.bytes;
        Ok(BytesIn::new(
            self.open(place)?.sender(),
            self.filling,
            bytes,
        ))
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

    fn batch(&self, place: &Place) -> usize {
        match self.filling {
            Filling::Batched | Filling::Spread => batch(place),
            Filling::Copied | Filling::Loaned => 1,
        }
    }
}

/// Half of a small queue is left to the receiver.
pub fn batch(place: &Place) -> usize {
    BATCH.min(place.capacity / 2)
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
    settling: Settling,
    patience: Patience,
    waiting: Adaptive,
}

impl BytesOut {
    pub fn new(
        receiver: ByteReceiver,
        batch: usize,
        settling: Settling,
        patience: Patience,
    ) -> Self {
        Self {
            receiver,
            batch,
            settling,
            patience,
            waiting: Adaptive::default(),
        }
    }

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
        if matches!(self.filling, Filling::Batched | Filling::Spread) {
            let buffer = &mut self.buffer[..count * len];
            buffer.chunks_exact_mut(len).for_each(fill);
            return self.send_filled(count, len);
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
    pub fn new(sender: ByteSender, filling: Filling, bytes: usize) -> Self {
        let buffer = vec![0; bytes];
        Self {
            sender,
            filling,
            buffer,
        }
    }

    /// Sends the messages of a buffer that was filled: by one call, or by one for each.
    #[inline]
    fn send_filled(&self, count: usize, len: usize) -> Result<()> {
        let payloads = self.buffer[..count * len].chunks_exact(len);
        if self.filling == Filling::Spread {
            for payload in payloads {
                self.sender.send(payload)?;
            }
            return Ok(());
        }
        let mut batch = [&[][..]; BATCH];
        for (place, payload) in batch.iter_mut().zip(payloads) {
            *place = payload;
        }
        Ok(self.sender.send_batch(&batch[..count])?)
    }
}

impl BytesOut {
    #[inline]
    fn receive_batch(&self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        let mut batch = self.receiver.recv_batch(self.batch, Wait::Forever)?;
        if self.settling == Settling::Singly {
            for delivery in batch {
                read(delivery.payload());
                delivery.ack()?;
            }
            return Ok(());
        }
        for delivery in &batch {
            read(delivery.payload());
        }
        match self.settling {
            Settling::Later => self.receiver.ack_batch_later(&mut batch)?,
            _ => batch.ack()?,
        }
        Ok(())
    }
}

impl Receiver for BytesOut {
    #[inline]
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        if self.batch > 1 {
            return self.receive_batch(read);
        }
        let delivery = match self.patience {
            Patience::Block | Patience::Stream => self.receiver.recv()?,
            Patience::Spin => self.spin()?,
        };
        read(delivery.payload());
        match self.settling {
            Settling::Later => self.receiver.ack_later(delivery)?,
            _ => delivery.ack()?,
        }
        Ok(())
    }
}
