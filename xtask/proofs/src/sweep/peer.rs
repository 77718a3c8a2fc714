//! Processes that take something from the queue and are killed while they hold it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use ipc_proto::Priority;
use ipc_queue::{ByteQueue, SendOptions};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::pause;

use super::actor::Play;
use super::cases::priorities::send_one_of_each;
use super::dying::Dying;
use super::outcome::{FIRST_CHUNKED, KEYED_INLINE, keyed};
use super::scenery::{expire_unwatched, kept, loan, loan_with, receive, send};

/// The arguments of a peer.
#[derive(Debug, Args)]
pub struct Options {
    dying: Dying,
    #[arg(long)]
    folder: PathBuf,
}

/// Performs its actions, reports that, and waits to be killed.
pub fn run(options: &Options) -> Result<ExitCode> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let queue = Play::new(&options.folder)?.attach()?;
    act(options.dying, &queue)?;
    println!();
    std::io::stdout().flush()?;
    wait_for_the_end()
}

fn act(dying: Dying, queue: &ByteQueue) -> Result<()> {
    match dying {
        Dying::Idle => Ok(()),
        Dying::Receiver => hold(queue, 1),
        Dying::ChunkReceiver => hold(queue, FIRST_CHUNKED),
        Dying::NextReceiver => receive(queue).map(kept),
        Dying::NackedReceiver => {
            send(queue, [1])?;
            receive(queue)?.nack()?;
            receive(queue).map(kept)
        }
        Dying::LastReceiver => hold_for_the_last_time(queue),
        Dying::Sender => loan(queue, 1).map(kept),
        Dying::ChunkSender => loan(queue, FIRST_CHUNKED).map(kept),
        Dying::Zombie => become_zombie(queue),
        Dying::Quarantine => {
            become_zombie(queue)?;
            receive(queue)?.ack()?;
            let quarantined = queue.transport().stats()?.quarantined;
            ensure!(quarantined == 1, "the cell is not quarantined");
            Ok(())
        }
        Dying::Everything => {
            hold(queue, 1)?;
            send(queue, [2])?;
            loan(queue, 3).map(kept)
        }
        Dying::AllReceived => (1..=3).try_for_each(|number| hold(queue, number)),
        Dying::EachLevel => {
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

/// Waits to be killed.
pub fn wait_for_the_end() -> ! {
    loop {
        pause();
    }
}
