//! Peer: shaq's queue for several senders and receivers, one message at a time and in slices of 32.
//! Payloads are written and read in place.

use std::fs::{File, OpenOptions};
use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::Result;
use shaq::mpmc::{Consumer, Producer, minimum_file_size};

use super::waiting::poll;
use super::{Guard, Patience, Place, Receiver, Sender, Subject};
use crate::player::Player;
use crate::work::{SMALL, Work};

/// For payloads of `N` bytes, because the queue has a fixed type.
#[derive(Debug)]
pub struct Shaq<const N: usize> {
    slice: NonZeroUsize,
}

pub struct In<const N: usize>(Producer<[u8; N]>);

pub struct Out<const N: usize> {
    consumer: Consumer<[u8; N]>,
    slice: NonZeroUsize,
    patience: Patience,
}

const SLICE: usize = 32;
const LONG: Duration = Duration::from_secs(3600);

pub fn list(all: &mut Vec<Box<dyn Player>>) {
    all.push(Box::new(Shaq::<SMALL>::new(1)));
    all.push(Box::new(Shaq::<1024>::new(1)));
    all.push(Box::new(Shaq::<65_536>::new(1)));
    all.push(Box::new(Shaq::<1_048_576>::new(1)));
    all.push(Box::new(Shaq::<SMALL>::new(SLICE)));
}

impl<const N: usize> Shaq<N> {
    fn new(slice: usize) -> Self {
        Self {
            slice: NonZeroUsize::new(slice).expect("at least one"),
        }
    }
}

fn open(place: &Place) -> Result<File> {
    Ok(OpenOptions::new()
        .read(true)
        .write(true)
        .open(place.file())?)
}

impl<const N: usize> Subject for Shaq<N> {
    type Sender = In<N>;
    type Receiver = Out<N>;

    fn name(&self) -> String {
        match self.slice.get() {
            1 => "shaq mpmc".to_owned(),
            slice => format!("shaq mpmc slices of {slice}"),
        }
    }

    fn note(&self) -> &'static str {
        "no ack; wedged forever by one badly timed kill"
    }

    fn does(&self, work: Work) -> bool {
        let one_to_one = matches!(
            work,
            Work::OneWay {
                senders: 1,
                receivers: 1,
                ..
            }
        );
        let single = self.slice.get() == 1 && (work.has_sides() || work.is_opening());
        work.bytes() == N && (single || one_to_one)
    }

    fn create(&self, place: &Place) -> Result<Guard> {
        let file = File::create_new(place.file())?;
        drop(file);
        let bytes = minimum_file_size::<[u8; N]>(place.capacity);
        // SAFETY: no other thread or process initialises this file, and bytes mean the same in
        // every process.
        let producer = unsafe { Producer::<[u8; N]>::create(&open(place)?, bytes) }?;
        drop(producer);
        Ok(Box::new(()))
    }

    fn can_be_opened_again(&self) -> bool {
        self.slice.get() == 1
    }

    fn receiver(&self, place: &Place, patience: Patience) -> Result<Out<N>> {
        Ok(Out {
            // SAFETY: bytes mean the same in every process, and every process opens it for `N` of
            // them.
            consumer: unsafe { Consumer::join(&open(place)?) }?,
            slice: self.slice,
            patience,
        })
    }

    fn sender(&self, place: &Place) -> Result<In<N>> {
        // SAFETY: as in `receiver`.
        Ok(In(unsafe { Producer::join(&open(place)?) }?))
    }

    fn batch(&self, _: &Place) -> usize {
        self.slice.get()
    }
}

impl<const N: usize> Sender for In<N> {
    #[inline]
    fn send(&mut self, count: usize, _: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        let count = NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
        // SAFETY: every place is filled before the batch is dropped.
        let mut batch = poll(|| Ok(unsafe { self.0.try_reserve_write_batch(count) }))?;
        for index in 0..count.get() {
            // SAFETY: below the count, and filled here.
            let place = unsafe { batch.as_mut(index) };
            // SAFETY: bytes of shared memory are never uninitialised, and these are reserved for
            // this sender.
            fill(unsafe { place.assume_init_mut() });
        }
        Ok(())
    }
}

impl<const N: usize> Receiver for Out<N> {
    #[inline]
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        let consumer = &self.consumer;
        let batch = match self.patience {
            Patience::Block => consumer.reserve_read_batch_timeout(self.slice, LONG)?,
            Patience::Spin | Patience::Stream => {
                poll(|| Ok(consumer.try_reserve_read_batch(self.slice)))?
            }
        };
        batch.iter().for_each(|message| read(message));
        Ok(())
    }
}
