//! Control messages between real processes, some of which are killed.
//!
//! The other processes are this test program again, as its test `role`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use ipc_node::{ControlError, Node, Registry};
use ipc_queue::transport::{OpenMode, OpenRequest};
use ipc_queue::{ByteQueue, Name, QueueSettings, ShmQueue, TryRecvError, TrySendError};
use ipc_shm::Namespace;
use serde::{Deserialize, Serialize};

const FOLDER: &str = "IPC_CONTROL_TEST_FOLDER";
const NODE: &str = "IPC_CONTROL_TEST_NODE";
const PATIENCE: Duration = Duration::from_secs(60);
const CAPACITY: u32 = 4;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Word {
    SlowDown(u32),
    Stop,
}

fn namespace(folder: &Path) -> Namespace {
    Namespace::in_folder(folder.join("root"), "control").unwrap()
}

fn data(folder: &Path) -> ByteQueue {
    let request = OpenRequest {
        mode: OpenMode::OpenOrCreate,
        settings: QueueSettings::with_capacity(CAPACITY),
        ..OpenRequest::default()
    };
    let queue = ShmQueue::open(&namespace(folder), &Name::new("data").unwrap(), &request);
    ByteQueue::over(std::sync::Arc::new(queue.unwrap()))
}

/// Not a test, unless this binary was started as another test's process: a node that prints the
/// messages that it gets.
#[test]
fn role() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let node = Node::join(
        &namespace(Path::new(&folder)),
        &std::env::var(NODE).unwrap(),
    )
    .unwrap();
    let inbox = node.inbox::<Word>().unwrap();
    println!("\n@listening");
    loop {
        let word = inbox.recv().unwrap();
        println!("\n@{word:?}");
        if word == Word::Stop {
            return;
        }
    }
}

struct Other {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Other {
    fn start(folder: &Path, node: &str) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .args(["--exact", "role", "--nocapture"])
            .env(FOLDER, folder)
            .env(NODE, node)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut other = Self { child, said };
        assert_eq!(other.hear(), "listening");
        other
    }

    fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "it ended");
            if let Some(said) = line.trim_end().strip_prefix('@') {
                return said.to_owned();
            }
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder() -> tempfile::TempDir {
    let mut folder = tempfile::Builder::new();
    folder.prefix("ipc-test-").tempdir_in("/dev/shm").unwrap()
}

fn inboxes(namespace: &Namespace) -> usize {
    let names = ShmQueue::list(namespace).unwrap();
    let inboxes = names
        .iter()
        .filter(|name| name.as_str().ends_with(".inbox"));
    inboxes.count()
}

#[test]
fn control_reaches_every_node_or_a_named_one_and_does_not_wait_behind_data() {
    let folder = folder();
    let data = data(folder.path());
    for _ in 0..CAPACITY {
        data.sender().try_send(b"work").unwrap();
    }
    let full = data.sender().try_send(b"more work");
    assert!(matches!(full, Err(TrySendError::Full { .. })), "{full:?}");
    data.transport().pause().unwrap();
    let node = Node::join(&namespace(folder.path()), "coordinator").unwrap();
    let mut others = ["one", "two", "three"].map(|name| Other::start(folder.path(), name));
    let report = node.broadcast(&Word::SlowDown(2)).unwrap();
    assert_eq!((report.reached.len(), report.missed.len()), (3, 0));
    for other in &mut others {
        assert_eq!(other.hear(), "SlowDown(2)");
    }
    node.send_to("two", &Word::Stop).unwrap();
    let [one, two, three] = &mut others;
    assert_eq!(two.hear(), "Stop");
    for other in [one, three] {
        node.broadcast(&Word::SlowDown(3)).unwrap();
        assert_eq!(other.hear(), "SlowDown(3)", "it was report to stop as well");
    }
    assert_eq!(data.transport().stats().unwrap().ready, u64::from(CAPACITY));
}

#[test]
fn the_successor_of_a_dead_node_gets_none_of_its_messages() {
    let folder = folder();
    let namespace = namespace(folder.path());
    let mut other = Other::start(folder.path(), "worker");
    other.kill();
    let registry = Registry::open(&namespace).unwrap();
    let gone = registry.send_to("worker", &Word::Stop);
    assert!(
        matches!(gone, Err(ControlError::NoSuchNode { .. })),
        "{gone:?}"
    );
    assert_eq!(inboxes(&namespace), 1, "what the dead left");
    let node = Node::join(&namespace, "worker").unwrap();
    assert_eq!(inboxes(&namespace), 0);
    let deaf = registry.send_to("worker", &Word::Stop);
    assert!(
        matches!(deaf, Err(ControlError::NotListening { .. })),
        "{deaf:?}"
    );
    let inbox = node.inbox::<Word>().unwrap();
    assert_eq!(inbox.try_recv(), Err(TryRecvError::Empty));
    registry.send_to("worker", &Word::Stop).unwrap();
    assert_eq!(inbox.recv_timeout(PATIENCE), Ok(Word::Stop));
    let twice = node.inbox::<Word>();
    assert!(matches!(twice, Err(ControlError::Listening)), "{twice:?}");
    drop((inbox, node));
    assert_eq!(inboxes(&namespace), 0);
}

#[test]
fn a_node_that_does_not_read_blocks_no_other_and_is_named() {
    let folder = folder();
    let namespace = namespace(folder.path());
    let (node, deaf) = (
        Node::join(&namespace, "speaker").unwrap(),
        Node::join(&namespace, "deaf").unwrap(),
    );
    let inbox = deaf.inbox::<Word>().unwrap();
    let full = (0..1000).find_map(|n| node.send_to("deaf", &Word::SlowDown(n)).err());
    let Some(ControlError::Full {
        node: named,
        unread,
    }) = full
    else {
        panic!("{full:?}");
    };
    assert_eq!(named, "deaf");
    let report = node.broadcast(&Word::Stop).unwrap();
    assert!(
        matches!(&report.missed[..], [(name, ControlError::Full { .. })] if name == "deaf"),
        "{report:?}"
    );
    for n in 0..unread {
        assert_eq!(inbox.try_recv(), Ok(Word::SlowDown(n)));
    }
    node.send_to("deaf", &Word::Stop).unwrap();
    assert_eq!(inbox.recv(), Ok(Word::Stop));
}
