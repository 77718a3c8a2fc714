//! What one process does to a queue, another sees: closing, pausing, dying in the middle of a send. Real processes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipc_nats::testing::{TestServer, is_installed};
use ipc_queue::transport::Wait;
use ipc_queue::{ByteQueue, QueueOptions, SendFailure, SendOptions};

const A_WHILE: Duration = Duration::from_secs(30);
const ADDRESS: &str = "IPC_NATS_OBEYS_AT";
const SAYS: &str = "says ";

fn create(server: &TestServer, options: &QueueOptions) -> (String, ByteQueue) {
    ipc_nats::register();
    let address = server.address("jobs");
    let queue = options.open_bytes(&address).expect("the server is there");
    (address, queue)
}

/// Another process that does what it is told. Killed when dropped.
struct Other {
    child: Child,
    tell: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Other {
    /// This program again.
    fn start(address: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["obey_if_told_to", "--exact", "--nocapture"])
            .env(ADDRESS, address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let tell = child.stdin.take().expect("it was piped");
        let said = BufReader::new(child.stdout.take().expect("it was piped"));
        Self { child, tell, said }
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.tell, "{what}").expect("it lives");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.said.read_line(&mut line).expect("it says something") > 0);
            if let Some((_, said)) = line.trim().split_once(SAYS) {
                return said.to_owned();
            }
        }
    }

    fn asked(&mut self, what: &str) -> String {
        self.tell(what);
        self.answer()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn obey_if_told_to() {
    let Ok(address) = std::env::var(ADDRESS) else {
        return;
    };
    ipc_nats::register();
    let queue = ByteQueue::open(&address).expect("it was created");
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let keyed = SendOptions::new().key("the one");
    let mut loans = Vec::new();
    for word in std::io::stdin().lines() {
        let answer = match &*word.expect("a line") {
            "paused?" => queue.transport().is_paused().to_string(),
            "closed?" => queue.transport().is_closed().to_string(),
            "recv" => match receiver.recv() {
                Ok(delivery) => {
                    let text = String::from_utf8_lossy(delivery.payload()).into_owned();
                    delivery.ack().expect("we hold it");
                    text
                }
                Err(error) => format!("{error:?}"),
            },
            "try_recv" => format!("{:?}", receiver.try_recv().map(drop).unwrap_err()),
            "send" => format!("{:?}", sender.try_send(b"no").unwrap_err()),
            "loan" => {
                loans.push(sender.try_loan(3).expect("a place"));
                "lent".to_owned()
            }
            "loan with the key" => {
                let loan = sender.loan_with(3, &keyed, Wait::No);
                loans.push(loan.expect("the key is free"));
                "lent".to_owned()
            }
            other => panic!("what is {other:?}?"),
        };
        println!("{SAYS}{answer}");
    }
}

fn wait_for(other: &mut Other, question: &str) {
    let deadline = Instant::now() + A_WHILE;
    while other.asked(question) != "true" {
        assert!(Instant::now() < deadline, "{question}");
        thread::yield_now();
    }
}

#[test]
fn a_queue_that_another_process_pauses_delivers_nothing_until_it_is_resumed() {
    if !is_installed() {
        return;
    }
    let server = TestServer::start();
    let (address, queue) = create(&server, &QueueOptions::new());
    let mut other = Other::start(&address);
    queue.transport().pause().expect("it can");
    wait_for(&mut other, "paused?");
    queue.sender().try_send(b"later").expect("a place");
    assert_eq!(other.asked("try_recv"), "Paused");
    other.tell("recv");
    queue.transport().resume().expect("it can");
    assert_eq!(other.answer(), "later");
}

#[test]
fn a_queue_that_another_process_closes_takes_nothing_and_drains() {
    if !is_installed() {
        return;
    }
    let server = TestServer::start();
    let (address, queue) = create(&server, &QueueOptions::new());
    let mut other = Other::start(&address);
    queue.sender().try_send(b"the last").expect("a place");
    queue.transport().close();
    wait_for(&mut other, "closed?");
    assert_eq!(other.asked("send"), "Closed");
    assert_eq!(other.asked("recv"), "the last");
    assert_eq!(other.asked("recv"), "Closed");
}

#[test]
fn a_receiver_that_waits_hears_that_another_process_closed_the_queue() {
    if !is_installed() {
        return;
    }
    let server = TestServer::start();
    let (address, queue) = create(&server, &QueueOptions::new());
    let mut other = Other::start(&address);
    other.tell("recv");
    queue.transport().close();
    assert_eq!(other.answer(), "Closed");
}

#[test]
fn the_place_of_a_killed_sender_is_taken_back() {
    if !is_installed() {
        return;
    }
    let server = TestServer::start();
    let (address, queue) = create(&server, &QueueOptions::new().capacity(1));
    let mut other = Other::start(&address);
    assert_eq!(other.asked("loan"), "lent");
    let sender = queue.sender();
    let full = sender.try_send(b"no");
    assert!(matches!(full, Err(SendFailure::Full { .. })), "{full:?}");
    drop(other);
    let sent = sender.send_timeout(b"now there is room", A_WHILE);
    sent.expect("its place was taken back");
    let counts = queue.transport().stats();
    assert_eq!((counts.in_use(), counts.ready), (1, 1));
}

#[test]
fn a_killed_sender_does_not_keep_a_closed_queue_from_draining() {
    if !is_installed() {
        return;
    }
    let server = TestServer::start();
    let (address, queue) = create(&server, &QueueOptions::new());
    let mut other = Other::start(&address);
    assert_eq!(other.asked("loan"), "lent");
    drop(other);
    let drained = queue.transport().drain(Wait::at_most(A_WHILE));
    assert_eq!(drained, Ok(()));
}

#[test]
fn a_killed_senders_key_is_free_again_at_once_and_a_living_ones_is_not() {
    if !is_installed() {
        return;
    }
    let server = TestServer::start();
    let keys = QueueOptions::new().dedup_window(Duration::from_secs(3600));
    let (address, queue) = create(&server, &keys);
    let mut other = Other::start(&address);
    assert_eq!(other.asked("loan with the key"), "lent");
    let (sender, keyed) = (queue.sender(), SendOptions::new().key("the one"));
    let taken = sender.send_with(b"one", &keyed, Wait::No);
    assert_eq!(taken, Err(SendFailure::KeyInUse));
    drop(other);
    let deadline = Instant::now() + A_WHILE;
    let first = loop {
        match sender.send_with(b"one", &keyed, Wait::No) {
            // Until the server has noticed, too.
            Err(SendFailure::KeyInUse) => assert!(Instant::now() < deadline, "it is not free"),
            other => break other,
        }
    };
    assert!(first.is_ok(), "{first:?}");
    assert_eq!(sender.send_with(b"two", &keyed, Wait::No), first);
    assert_eq!(queue.transport().stats().in_use(), 1);
}
