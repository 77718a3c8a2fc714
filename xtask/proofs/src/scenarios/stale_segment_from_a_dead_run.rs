//! After a run whose processes are all dead, the next run finds everything, and the rest is free.
//!
//! All processes are killed in the middle of their work, and no other process is attached. So the
//! recovery can't depend on a live process.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use ipc_proto::QueueSettings;
use serde_json::json;

use super::Outcome;
use super::order::{Order, Reply};
use super::puppeteer::Puppet;
use super::stage::{self, CHUNKED, INLINE, Stage};

const RUNS: u64 = 10;
const MESSAGES: u64 = 20;
/// The numbers of loans, which must never be received.
const UNSENT: u64 = 1_000_000;

pub fn play(stage: &Stage) -> Result<Outcome> {
    drop(stage::create(&QueueSettings {
        capacity: 64,
        pool_bytes: 64 * 2048,
        ..stage::settings()
    })?);
    let mut kills = 0;
    for run in 0..RUNS {
        let first = run * 1_000;
        let (accepted, killed) = dead_run(stage, first)?;
        kills += killed;
        // From here on this is a new process.
        let queue = stage::open()?;
        stage::until_stats(&queue, "all is there and else all is free", |stats| {
            let ready = stats.ready + stats.delayed;
            ready >= accepted && stats.in_use() == ready && stats.participants == 1
        })?;
        let mut found = BTreeSet::new();
        while found.len() < usize::try_from(accepted)? || queue.transport().stats()?.in_use() > 0 {
            let (number, _) = stage::take(&queue)?;
            ensure!(found.insert(number), "{number} came twice");
        }
        let complete = (first..first + accepted).all(|number| found.contains(&number));
        let extra = found.range(first + accepted..).count();
        ensure!(
            complete && extra <= 1,
            "accepted {accepted} from {first}, found {found:?}"
        );
        stage::until_free(&queue, 1)?;
    }
    Outcome::kept(json!({ "runs": RUNS, "kills": kills }))
}

/// A run that ends in the middle. Returns the number of accepted messages, from `first` on, and of
/// kills.
fn dead_run(stage: &Stage, first: u64) -> Result<(u64, u64)> {
    let mut all = vec![stage.puppet()?];
    all[0].send(first..first + MESSAGES, CHUNKED)?;
    for nth in 0..3 {
        let mut worker = stage.puppet()?;
        for number in [2 * nth, 2 * nth + 1] {
            worker.hold(first + number, 1)?;
        }
        if nth == 0 {
            worker.perform(Order::NackAfter { delay_ms: 20 })?;
        }
        worker.lend(UNSENT, [INLINE, CHUNKED][nth as usize % 2])?;
        all.push(worker);
    }
    let mut busy = stage.puppet()?;
    busy.tell(&Order::SendForever {
        first: first + MESSAGES,
        sizes: vec![INLINE, CHUNKED],
    })?;
    let mut sent = MESSAGES;
    for _ in 0..fastrand::u64(1..10) {
        busy.hear()?;
        sent += 1;
    }
    all.push(busy);
    all.iter_mut().try_for_each(Puppet::strike)?;
    for puppet in &mut all {
        let said = puppet.bury()?;
        sent += said
            .iter()
            .filter(|reply| matches!(reply, Reply::Sent(_)))
            .count() as u64;
    }
    Ok((sent, all.len() as u64))
}
