//! A sender or receiver that may be killed or stopped at any moment, and keeps a log.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use ipc_proto::{Kind, MessageId, Priority};
use ipc_queue::shm::ShmSender;
use ipc_queue::transport::{OpenMode, SendPort, SendPortError, Transport, Wait};
use ipc_queue::{Batch, ByteDelivery, ByteQueue, ByteReceiver, SendFailure, SendOptions};
use ipc_shm::Namespace;
use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::log::{Event, Log};
use super::{QUEUE, Role, Settings, canary, open_queue, orderly, payload};

/// The arguments of an actor.
#[derive(Debug, Args)]
pub struct Options {
    role: Role,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long, value_enum, default_value = "full")]
    settings: Settings,
    #[arg(long)]
    folder: PathBuf,
    #[arg(long, default_value = "/dev/null")]
    log: PathBuf,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    // The parent starts actors from its main thread, which lives as long as the parent.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    fastrand::seed(options.seed);
    let namespace = Namespace::in_folder(&options.folder, QUEUE)?;
    match options.role {
        Role::Hold => canary::hold(&namespace)?,
        Role::HoldRoom => canary::hold_room(&namespace)?,
        Role::Send | Role::Receive => {}
    }
    let mut log = Log::create(&options.log)?;
    let queue = open_queue(&namespace, OpenMode::Open, options.settings)?;
    match options.role {
        Role::Send => {
            let queues = Queues {
                sender: queue.shm_sender(),
                batches: queue.shm_sender(),
                batched: 0,
                settings: options.settings,
                orderly: orderly::Sender::open(&namespace)?,
            };
            send(queues, &mut log)?;
        }
        Role::Receive | Role::Hold | Role::HoldRoom => {
            let queue =
                ByteQueue::over(std::sync::Arc::new(queue) as std::sync::Arc<dyn Transport>);
            receive(&queue.receiver(), &mut log)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The queues of a sender.
struct Queues {
    /// The queue under torture.
    sender: ShmSender,
    /// The same, for batches: only the numbers of this handle show which messages a batch was.
    batches: ShmSender,
    batched: u64,
    settings: Settings,
    orderly: orderly::Sender,
}

/// Sends until the queue is closed.
fn send(mut queues: Queues, log: &mut Log) -> Result<()> {
    loop {
        let sent = match fastrand::u32(..100) {
            0..25 => queues.send_batch(log),
            25 => queues.send_too_large(),
            26..32 => queues.send_keyed(log),
            _ => queues.send_one(log),
        };
        if sent? == Goes::Over {
            return Ok(());
        }
        for id in orderly::send(&mut queues.orderly)? {
            log.note(Event::Ordered, id, 0)?;
        }
    }
}

/// The choice whether a sender continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    On,
    Over,
}

impl Queues {
    fn send_one(&self, log: &mut Log) -> Result<Goes> {
        let lent = self
            .sender
            .loan_with(payload::random_size(), &self.options(), wait());
        let mut loan = match lent {
            Ok(loan) => loan,
            Err(failure) => return not_now(failure),
        };
        payload::fill(&mut loan, fastrand::u64(..));
        if fastrand::u32(..20) == 0 {
            return Ok(Goes::On); // A dropped loan must have no effect.
        }
        let id = loan.publish().context("a loan was not published")?;
        log.note(Event::Accepted, id, 0)?;
        Ok(Goes::On)
    }

    /// With a key that others may also use; or one of this sender's own, which must then be
    /// accepted.
    fn send_keyed(&self, log: &mut Log) -> Result<Goes> {
        let ours = fastrand::bool();
        let key = if ours {
            fastrand::u64(..)
        } else {
            fastrand::u64(..16)
        };
        let options = self.options().key(key.to_le_bytes());
        let mut payload = vec![0; payload::random_size()];
        payload::fill(&mut payload, key);
        let id = match send_with(&self.sender, &payload, &options, wait()) {
            Ok(id) => id,
            Err(SendPortError::Failed(SendFailure::Duplicate { .. })) if !ours => {
                return Ok(Goes::On);
            }
            Err(error) => return not_now(error),
        };
        log.note(Event::Accepted, id, 0)?;
        match send_with(&self.sender, &payload, &options, Wait::No) {
            Err(SendPortError::Failed(SendFailure::Duplicate { of })) if of == id => Ok(Goes::On),
            Err(SendPortError::Failed(SendFailure::Closed)) => Ok(Goes::Over),
            other => bail!("message {id:?} was sent with a key, and again: {other:?}"),
        }
    }

    fn send_batch(&mut self, log: &mut Log) -> Result<Goes> {
        let most = if fastrand::bool() { 64 } else { 200 };
        let payloads: Vec<Vec<u8>> = (0..fastrand::usize(1..20))
            .map(|_| {
                let mut payload = vec![0; fastrand::usize(..=most)];
                payload::fill(&mut payload, fastrand::u64(..));
                payload
            })
            .collect();
        let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let (sent, failure) = match self.batches.send_batch(&payloads, Kind::Data, wait()) {
            Ok(()) => (payloads.len(), None),
            Err(cut) => (cut.sent, Some(cut.error)),
        };
        for _ in 0..sent {
            let id = MessageId::new(self.batches.id(), self.batched);
            self.batched += self.step();
            log.note(Event::Accepted, id, 0)?;
        }
        failure.map_or(Ok(Goes::On), not_now)
    }

    /// The step from one of a batch's messages to the next: other priorities have the numbers
    /// between.
    fn step(&self) -> u64 {
        match self.settings.has_priorities() {
            true => Priority::COUNT as u64,
            false => 1,
        }
    }

    /// Mostly without options.
    fn options(&self) -> SendOptions {
        let options = match fastrand::u32(..4) {
            0 if self.settings.has_priorities() => {
                SendOptions::new().priority(Priority::ALL[fastrand::usize(..Priority::COUNT)])
            }
            _ => SendOptions::new(),
        };
        match fastrand::u32(..40) {
            0 => options.delay(Duration::from_millis(fastrand::u64(1..20))),
            // The expiry is later than it can stay in the queue.
            1 => options.expires_in(Duration::from_secs(3600)),
            _ => options,
        }
    }

    fn send_too_large(&self) -> Result<Goes> {
        let len = payload::LARGEST as usize + fastrand::usize(1..1000);
        match self.sender.loan(len, Kind::Data, Wait::No).map(drop) {
            Err(SendPortError::Failed(SendFailure::TooLarge { .. })) => Ok(Goes::On),
            Err(SendPortError::Failed(SendFailure::Closed)) => Ok(Goes::Over),
            other => bail!("{len} bytes are too many, but: {other:?}"),
        }
    }
}

fn send_with(
    sender: &ShmSender,
    payload: &[u8],
    options: &SendOptions,
    wait: Wait,
) -> Result<MessageId, SendPortError> {
    let mut loan = sender.loan_with(payload.len(), options, wait)?;
    loan.copy_from_slice(payload);
    Ok(loan.publish().map_err(|error| error.failure)?)
}

fn wait() -> Wait {
    Wait::at_most(Duration::from_millis(fastrand::u64(..50)))
}

fn not_now(error: SendPortError) -> Result<Goes> {
    match error {
        SendPortError::NoRoom { .. } => Ok(Goes::On),
        SendPortError::Failed(SendFailure::KeysFull { .. }) => Ok(Goes::On),
        SendPortError::Failed(SendFailure::Closed) => Ok(Goes::Over),
        error => Err(error).context("a message was refused"),
    }
}

fn receive(receiver: &ByteReceiver, log: &mut Log) -> Result<()> {
    loop {
        let most = match fastrand::u32(..4) {
            0 => fastrand::usize(2..12),
            _ => 1,
        };
        let mut batch = match receiver.recv_batch(most, wait()) {
            Ok(batch) => batch,
            Err(error) if error.is_timeout() => continue,
            Err(error) if error.is_closed() => return Ok(()),
            Err(error) => return Err(error).context("nothing was received"),
        };
        for delivery in batch.iter() {
            log.note(Event::Received, delivery.id(), delivery.attempt())?;
            check(delivery, log)?;
        }
        if fastrand::u32(..10) == 0 {
            thread::sleep(Duration::from_micros(fastrand::u64(..2_000)));
        }
        // Some of them alone, in any order, and the rest together.
        let alone = match fastrand::u32(..3) {
            0 => 0,
            1 => fastrand::usize(..=batch.len()),
            _ => batch.len(),
        };
        for _ in 0..alone {
            let which = fastrand::usize(..batch.len());
            settle(batch.remove(which), log)?;
        }
        ack_all(batch, log)?;
    }
}

fn check(delivery: &ByteDelivery<'_>, log: &mut Log) -> Result<()> {
    if !payload::is_whole(delivery.payload()) {
        log.note(Event::Corrupt, delivery.id(), delivery.attempt())?;
    }
    Ok(())
}

fn ack_all<'a>(mut batch: Batch<'a, ByteDelivery<'a>>, log: &mut Log) -> Result<()> {
    let mut acked: Vec<_> = batch.iter().map(|it| (it.id(), it.attempt())).collect();
    for delivery in batch.iter() {
        // Read to the end: another holder must not have changed it.
        check(delivery, log)?;
        log.note(Event::Settling, delivery.id(), delivery.attempt())?;
    }
    if let Err(error) = batch.ack() {
        for failed in std::iter::once(&error.first).chain(&error.others) {
            if !failed.is_lease_lost() {
                bail!("a batch was not acknowledged: {error}");
            }
        }
        let failed = 1 + error.others.len();
        if (failed, acked.len() - failed) != (error.failed, error.acked) {
            bail!("the errors of a batch do not add up: {error:?}");
        }
        // The id of a lost message may be that of its cell's next one, so none is noted.
        acked.clear();
    }
    for (id, attempt) in acked {
        log.note(Event::Acked, id, attempt)?;
    }
    Ok(())
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
                    Ok(()) => {}
                    Err(error) if error.is_lease_lost() => {}
                    Err(error) => return Err(error).context("a lease was not extended"),
                }
            }
            // Read to the end: another holder must not have changed it.
            check(&delivery, log)?;
            log.note(Event::Settling, id, attempt)?;
            let acked = delivery.ack();
            if acked.is_ok() {
                log.note(Event::Acked, id, attempt)?;
            }
            acked
        }
    };
    match settled {
        Ok(()) => Ok(()),
        Err(error) if error.is_lease_lost() => Ok(()),
        Err(error) => bail!("a delivery was not settled: {error}"),
    }
}
