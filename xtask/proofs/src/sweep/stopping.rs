//! A survivor that works while the stepped process is stopped, and the required result.
//!
//! It takes what it can until every lease and delay of the stopped process is over. It keeps the
//! messages for an hour, or acks them, alternately. Where there is room then, it has messages of
//! its own in every state in which a late change could hurt them: held for an hour, delayed by an
//! hour, dead. When the stopped process has continued and ended its operation, all of these must be
//! unchanged, and the queue's counters must balance.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use ipc_queue::transport::{OpenMode, Transport, Wait};
use ipc_queue::{
    ByteDelivery, ByteQueue, ByteReceiver, DeadReason, QueueStats, SendOptions, ShmQueue,
};
use ipc_shm::watch;

use super::actor;
use super::outcome::{Expectation, Message};
use super::scenery::MOMENT;

/// The length of leases; longer where no process is stopped.
pub const LEASE: Duration = Duration::from_millis(30);
const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(10);
/// The first number of its own messages.
const OWN: u64 = 80;

/// The process that continues to work.
pub struct Survivor {
    operation: &'static str,
    queue: ShmQueue,
    bytes: ByteQueue,
    receiver: &'static ByteReceiver,
    /// Held for an hour.
    held: Vec<ByteDelivery<'static>>,
    /// Taken before the operation began.
    early: Vec<ByteDelivery<'static>>,
    delayed: u64,
    letters: Vec<u64>,
    discarded: u64,
    /// The number of messages it took, approximately.
    taken: u64,
}

/// The answer whether there was a place for one more message.
enum Room {
    Found,
    None,
}

impl Survivor {
    /// Attaches. In `expire` it first takes what is ready, before a watcher runs. It acks every
    /// second message; `seed` chooses which.
    pub fn attach(segments: &Path, operation: &'static str, seed: u64) -> Result<Self> {
        let queue = actor::open(&actor::namespace_in(segments)?, OpenMode::Open)?;
        let bytes = ByteQueue::over(Arc::new(queue.clone()) as Arc<dyn Transport>);
        // Deliveries borrow it. One leak for each stop: the sweep ends soon.
        let receiver: &'static ByteReceiver = Box::leak(Box::new(bytes.receiver()));
        let mut survivor = Self {
            operation,
            queue,
            bytes,
            receiver,
            held: Vec::new(),
            early: Vec::new(),
            delayed: 0,
            letters: Vec::new(),
            discarded: 0,
            taken: seed,
        };
        if operation == "expire" {
            survivor.early = std::iter::from_fn(|| receiver.recv_within(Wait::No).ok()).collect();
            for delivery in &survivor.early {
                // On a slow machine the lease is already lost, and the message is redelivered.
                let _ = delivery.extend(HOUR);
            }
        }
        Ok(survivor)
    }

    /// Continues to work while the other process is stopped.
    pub fn work_on(&mut self) -> Result<()> {
        for delivery in self.early.drain(..) {
            let _ = delivery.ack();
        }
        self.take_everything()?;
        let mut numbers = OWN..;
        while let Some(number) = numbers.next()
            && let Room::Found = self.occupy(number).context("working on")?
        {}
        Ok(())
    }

    /// Takes messages until none is left that waits, or that the stopped process holds by a lease.
    fn take_everything(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            while let Ok(delivery) = self.receiver.recv_within(Wait::No) {
                Message::number_of(delivery.payload()).map_err(|e| anyhow!(e))?;
                self.taken += 1;
                // On a slow machine one is sometimes lost, and is redelivered.
                if self.taken.is_multiple_of(2) {
                    let _ = delivery.ack();
                } else if delivery.extend(HOUR).is_ok() {
                    self.held.push(delivery);
                }
            }
            let stats = self.queue.stats()?;
            if stats.ready + stats.delayed == 0 && stats.leased == self.held.len() as u64 {
                return Ok(());
            }
            // It keeps what it extended itself.
            if self.operation == "extend" && started.elapsed() > 3 * LEASE {
                return Ok(());
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "the stopped one keeps something: {stats:?}"
            );
            let_watcher_look();
        }
    }

    /// Adds one message, in one of three states.
    fn occupy(&mut self, number: u64) -> Result<Room> {
        let sender = self.bytes.sender();
        let payload = Message::payload(number);
        let put_off = number % 3 == 1;
        let options = match put_off {
            true => SendOptions::new().delay(HOUR),
            false => SendOptions::new(),
        };
        match sender.send_with(&payload, &options.clone().wait(Wait::No)) {
            Err(error) if error.is_timeout() => return Ok(Room::None),
            sent => sent.context("sending one more")?,
        };
        if put_off {
            self.delayed += 1;
            return Ok(Room::Found);
        }
        let delivery = self
            .receiver
            .recv_within(Wait::No)
            .context("receiving it")?;
        if number % 3 == 2 {
            if delivery.extend(HOUR).is_ok() {
                self.held.push(delivery);
            } else {
                // On a slow machine the lease was lost: the message is settled when it is
                // redelivered.
                drop(delivery);
                self.take_everything()?;
            }
        } else if delivery.bury_with(&own_reason(number)).is_ok() {
            self.letters.push(number);
        } else {
            self.take_everything()?;
        }
        Ok(Room::Found)
    }

    /// Called after the other process ended its operation. Lets time pass, and checks that nothing
    /// done meanwhile has changed.
    pub fn judge(mut self, expectation: &Expectation) -> Result<ShmQueue> {
        let until = Instant::now() + 3 * LEASE;
        // The messages that the other process left come, and only those.
        loop {
            while let Ok(delivery) = self.receiver.recv_within(Wait::No) {
                let number = Message::number_of(delivery.payload()).map_err(|e| anyhow!(e))?;
                ensure!(
                    expectation.numbers().any(|known| known == number),
                    "{number} is delivered again, at attempt {}",
                    delivery.attempt()
                );
                let _ = delivery.ack();
            }
            if Instant::now() >= until {
                break;
            }
            let_watcher_look();
        }
        for delivery in self.held.drain(..) {
            let number = Message::number_of(delivery.payload()).map_err(|e| anyhow!(e))?;
            let acked = delivery.ack();
            acked.with_context(|| format!("{number} was held for an hour"))?;
        }
        for letter in self.queue.dead_letters()? {
            let number = Message::number_of(&letter.payload).map_err(|e| anyhow!(e))?;
            if let Some(index) = self.letters.iter().position(|own| *own == number) {
                self.letters.swap_remove(index);
                let counts = (letter.nacks, letter.expiries, letter.crashes);
                let same = letter.reason == DeadReason::Buried
                    && (letter.attempts, counts) == (1, (0, 0, 0))
                    && self.may_say(number, &letter.error);
                ensure!(same, "a letter is another one: {letter:?}");
            }
            self.discarded += u64::from(self.queue.discard(letter.id)?);
        }
        ensure!(
            self.letters.is_empty(),
            "letters are gone: {:?}",
            self.letters
        );
        let stats = self.queue.stats()?;
        let purged = self.queue.purge()?;
        // A process that was stopped in a purge continues it.
        let is_purge = self.operation == "purge" && purged < self.delayed;
        let same = purged == self.delayed || is_purge;
        ensure!(
            same,
            "{purged} were put off, not {}: {stats:?}",
            self.delayed
        );
        self.balance(self.queue.stats()?)?;
        Ok(self.queue)
    }

    /// A reason is whole. Or a process that was stopped while it wrote its own reason damaged it:
    /// then there is none.
    fn may_say(&self, number: u64, error: &str) -> bool {
        let is_written = matches!(self.operation, "nack-saying" | "bury-saying");
        error == own_reason(number) || is_written && error.is_empty()
    }

    /// Checks that nothing was lost, and nothing is there twice.
    fn balance(&self, stats: QueueStats) -> Result<()> {
        let gone = stats.acked + self.discarded + stats.expired + stats.purged + stats.overflowed;
        let there = stats.in_use() - stats.writing - stats.quarantined;
        let missing = stats.sent.checked_sub(gone + there);
        let by_operation = u64::from(self.operation == "discard");
        ensure!(
            missing.is_some_and(|missing| missing <= by_operation),
            "the books do not balance: {stats:?}, and {} letters discarded",
            self.discarded
        );
        Ok(())
    }
}

fn own_reason(number: u64) -> String {
    format!("{number} is the survivor's own, which says so at some length")
}

/// Otherwise it runs when the next known lease ends, or after half a second.
fn let_watcher_look() {
    watch::nudge();
    thread::sleep(MOMENT);
}

/// The positions of the first cell's state and deadline in the queue's file. They are found by
/// sending a message, which fills that cell's header.
pub fn watched_words(folder: &Path) -> Result<[u64; 2]> {
    const LINE: usize = 64;
    const TIME: u64 = 6 * 8;
    let segments = folder.join("scratch");
    let namespace = actor::namespace_in(&segments)?;
    let queue = actor::open(&namespace, OpenMode::Create)?;
    let file = actor::file_in(&segments);
    let before = fs::read(&file)?;
    let bytes = ByteQueue::over(Arc::new(queue.clone()) as Arc<dyn Transport>);
    bytes.sender().try_send(b"")?;
    let after = fs::read(&file)?;
    drop((bytes, queue));
    ShmQueue::remove(&namespace, &actor::queue_name())?;
    let filled = |(old, new): (&[u8], &[u8])| {
        let words = old.chunks(8).zip(new.chunks(8));
        words.filter(|(old, new)| old != new).count() >= 3
    };
    let mut lines = before.chunks(LINE).zip(after.chunks(LINE));
    let line = lines.position(filled).context("no cell was filled")?;
    let state = (line * LINE) as u64;
    Ok([state, state + TIME])
}
