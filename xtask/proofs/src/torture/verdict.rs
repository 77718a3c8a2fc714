//! The accounts: the accepted messages, and their fate.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use ipc_proto::MessageId;
use ipc_queue::transport::{RecvPortError, Settle, Transport, Wait};
use ipc_queue::{RecvFailure, ShmQueue};
use serde::Serialize;

use super::Settings;
use super::log::{self, Event, Record};
use super::orderly::Came;

/// The result of a run.
#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    seed: u64,
    settings: Option<Settings>,
    kills: u64,
    stops: u64,
    /// Messages that a send accepted, if the sender lived to note it.
    accepted: u64,
    /// Deliveries whose ack was accepted, if the receiver lived to note it.
    acked: u64,
    /// Dead letters, buried or past the limit.
    dead_lettered: u64,
    redelivered: u64,
    /// Accepted messages that are nowhere.
    lost: u64,
    /// Payloads that differed from what was sent.
    corrupt: u64,
    /// Messages of which two deliveries were acked.
    double_acked: u64,
    /// In the orderly queue: messages that came out of order, or not at all.
    out_of_order: u64,
    /// The number of kinds of things that were not free in the end: cells, chunks, slots, files.
    leaked: u64,
    /// Descriptions of these leaks.
    leaks: Vec<String>,
    /// Processes that did not end, and deaths that were not noticed, within the bound.
    hung: u64,
    recovery_ms: Recovery,
}

/// The time from a SIGKILL until a blocked receiver had the killed one's message, or a sender its
/// place. See `canary`.
#[derive(Debug, Default, Serialize)]
struct Recovery {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Verdict {
    /// Reads the logs, and takes the remaining content out of the queue, which is closed and has no
    /// other participant.
    pub fn reach(
        folder: &Path,
        queue: &ShmQueue,
        dead: HashSet<MessageId>,
        in_order: &Came,
    ) -> Result<Self> {
        let stats = queue.stats()?;
        let left = drain(queue, dead)?;
        let mut accounts = Accounts::default();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "log") {
                accounts
                    .add(&log::read(&path).with_context(|| format!("reading {}", path.display()))?);
            }
        }
        let mut verdict = Self {
            accepted: accounts.accepted.len() as u64,
            acked: accounts.acks.values().sum(),
            dead_lettered: left.dead.len() as u64,
            redelivered: stats.redelivered,
            lost: accounts.lost(&left).count() as u64,
            corrupt: accounts.corrupt + in_order.corrupt,
            double_acked: accounts.acks.values().filter(|acks| **acks > 1).count() as u64,
            out_of_order: in_order.out_of_order + accounts.missing_in(in_order),
            ..Self::default()
        };
        verdict.add_leaks(queue)?;
        Ok(verdict)
    }

    pub fn add_trouble(
        &mut self,
        (seed, settings): (u64, Settings),
        kills: u64,
        stops: u64,
        hung: u64,
        recoveries: &mut [Duration],
    ) {
        (self.seed, self.kills, self.stops, self.hung) = (seed, kills, stops, hung);
        self.settings = Some(settings);
        recoveries.sort_unstable();
        let rank = |share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an index"
            )]
            #[expect(clippy::cast_precision_loss, reason = "few enough")]
            let index = (recoveries.len().saturating_sub(1) as f64 * share) as usize;
            recoveries
                .get(index)
                .map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        self.recovery_ms = Recovery {
            p50: rank(0.5),
            p99: rank(0.99),
            max: rank(1.0),
        };
    }

    pub fn add_left_behind(&mut self, folder: &Path) {
        if folder.exists() {
            self.leak(folder.display().to_string());
        }
    }

    /// Returns whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        let gone_wrong = [
            self.lost,
            self.corrupt,
            self.double_acked,
            self.out_of_order,
            self.leaked,
            self.hung,
        ];
        gone_wrong == [0; 6]
    }

    fn add_leaks(&mut self, queue: &ShmQueue) -> Result<()> {
        let stats = queue.stats()?;
        if stats.in_use() > 0 {
            self.leak(format!("{} cells: {stats:?}", stats.in_use()));
        }
        if stats.participants != 1 {
            self.leak(format!("{} participant slots", stats.participants - 1));
        }
        if stats.chunks_in_use > 0 {
            self.leak(format!("{} chunks", stats.chunks_in_use));
        }
        Ok(())
    }

    fn leak(&mut self, what: String) {
        self.leaks.push(what);
        self.leaked += 1;
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Recovery { p50, p99, max } = self.recovery_ms;
        writeln!(
            f,
            "seed {}, settings {}: {} kills, {} stops",
            self.seed,
            self.settings.map_or("unknown", Settings::name),
            self.kills,
            self.stops
        )?;
        writeln!(
            f,
            "accepted {}, acked {}, dead letters {}, redelivered {}, out of order {}",
            self.accepted, self.acked, self.dead_lettered, self.redelivered, self.out_of_order
        )?;
        writeln!(
            f,
            "recovery: p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms"
        )?;
        writeln!(
            f,
            "lost {}, corrupt {}, acked twice {}, hung {}, leaked {:?}",
            self.lost, self.corrupt, self.double_acked, self.hung, self.leaks
        )?;
        writeln!(f, "{}", if self.is_clean() { "clean" } else { "BROKEN" })
    }
}

/// The remaining content of the queue.
struct Left {
    dead: HashSet<MessageId>,
    ready: HashSet<MessageId>,
}

fn drain(queue: &ShmQueue, mut dead: HashSet<MessageId>) -> Result<Left> {
    let mut ready = HashSet::new();
    let receiver = queue.receiver();
    loop {
        match receiver.recv(Wait::at_most(super::BOUND)) {
            Ok(delivery) => {
                ready.insert(delivery.metadata().id);
                delivery.settle(Settle::Ack)?;
            }
            Err(RecvPortError::Failed(RecvFailure::Closed)) => break,
            Err(error) => return Err(error).context("draining"),
        }
    }
    for letter in queue.dead_letters()? {
        dead.insert(letter.message);
        queue.discard(letter.id)?;
    }
    Ok(Left { dead, ready })
}

/// All logs together.
#[derive(Default)]
struct Accounts {
    accepted: HashSet<MessageId>,
    /// Messages about to be acked or buried, by a receiver that may have died before it noted the
    /// result.
    settling: HashSet<MessageId>,
    buried: HashSet<MessageId>,
    acks: HashMap<MessageId, u64>,
    corrupt: u64,
    ordered: HashSet<MessageId>,
}

impl Accounts {
    fn add(&mut self, records: &[Record]) {
        for record in records {
            let id = record.message;
            match record.event {
                Event::Accepted => drop(self.accepted.insert(id)),
                Event::Settling => drop(self.settling.insert(id)),
                Event::Buried => drop(self.buried.insert(id)),
                Event::Acked => *self.acks.entry(id).or_default() += 1,
                Event::Corrupt => self.corrupt += 1,
                Event::Ordered => drop(self.ordered.insert(id)),
                Event::Received => {}
            }
        }
    }

    fn missing_in(&self, came: &Came) -> u64 {
        self.ordered.iter().filter(|id| !came.has(**id)).count() as u64
    }

    fn lost<'a>(&'a self, left: &'a Left) -> impl Iterator<Item = &'a MessageId> {
        self.accepted.iter().filter(|id| {
            let known = self.acks.contains_key(id) || self.settling.contains(id);
            !known
                && !self.buried.contains(id)
                && !left.dead.contains(id)
                && !left.ready.contains(id)
        })
    }
}
