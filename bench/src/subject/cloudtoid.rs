//! Peer: cloudtoid-interprocess, byte queues in shared memory. The closest peer in purpose.

use anyhow::Result;
use cloudtoid_interprocess::{Error, Options, Publisher, Subscriber};

use super::waiting::poll;
use super::{Guard, Patience, Place, Receiver, Sender, Subject, Swept};
use crate::work::Work;

#[derive(Debug)]
pub struct Cloudtoid;

pub struct In {
    publisher: Publisher,
    buffer: Vec<u8>,
}

pub struct Out {
    subscriber: Subscriber,
    patience: Patience,
    buffer: Vec<u8>,
}

/// The overhead of each message.
const HEADER_BYTES: usize = 16;

impl Subject for Cloudtoid {
    type Sender = In;
    type Receiver = Out;

    fn name(&self) -> String {
        "cloudtoid-interprocess".to_owned()
    }

    fn note(&self) -> &'static str {
        "no ack; gone with the last process; a kill may cost the whole backlog"
    }

    fn does(&self, work: Work) -> bool {
        work.has_sides() || work.is_opening()
    }

    fn can_be_opened_again(&self) -> bool {
        true
    }

    fn create(&self, place: &Place) -> Result<Guard> {
        Ok(Box::new(Swept(place.global_name())))
    }

    fn receiver(&self, place: &Place, patience: Patience) -> Result<Out> {
        Ok(Out {
            subscriber: Subscriber::open(&options(place))?,
            patience,
            buffer: vec![0; place.bytes],
        })
    }

    fn sender(&self, place: &Place) -> Result<In> {
        Ok(In {
            publisher: Publisher::open(&options(place))?,
            buffer: vec![0; place.bytes],
        })
    }
}

fn options(place: &Place) -> Options {
    let bytes = place.capacity * (place.bytes + HEADER_BYTES);
    Options::new(place.global_name(), bytes).with_path(&place.folder)
}

impl Sender for In {
    #[inline]
    fn send(&mut self, count: usize, _: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        for _ in 0..count {
            fill(&mut self.buffer);
            poll(|| match self.publisher.try_send(&self.buffer) {
                Ok(()) => Ok(Some(())),
                Err(Error::Full) => Ok(None),
                Err(error) => Err(error.into()),
            })?;
        }
        Ok(())
    }
}

impl Receiver for Out {
    #[inline]
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        match self.patience {
            Patience::Block => read(&self.subscriber.recv()?),
            Patience::Spin | Patience::Stream => {
                let mut receive = || Ok(self.subscriber.try_recv_into(&mut self.buffer)?);
                let len = poll(&mut receive)?;
                read(&self.buffer[..len]);
            }
        }
        Ok(())
    }
}
