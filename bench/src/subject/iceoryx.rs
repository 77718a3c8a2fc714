//! Peer: iceoryx2, publish and subscribe, with a publisher that waits for room. Payloads are
//! written and read in place.
//!
//! Its receivers poll. To block, they use its event service in addition: a notification for each
//! message.

use anyhow::Result;
use bench_iceoryx::{Receiving, Sending, Settings};

use super::waiting::poll;
use super::{Guard, Patience, Place, Receiver, Sender, Subject, Swept};
use crate::player::Player;
use crate::work::{Manner, Work};

#[derive(Debug)]
pub struct Iceoryx {
    /// Set if each message is notified by an event.
    events: bool,
}

#[derive(Debug)]
pub struct Out {
    end: Receiving,
    events: bool,
}

pub fn list(all: &mut Vec<Box<dyn Player>>) {
    all.push(Box::new(Iceoryx { events: false }));
    all.push(Box::new(Iceoryx { events: true }));
}

impl Subject for Iceoryx {
    type Sender = Sending;
    type Receiver = Out;

    fn name(&self) -> String {
        if self.events {
            "iceoryx2 events".to_owned()
        } else {
            "iceoryx2".to_owned()
        }
    }

    fn note(&self) -> &'static str {
        "no ack; every receiver gets everything: not a work queue"
    }

    fn does(&self, work: Work) -> bool {
        match work {
            Work::OneWay {
                senders, receivers, ..
            } => (senders, receivers) == (1, 1) && !self.events,
            Work::RoundTrip { manner } => (manner != Manner::Spinning) == self.events,
            Work::Alone { .. } | Work::Shares { .. } => false,
            Work::Visit | Work::Create | Work::Open => !self.events,
        }
    }

    fn create(&self, place: &Place) -> Result<Guard> {
        Ok(Box::new(Swept(place.global_name())))
    }

    fn receiver(&self, place: &Place, _: Patience) -> Result<Out> {
        Ok(Out {
            end: Receiving::open(&self.settings(place))?,
            events: self.events,
        })
    }

    fn sender(&self, place: &Place) -> Result<Sending> {
        Sending::open(&self.settings(place))
    }
}

impl Iceoryx {
    fn settings(&self, place: &Place) -> Settings {
        Settings {
            folder: place.folder.join("iceoryx2"),
            prefix: prefix(place),
            name: place.queue.to_owned(),
            bytes: place.bytes,
            capacity: place.capacity,
            events: self.events,
        }
    }
}

fn prefix(place: &Place) -> String {
    format!("{}_", place.global_name())
}

impl Sender for Sending {
    #[inline]
    fn send(&mut self, count: usize, len: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        for _ in 0..count {
            Self::send(self, len, fill)?;
        }
        Ok(())
    }
}

impl Receiver for Out {
    #[inline]
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        if !self.events {
            return poll(|| self.end.try_receive(read));
        }
        while self.end.try_receive(read)?.is_none() {
            self.end.wait()?;
        }
        Ok(())
    }
}
