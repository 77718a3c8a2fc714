//! `ipc bridge`, killed for real, as often as it can be.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipc_queue::{ByteQueue, QueueOptions, QueueSettings, RecvError};
use serde_json::Value;

/// How long anything may take before the test counts as stuck. Says nothing about speed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Two queues of the test's own, removed at its end.
struct Banks {
    from: String,
    to: String,
}

impl Banks {
    fn new(test: &str) -> Self {
        let place = format!("shm:cli-{}-{test}", std::process::id());
        Self {
            from: format!("{place}/from"),
            to: format!("{place}/to"),
        }
    }

    fn bridge(&self, args: &[&str]) -> Bridge {
        let child = Command::new(env!("CARGO_BIN_EXE_ipc"))
            .args(["bridge", &self.from, &self.to, "--json"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn();
        Bridge(child.unwrap())
    }
}

impl Drop for Banks {
    fn drop(&mut self) {
        for address in [&self.from, &self.to] {
            let _ = ipc_queue::remove(address);
        }
    }
}

/// A process that ends with its test.
struct Bridge(Child);

impl Bridge {
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn figures(mut self) -> Value {
        let said = self.0.stdout.take().unwrap();
        let figures = serde_json::from_reader(said).unwrap();
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
        figures
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn number_in(payload: &[u8]) -> u32 {
    u32::from_le_bytes(*payload.first_chunk().unwrap())
}

/// How often each came, until the queue is closed and drained.
fn receive_all(queue: &ByteQueue) -> HashMap<u32, u32> {
    let mut came = HashMap::new();
    let receiver = queue.receiver();
    loop {
        match receiver.recv_timeout(PATIENCE) {
            Ok(delivery) => {
                *came.entry(number_in(delivery.payload())).or_default() += 1;
                delivery.ack().unwrap();
            }
            Err(RecvError::Closed) => return came,
            Err(error) => panic!("{} came, then: {error}", came.len()),
        }
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        thread::yield_now();
    }
}

#[test]
fn a_bridge_killed_again_and_again_carries_each_message_once() {
    const MESSAGES: u32 = 20_000;
    const KILLS: u64 = 40;
    let banks = Banks::new("kills");
    let from = QueueOptions::new()
        .capacity(256)
        .attempt_limit(QueueSettings::MAX_ATTEMPTS);
    let from = from.open_bytes(&banks.from).unwrap();
    let to = QueueOptions::new()
        .capacity(256)
        .dedup_window(Duration::from_secs(3600))
        .dedup_keys(1 << 16);
    let to = to.open_bytes(&banks.to).unwrap();
    let came = thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let sender = from.sender();
            for number in 0..MESSAGES {
                sender.send(&number.to_le_bytes()).unwrap();
            }
        });
        let receiver = scope.spawn(|| receive_all(&to));
        let mut random = fastrand::Rng::with_seed(7);
        let arrived = || to.transport().stats().sent;
        for _ in 0..KILLS {
            let bridge = banks.bridge(&["--batch", "8"]);
            // Somewhere in the middle of its work, or of its beginning.
            let more = arrived() + random.u64(0..u64::from(MESSAGES) / (2 * KILLS));
            let more = more.min(MESSAGES.into());
            wait_until("messages arrive", || arrived() >= more);
            bridge.kill();
        }
        // Its end while the producer is still at it.
        let bridge = banks.bridge(&["--drain"]);
        producer.join().unwrap();
        from.transport().close();
        assert_eq!(bridge.figures()["exactly_once"], true);
        to.transport().close();
        receiver.join().unwrap()
    });
    let twice: Vec<_> = came.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "not once each: {twice:?}");
    assert_eq!(came.len() as u32, MESSAGES);
    let stats = from.transport().stats();
    assert_eq!(stats.in_use(), 0);
    // One that is killed between an ack and its being counted takes that one count with it.
    let uncounted = u64::from(MESSAGES) - stats.acked;
    assert!(uncounted <= KILLS, "{uncounted} acks are missing");
    assert!(stats.redelivered > 0, "no kill hit a message in hand");
}

#[test]
fn a_bridge_told_to_stop_settles_what_it_holds() {
    let banks = Banks::new("stop");
    let from = QueueOptions::new().open_bytes(&banks.from).unwrap();
    from.sender().send(b"one").unwrap();
    let bridge = banks.bridge(&["--create"]);
    wait_until("it is carried", || from.transport().stats().acked == 1);
    let pid = nix::unistd::Pid::from_raw(bridge.0.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(bridge.figures()["messages"], 1);
    assert_eq!(from.transport().stats().in_use(), 0);
    let to = QueueOptions::new().open_any(&banks.to).unwrap();
    assert_eq!(to.receiver().try_recv().unwrap().payload(), b"one");
}
