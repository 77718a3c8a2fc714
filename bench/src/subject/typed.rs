//! This project's subject as a program meets it first: `Queue::open` with default settings, and
//! values that are encoded.

use anyhow::Result;
use ipc_queue::transport::Wait;
use ipc_queue::{Encoding, Queue, QueueOptions, Receiver as Out, Sender as In};
use serde::{Deserialize, Serialize};

use super::shm::address;
use super::{Patience, Place, Receiver, Sender, Subject};
use crate::player::Player;
use crate::work::{SMALL, Work};

/// Values, with an encoding if one is chosen.
#[derive(Debug)]
pub struct Typed {
    name: &'static str,
    encoding: Option<Encoding>,
    batch: usize,
}

/// The message: five fields, together as large as a small message.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Job {
    id: u64,
    offset: u64,
    len: u64,
    due: u64,
    parts: [u64; 4],
}

#[derive(Debug)]
pub struct Values {
    sender: In<Job>,
    batch: Vec<Job>,
}

#[derive(Debug)]
pub struct Deliveries {
    receiver: Out<Job>,
    batch: usize,
}

const BATCH: usize = 32;

pub fn list(all: &mut Vec<Box<dyn Player>>) {
    let typed = |name, encoding, batch| {
        Box::new(Typed {
            name,
            encoding,
            batch,
        })
    };
    all.push(typed("shm as opened", None, 1));
    all.push(typed("shm as opened, batches of 32", None, BATCH));
    all.push(typed("shm MessagePack", Some(Encoding::MessagePack), 1));
    all.push(typed("shm JSON", Some(Encoding::Json), 1));
    all.push(typed("shm postcard", Some(Encoding::Postcard), 1));
}

impl Typed {
    fn open(&self, place: &Place) -> Result<Queue<Job>> {
        let address = address(place);
        Ok(match self.encoding {
            None => Queue::open(address)?,
            Some(encoding) => QueueOptions::new().encoding(encoding).open(address)?,
        })
    }
}

impl Subject for Typed {
    type Sender = Values;
    type Receiver = Deliveries;

    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn note(&self) -> &'static str {
        match self.encoding {
            None => "default settings and encoding; a struct of five fields",
            Some(_) => "default settings; a struct of five fields",
        }
    }

    fn does(&self, work: Work) -> bool {
        match work {
            Work::OneWay {
                senders: 1,
                receivers: 1,
                bytes: SMALL,
            } => true,
            Work::Alone { bytes: SMALL } => self.batch == 1,
            Work::RoundTrip { .. } => self.encoding.is_none() && self.batch == 1,
            _ => false,
        }
    }

    fn receiver(&self, place: &Place, _: Patience) -> Result<Deliveries> {
        Ok(Deliveries {
            receiver: self.open(place)?.receiver(),
            batch: self.batch,
        })
    }

    fn sender(&self, place: &Place) -> Result<Values> {
        Ok(Values {
            sender: self.open(place)?.sender(),
            batch: Vec::with_capacity(self.batch),
        })
    }

    fn batch(&self, _: &Place) -> usize {
        self.batch
    }
}

impl Job {
    #[inline]
    fn of(fill: &mut impl FnMut(&mut [u8])) -> Self {
        let mut bytes = [0; SMALL];
        fill(&mut bytes);
        let (words, _) = bytes.as_chunks::<8>();
        let word = |index: usize| u64::from_le_bytes(words[index]);
        Self {
            id: word(0),
            offset: word(1),
            len: word(2),
            due: word(3),
            parts: [word(4), word(5), word(6), word(7)],
        }
    }

    #[inline]
    fn read(&self, read: &mut impl FnMut(&[u8])) {
        let [a, b, c, d] = self.parts;
        let words = [self.id, self.offset, self.len, self.due, a, b, c, d];
        let mut bytes = [0; SMALL];
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        read(&bytes);
    }
}

impl Sender for Values {
    #[inline]
    fn send(&mut self, count: usize, _: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        if count == 1 {
            self.sender.send(Job::of(fill))?;
            return Ok(());
        }
        self.batch.clear();
        self.batch.extend((0..count).map(|_| Job::of(fill)));
        Ok(self.sender.send_batch(&self.batch)?)
    }
}

impl Receiver for Deliveries {
    #[inline]
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        if self.batch == 1 {
            let delivery = self.receiver.recv()?;
            delivery.data().read(read);
            return Ok(delivery.ack()?);
        }
        let mut batch = self.receiver.recv_batch(self.batch, Wait::Forever)?;
        for delivery in &batch {
            delivery.data().read(read);
        }
        Ok(batch.ack()?)
    }
}
