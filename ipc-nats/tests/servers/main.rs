//! Failures of real servers and processes, which are killed with SIGKILL.

mod interrupted;

use std::collections::HashSet;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ipc_nats::testing::{
    Program, TestCluster, TestServer, create_in_first_layout, damage_last_headers,
};
use ipc_nats::{Answers, NatsAddress, NatsQueue, Nodes, Put};
use ipc_queue::transport::Wait;
use ipc_queue::{
    Batch, ByteDelivery, ByteQueue, DeadReason, QueueError, QueueOptions, RecvFailure,
    RecvTimeoutError, SendFailure, SendOptions, SendTimeoutError, TryRecvError, TrySendError,
    Unavailable,
};

const A_WHILE: Duration = Duration::from_secs(30);

ipc_nats::on_each_server! {
    nothing_accepted_is_lost_when_the_server_is_killed_and_started_again
    while_the_server_is_away_calls_end_at_their_deadline_with_the_reason
    unsent_messages_take_no_place_when_the_server_is_back
    a_payload_above_the_servers_limit_arrives_whole_and_leaves_nothing
    headers_travel_with_payloads_of_every_size_around_the_servers_limit
    damaged_headers_are_an_error_once_and_then_a_dead_letter
    nothing_accepted_is_lost_when_connections_are_cut
    a_worker_that_lost_its_message_while_stopped_cannot_extend_or_ack_it
    a_killed_workers_message_is_redelivered_and_counts_as_a_crash
    a_message_whose_workers_were_killed_too_often_is_a_dead_letter_with_its_headers
    a_slow_consumer_slows_its_senders_down_and_keeps_its_lease
    nothing_accepted_is_lost_when_one_of_three_servers_is_killed
    a_full_queue_on_three_servers_continues
    a_queue_of_the_first_layout_is_used_as_it_is
    the_first_answer_wins
    nodes_are_listed_while_they_beat_and_not_after_they_left
}

fn open(address: &str) -> ByteQueue {
    ipc_nats::register();
    let options = QueueOptions::new().capacity(64).max_message_bytes(8 << 20);
    options
        .pool_bytes(16 << 20)
        .open_bytes(address)
        .expect("the server is there")
}

fn number(payload: &[u8]) -> u32 {
    u32::from_le_bytes(payload.try_into().expect("four bytes"))
}

/// Sends 0 to `count`, each until it is accepted.
fn send_all(queue: &ByteQueue, count: u32) {
    let sender = queue.sender();
    for number in 0..count {
        let deadline = Instant::now() + A_WHILE;
        while let Err(failure) = sender.send_timeout(&number.to_le_bytes(), A_WHILE) {
            assert!(Instant::now() < deadline, "{failure}");
        }
    }
}

/// Receives until it has had every number.
fn receive_all(queue: &ByteQueue, count: u32) {
    let receiver = queue.receiver();
    let mut seen = HashSet::new();
    let deadline = Instant::now() + 2 * A_WHILE;
    while seen.len() < count as usize {
        assert!(Instant::now() < deadline, "{} of {count} came", seen.len());
        if let Ok(delivery) = receiver.recv_timeout(Duration::from_secs(1)) {
            seen.insert(number(delivery.payload()));
            // A message that could not be acked is redelivered.
            let _ = delivery.ack();
        }
    }
}

#[test]
fn a_server_that_is_not_there_is_named_at_once() {
    ipc_nats::register();
    let error = ByteQueue::open("nats://127.0.0.1:1/jobs").expect_err("nobody listens there");
    assert!(matches!(error, QueueError::Transport(_)));
    let text = error.to_string();
    assert!(
        text.contains("127.0.0.1:1") && text.contains("nats-server -js"),
        "{text}"
    );
}

fn nothing_accepted_is_lost_when_the_server_is_killed_and_started_again(program: &Program) {
    const COUNT: u32 = 400;
    let mut server = TestServer::of(program);
    let queue = open(&server.address("jobs"));
    thread::scope(|scope| {
        scope.spawn(|| send_all(&queue, COUNT));
        let receiver = scope.spawn(|| receive_all(&queue, COUNT));
        for _ in 0..2 {
            while queue.transport().stats().unwrap().sent == 0 {
                thread::yield_now();
            }
            server.restart();
        }
        receiver.join().expect("all came");
    });
}

fn while_the_server_is_away_calls_end_at_their_deadline_with_the_reason(program: &Program) {
    let mut server = TestServer::of(program);
    let queue = open(&server.address("jobs"));
    let (sender, receiver) = (queue.sender(), queue.receiver());
    server.kill();
    let failure = sender.send_timeout(b"lost", Duration::from_secs(1));
    let failure = failure.unwrap_err();
    assert!(is_lost(failure.failure()), "{failure:?}");
    assert!(failure.to_string().contains(&server.host()), "{failure}");
    let nothing = receiver.recv_timeout(Duration::from_secs(1)).err();
    let nothing = nothing.expect("it is away");
    let lost = matches!(
        nothing.failure(),
        None | Some(RecvFailure::Unavailable(Unavailable::Transport { .. }))
    );
    assert!(lost, "{nothing:?}");
    server.restart();
    sender.send_timeout(b"found", A_WHILE).expect("it is back");
    let delivery = receiver.recv_timeout(A_WHILE).expect("it was sent");
    assert_eq!(delivery.payload(), b"found");
    delivery.ack().expect("we hold it");
}

/// Returns `true` if the server did not answer.
fn is_lost(failure: Option<&SendFailure>) -> bool {
    matches!(
        failure,
        Some(SendFailure::Unavailable(Unavailable::Transport { .. }))
    )
}

fn unsent_messages_take_no_place_when_the_server_is_back(program: &Program) {
    let mut server = TestServer::of(program);
    let queue = open(&server.address("jobs"));
    server.kill();
    let failure = queue.sender().send_timeout(b"lost", Duration::from_secs(1));
    assert!(is_lost(failure.unwrap_err().failure()));
    server.restart();
    // This request comes after everything that the client still had to send.
    queue
        .sender()
        .send_timeout(b"found", A_WHILE)
        .expect("it is back");
    let deadline = Instant::now() + A_WHILE / 2;
    while queue.transport().stats().unwrap().in_use() > 1 {
        assert!(
            Instant::now() < deadline,
            "{:?}",
            queue.transport().stats().unwrap()
        );
        thread::yield_now();
    }
}

fn a_payload_above_the_servers_limit_arrives_whole_and_leaves_nothing(program: &Program) {
    let server = TestServer::of(program);
    let queue = open(&server.address("jobs"));
    let large: Vec<u8> = (0..3_000_000_u32).map(|byte| byte as u8).collect();
    queue.sender().try_send(&large).expect("a place");
    let receiver = queue.receiver();
    let delivery = receiver.recv().expect("it was sent");
    assert!(delivery.payload() == large);
    delivery.bury().expect("we hold it");
    let letters = queue.transport().dead_letters().unwrap();
    assert!(letters[0].payload == large);
    assert!(queue.transport().requeue(letters[0].id).unwrap());
    let delivery = receiver.recv().expect("it was sent again");
    assert!(delivery.payload() == large);
    delivery.ack().expect("we hold it");
    assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
}

/// The limit is for headers and payload together.
fn headers_travel_with_payloads_of_every_size_around_the_servers_limit(program: &Program) {
    const LIMIT: usize = 1 << 20;
    let server = TestServer::of(program);
    let queue = open(&server.address("jobs"));
    let (sender, receiver) = (queue.sender(), queue.receiver());
    // The bytes that take the most room when they are encoded.
    let options = SendOptions::new().header("zeroes", [0; 4000]);
    let options = options.expect("this is a header");
    for len in [
        0,
        LIMIT - 21_000,
        LIMIT - 12_000,
        LIMIT - 9000,
        LIMIT,
        2 * LIMIT,
    ] {
        let payload = vec![7; len];
        let sent = sender.send_with(&payload, &options.clone().wait(Wait::No));
        let id = sent.expect("there is a place");
        let same = |delivery: &ByteDelivery<'_>| {
            assert_eq!(
                (delivery.id(), delivery.headers()),
                (id, options.headers.clone())
            );
            assert!(delivery.payload() == payload, "{len} bytes");
        };
        let delivery = receiver.recv().expect("it was sent");
        same(&delivery);
        delivery.bury_with("too \"large\"\n").expect("we hold it");
        let letter = queue.transport().dead_letters().unwrap().remove(0);
        assert_eq!(
            (letter.headers, letter.error),
            (options.headers.clone(), "too \"large\"\n".into())
        );
        assert!(letter.payload == payload, "{len} bytes");
        assert!(queue.transport().requeue(letter.id).unwrap());
        let delivery = receiver.recv().expect("it was requeued");
        same(&delivery);
        delivery.ack().expect("we hold it");
    }
    assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
}

fn damaged_headers_are_an_error_once_and_then_a_dead_letter(program: &Program) {
    let server = TestServer::of(program);
    let address = server.address("jobs");
    let queue = open(&address);
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let options = SendOptions::new().header("tenant", "acme").unwrap();
    let rest = address.strip_prefix("nats:").unwrap();
    let damage = || damage_last_headers(&NatsAddress::parse(rest).unwrap());
    let send = |payload: &[u8]| {
        sender
            .send_with(payload, &options.clone().wait(Wait::No))
            .unwrap()
    };
    // First alone, then after an undamaged one in the same batch.
    send(b"damaged");
    damage();
    let damaged = receiver.recv_timeout(A_WHILE);
    let damaged = damaged.unwrap_err();
    assert!(damaged.is_of_one_message(), "{damaged:?}");
    let [letter] = &queue.transport().dead_letters().unwrap()[..] else {
        panic!("there is one");
    };
    assert_eq!(letter.payload, b"damaged");
    assert!(letter.error.contains("headers"), "{}", letter.error);
    assert!(queue.transport().discard(letter.id).unwrap());
    send(b"whole");
    send(b"damaged");
    damage();
    let mut batch = Batch::new();
    while batch.is_empty() {
        batch = receiver.recv_batch(2, Wait::at_most(A_WHILE)).unwrap();
    }
    assert_eq!((batch.len(), batch[0].payload()), (1, &b"whole"[..]));
    let damaged = receiver.recv_timeout(A_WHILE).map(drop);
    let damaged = damaged.unwrap_err();
    assert!(damaged.is_of_one_message(), "{damaged:?}");
    let next = receiver.try_recv().map(drop);
    assert_eq!(next, Err(TryRecvError::Empty), "it is said once");
    batch.into_iter().for_each(|whole| whole.ack().unwrap());
    let stats = queue.transport().stats().unwrap();
    assert_eq!((stats.in_use(), stats.dead), (1, 1));
}

/// Forwards bytes to a server, until it is told to cut all connections.
struct Wire {
    port: u16,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn to(server: &TestServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let connections: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let (host, known) = (server.host(), Arc::clone(&connections));
        // The thread ends with the process.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&host) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let ends = (from.try_clone(), to.try_clone());
                    let (Ok(mut from), Ok(mut to)) = ends else {
                        continue;
                    };
                    thread::spawn(move || std::io::copy(&mut from, &mut to));
                }
                known
                    .lock()
                    .expect("nobody panics")
                    .extend([client, server]);
            }
        });
        Self { port, connections }
    }

    fn cut(&self) {
        for end in self.connections.lock().expect("nobody panics").drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

fn nothing_accepted_is_lost_when_connections_are_cut(program: &Program) {
    const COUNT: u32 = 300;
    let server = TestServer::of(program);
    let wire = Wire::to(&server);
    let queue = open(&format!("nats://127.0.0.1:{}/jobs", wire.port));
    let direct = open(&server.address("jobs"));
    thread::scope(|scope| {
        scope.spawn(|| send_all(&queue, COUNT));
        let receiver = scope.spawn(|| receive_all(&queue, COUNT));
        for part in 1..4 {
            while queue.transport().stats().unwrap().acked < u64::from(part * COUNT) / 6 {
                thread::yield_now();
            }
            wire.cut();
        }
        receiver.join().expect("all came");
    });
    assert_eq!(direct.transport().stats().unwrap().dead, 0);
}

/// Starts this program as a worker that takes one message and holds it until it is told to ack it.
fn holder(address: &str) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["hold_one_if_requested", "--exact", "--nocapture"])
        .env(HOLD, address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts")
}

const HOLD: &str = "IPC_NATS_HOLD";

#[test]
fn hold_one_if_requested() {
    let Ok(address) = std::env::var(HOLD) else {
        return;
    };
    ipc_nats::register();
    let queue = ByteQueue::open(&address).expect("it was created");
    let receiver = queue.receiver();
    let held = receiver.recv().expect("one comes");
    let told = std::io::stdin().read_line(&mut String::new());
    told.expect("it can be read");
    let extended = held.extend(A_WHILE).map_err(|error| error.failure);
    let acked = held.ack().map_err(|error| error.failure);
    println!("its extension: {extended:?}, its ack: {acked:?}");
}

fn signal(worker: &Child, signal: &str) {
    let id = worker.id().to_string();
    let sent = Command::new("kill").args([signal, &id]).status();
    assert!(sent.expect("there is a kill").success());
}

fn a_worker_that_lost_its_message_while_stopped_cannot_extend_or_ack_it(program: &Program) {
    let server = TestServer::of(program);
    let address = server.address("jobs");
    let queue = open(&address);
    queue.sender().try_send(b"only once").expect("a place");
    let mut worker = holder(&address);
    while queue.transport().leases().expect("it can say").is_empty() {
        thread::yield_now();
    }
    signal(&worker, "-STOP");
    let receiver = queue.receiver();
    let ours = receiver.recv_timeout(A_WHILE).expect("it comes again");
    signal(&worker, "-CONT");
    drop(worker.stdin.take());
    let said = worker.wait_with_output().expect("it ends").stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let lost = "its extension: Err(LeaseLost), its ack: Err(LeaseLost)";
    assert!(said.contains(lost), "{said}");
    ours.extend(A_WHILE).expect("it is ours");
    ours.ack().expect("it is ours");
    assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
}

fn a_killed_workers_message_is_redelivered_and_counts_as_a_crash(program: &Program) {
    let server = TestServer::of(program);
    let address = server.address("jobs");
    let queue = open(&address);
    queue.sender().try_send(b"once more").expect("a place");
    let mut worker = holder(&address);
    let leases = || queue.transport().leases().expect("it can say");
    while leases().is_empty() {
        thread::yield_now();
    }
    assert_eq!(leases()[0].pid, worker.id());
    worker.kill().expect("it lives");
    worker.wait().expect("it ends");
    let receiver = queue.receiver();
    let again = receiver.recv_timeout(A_WHILE).expect("it comes again");
    assert_eq!((again.payload(), again.attempt()), (&b"once more"[..], 2));
    again.bury().expect("we hold it");
    assert_eq!(queue.transport().dead_letters().unwrap()[0].crashes, 1);
}

fn a_message_whose_workers_were_killed_too_often_is_a_dead_letter_with_its_headers(
    program: &Program,
) {
    let server = TestServer::of(program);
    let address = server.address("jobs");
    ipc_nats::register();
    let options = QueueOptions::new().capacity(1).crash_limit(2);
    let queue = options.open_bytes(&address).expect("the server is there");
    let options = SendOptions::new().header("tenant", "a");
    let options = options.expect("this is a header");
    let sent = queue
        .sender()
        .send_with(b"poison", &options.clone().wait(Wait::No));
    sent.expect("there is a place");
    let leases = || queue.transport().leases().expect("it can say");
    for attempt in 1..=2 {
        let mut worker = holder(&address);
        let has_it = || leases().iter().any(|lease| lease.pid == worker.id());
        let deadline = Instant::now() + A_WHILE;
        while !has_it() {
            assert!(Instant::now() < deadline, "attempt {attempt} was not made");
            thread::yield_now();
        }
        assert_eq!(leases()[0].attempt, attempt);
        worker.kill().expect("it lives");
        worker.wait().expect("it ends");
    }
    let receiver = queue.receiver();
    let deadline = Instant::now() + A_WHILE;
    let letters = || queue.transport().dead_letters().expect("it exists");
    while letters().is_empty() {
        assert!(Instant::now() < deadline, "it is no dead letter");
        let nothing = receiver.recv_timeout(Duration::from_millis(200)).err();
        assert!(
            matches!(nothing, Some(RecvTimeoutError::TimedOut { .. })),
            "{nothing:?}"
        );
    }
    let letter = letters().remove(0);
    assert_eq!((letter.reason, letter.crashes), (DeadReason::Crashed, 2));
    assert_eq!((letter.attempts, letter.headers), (2, options.headers));
    assert_eq!(letter.payload, b"poison");
}

fn a_slow_consumer_slows_its_senders_down_and_keeps_its_lease(program: &Program) {
    let server = TestServer::of(program);
    ipc_nats::register();
    let queue = QueueOptions::new()
        .capacity(2)
        .open_bytes(server.address("jobs"));
    let queue = queue.expect("the server is there");
    let sender = queue.sender();
    sender.try_send(b"1").expect("a place");
    sender.try_send(b"2").expect("a place");
    let receiver = queue.receiver();
    let held = receiver.recv().expect("it was sent");
    let full = sender.send_timeout(b"3", Duration::from_millis(50));
    assert!(
        matches!(full, Err(SendTimeoutError::TimedOut { .. })),
        "{full:?}"
    );
    // Longer than the server waits for a sign of life of a holder.
    let other = queue.receiver();
    other.recv().expect("the second").ack().expect("we hold it");
    let nothing = other.recv_timeout(Duration::from_secs(7)).err();
    assert!(
        matches!(nothing, Some(RecvTimeoutError::TimedOut { .. })),
        "{nothing:?}"
    );
    held.ack().expect("we still hold it");
}

fn nothing_accepted_is_lost_when_one_of_three_servers_is_killed(program: &Program) {
    const COUNT: u32 = 300;
    let mut cluster = TestCluster::of(program);
    let queue = open(&cluster.address("jobs"));
    thread::scope(|scope| {
        scope.spawn(|| send_all(&queue, COUNT));
        let receiver = scope.spawn(|| receive_all(&queue, COUNT));
        while queue.transport().stats().unwrap().sent < u64::from(COUNT) / 4 {
            thread::yield_now();
        }
        cluster.servers[0].kill();
        receiver.join().expect("all came");
    });
}

/// Leases, nacks and burials replace a record, which takes no additional place.
fn a_full_queue_on_three_servers_continues(program: &Program) {
    let cluster = TestCluster::of(program);
    ipc_nats::register();
    let queue = QueueOptions::new()
        .capacity(2)
        .open_bytes(cluster.address("jobs"))
        .expect("the servers are there");
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let send = |payload: &[u8]| sender.try_send(payload).expect("a place");
    let full = || matches!(sender.try_send(b"3"), Err(TrySendError::Full { .. }));
    send(b"1");
    send(b"2");
    assert!(full());
    let first = receiver.recv_timeout(A_WHILE).expect("it was sent");
    first.nack().expect("we hold it");
    for _ in 0..2 {
        let delivery = receiver.recv_timeout(A_WHILE).expect("it was sent");
        assert!(full());
        delivery.bury().expect("we hold it");
    }
    assert!(full());
    for letter in queue.transport().dead_letters().unwrap() {
        assert!(queue.transport().requeue(letter.id).unwrap());
    }
    for _ in 0..2 {
        let delivery = receiver.recv_timeout(A_WHILE).expect("it was requeued");
        delivery.ack().expect("we hold it");
        send(b"again");
    }
    assert!(full());
}

fn a_queue_of_the_first_layout_is_used_as_it_is(program: &Program) {
    let server = TestServer::of(program);
    let address = NatsAddress::parse(&format!("//{}/jobs", server.host())).expect("an address");
    create_in_first_layout(&address, 2);
    ipc_nats::register();
    let queue = ByteQueue::open(server.address("jobs")).expect("it was created");
    let (sender, receiver) = (queue.sender(), queue.receiver());
    for _ in 0..3 {
        sender.try_send(b"1").expect("a place");
        sender.try_send(b"2").expect("a place");
        let full = sender.try_send(b"3");
        assert!(matches!(full, Err(TrySendError::Full { .. })), "{full:?}");
        receiver.recv().expect("one").ack().expect("we hold it");
        receiver.recv().expect("two").bury().expect("we hold it");
        let letters = queue.transport().dead_letters().unwrap();
        assert!(queue.transport().requeue(letters[0].id).unwrap());
        receiver.recv().expect("two").ack().expect("we hold it");
    }
    assert_eq!(NatsQueue::remove(&address).ok(), Some(true));
}

fn the_first_answer_wins(program: &Program) {
    let server = TestServer::of(program);
    let address = NatsAddress::parse(&format!("//{}/results", server.host())).expect("an address");
    let answers = Answers::open(&address, None).expect("the server is there");
    assert_eq!(answers.get("job 1"), Ok(None));
    thread::scope(|scope| {
        let puts = ["a", "b", "c"].map(|answer| {
            let answers = &answers;
            scope.spawn(move || {
                (
                    answer,
                    answers.put("job 1", answer.as_bytes()).expect("put"),
                )
            })
        });
        let waited = answers
            .wait("job 1", Wait::at_most(A_WHILE))
            .expect("one comes");
        let puts = puts.map(|put| put.join().expect("it was put"));
        let first: Vec<_> = puts.iter().filter(|(_, put)| *put == Put::First).collect();
        assert_eq!(first.len(), 1, "{puts:?}");
        assert_eq!(waited, first[0].0.as_bytes());
        for (_, put) in puts.iter().filter(|(_, put)| *put != Put::First) {
            assert_eq!(
                *put,
                Put::Late {
                    first: waited.clone()
                }
            );
        }
    });
}

fn nodes_are_listed_while_they_beat_and_not_after_they_left(program: &Program) {
    let server = TestServer::of(program);
    let address = NatsAddress::parse(&format!("//{}/group", server.host())).expect("an address");
    let nodes = Nodes::open(&address).expect("the server is there");
    let one = nodes.join("worker").expect("joined");
    let _two = nodes.join("worker").expect("joined");
    let alive = nodes.alive(A_WHILE).expect("the server is there");
    let ours = |node: &ipc_nats::Node| (node.name == "worker", node.pid == std::process::id());
    assert_eq!(
        alive.iter().map(ours).collect::<Vec<_>>(),
        [(true, true); 2]
    );
    drop(one);
    assert_eq!(nodes.list().expect("the server is there").len(), 1);
}
