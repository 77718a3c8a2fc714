//! The cost of queues in shared memory besides time: bytes, descriptors, threads, and the time of
//! creating and opening one.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ipc_queue::QueueOptions;
use walkdir::WalkDir;

use super::figures::Figures;

const AT: &str = "shm";
const QUEUE: &str = "shm:capacity/sizes";
/// The number of queues that one process opens.
const MANY: usize = 100;

/// Measures in a process that has not had a queue before.
pub fn measure(folder: &Path, figures: &mut Figures) -> Result<()> {
    many(folder, figures)?;
    sizes(folder, figures)
}

/// The size of the segment, for some settings.
fn sizes(folder: &Path, figures: &mut Figures) -> Result<()> {
    let all_seats = QueueOptions::new().max_participants(503);
    let settings = [
        ("a queue's segment, defaults", QueueOptions::new()),
        ("a queue's segment, 64 cells and no pool", small()),
        ("a queue's segment, 503 seats", all_seats),
    ];
    for (what, options) in settings {
        let queue = options.open_bytes(QUEUE)?;
        figures.add_at(AT, what, "KiB", bytes_in(folder)? as f64 / 1024.0);
        drop(queue);
        ipc_queue::remove(QUEUE)?;
    }
    Ok(())
}

fn small() -> QueueOptions {
    QueueOptions::new()
        .capacity(64)
        .pool_bytes(0)
        .max_message_bytes(192)
}

fn bytes_in(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in WalkDir::new(folder) {
        let data = entry?.metadata()?;
        bytes += if data.is_file() { data.len() } else { 0 };
    }
    Ok(bytes)
}

/// The cost to a process of each queue that it opens, and the time of creating and opening.
fn many(folder: &Path, figures: &mut Figures) -> Result<()> {
    let name = |number: usize| format!("shm:capacity/many-{number}");
    let open = |number: usize| small().open_bytes(name(number));
    let before = Possessions::now()?;
    let first = open(0)?;
    let one = Possessions::now()?;
    let started = Instant::now();
    let rest = (1..MANY).map(open).collect::<Result<Vec<_>, _>>()?;
    let created = started.elapsed();
    let all = Possessions::now()?;
    drop(rest);
    let started = Instant::now();
    let again = (1..MANY).map(open).collect::<Result<Vec<_>, _>>()?;
    let opened = started.elapsed();
    drop((first, again));
    for number in 0..MANY {
        ipc_queue::remove(name(number))?;
    }
    ensure!(bytes_in(folder)? == 0, "queues were left");
    one.add("a process's first queue", &before, 1, figures);
    all.add("each further queue", &one, MANY - 1, figures);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / (MANY - 1) as f64;
    figures.add_at(AT, "making a queue of 64 cells", "µs", each(created));
    figures.add_at(AT, "opening one", "µs", each(opened));
    Ok(())
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

    fn add(&self, what: &str, before: &Self, queues: usize, figures: &mut Figures) {
        let each = |before: usize, after: usize| (after as f64 - before as f64) / queues as f64;
        let descriptors = each(before.descriptors, self.descriptors);
        figures.add_at(AT, what, "descriptors", descriptors);
        let threads = each(before.threads, self.threads);
        figures.add_at(AT, what, "threads", threads);
    }
}
