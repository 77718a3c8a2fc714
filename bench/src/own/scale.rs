//! The growth of a message's cost with the queue: its depth, its capacity, its leases, its
//! participants.

use std::path::PathBuf;

use anyhow::{Context, Result};
use ipc_queue::{ByteQueue, QueueOptions};

use super::{ADDRESS, Helper, PASSES, SCALE, Sample, fill, hold, start_all};
use crate::clock::now_ns;
use crate::memory::Shared;
use crate::payload;
use crate::repetition::SHM_DIR;
use crate::work::{SMALL, Unit};

/// The capacity of measurements that are not about capacities.
const DEFAULT: u32 = 1024;
const MESSAGES: u32 = 20_000;
/// The size of a cell with room for a small message.
const CELL_BYTES: usize = 128;

pub fn samples() -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for depth in [0, 10, 100, 1000, 10_000, 100_000] {
        samples.push(scale("messages waiting", depth, 131_072, |queue| {
            fill(queue, depth)
        })?);
    }
    for capacity in [2, 16, 256, 4096, 65_536, 1 << 20] {
        samples.push(scale("capacity", capacity as usize, capacity, |_| Ok(()))?);
    }
    for capacity in [2, 16, 256, 4096, 65_536, 1 << 20] {
        samples.push(bare(capacity)?);
    }
    for leases in [0, 1, 10, 100, 500] {
        let held = |queue: &ByteQueue| {
            fill(queue, leases)?;
            hold(queue, leases)
        };
        samples.push(scale("leases out", leases, DEFAULT, held)?);
    }
    for attached in [1, 8, 63] {
        let company = |_: &ByteQueue| start_all(Helper::Attach, attached);
        samples.push(scale("processes attached", attached, DEFAULT, company)?);
    }
    Ok(samples)
}

/// Measures the time per message, sent, received and acked by one thread, under given conditions.
fn scale<T>(
    what: &str,
    number: usize,
    capacity: u32,
    circumstances: impl FnOnce(&ByteQueue) -> Result<T>,
) -> Result<Sample> {
    let options = QueueOptions::new().capacity(capacity).inline_bytes(64);
    let queue = options.open_bytes(ADDRESS)?;
    let kept = circumstances(&queue)?;
    // One round first, so that the measurement does not include the first access to each page.
    pass(&queue, capacity.max(MESSAGES))?;
    let values = (0..PASSES)
        .map(|_| pass(&queue, MESSAGES))
        .collect::<Result<_>>()?;
    drop(kept);
    drop(queue);
    ipc_queue::remove(ADDRESS)?;
    Ok(sample(what, format!("shm, {number}"), values))
}

fn sample(what: &str, subject: String, values: Vec<f64>) -> Sample {
    Sample {
        work: format!("{SCALE}, {what}"),
        subject,
        unit: Unit::Nanoseconds,
        values,
    }
}

fn pass(queue: &ByteQueue, messages: u32) -> Result<f64> {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let mut bytes = [0; SMALL];
    let before = now_ns();
    for number in 0..messages {
        payload::fill(&mut bytes, number.into());
        sender.send(&bytes)?;
        let delivery = receiver.recv()?;
        std::hint::black_box(payload::sum(delivery.payload()));
        delivery.ack()?;
    }
    Ok((now_ns() - before) as f64 / f64::from(messages))
}

/// Measures without a queue: writes and reads the payload of one cell after the other. This is the
/// cost of the memory itself.
fn bare(capacity: u32) -> Result<Sample> {
    let folder = PathBuf::from(std::env::var_os(SHM_DIR).context("the parent process sets it")?);
    let file = folder.with_file_name(format!("bare-{capacity}"));
    let cells = Shared::create(&file, capacity as usize * CELL_BYTES)?;
    std::fs::remove_file(&file)?;
    let walk = |from: u32, messages: u32| {
        let before = now_ns();
        for number in from..from + messages {
            let offset = (number % capacity) as usize * CELL_BYTES;
            // SAFETY: no other process uses this file, and this thread has no other reference.
            let bytes = unsafe { cells.payload_mut(offset + SMALL, SMALL) };
            payload::fill(bytes, number.into());
            std::hint::black_box(payload::sum(std::hint::black_box(bytes)));
        }
        (now_ns() - before) as f64 / f64::from(messages)
    };
    walk(0, capacity.max(MESSAGES));
    let values = (0..5).map(|pass| walk(pass * MESSAGES, MESSAGES)).collect();
    Ok(sample(
        "capacity",
        format!("bare cells, {capacity}"),
        values,
    ))
}
