//! A worker: takes tasks until it is told to stop, or the queue is closed and empty.
//!
//! It sends its answer first and acks the task afterwards. Killed in between, it leaves a task that is
//! done twice, never one that is done not at all; the coordinator counts an answer once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipc_node::{Health, Node};
use ipc_queue::{ByteDelivery, ByteReceiver, Kind, RecvError, SendFailure, Sender};
use ipc_shm::clock;

use crate::crew::COORDINATOR;
use crate::doom::Doom;
use crate::task::{Answer, Outcome, Task, Work};
use crate::wiring::Wiring;

/// How a worker is told to stop before its time.
#[derive(Debug, Default)]
pub struct Switches {
    /// Finish the task at hand, then stop.
    pub stop: AtomicBool,
    /// Die at once. Processes get a SIGKILL instead.
    pub kill: AtomicBool,
}

/// How long a worker waits before it looks at its switches, and whether its coordinator is there.
const LOOK: Duration = Duration::from_millis(200);

/// Works until a `Shutdown` comes, the queue is closed and drained, the coordinator is gone, or a switch is thrown.
///
/// # Errors
/// When the queues are damaged, or the coordinator went away with an answer due.
///
/// # Panics
/// When killed by its switch: a thread's way to die.
pub fn run(wiring: &Wiring, node: &Node, switches: &Switches) -> Result<()> {
    let (tasks, results) = (wiring.tasks.receiver(), wiring.results.sender());
    while let Some(delivery) = next(&tasks, node, switches)? {
        node.counters()
            .received(delivery.payload().len(), delivery.attempt());
        match delivery.kind() {
            Kind::Shutdown => {
                delivery.ack().context("acking the shutdown")?;
                break;
            }
            Kind::Data => work(delivery, &results, node, switches)?,
            // Signs of life and requests of others: nothing to do here.
            _ => delivery.ack().context("acking a signal")?,
        }
    }
    Ok(())
}

/// The next message; `None` when there will be none.
fn next<'a>(
    tasks: &'a ByteReceiver,
    node: &Node,
    switches: &Switches,
) -> Result<Option<ByteDelivery<'a>>> {
    loop {
        if switches.stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match tasks.recv_timeout(LOOK) {
            Ok(delivery) => return Ok(Some(delivery)),
            Err(RecvError::TimedOut { .. }) if has_coordinator(node) => {}
            Err(RecvError::TimedOut { .. }) => return Ok(None),
            Err(RecvError::Closed | RecvError::Removed) => return Ok(None),
            Err(error) => return Err(error).context("receiving a task"),
        }
    }
}

/// Whether somebody wants the answers. Those that the coordinator started die with it; others look here.
fn has_coordinator(node: &Node) -> bool {
    let health = node.alive(COORDINATOR, Duration::MAX);
    matches!(health, Some(Health::Alive | Health::Stale))
}

fn work(
    delivery: ByteDelivery<'_>,
    results: &Sender<Outcome>,
    node: &Node,
    switches: &Switches,
) -> Result<()> {
    let began = clock::monotonic();
    let task = match Task::parse(delivery.payload()) {
        Ok(task) => task,
        Err(_) => {
            // Nobody can do it: the coordinator sees it among the dead letters.
            node.counters().error();
            return delivery.bury().context("burying a task that is none");
        }
    };
    let header = task.header.clone();
    let answer = answer(task);
    let takes = if delivery.attempt() <= header.deaths {
        Doom::LONG
    } else {
        header.at_least
    };
    linger(takes, switches);
    let outcome = Outcome {
        task: header.task,
        part: header.part,
        answer,
        worker: node.name().to_string(),
        began,
        ended: clock::monotonic(),
        attempt: delivery.attempt(),
    };
    if let Err(error) = send(&outcome, results, node) {
        node.counters().error();
        return Err(error).context("sending a result");
    }
    node.counters().sent(outcome.encoded_bytes());
    delivery.ack().context("acking a task")
}

/// Waits for room for as long as the coordinator may make some.
fn send(outcome: &Outcome, results: &Sender<Outcome>, node: &Node) -> Result<()> {
    while let Err(error) = results.send_timeout(outcome, LOOK) {
        match error.failure {
            SendFailure::TimedOut { .. } => {
                ensure!(has_coordinator(node), "the coordinator is gone");
            }
            failure => return Err(failure.into()),
        }
    }
    Ok(())
}

fn answer(task: Task<'_>) -> Answer {
    match task.header.work {
        Work::Echo => Answer::Text(format!(
            "processed_{}",
            String::from_utf8_lossy(task.content)
        )),
        Work::Fingerprint(mut progress) => {
            progress.update(task.content);
            Answer::Fingerprint {
                progress,
                last: task.last,
            }
        }
    }
}

/// Takes as long as the task is to take.
fn linger(at_least: Duration, switches: &Switches) {
    const LOOK: Duration = Duration::from_millis(5);
    let until = Instant::now() + at_least;
    loop {
        if switches.kill.load(Ordering::Relaxed) {
            // A panic like any other for those who hold something, but nothing to print.
            std::panic::resume_unwind(Box::new("killed"));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(LOOK));
    }
}
