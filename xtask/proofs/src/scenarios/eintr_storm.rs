//! Signals do not shorten a wait, lengthen it, or lose anything.
//!
//! A process gets and handles a signal every few microseconds. Safe code can only install handlers
//! with `SA_RESTART`. But the calls that wait here (a futex and a poll, with a time-out) still end
//! with `EINTR`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ipc_proto::QueueSettings;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::puppeteer::Puppet;
use super::stage::{self, CHUNKED, INLINE, PROMPT, Stage};

const DEADLINE: Duration = Duration::from_millis(200);
const MESSAGES: u64 = 1_000;
/// The memory that creating a queue in the storm must reserve: more than fits between two signals.
const POOL: u64 = 64 << 20;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let queue = stage::create(&QueueSettings {
        capacity: 4,
        ..stage::settings()
    })?;
    let mut target = stage.stranger()?;
    target.perform(Order::CatchSignals)?;
    let (over, signals) = (AtomicBool::new(false), AtomicU64::new(0));
    let pid = target.pid();
    let outcome = thread::scope(|scope| {
        scope.spawn(|| bombard(pid, &over, &signals));
        let outcome = under_fire(&queue, &mut target);
        over.store(true, Ordering::Relaxed);
        outcome
    });
    outcome?;
    target.perform(Order::Detach)?;
    stage::until_free(&queue, 1)?;
    Outcome::kept(json!({ "signals": signals.into_inner(), "messages": MESSAGES }))
}

fn bombard(target: Pid, over: &AtomicBool, signals: &AtomicU64) {
    while !over.load(Ordering::Relaxed) && kill(target, Signal::SIGUSR1).is_ok() {
        signals.fetch_add(1, Ordering::Relaxed);
        // Time for the target to make progress between two signals.
        let next = Instant::now() + Duration::from_micros(20);
        while Instant::now() < next {
            std::hint::spin_loop();
        }
    }
}

fn under_fire(queue: &ipc_queue::ByteQueue, target: &mut Puppet) -> Result<()> {
    let wait_ms = Some(u64::try_from(DEADLINE.as_millis())?);
    target.perform(Order::Create {
        queue: "large".to_owned(),
        settings: QueueSettings {
            pool_bytes: POOL,
            ..stage::settings()
        },
    })?;
    target.perform(Order::Remove {
        queue: "large".to_owned(),
    })?;
    target.attach()?;

    times_out(target, &Order::Receive { wait_ms })?;
    stage::send(queue, 0..4, INLINE)?;
    let (numbers, bytes) = (4..5, INLINE);
    times_out(
        target,
        &Order::Send {
            numbers,
            bytes,
            wait_ms,
        },
    )?;
    target.tell_and_block(&Order::send(4..5, INLINE))?;
    stage::take_this(queue, 0, 1)?;
    target.hear()?;
    ensure!(stage::drain(queue)? == [1, 2, 3, 4], "not the others");
    target.tell_and_block(&Order::RECEIVE)?;
    stage::send(queue, [5], INLINE)?;
    target.hear_delivery(5, 1)?;
    target.ack()?;

    target.tell(&Order::send(100..100 + MESSAGES, CHUNKED))?;
    for number in 100..100 + MESSAGES {
        stage::take_this(queue, number, 1)?;
    }
    target.hear()?;
    Ok(())
}

fn times_out(target: &mut Puppet, order: &Order) -> Result<()> {
    let started = Instant::now();
    let refusal = target.refused(order)?;
    let waited = started.elapsed();
    ensure!(refusal.starts_with("TimedOut"), "{order:?}: {refusal}");
    let kept = (DEADLINE..DEADLINE + PROMPT).contains(&waited);
    ensure!(kept, "{order:?} took {waited:?}");
    Ok(())
}
