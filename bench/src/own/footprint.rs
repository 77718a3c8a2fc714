//! What a queue in shared memory costs besides time: bytes, descriptors and threads.

use std::path::PathBuf;

use anyhow::{Context, Result};
use ipc_queue::QueueOptions;

use super::{ADDRESS, Sample};
use crate::repetition::SHM_DIR;
use crate::work::Unit;

/// The prefix of the names of these works.
pub const FOOTPRINT: &str = "footprint: ";
const MANY: usize = 100;

/// Measures in a process that has not had a queue before.
pub(super) fn samples() -> Result<Vec<Sample>> {
    let open = |number: usize| small().open_bytes(format!("{ADDRESS}-{number}"));
    let before = Possessions::now()?;
    let first = open(0)?;
    let one = Possessions::now()?;
    let rest = (1..MANY).map(open).collect::<Result<Vec<_>, _>>()?;
    let all = Possessions::now()?;
    drop((first, rest));
    for number in 0..MANY {
        ipc_queue::remove(format!("{ADDRESS}-{number}"))?;
    }
    let mut samples = one.since(&before, 1, "first queue of a process");
    samples.extend(all.since(&one, MANY - 1, "each further queue"));
    samples.extend(sizes()?);
    Ok(samples)
}

/// The size of the segment, for some settings.
fn sizes() -> Result<Vec<Sample>> {
    let most = QueueOptions::new().max_participants(503);
    let settings = [
        ("default settings", QueueOptions::new()),
        ("64 cells, no pool", small()),
        ("503 participants", most),
    ];
    let folder = PathBuf::from(std::env::var_os(SHM_DIR).context("the parent process sets it")?);
    let mut samples = Vec::new();
    for (subject, options) in settings {
        let queue = options.open_bytes(ADDRESS)?;
        let bytes = std::fs::metadata(folder.join("bench/own.queue"))?.len();
        samples.push(sample("segment", subject, Unit::Bytes, bytes as f64));
        drop(queue);
        ipc_queue::remove(ADDRESS)?;
    }
    Ok(samples)
}

fn small() -> QueueOptions {
    QueueOptions::new()
        .capacity(64)
        .pool_bytes(0)
        .max_message_bytes(192)
}

fn sample(what: &str, subject: &str, unit: Unit, value: f64) -> Sample {
    Sample {
        work: format!("{FOOTPRINT}{what}"),
        subject: subject.to_owned(),
        unit,
        values: vec![value],
    }
}

/// The kernel's counts for this process.
struct Possessions {
    descriptors: usize,
    threads: usize,
}

impl Possessions {
    fn now() -> Result<Self> {
        Ok(Self {
            descriptors: std::fs::read_dir("/proc/self/fd")?.count(),
            threads: std::fs::read_dir("/proc/self/task")?.count(),
        })
    }

    fn since(&self, before: &Self, queues: usize, subject: &str) -> Vec<Sample> {
        let each = |before: usize, after: usize| (after as f64 - before as f64) / queues as f64;
        let descriptors = each(before.descriptors, self.descriptors);
        let threads = each(before.threads, self.threads);
        vec![
            sample("descriptors", subject, Unit::Number, descriptors),
            sample("threads", subject, Unit::Number, threads),
        ]
    }
}
