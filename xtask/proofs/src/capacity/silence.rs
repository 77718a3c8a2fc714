//! The silence of a cluster after a kill of the server that leads the stream of the queue's
//! records.
//!
//! One process sends a message, receives it and acks it, again and again. The silence is the
//! longest time between two acks around the kill.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipc_nats::testing::TestCluster;
use ipc_queue::{ByteQueue, QueueOptions};

use super::figures::Figures;
use super::place::CLUSTER;

/// The number of acks that show that a cluster works.
const ENOUGH: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(60);
const QUEUE: &str = "silence";

/// The progress of the working process.
#[derive(Clone, Copy, Debug)]
struct Seen {
    acks: u64,
    last: Instant,
    longest: Duration,
}

pub fn measure(kills: u32, figures: &mut Figures) -> Result<()> {
    let mut cluster = TestCluster::start();
    let address = cluster.address(QUEUE);
    let queue = QueueOptions::new().open_bytes(&address)?;
    let seen = Mutex::new(Seen::new());
    let stop = AtomicBool::new(false);
    let silences = thread::scope(|scope| {
        let worker = scope.spawn(|| work(&queue, &seen, &stop));
        let silences = (0..kills).map(|_| kill_leader(&mut cluster, &seen));
        let silences = silences.collect::<Result<Vec<_>>>();
        stop.store(true, Ordering::Relaxed);
        ensure!(
            worker.join().is_ok(),
            "the one who sends and receives panicked"
        );
        silences
    })?;
    for silence in silences {
        figures.add_at(
            CLUSTER,
            "longest time without an ack when the stream's leader is killed",
            "s",
            silence.as_secs_f64(),
        );
    }
    drop(queue);
    ipc_queue::remove(&address)?;
    Ok(())
}

fn work(queue: &ByteQueue, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    while !stop.load(Ordering::Relaxed) {
        // A failed send or ack is repeated, or the message is redelivered.
        if sender.send_timeout(b"on", PATIENCE).is_err() {
            continue;
        }
        let delivery = receiver.recv_timeout(PATIENCE);
        if delivery.is_ok_and(|delivery| delivery.ack().is_ok()) {
            Seen::lock(seen).note();
        }
    }
}

/// Kills the leader, waits until work continues, and restarts the server.
fn kill_leader(cluster: &mut TestCluster, seen: &Mutex<Seen>) -> Result<Duration> {
    let acks = Seen::lock(seen).acks;
    wait_until("messages are acked", || {
        Seen::lock(seen).acks >= acks + ENOUGH
    })?;
    let mut leader = None;
    wait_until("there is a leader with two followers", || {
        leader = cluster.leader_of(QUEUE);
        leader.is_some() && cluster.is_whole(QUEUE)
    })?;
    let leader = leader.context("there is one")?;
    *Seen::lock(seen) = Seen::new();
    cluster.servers[leader].kill();
    wait_until("all goes on", || Seen::lock(seen).acks >= ENOUGH)?;
    let silence = Seen::lock(seen).longest;
    cluster.servers[leader].restart();
    Ok(silence)
}

impl Seen {
    fn new() -> Self {
        Self {
            acks: 0,
            last: Instant::now(),
            longest: Duration::ZERO,
        }
    }

    fn lock(seen: &Mutex<Self>) -> std::sync::MutexGuard<'_, Self> {
        seen.lock().expect("nobody panics with it")
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
