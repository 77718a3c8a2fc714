//! A queue exists as a whole or not at all, even if processes that create or remove it are killed.
//!
//! Two processes create and remove the same queue in a loop and are killed at random. In every case
//! the next process opens or creates the queue, and can remove it.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipc_queue::QueueError;
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::puppeteer::Puppet;
use super::stage::{self, CHUNKED, JOBS, Stage};

const ROUNDS: u64 = 60;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let mut found = 0;
    for round in 0..ROUNDS {
        let mut makers = [stage.stranger()?, stage.stranger()?];
        for maker in &mut makers {
            maker.tell(&Order::ComeAndGo {
                queue: JOBS.to_owned(),
                settings: stage::settings(),
            })?;
            ensure!(maker.hear().is_ok(), "it never made one");
        }
        // The sleep does not wait for a condition: the kill comes at a random moment.
        thread::sleep(Duration::from_micros(fastrand::u64(..3_000)));
        makers.iter_mut().try_for_each(Puppet::strike)?;
        for maker in &mut makers {
            maker.bury()?;
        }
        found += u64::from(next_one_continues(stage, round)?);
        stage.check_nothing_left()?;
    }
    Outcome::kept(json!({ "kills": 2 * ROUNDS, "found": found }))
}

/// Uses the queue that the killed processes left, or a new one. Returns whether they left one.
fn next_one_continues(stage: &Stage, round: u64) -> Result<bool> {
    let files = fs::read_dir(stage.file_of(JOBS).with_file_name("")).map_or(0, Iterator::count);
    let left = match stage::open() {
        Ok(queue) => Some(queue),
        Err(QueueError::NotFound { .. }) => None,
        Err(error) => return Err(error).context("opening what was left"),
    };
    ensure!(files <= 1, "{files} files were left");
    let found = left.is_some();
    let queue = match left {
        Some(queue) => queue,
        None => stage::create(&stage::settings()).context("creating it again")?,
    };
    stage::send(&queue, [round], CHUNKED)?;
    stage::take_this(&queue, round, 1)?;
    Ok(found)
}
