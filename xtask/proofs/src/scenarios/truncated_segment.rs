//! A file that was truncated or extended while no process had it open is refused, and can be
//! removed. If it is truncated while processes use it, each of them gets an error in any call.
//!
//! There is never a SIGBUS that ends the process.

use std::fs::File;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use ipc_queue::QueueError;
use ipc_queue::transport::OpenMode;
use ipc_shm::{HeaderError, OpenError};
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::stage::{self, CHUNKED, INLINE, Stage, Times};

pub fn play(stage: &Stage) -> Result<Outcome> {
    let whole = {
        drop(stage::create(&stage::settings())?);
        std::fs::metadata(stage.file_of(stage::JOBS))?.len()
    };
    ipc_queue::remove(stage::address(stage::JOBS))?;
    let sizes = [
        0,
        1,
        7,
        8,
        100,
        4095,
        4096,
        whole / 2,
        whole - 4096,
        whole - 1,
        whole + 1,
        2 * whole,
    ];
    for size in sizes {
        refused_and_removed(stage, size).with_context(|| format!("{size} of {whole} bytes"))?;
    }
    let mut times = Times::default();
    // An empty file; a part of the header's page; that page and half of the next.
    let cuts = [0, 2048, 4096 + 2048];
    for size in cuts {
        told(stage, size, &mut times).with_context(|| format!("cut to {size}, in use"))?;
    }
    Outcome::kept(json!({
        "bytes": whole, "sizes": sizes.len(), "sizes_in_use": cuts.len(), "told_ms": times.figures()
    }))
}

/// Truncates the file while four processes use it. Each gets the error and lives.
fn told(stage: &Stage, size: u64, times: &mut Times) -> Result<()> {
    // In other processes: this one would have to unmap the file before it could use the next one.
    let settings = stage::settings();
    let create = |queue: &str| Order::Create {
        queue: queue.to_owned(),
        settings: settings.clone(),
    };
    stage.stranger()?.perform(create(stage::JOBS))?;
    let (mut holder, mut lender) = (stage.puppet()?, stage.puppet()?);
    holder.send(0..1, CHUNKED)?;
    holder.hold(0, 1)?;
    lender.lend(1, CHUNKED)?;
    let (mut receiver, mut sender) = (stage.puppet()?, stage.puppet()?);
    receiver.tell_and_block(&Order::RECEIVE)?;
    sender.tell(&Order::SendForever {
        first: 2,
        sizes: vec![INLINE, CHUNKED],
    })?;
    receiver.hear_delivery(2, 1)?;
    receiver.tell(&Order::Consume { count: 1_000_000 })?;
    let path = stage.file_of(stage::JOBS);
    let cut_at = Instant::now();
    File::options().write(true).open(&path)?.set_len(size)?;
    holder.tell(&Order::Ack)?;
    lender.tell(&Order::Publish)?;
    for mut puppet in [holder, lender, receiver, sender] {
        let refusal = loop {
            match puppet.hear_outcome()? {
                Ok(_) => {}
                Err(refusal) => break refusal,
            }
        };
        times.note("telling", cut_at.elapsed())?;
        ensure!(refusal.contains("Truncated"), "the error was {refusal}");
        // Again, for every call.
        for order in [Order::send(9..10, INLINE), Order::RECEIVE] {
            let refusal = puppet.refused(&order)?;
            ensure!(
                refusal.contains("Truncated"),
                "then the error was {refusal}"
            );
        }
        let end = puppet.dismiss()?;
        ensure!(end.success(), "it ended with {end}");
    }
    ensure!(
        ipc_queue::remove(stage::address(stage::JOBS))?,
        "not removed"
    );
    Ok(())
}

fn refused_and_removed(stage: &Stage, size: u64) -> Result<()> {
    // In other processes: this one may have it mapped for a moment longer.
    let mut creator = stage.stranger()?;
    let (queue, settings) = (stage::JOBS.to_owned(), stage::settings());
    creator.perform(Order::Create { queue, settings })?;
    creator.attach()?;
    creator.send(0..4, CHUNKED)?;
    creator.dismiss()?;
    let path = stage.file_of(stage::JOBS);
    File::options().write(true).open(&path)?.set_len(size)?;
    for mode in [OpenMode::Open, OpenMode::OpenOrCreate] {
        let opened = stage::options(mode).open_bytes(stage::address(stage::JOBS));
        match opened {
            Err(QueueError::Open(OpenError::Header {
                source: HeaderError::TooShort { found, .. } | HeaderError::Size { found, .. },
                ..
            })) => ensure!(found == size, "it is said to have {found} bytes"),
            Err(error) => bail!("another error: {error:?}"),
            Ok(_) => bail!("it was opened"),
        }
    }
    ensure!(path.metadata()?.len() == size, "it was changed");
    ensure!(
        ipc_queue::remove(stage::address(stage::JOBS))?,
        "not removed"
    );
    ensure!(!path.exists(), "it is still there");
    Ok(())
}
