//! Processes that take something from the queue and are killed while they hold it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use ipc_proto::Priority;
use ipc_queue::{ByteQueue, SendOptions};
use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::actor::{Play, wait_for_the_end};
use super::cases::priorities::send_one_of_each;
use super::outcome::{FIRST_CHUNKED, KEYED_INLINE, Message, keyed};
use super::scenery::{expire_unwatched, kept, loan, loan_with, receive, send};

/// The arguments of a peer.
#[derive(Debug, Args)]
pub struct Options {
    dying: Dying,
    #[arg(long)]
    folder: PathBuf,
}

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

    fn act(self, queue: &ByteQueue) -> Result<()> {
        match self {
            Self::Idle => Ok(()),
            Self::Receiver => hold(queue, 1),
            Self::ChunkReceiver => hold(queue, FIRST_CHUNKED),
            Self::NextReceiver => receive(queue).map(kept),
            Self::NackedReceiver => {
                send(queue, [1])?;
                receive(queue)?.nack()?;
                receive(queue).map(kept)
            }
            Self::LastReceiver => hold_for_the_last_time(queue),
            Self::Sender => loan(queue, 1).map(kept),
            Self::ChunkSender => loan(queue, FIRST_CHUNKED).map(kept),
            Self::Zombie => become_zombie(queue),
            Self::Quarantine => {
                become_zombie(queue)?;
                receive(queue)?.ack()?;
                let quarantined = queue.transport().stats()?.quarantined;
                ensure!(quarantined == 1, "the cell is not quarantined");
                Ok(())
            }
            Self::Everything => {
                hold(queue, 1)?;
                send(queue, [2])?;
                loan(queue, 3).map(kept)
            }
            Self::AllReceived => (1..=3).try_for_each(|number| hold(queue, number)),
            Self::EachLevel => {
                send_one_of_each(queue)?;
                for priority in Priority::ALL {
                    receive(queue).map(kept)?;
                    let options = match priority {
                        Priority::Urgent => keyed(KEYED_INLINE),
                        _ => SendOptions::new(),
                    };
                    loan_with(queue, KEYED_INLINE, &options.priority(priority)).map(kept)?;
                }
                Ok(())
            }
        }
    }
}

/// Performs its actions, reports that, and waits to be killed.
pub fn run(options: &Options) -> Result<ExitCode> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let queue = Play::new(&options.folder)?.attach()?;
    options.dying.act(&queue)?;
    println!();
    std::io::stdout().flush()?;
    wait_for_the_end()
}

/// Waits until the peer with this output has performed its actions.
pub fn await_ready(output: Option<&mut impl Read>) -> Result<()> {
    let output = output.context("the peer has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    ensure!(line == "\n", "the peer failed");
    Ok(())
}

fn hold(queue: &ByteQueue, number: u64) -> Result<()> {
    send(queue, [number])?;
    receive(queue).map(kept)
}

fn hold_for_the_last_time(queue: &ByteQueue) -> Result<()> {
    send(queue, [1])?;
    receive(queue)?.nack()?;
    receive(queue)?.nack()?;
    receive(queue).map(kept)
}

fn become_zombie(queue: &ByteQueue) -> Result<()> {
    send(queue, [1])?;
    expire_unwatched(queue)
}
