//! A sender or receiver that may be killed or stopped at any moment, and keeps a log.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use ipc_proto::{Kind, MessageId};
use ipc_queue::shm::ShmSender;
use ipc_queue::transport::{OpenMode, SendPort, Transport, Wait};
use ipc_queue::{ByteDelivery, ByteQueue, ByteReceiver, RecvError, SendFailure, SettleError};
use ipc_shm::Namespace;
use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::log::{Event, Log};
use super::{QUEUE, Role, canary, open_queue, payload};

/// What the tormentor tells an actor.
#[derive(Debug, Args)]
pub struct Options {
    role: Role,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long)]
    folder: PathBuf,
    #[arg(long, default_value = "/dev/null")]
    log: PathBuf,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    // The tormentor starts actors from its main thread, which lives as long as it does.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    fastrand::seed(options.seed);
    let namespace = Namespace::in_folder(&options.folder, QUEUE)?;
    if options.role == Role::Hold {
        canary::hold(&namespace)?;
    }
    let mut log = Log::create(&options.log)?;
    let queue = open_queue(&namespace, OpenMode::Open)?;
    match options.role {
        Role::Send => send(&queue.shm_sender(), &mut log)?,
        Role::Receive | Role::Hold => {
            let queue =
                ByteQueue::over(std::sync::Arc::new(queue) as std::sync::Arc<dyn Transport>);
            receive(&queue.receiver(), &mut log)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn send(sender: &ShmSender, log: &mut Log) -> Result<()> {
    for sequence in 0.. {
        let wait = Wait::at_most(Duration::from_millis(fastrand::u64(..50)));
        let mut loan = match sender.loan(payload::random_size(), Kind::Data, wait) {
            Ok(loan) => loan,
            Err(SendFailure::TimedOut { .. }) => continue,
            Err(SendFailure::Closed) => return Ok(()),
            Err(failure) => return Err(failure).context("a loan was refused"),
        };
        payload::fill(
            &mut loan,
            payload::key(MessageId::new(sender.id(), sequence)),
        );
        if fastrand::u32(..20) == 0 {
            continue; // A loan dropped: nothing may come of it.
        }
        let id = loan.publish().context("a loan was not published")?;
        log.note(Event::Accepted, id, 0)?;
    }
    Ok(())
}

fn receive(receiver: &ByteReceiver, log: &mut Log) -> Result<()> {
    loop {
        let delivery = match receiver.recv_timeout(Duration::from_millis(fastrand::u64(..50))) {
            Ok(delivery) => delivery,
            Err(RecvError::TimedOut { .. }) => continue,
            Err(RecvError::Closed) => return Ok(()),
            Err(error) => return Err(error).context("nothing was received"),
        };
        log.note(Event::Received, delivery.id(), delivery.attempt())?;
        if !payload::is_whole(delivery.payload()) {
            log.note(Event::Corrupt, delivery.id(), delivery.attempt())?;
        }
        if fastrand::u32(..10) == 0 {
            thread::sleep(Duration::from_micros(fastrand::u64(..2_000)));
        }
        settle(delivery, log)?;
    }
}

fn settle(delivery: ByteDelivery<'_>, log: &mut Log) -> Result<()> {
    let (id, attempt) = (delivery.id(), delivery.attempt());
    let settled = match fastrand::u32(..100) {
        0..5 => delivery.nack(),
        5..8 => delivery.nack_after(Duration::from_millis(fastrand::u64(1..20))),
        8..13 => {
            drop(delivery);
            Ok(())
        }
        13 => {
            log.note(Event::Settling, id, attempt)?;
            let buried = delivery.bury();
            if buried.is_ok() {
                log.note(Event::Buried, id, attempt)?;
            }
            buried
        }
        chance => {
            if chance < 20 {
                match delivery.extend(Duration::from_millis(200)) {
                    Ok(()) | Err(SettleError::LeaseLost) => {}
                    Err(error) => return Err(error).context("a lease was not extended"),
                }
            }
            // Read to the end: whoever else has it by now must not have changed it.
            if !payload::is_whole(delivery.payload()) {
                log.note(Event::Corrupt, id, attempt)?;
            }
            log.note(Event::Settling, id, attempt)?;
            let acked = delivery.ack();
            if acked.is_ok() {
                log.note(Event::Acked, id, attempt)?;
            }
            acked
        }
    };
    match settled {
        Ok(()) | Err(SettleError::LeaseLost) => Ok(()),
        Err(error) => bail!("a delivery was not settled: {error}"),
    }
}
