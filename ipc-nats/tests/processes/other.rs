//! Other processes of a test.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use ipc_nats::testing::take_back_after;
use ipc_queue::transport::Wait;
use ipc_queue::{ByteQueue, QueueOptions, SendOptions};

const ADDRESS: &str = "IPC_NATS_OBEYS_AT";
const CREATES: &str = "IPC_NATS_CREATES";
const SAYS: &str = "says ";

/// Another process that obeys commands. Killed when dropped.
pub struct Other {
    child: Child,
    tell: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Other {
    /// Starts this program as another process.
    pub fn start(address: &str) -> Self {
        Self::start_with(address, &[])
    }

    /// Starts a process that creates the queue, and does nothing else.
    pub fn create(address: &str) -> Self {
        Self::start_with(address, &[(CREATES, "1")])
    }

    fn start_with(address: &str, more: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["other::obey_if_requested", "--exact", "--nocapture"])
            .env(ADDRESS, address)
            .envs(more.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let tell = child.stdin.take().expect("it was piped");
        let said = BufReader::new(child.stdout.take().expect("it was piped"));
        Self { child, tell, said }
    }

    pub fn notify(&mut self, what: &str) {
        writeln!(self.tell, "{what}").expect("it lives");
    }

    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.said.read_line(&mut line).expect("it says something") > 0);
            if let Some((_, said)) = line.trim().split_once(SAYS) {
                return said.to_owned();
            }
        }
    }

    pub fn asked(&mut self, what: &str) -> String {
        self.notify(what);
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
fn obey_if_requested() {
    let Ok(address) = std::env::var(ADDRESS) else {
        return;
    };
    ipc_nats::register();
    if std::env::var_os(CREATES).is_some() {
        let created = QueueOptions::new().open_bytes(&address);
        panic!("the wire is cut: {created:?}");
    }
    let queue = ByteQueue::open(&address).expect("it was created");
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let keyed = SendOptions::new().key("the one");
    let mut loans = Vec::new();
    for word in std::io::stdin().lines() {
        let answer = match &*word.expect("a line") {
            "paused?" => queue.transport().is_paused().unwrap().to_string(),
            "closed?" => queue.transport().is_closed().unwrap().to_string(),
            "recv" => match receiver.recv() {
                Ok(delivery) => {
                    let text = String::from_utf8_lossy(delivery.payload()).into_owned();
                    delivery.ack().expect("we hold it");
                    text
                }
                Err(error) => format!("{:?}", error.failure),
            },
            "try_recv" => format!("{:?}", receiver.try_recv().map(drop).unwrap_err()),
            "send" => match sender.try_send(b"no").unwrap_err().failure() {
                Some(failure) => format!("{failure:?}"),
                None => "no room".to_owned(),
            },
            "loan" => {
                loans.push(sender.try_loan(3).expect("a place"));
                "lent".to_owned()
            }
            "loan with the key" => {
                let loan = sender.loan_with(3, &keyed.clone().wait(Wait::No));
                loans.push(loan.expect("the key is free"));
                "lent".to_owned()
            }
            "fill" => {
                let sent = std::iter::repeat_with(|| sender.try_send(b"one of many"));
                sent.take_while(Result::is_ok).count().to_string()
            }
            "requeue for ever" => {
                let letters = queue.transport().dead_letters().unwrap();
                let requeued = queue.transport().requeue(letters[0].id);
                panic!("the wire is cut: {requeued:?}")
            }
            "send for ever" => {
                let sent = sender.send(b"for ever");
                panic!("the wire is cut: {sent:?}")
            }
            "send with the key for ever" => {
                let sent = sender.send_with(b"for ever", &keyed);
                panic!("the wire is cut: {sent:?}")
            }
            "receive three and ack two later" => {
                let three = std::iter::repeat_with(|| receiver.recv().expect("it was sent"));
                let mut three: Vec<_> = three.take(3).collect();
                for delivery in three.drain(..2) {
                    receiver.ack_later(delivery).expect("we hold it");
                }
                let flushed = receiver.flush();
                panic!("the wire is cut: {flushed:?}")
            }
            "give up soon" => {
                take_back_after(Duration::from_millis(100));
                continue;
            }
            "send in time" => {
                let sent = sender.send_timeout(b"in time", Duration::from_secs(20));
                sent.map_or_else(|failure| format!("{failure:?}"), |_| "sent".to_owned())
            }
            other => panic!("what is {other:?}?"),
        };
        println!("{SAYS}{answer}");
    }
}
