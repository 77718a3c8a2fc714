//! Peer: ringfire's ring for one sender, with back-pressure. Its other rings lose messages by
//! design, so their sums would not agree.

use anyhow::{Result, anyhow};
use ringfire::{
    CleanupMode, FlowControl, FutexWait, RingConsumer, RingProducer, RingProducerBuilder,
};

use super::waiting::poll;
use super::{Patience, Place, Receiver, Sender, Subject};
use crate::player::Player;
use crate::work::{SMALL, Work};

/// For payloads of `N` bytes, because the ring has a fixed type.
#[derive(Debug)]
pub struct Ringfire<const N: usize>;

pub struct In<const N: usize> {
    ring: RingProducer<[u8; N]>,
    buffer: Box<[u8; N]>,
}

pub struct Out<const N: usize> {
    ring: RingConsumer<[u8; N]>,
    patience: Patience,
}

pub fn list(all: &mut Vec<Box<dyn Player>>) {
    all.push(Box::new(Ringfire::<SMALL>));
    all.push(Box::new(Ringfire::<1024>));
}

impl<const N: usize> Subject for Ringfire<N> {
    type Sender = In<N>;
    type Receiver = Out<N>;

    fn name(&self) -> String {
        "ringfire".to_owned()
    }

    fn note(&self) -> &'static str {
        "no ack; this ring has one sender, and every receiver gets everything; the one for several senders loses messages by design"
    }

    fn does(&self, work: Work) -> bool {
        let able = matches!(
            work,
            Work::OneWay {
                senders: 1,
                receivers: 1,
                ..
            } | Work::RoundTrip { .. }
        );
        able && work.bytes() == N
    }

    /// The sender creates the ring.
    fn senders_open_first(&self) -> bool {
        true
    }

    fn receiver(&self, place: &Place, patience: Patience) -> Result<Out<N>> {
        let builder = RingConsumer::builder().start_from_oldest();
        Ok(Out {
            ring: builder.attach(place.file())?,
            patience,
        })
    }

    fn sender(&self, place: &Place) -> Result<In<N>> {
        let builder = RingProducerBuilder::new(place.capacity as u64)
            .cleanup_mode(CleanupMode::Persistent)
            .flow_control(FlowControl::LosslessBackpressure);
        let buffer = vec![0; N].into_boxed_slice().try_into();
        Ok(In {
            ring: builder.build(place.file())?,
            buffer: buffer.map_err(|_| anyhow!("it has that length"))?,
        })
    }
}

impl<const N: usize> Sender for In<N> {
    #[inline]
    fn send(&mut self, count: usize, _: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        for _ in 0..count {
            fill(&mut self.buffer[..]);
            self.ring.push(&self.buffer);
        }
        Ok(())
    }
}

impl<const N: usize> Receiver for Out<N> {
    #[inline]
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        let message = match self.patience {
            Patience::Block => self.ring.recv_blocking(&mut FutexWait::default()),
            Patience::Spin | Patience::Stream => poll(|| Ok(self.ring.try_recv()))?,
        };
        read(&message);
        Ok(())
    }
}
