//! The silence of a cluster after a kill of the server that leads the stream of the queue's
//! records.
//!
//! One thread sends a message, receives it and acks it, again and again. The silence is the longest
//! time between two acks around the kill.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipc_nats::testing::TestCluster;
use ipc_queue::{ByteQueue, QueueOptions};

use super::{PASSES, Sample, summaries};
use crate::schedule::Summary;
use crate::work::Unit;

/// The name of the work.
pub const SILENCE: &str = "silence after the leader was killed";
/// The name of the subject.
pub const CLUSTER: &str = "nats, three servers";
/// The number of acks that show that a cluster works.
const ENOUGH: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(60);
const QUEUE: &str = "silence";

/// The progress of the working thread.
#[derive(Clone, Copy, Debug)]
struct Progress {
    acks: u64,
    last: Instant,
    longest: Duration,
}

/// Measures in this process.
pub fn measure() -> Result<Vec<Summary>> {
    ipc_nats::register();
    let mut cluster = TestCluster::start();
    let queue = QueueOptions::new().open_bytes(cluster.address(QUEUE))?;
    let progress = Mutex::new(Progress::new());
    let stop = AtomicBool::new(false);
    let silences = thread::scope(|scope| {
        let worker = scope.spawn(|| work(&queue, &progress, &stop));
        let silences = (0..PASSES).map(|_| kill_leader(&mut cluster, &progress));
        let silences = silences.collect::<Result<Vec<_>>>();
        stop.store(true, Ordering::Relaxed);
        ensure!(worker.join().is_ok(), "the working thread panicked");
        silences
    })?;
    let nanoseconds = silences.iter().map(|silence| silence.as_nanos() as f64);
    Ok(summaries(vec![Sample {
        work: SILENCE.to_owned(),
        subject: CLUSTER.to_owned(),
        unit: Unit::Nanoseconds,
        values: nanoseconds.collect(),
    }]))
}

fn work(queue: &ByteQueue, progress: &Mutex<Progress>, stop: &AtomicBool) {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    while !stop.load(Ordering::Relaxed) {
        // A failed send or ack is repeated, or the message is redelivered.
        if sender.send_timeout(b"on", PATIENCE).is_err() {
            continue;
        }
        let delivery = receiver.recv_timeout(PATIENCE);
        if delivery.is_ok_and(|delivery| delivery.ack().is_ok()) {
            Progress::lock(progress).note();
        }
    }
}

/// Kills the leader, waits until work continues, and restarts the server.
fn kill_leader(cluster: &mut TestCluster, progress: &Mutex<Progress>) -> Result<Duration> {
    let acks = Progress::lock(progress).acks;
    wait_until("messages are acked", || {
        Progress::lock(progress).acks >= acks + ENOUGH
    })?;
    let mut leader = None;
    wait_until("there is a leader with two followers", || {
        leader = cluster.leader_of(QUEUE);
        leader.is_some() && cluster.is_whole(QUEUE)
    })?;
    let leader = leader.context("there is one")?;
    *Progress::lock(progress) = Progress::new();
    cluster.servers[leader].kill();
    wait_until("work continues", || Progress::lock(progress).acks >= ENOUGH)?;
    let silence = Progress::lock(progress).longest;
    cluster.servers[leader].restart();
    Ok(silence)
}

impl Progress {
    fn new() -> Self {
        Self {
            acks: 0,
            last: Instant::now(),
            longest: Duration::ZERO,
        }
    }

    fn lock(progress: &Mutex<Self>) -> MutexGuard<'_, Self> {
        progress.lock().expect("no thread panics with it")
    }

    fn note(&mut self) {
        self.acks += 1;
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !is_so() {
        ensure!(
            started.elapsed() < 2 * PATIENCE,
            "{what}: not in {:?}",
            2 * PATIENCE
        );
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
