//! The accounts: what was accepted, and what became of it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use ipc_proto::MessageId;
use ipc_queue::transport::{Transport, Wait};
use ipc_queue::{RecvError, ShmQueue};
use serde::Serialize;

use super::log::{self, Event, Record};

/// What a run came to.
#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    seed: u64,
    kills: u64,
    stops: u64,
    /// Messages that a send accepted, as far as the sender lived to note it.
    accepted: u64,
    /// Deliveries whose ack was accepted, as far as the receiver lived to note it.
    acked: u64,
    /// Dead letters, buried or past the limit.
    dead_lettered: u64,
    redelivered: u64,
    /// Accepted, and nowhere.
    lost: u64,
    /// Payloads that were not what was sent.
    corrupt: u64,
    /// Messages of which two deliveries were acked.
    double_acked: u64,
    /// First deliveries that one receiver got in another order than their sender sent them.
    out_of_order: u64,
    /// Cells, chunks, slots and files that were not free in the end.
    leaked: Vec<String>,
    /// Processes that did not end, and deaths that were not noticed, within the bound.
    hung: u64,
    recovery_ms: Recovery,
}

/// From a SIGKILL until a receiver that was blocked had the killed one's message. See `canary`.
#[derive(Debug, Default, Serialize)]
struct Recovery {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Verdict {
    /// Reads the logs, and takes what is left out of the queue, which is closed and has nobody else attached.
    pub fn reach(folder: &Path, queue: &ShmQueue, dead: HashSet<MessageId>) -> Result<Self> {
        let stats = queue.stats();
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
            corrupt: accounts.corrupt,
            double_acked: accounts.acks.values().filter(|acks| **acks > 1).count() as u64,
            out_of_order: accounts.out_of_order,
            ..Self::default()
        };
        verdict.add_leaks(queue);
        Ok(verdict)
    }

    pub fn add_trouble(
        &mut self,
        seed: u64,
        kills: u64,
        stops: u64,
        hung: u64,
        recoveries: &mut [Duration],
    ) {
        (self.seed, self.kills, self.stops, self.hung) = (seed, kills, stops, hung);
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
            self.leaked.push(folder.display().to_string());
        }
    }

    /// Whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        let broken = self.lost + self.corrupt + self.double_acked + self.hung;
        broken == 0 && self.leaked.is_empty()
    }

    fn add_leaks(&mut self, queue: &ShmQueue) {
        let stats = queue.stats();
        if stats.in_use() > 0 {
            self.leaked
                .push(format!("{} cells: {stats:?}", stats.in_use()));
        }
        if stats.participants != 1 {
            self.leaked
                .push(format!("{} participant slots", stats.participants - 1));
        }
        if stats.chunks_in_use > 0 {
            self.leaked.push(format!("{} chunks", stats.chunks_in_use));
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Recovery { p50, p99, max } = self.recovery_ms;
        writeln!(
            f,
            "seed {}: {} kills, {} stops",
            self.seed, self.kills, self.stops
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
            self.lost, self.corrupt, self.double_acked, self.hung, self.leaked
        )?;
        writeln!(f, "{}", if self.is_clean() { "clean" } else { "BROKEN" })
    }
}

/// What was still in the queue.
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
                ready.insert(delivery.id());
                delivery.ack()?;
            }
            Err(RecvError::Closed) => break,
            Err(error) => return Err(error).context("draining"),
        }
    }
    for letter in queue.dead_letters() {
        dead.insert(letter.message);
        queue.discard(letter.id);
    }
    Ok(Left { dead, ready })
}

/// All logs together.
#[derive(Default)]
struct Accounts {
    accepted: HashSet<MessageId>,
    /// About to be acked or buried, by somebody who perhaps did not live to say that it was.
    settling: HashSet<MessageId>,
    buried: HashSet<MessageId>,
    acks: HashMap<MessageId, u64>,
    corrupt: u64,
    out_of_order: u64,
}

impl Accounts {
    fn add(&mut self, records: &[Record]) {
        let mut latest: HashMap<u64, u64> = HashMap::new();
        for record in records {
            let id = record.message;
            match record.event {
                Event::Accepted => drop(self.accepted.insert(id)),
                Event::Settling => drop(self.settling.insert(id)),
                Event::Buried => drop(self.buried.insert(id)),
                Event::Acked => *self.acks.entry(id).or_default() += 1,
                Event::Corrupt => self.corrupt += 1,
                Event::Received if record.attempt == 1 => {
                    let last = latest.entry(id.sender.get()).or_insert(id.sequence);
                    self.out_of_order += u64::from(id.sequence < *last);
                    *last = id.sequence.max(*last);
                }
                Event::Received => {}
            }
        }
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
