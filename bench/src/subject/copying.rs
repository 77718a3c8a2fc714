//! A subject whose payloads are written in a buffer and copied in, and copied out into a buffer and
//! read there.

use anyhow::Result;

use super::{Guard, Home, Patience, Place, Receiver, Sender, Subject};
use crate::work::Work;

#[derive(Debug)]
pub struct Copying<S>(pub S);

/// Either end, with its buffer.
#[derive(Debug)]
pub struct Buffered<E> {
    end: E,
    buffer: Vec<u8>,
}

impl<S: Subject> Subject for Copying<S> {
    type Sender = Buffered<S::Sender>;
    type Receiver = Buffered<S::Receiver>;

    fn name(&self) -> String {
        format!("{} copying", self.0.name())
    }

    fn note(&self) -> &'static str {
        self.0.note()
    }

    fn home(&self) -> Home {
        self.0.home()
    }

    fn does(&self, work: Work) -> bool {
        matches!(work, Work::OneWay { .. }) && self.0.does(work)
    }

    fn create(&self, place: &Place) -> Result<Guard> {
        self.0.create(place)
    }

    fn receiver(&self, place: &Place, patience: Patience) -> Result<Self::Receiver> {
        self.0
            .receiver(place, patience)
            .map(|end| Buffered::new(end, place))
    }

    fn sender(&self, place: &Place) -> Result<Self::Sender> {
        self.0.sender(place).map(|end| Buffered::new(end, place))
    }

    fn batch(&self, place: &Place) -> usize {
        self.0.batch(place)
    }
}

impl<E> Buffered<E> {
    fn new(end: E, place: &Place) -> Self {
        Self {
            end,
            buffer: vec![0; place.bytes],
        }
    }
}

impl<S: Sender> Sender for Buffered<S> {
    #[inline]
    fn send(&mut self, count: usize, len: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        let Self { end, buffer } = self;
        end.send(count, len, &mut |memory| {
            fill(buffer);
            memory.copy_from_slice(buffer);
        })
    }
}

impl<R: Receiver> Receiver for Buffered<R> {
    #[inline]
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        let Self { end, buffer } = self;
        end.receive(&mut |memory| {
            buffer.copy_from_slice(memory);
            read(buffer);
        })
    }
}
