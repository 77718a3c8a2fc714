//! A message that kills every worker becomes a dead letter after its limit, with the reason.
//!
//! The other messages pass it all the while, and it can be requeued.

use anyhow::{Context, Result, ensure};
use ipc_proto::QueueSettings;
use ipc_queue::DeadReason;
use serde_json::json;

use super::stage::{self, CHUNKED, INLINE, Stage};
use super::{Outcome, numbered};

const LIMIT: u8 = 3;
const POISON: u64 = 13;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let queue = stage::create(&QueueSettings {
        attempt_limit: LIMIT,
        ..stage::settings()
    })?;
    stage::send(&queue, [POISON], CHUNKED)?;
    for attempt in 1..=LIMIT {
        let mut victim = stage.puppet()?;
        victim.hold(POISON, attempt)?;
        victim.kill()?;
        stage::until_stats(&queue, "the worker is gone", |stats| {
            stats.leased == 0 && stats.participants == 1
        })?;
        // The good messages are delivered, before and after.
        if attempt == LIMIT {
            stage::send(&queue, [1], INLINE)?;
            stage::take_this(&queue, 1, 1)?;
        }
    }
    let letters = queue.transport().dead_letters()?;
    let [letter] = &letters[..] else {
        anyhow::bail!("dead letters: {letters:?}");
    };
    let counts = (
        letter.attempts,
        letter.crashes,
        letter.nacks,
        letter.expiries,
    );
    ensure!(counts == (LIMIT, LIMIT, 0, 0), "counted {counts:?}");
    ensure!(letter.reason == DeadReason::Crashed, "{:?}", letter.reason);
    ensure!(
        numbered::read(&letter.payload) == Ok(POISON),
        "it is damaged"
    );

    let again = queue.transport().requeue(letter.id).context("requeueing")?;
    ensure!(again, "the letter was gone");
    stage::take_this(&queue, POISON, 1)?;
    stage::until_free(&queue, 1)?;
    Outcome::kept(json!({ "kills": LIMIT, "crashes": letter.crashes }))
}
