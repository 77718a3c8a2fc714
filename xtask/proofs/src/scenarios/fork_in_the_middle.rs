//! A forked child can do nothing in its parent's name, and can't hide its parent's death.
//!
//! A process that holds messages and loans forks. The child tries everything with what it
//! inherited. Then it opens the queue as a process of its own, and lives on when its parent is
//! killed.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::Outcome;
use super::order::{Order, Reply};
use super::puppet::CHILDS;
use super::stage::{self, CHUNKED, Stage, Times};

const TRIED: [&str; 6] = ["send", "loan", "receive", "publish", "extend", "ack"];

pub fn play(stage: &Stage) -> Result<Outcome> {
    let queue = stage::create(&stage::settings())?;
    let mut parent = stage.puppet()?;
    stage::send(&queue, 0..2, CHUNKED)?;
    for number in 0..2 {
        parent.hold(number, 1)?;
        parent.lend(10 + number, CHUNKED)?;
    }
    let Reply::Child { pid, answers } = parent.ask(&Order::Fork)? else {
        bail!("no child");
    };
    let answer = |tried: &str| {
        let found = answers.iter().find(|(name, _)| name == tried);
        found.map(|(_, answer)| &answer[..]).context("not tried")
    };
    for tried in TRIED {
        let refusal = answer(tried)?;
        let is_forked = refusal.starts_with("Err(") && refusal.contains("Forked");
        ensure!(is_forked, "{tried}: {refusal}");
    }
    ensure!(
        answer("own")? == "Ok(())",
        "opened again: {}",
        answer("own")?
    );
    stage::take_this(&queue, CHILDS, 1)?;

    parent.perform(Order::Check)?;
    parent.ack().context("the parent was disturbed")?;
    parent.perform(Order::Publish)?;
    stage::take_this(&queue, 10, 1)?;

    let mut survivor = stage.puppet()?;
    survivor.tell_and_block(&Order::RECEIVE)?;
    let mut times = Times::default();
    let killed_at = Instant::now();
    parent.strike()?;
    survivor.hear_delivery(1, 2)?;
    times.note("a redelivery", killed_at.elapsed())?;
    survivor.ack()?;
    ensure!(
        PathBuf::from(format!("/proc/{pid}")).exists(),
        "the child died"
    );
    stage::until_free(&queue, 2)?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    Outcome::kept(json!({ "refusals": TRIED.len(), "recovery_ms": times.figures() }))
}
