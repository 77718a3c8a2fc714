//! The ways in which a peer dies: the actions before its death, and what is left after it.

use std::io::{BufRead, BufReader, Read};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::outcome::{FIRST_CHUNKED, Message};

/// The actions of a peer before it is killed. It finds the queue empty, or creates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dying {
    /// Attaches.
    Idle,
    /// Holds message 1.
    Receiver,
    /// Holds the chunked message 100.
    ChunkReceiver,
    /// Holds the only message.
    NextReceiver,
    /// Holds message 1, which was returned once.
    NackedReceiver,
    /// Holds message 1 for the last time.
    LastReceiver,
    /// Writes a message.
    Sender,
    /// Writes a chunked message.
    ChunkSender,
    /// Let its lease of message 1 expire, and may still be reading.
    Zombie,
    /// The same, but the message was acked by its next holder.
    Quarantine,
    /// Holds message 1, and writes another; 2 is ready.
    Everything,
    /// Holds as many messages as there can be.
    AllReceived,
    /// In each of the four priority rings: holds the first message, and writes another, the urgent
    /// one with a key.
    EachLevel,
}

impl Dying {
    /// Its name on the command line.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The content of the queue after its death was recovered.
    pub fn leaves(self) -> Vec<Message> {
        use ipc_queue::DeadReason::Crashed;
        match self {
            Self::Idle | Self::Sender | Self::ChunkSender | Self::Quarantine => vec![],
            Self::Receiver | Self::Zombie => vec![Message::comes(1, 2)],
            Self::ChunkReceiver => vec![Message::comes(FIRST_CHUNKED, 2)],
            Self::NextReceiver | Self::NackedReceiver => vec![Message::comes(1, 3)],
            Self::LastReceiver => vec![Message::dead(1, 3, Crashed)],
            Self::Everything => vec![Message::comes(1, 2), Message::comes(2, 1)],
            Self::AllReceived => (1..=3).map(|number| Message::comes(number, 2)).collect(),
            Self::EachLevel => (1..=4).map(|number| Message::comes(number, 2)).collect(),
        }
    }
}

/// Waits until the peer with this output has performed its actions.
pub fn await_ready(output: Option<&mut impl Read>) -> Result<()> {
    let output = output.context("the peer has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    ensure!(line == "\n", "the peer failed");
    Ok(())
}
