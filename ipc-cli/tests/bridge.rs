//! `ipc bridge`, really killed, as often as possible.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use ipc_nats::testing::{TestCluster, TestServer};
use ipc_queue::transport::Wait;
use ipc_queue::{ByteQueue, Headers, QueueOptions, QueueSettings, SendOptions, Until};
use serde_json::Value;

/// Time after which a test counts as stuck. It says nothing about speed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Two queues that belong to the test and are removed at its end.
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
        bridge(&self.from, &self.to, args)
    }
}

fn bridge(from: &str, to: &str, args: &[&str]) -> Bridge {
    let child = Command::new(env!("CARGO_BIN_EXE_ipc"))
        .args(["bridge", from, to, "--json"])
        .args(args)
        .stdout(Stdio::piped())
        .spawn();
    Bridge(child.unwrap())
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

/// Receives until the queue is closed and drained. Returns how often each message arrived.
fn receive_all(queue: &ByteQueue) -> HashMap<u32, u32> {
    let mut came = HashMap::new();
    let receiver = queue.receiver();
    loop {
        match receiver.recv_timeout(PATIENCE) {
            Ok(delivery) => {
                *came.entry(number_in(delivery.payload())).or_default() += 1;
                delivery.ack().unwrap();
            }
            Err(error) if error.is_closed() => return came,
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

/// Starts bridges and kills each at some point of its start or its work.
fn kill_again_and_again(
    start: impl Fn() -> Bridge,
    arrived: impl Fn() -> u64,
    messages: u64,
    kills: u64,
) {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..kills {
        let bridge = start();
        let more = arrived() + random.u64(0..messages / (2 * kills));
        let more = more.min(messages);
        wait_until("messages arrive", || arrived() >= more);
        bridge.kill();
    }
}

#[test]
fn a_bridge_killed_again_and_again_carries_each_message_once() {
    const MESSAGES: u32 = 20_000;
    const KILLS: u64 = 40;
    let banks = Banks::new("kills");
    let from = QueueOptions::new()
        .capacity(256)
        .attempt_limit(QueueSettings::MAX_ATTEMPTS)
        .crash_limit(QueueSettings::MAX_ATTEMPTS);
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
        kill_again_and_again(
            || banks.bridge(&["--batch", "8"]),
            || to.transport().stats().unwrap().sent,
            MESSAGES.into(),
            KILLS,
        );
        // It ends while the producer is still sending.
        let bridge = banks.bridge(&["--drain"]);
        producer.join().unwrap();
        from.transport().close().unwrap();
        assert_eq!(bridge.figures()["exactly_once"], true);
        to.transport().close().unwrap();
        receiver.join().unwrap()
    });
    let twice: Vec<_> = came.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "not once each: {twice:?}");
    assert_eq!(came.len() as u32, MESSAGES);
    let stats = from.transport().stats().unwrap();
    assert_eq!(stats.in_use(), 0);
    // A bridge that is killed between an ack and the count of it loses that one count.
    let uncounted = u64::from(MESSAGES) - stats.acked;
    assert!(uncounted <= KILLS, "{uncounted} acks are missing");
    assert!(stats.redelivered > 0, "no kill hit a message in hand");
}

#[test]
fn bridges_into_a_cluster_and_back_killed_again_and_again_carry_each_message_once() {
    if !ipc_nats::testing::is_installed() {
        return;
    }
    const MESSAGES: u32 = 400;
    const KILLS: u64 = 8;
    ipc_nats::register();
    let cluster = TestCluster::start();
    let banks = Banks::new("cluster");
    let middle = cluster.address("middle");
    let options = QueueOptions::new()
        .attempt_limit(QueueSettings::MAX_ATTEMPTS)
        .crash_limit(QueueSettings::MAX_ATTEMPTS)
        .dedup_window(Duration::from_secs(3600));
    let open = |address: &str| options.open_bytes(address).unwrap();
    let (from, over, to) = (open(&banks.from), open(&middle), open(&banks.to));
    let sender = from.sender();
    for number in 0..MESSAGES {
        sender.send(&number.to_le_bytes()).unwrap();
    }
    from.transport().close().unwrap();
    let there = |args: &[&str]| bridge(&banks.from, &middle, args);
    let back = |args: &[&str]| bridge(&middle, &banks.to, args);
    let came = thread::scope(|scope| {
        let receiver = scope.spawn(|| receive_all(&to));
        scope.spawn(|| {
            let acked = || from.transport().stats().unwrap().acked;
            kill_again_and_again(|| there(&["--batch", "8"]), acked, MESSAGES.into(), KILLS);
            assert_eq!(there(&["--drain"]).figures()["exactly_once"], true);
            over.transport().close().unwrap();
        });
        let arrived = || to.transport().stats().unwrap().sent;
        kill_again_and_again(|| back(&["--batch", "8"]), arrived, MESSAGES.into(), KILLS);
        assert_eq!(back(&["--drain"]).figures()["exactly_once"], true);
        to.transport().close().unwrap();
        receiver.join().unwrap()
    });
    let twice: Vec<_> = came.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "not once each: {twice:?}");
    assert_eq!(came.len() as u32, MESSAGES);
    assert_eq!(over.transport().stats().unwrap().in_use(), 0);
    assert!(
        from.transport().stats().unwrap().redelivered > 0,
        "no kill hit a message in hand"
    );
}

#[test]
fn headers_travel_from_a_queue_over_a_server_to_another_queue() {
    if !ipc_nats::testing::is_installed() {
        return;
    }
    const MESSAGES: u8 = 20;
    ipc_nats::register();
    let server = TestServer::start();
    let options = QueueOptions::new().dedup_window(Duration::from_secs(3600));
    let open = |address: &str| options.open_bytes(address).unwrap();
    let from = open("local:bridge-headers-from");
    let middle = open(&server.address("middle"));
    let to = open("local:bridge-headers-to");
    let headers = |number: u8| {
        let mut headers = Headers::new();
        headers.insert("tenant", [number, 0, b'\n', 0xff]).unwrap();
        headers.insert("content-type", "image/png").unwrap();
        headers
    };
    let sender = from.sender();
    for number in 0..MESSAGES {
        let with = SendOptions::new().headers(headers(number));
        sender
            .send_with(&[number], &with.clone().wait(Wait::No))
            .unwrap();
    }
    for (from, to) in [(&from, &middle), (&middle, &to)] {
        from.transport().close().unwrap();
        let bridge = ipc_queue::Bridge::new(from.clone(), to.clone());
        let carried = bridge.run(Until::Drained, &AtomicBool::new(false), |_| {});
        let carried = carried.unwrap();
        let counts = (carried.messages, carried.without_headers);
        assert_eq!(counts, (MESSAGES.into(), 0));
    }
    let receiver = to.receiver();
    for number in 0..MESSAGES {
        let delivery = receiver.try_recv().unwrap();
        assert_eq!(delivery.payload(), [number]);
        assert_eq!(delivery.headers(), headers(number));
        delivery.ack().unwrap();
    }
}

#[test]
fn a_stopped_bridge_settles_its_messages() {
    let banks = Banks::new("stop");
    let from = QueueOptions::new().open_bytes(&banks.from).unwrap();
    from.sender().send(b"one").unwrap();
    let bridge = banks.bridge(&["--create"]);
    wait_until("it is carried", || {
        from.transport().stats().unwrap().acked == 1
    });
    let pid = nix::unistd::Pid::from_raw(bridge.0.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(bridge.figures()["messages"], 1);
    assert_eq!(from.transport().stats().unwrap().in_use(), 0);
    let to = QueueOptions::new().open_any(&banks.to).unwrap();
    assert_eq!(to.receiver().try_recv().unwrap().payload(), b"one");
}
