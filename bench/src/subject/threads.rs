//! Channels between threads of one process: no isolation, and nothing survives a crash.
//!
//! A message is a `Vec<u8>`, allocated by its sender and freed by its receiver. A small one travels
//! as an array.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result};

use super::waiting::poll;
use super::{Home, Patience, Place, Receiver, Sender, Subject};
use crate::player::Player;
use crate::work::{SMALL, Work};

/// A message.
#[derive(Debug)]
pub enum Packet {
    Small([u8; SMALL]),
    Large(Vec<u8>),
}

/// One kind of channel.
pub trait Channel: Sync {
    const NAME: &str;
    type Tx: Clone + Send + 'static;
    type Rx: Clone + Send + 'static;

    /// Returns all ends, of which every part clones one.
    fn ends() -> &'static Ends<Self::Tx, Self::Rx>;
    fn bounded(capacity: usize) -> (Self::Tx, Self::Rx);
    fn send(tx: &Self::Tx, packet: Packet) -> Result<()>;
    fn recv(rx: &Self::Rx) -> Result<Packet>;
    fn try_recv(rx: &Self::Rx) -> Option<Packet>;
}

/// This process's channels, by name.
pub type Ends<T, R> = LazyLock<Mutex<HashMap<&'static str, (T, R)>>>;

#[derive(Debug)]
struct Crossbeam;
#[derive(Debug)]
struct Flume;

pub fn list(all: &mut Vec<Box<dyn Player>>) {
    all.push(Box::new(Between(Crossbeam)));
    all.push(Box::new(Between(Flume)));
}

impl Channel for Crossbeam {
    const NAME: &str = "crossbeam threads";
    type Tx = crossbeam_channel::Sender<Packet>;
    type Rx = crossbeam_channel::Receiver<Packet>;

    fn ends() -> &'static Ends<Self::Tx, Self::Rx> {
        static ENDS: Ends<crossbeam_channel::Sender<Packet>, crossbeam_channel::Receiver<Packet>> =
            Ends::new(Mutex::default);
        &ENDS
    }

    fn bounded(capacity: usize) -> (Self::Tx, Self::Rx) {
        crossbeam_channel::bounded(capacity)
    }

    #[inline]
    fn send(tx: &Self::Tx, packet: Packet) -> Result<()> {
        tx.send(packet).ok().context("no receiver is left")
    }

    #[inline]
    fn recv(rx: &Self::Rx) -> Result<Packet> {
        Ok(rx.recv()?)
    }

    #[inline]
    fn try_recv(rx: &Self::Rx) -> Option<Packet> {
        rx.try_recv().ok()
    }
}

impl Channel for Flume {
    const NAME: &str = "flume threads";
    type Tx = flume::Sender<Packet>;
    type Rx = flume::Receiver<Packet>;

    fn ends() -> &'static Ends<Self::Tx, Self::Rx> {
        static ENDS: Ends<flume::Sender<Packet>, flume::Receiver<Packet>> =
            Ends::new(Mutex::default);
        &ENDS
    }

    fn bounded(capacity: usize) -> (Self::Tx, Self::Rx) {
        flume::bounded(capacity)
    }

    #[inline]
    fn send(tx: &Self::Tx, packet: Packet) -> Result<()> {
        tx.send(packet).ok().context("no receiver is left")
    }

    #[inline]
    fn recv(rx: &Self::Rx) -> Result<Packet> {
        Ok(rx.recv()?)
    }

    #[inline]
    fn try_recv(rx: &Self::Rx) -> Option<Packet> {
        rx.try_recv().ok()
    }
}

/// A channel as a subject.
#[derive(Debug)]
pub struct Between<C>(C);

pub struct Tx<C: Channel>(C::Tx);

pub struct Rx<C: Channel> {
    channel: C::Rx,
    patience: Patience,
}

fn ends<C: Channel>(place: &Place) -> (C::Tx, C::Rx) {
    let mut all = C::ends().lock().unwrap_or_else(PoisonError::into_inner);
    all.entry(place.queue)
        .or_insert_with(|| C::bounded(place.capacity))
        .clone()
}

impl<C: Channel> Subject for Between<C> {
    type Sender = Tx<C>;
    type Receiver = Rx<C>;

    fn name(&self) -> String {
        C::NAME.to_owned()
    }

    fn note(&self) -> &'static str {
        "threads of one process: no isolation, no ack"
    }

    fn home(&self) -> Home {
        Home::Threads
    }

    fn does(&self, work: Work) -> bool {
        work.has_sides()
    }

    fn receiver(&self, place: &Place, patience: Patience) -> Result<Self::Receiver> {
        let channel = ends::<C>(place).1;
        Ok(Rx { channel, patience })
    }

    fn sender(&self, place: &Place) -> Result<Self::Sender> {
        Ok(Tx(ends::<C>(place).0))
    }
}

impl<C: Channel> Sender for Tx<C> {
    #[inline]
    fn send(&mut self, count: usize, len: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        for _ in 0..count {
            C::send(&self.0, Packet::filled(len, fill))?;
        }
        Ok(())
    }
}

impl<C: Channel> Receiver for Rx<C> {
    #[inline]
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        let Self { channel, patience } = self;
        let packet = match patience {
            Patience::Block | Patience::Stream => C::recv(channel)?,
            Patience::Spin => poll(|| Ok(C::try_recv(channel)))?,
        };
        match packet {
            Packet::Small(bytes) => read(&bytes),
            Packet::Large(bytes) => read(&bytes),
        }
        Ok(())
    }
}

impl Packet {
    #[inline]
    fn filled(len: usize, fill: &mut impl FnMut(&mut [u8])) -> Self {
        if len == SMALL {
            let mut bytes = [0; SMALL];
            fill(&mut bytes);
            Self::Small(bytes)
        } else {
            let mut bytes = vec![0; len];
            fill(&mut bytes);
            Self::Large(bytes)
        }
    }
}
