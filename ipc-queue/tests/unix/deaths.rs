//! Clients and servers that are killed with SIGKILL: real processes, the test binary itself, run
//! again in a role.
//!
//! A process writes lines to its standard output. Tests wait only for these lines and for the
//! queue.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ipc_queue::conformance::{content, number_in};
use ipc_queue::transport::{OpenMode, OpenRequest, Transport};
use ipc_queue::{
    ByteQueue, LocalQueue, Name, QueueOptions, RecvFailure, SendFailure, SettleFailure, ShmQueue,
    TryRecvError, Unavailable, UnixServer,
};
use ipc_shm::Namespace;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

const ROLE: &str = "IPC_QUEUE_TEST_UNIX_ROLE";
const FOLDER: &str = "IPC_QUEUE_TEST_UNIX_FOLDER";
/// Distinguishes a role's lines from those of the test harness around it.
const MARK: char = '@';
/// Time after which a test counts as stuck. It says nothing about speed.
const PATIENCE: Duration = Duration::from_secs(120);
/// A size that travels in a memory file.
const LARGE: usize = 200_000;

/// A folder with a socket, and perhaps a namespace of shared memory. It must be empty at the end.
struct Stage(TempDir);

impl Stage {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("ipc-queue-test-")
            .tempdir_in("/dev/shm");
        Self(folder.unwrap())
    }

    fn socket(&self) -> PathBuf {
        socket(self.0.path())
    }

    fn serve_local(&self) -> (UnixServer, Arc<dyn Transport>) {
        let name = Name::new(&format!("deaths-{:016x}", fastrand::u64(..))).unwrap();
        let queue = Arc::new(LocalQueue::open(&name, &OpenRequest::default()).unwrap());
        let server = UnixServer::bind(self.socket(), queue.clone()).unwrap();
        (server, queue)
    }

    fn open(&self) -> ByteQueue {
        open(&self.socket())
    }

    fn start(&self, role: &str) -> Process {
        Process::start(self.0.path(), role, None)
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("x.sock")
}

fn open(path: &Path) -> ByteQueue {
    let options = QueueOptions::new().mode(OpenMode::Open);
    options
        .open_bytes(format!("unix:{}", path.display()))
        .unwrap()
}

struct Process {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Process {
    fn start(folder: &Path, role: &str, uid: Option<u32>) -> Self {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["--exact", "role", "--nocapture", "--quiet"])
            .env(ROLE, role)
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(uid) = uid {
            command.uid(uid);
        }
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            self.said.read_line(&mut line).unwrap();
            let whole = line
                .strip_suffix('\n')
                .expect("the process writes a line before it ends");
            if let Some(said) = whole.strip_prefix(MARK) {
                return said.to_owned();
            }
        }
    }

    /// Stops the process. Returns when it is stopped.
    fn stop(&self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGSTOP).unwrap();
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    }

    /// Kills the process. Returns when it is gone.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_client_killed_with_a_lease_returns_it_at_once() {
    let stage = Stage::new();
    let (server, _queue) = stage.serve_local();
    let queue = stage.open();
    let receiver = queue.receiver();
    for (number, len) in [(1, 16), (2, LARGE)] {
        let id = queue.sender().send(&content(number, len)).unwrap();
        let mut client = stage.start("hold");
        assert_eq!(client.hear(), format!("got {number}, attempt 1"));
        assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
        // The holder is the client, not the server.
        let leases = queue.transport().leases().unwrap();
        assert_eq!((leases.len(), leases[0].pid), (1, client.child.id()));
        let waiting = thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let receiver = queue.receiver();
                let delivery = receiver.recv_timeout(PATIENCE).unwrap();
                let got = (
                    number_in(delivery.payload()),
                    delivery.attempt(),
                    delivery.id(),
                );
                delivery.ack().unwrap();
                got
            });
            client.kill();
            waiting.join().unwrap()
        });
        assert_eq!(waiting, (number, 2, id));
    }
    assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
    assert!(queue.transport().leases().unwrap().is_empty());
    drop(server);
}

#[test]
fn a_client_killed_with_a_loan_leaves_its_place_free() {
    let stage = Stage::new();
    let (server, _queue) = stage.serve_local();
    let queue = stage.open();
    let mut client = stage.start("lend");
    assert_eq!(client.hear(), "lent");
    assert_eq!(queue.transport().stats().unwrap().writing, 1);
    client.kill();
    let until = Instant::now() + PATIENCE;
    while queue.transport().stats().unwrap().in_use() > 0 {
        assert!(Instant::now() < until, "the place is not free");
        thread::yield_now();
    }
    drop(server);
}

#[test]
fn a_killed_server_is_a_typed_error_for_all_clients_and_not_a_hang() {
    let stage = Stage::new();
    let mut server = stage.start("serve local");
    assert_eq!(server.hear(), "serving");
    let queue = stage.open();
    let (sender, receiver) = (queue.sender(), queue.receiver());
    sender.send(b"held").unwrap();
    let held = receiver.recv().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let receiver = queue.receiver();
            receiver.recv().map(drop)
        });
        // The process is asleep, or about to be.
        while queue.transport().stats().unwrap().received == 0 {
            thread::yield_now();
        }
        server.kill();
        let ended = waiting.join().unwrap();
        let ended = ended.unwrap_err();
        assert!(
            matches!(&ended.failure, RecvFailure::Unavailable(cause) if is_lost(cause)),
            "{ended:?}"
        );
    });
    let settled = held.ack();
    let settled = settled.unwrap_err();
    let lost = match &settled.failure {
        SettleFailure::LeaseLost => true,
        SettleFailure::Unavailable(cause) => is_lost(cause),
        _ => false,
    };
    assert!(lost, "{settled:?}");
    let refused = sender.send(b"more").unwrap_err();
    assert!(
        matches!(&refused.failure, SendFailure::Unavailable(cause) if is_lost(cause)),
        "{refused:?}"
    );
    let refused = receiver.try_recv().map(drop).unwrap_err();
    assert!(
        matches!(refused.failure(), Some(RecvFailure::Unavailable(cause)) if is_lost(cause)),
        "{refused:?}"
    );

    // Its socket is stale. The next server replaces it and serves another queue.
    let mut next = stage.start("serve local");
    assert_eq!(next.hear(), "serving");
    assert_eq!(
        sender.send(b"more").unwrap_err().failure,
        Unavailable::Removed.into()
    );
    assert_eq!(
        receiver.try_recv().unwrap_err().failure(),
        Some(&Unavailable::Removed.into())
    );
    stage.open().sender().send(b"anew").unwrap();
    next.kill();
    std::fs::remove_file(stage.socket()).unwrap();
}

/// Returns whether the connection has ended.
fn is_lost(cause: &Unavailable) -> bool {
    matches!(cause, Unavailable::Transport { .. })
}

#[test]
fn a_queue_in_shared_memory_is_available_again_with_its_next_server() {
    let stage = Stage::new();
    let mut server = stage.start("serve shm");
    assert_eq!(server.hear(), "serving");
    let queue = stage.open();
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let ids: Vec<_> = (1..=3)
        .map(|number| sender.send(&content(number, LARGE)).unwrap())
        .collect();
    let held = receiver.recv().unwrap();
    assert_eq!((held.id(), held.attempt()), (ids[0], 1));
    server.kill();
    let mut server = stage.start("serve shm");
    assert_eq!(server.hear(), "serving");
    // The delivery was lost with the connection. The handles continue over new connections.
    assert!(held.ack().unwrap_err().is_lease_lost());
    sender.send(&content(4, 16)).unwrap();
    let mut got: Vec<_> = (0..4)
        .map(|_| {
            let delivery = receiver.recv_timeout(PATIENCE).unwrap();
            let got = (
                number_in(delivery.payload()),
                delivery.attempt(),
                delivery.id(),
            );
            delivery.ack().unwrap();
            got
        })
        .collect();
    got.sort_unstable();
    let expected = [(1, 2, ids[0]), (2, 1, ids[1]), (3, 1, ids[2])];
    assert_eq!(got[..3], expected);
    assert_eq!((got[3].0, got[3].1), (4, 1));
    server.kill();
    let namespace = namespace(stage.0.path());
    assert!(ShmQueue::remove(&namespace, &jobs()).unwrap());
    std::fs::remove_file(stage.socket()).unwrap();
}

/// The server is stopped, so that it reads no ack before it dies. Its successor delivers the messages
/// again.
#[test]
fn a_server_killed_before_a_flush_has_lost_no_message_and_the_flush_reports_each() {
    let stage = Stage::new();
    let mut server = stage.start("serve shm");
    assert_eq!(server.hear(), "serving");
    let queue = stage.open();
    let receiver = queue.receiver();
    let ids: Vec<_> = (1..=3)
        .map(|number| queue.sender().send(&content(number, 16)).unwrap())
        .collect();
    let mut held: Vec<_> = (0..3).map(|_| receiver.recv().unwrap()).collect();
    server.stop();
    for delivery in held.drain(..2) {
        receiver.ack_later(delivery).unwrap();
    }
    assert_eq!(receiver.acks_in_flight(), 2);
    server.kill();
    let error = receiver.flush().unwrap_err();
    assert_eq!((error.acked, error.failed), (0, 2));
    let failed: Vec<_> = error.failures().map(|failure| failure.message).collect();
    assert_eq!(failed, ids[..2]);
    for failure in error.failures() {
        assert!(
            matches!(&failure.failure, SettleFailure::Unavailable(cause) if is_lost(cause)),
            "{failure:?}"
        );
    }
    drop(held);
    receiver.flush().expect("each failure is reported once");

    let mut server = stage.start("serve shm");
    assert_eq!(server.hear(), "serving");
    let mut again = Vec::new();
    for _ in 0..3 {
        let delivery = receiver.recv_timeout(PATIENCE).unwrap();
        again.push((number_in(delivery.payload()), delivery.attempt()));
        receiver.ack_later(delivery).unwrap();
    }
    receiver.flush().unwrap();
    again.sort_unstable();
    assert_eq!(again, [(1, 2), (2, 2), (3, 2)]);
    assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
    server.kill();
    let namespace = namespace(stage.0.path());
    assert!(ShmQueue::remove(&namespace, &jobs()).unwrap());
    std::fs::remove_file(stage.socket()).unwrap();
}

#[test]
fn a_client_killed_before_its_flush_loses_no_message() {
    let stage = Stage::new();
    let (server, _queue) = stage.serve_local();
    let queue = stage.open();
    for number in 0..6 {
        queue.sender().send(&content(number, 16)).unwrap();
    }
    let mut client = stage.start("ack later");
    assert_eq!(client.hear(), "acked 0, 1 and 2 later");
    client.kill();
    let receiver = queue.receiver();
    let mut again = Vec::new();
    while queue.transport().stats().unwrap().in_use() > 0 {
        if let Ok(delivery) = receiver.recv_timeout(Duration::from_millis(50)) {
            assert_eq!(delivery.attempt(), 2);
            again.push(number_in(delivery.payload()));
            delivery.ack().unwrap();
        }
    }
    again.sort_unstable();
    assert!(again.is_sorted_by(|one, next| one < next), "{again:?}");
    let held: Vec<_> = again.iter().copied().filter(|number| *number > 2).collect();
    assert_eq!(held, [3, 4, 5]);
    drop(server);
}

#[test]
fn another_user_is_refused() {
    const NOBODY: u32 = 65_534;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: another_user_is_refused needs the superuser, to become another user");
        return;
    }
    let stage = Stage::new();
    let (server, _queue) = stage.serve_local();
    // Removes the usual protection, which this test is not about.
    let open_up = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open_up(stage.0.path(), 0o755);
    open_up(&stage.socket(), 0o666);
    let mut stranger = Process::start(stage.0.path(), "knock", Some(NOBODY));
    let said = stranger.hear();
    assert!(said.contains("user 65534 is not the server's"), "{said}");
    drop(server);
}

// --- In the other process ------------------------------------------------------------------------

pub fn role() {
    let (Ok(role), Some(folder)) = (std::env::var(ROLE), std::env::var_os(FOLDER)) else {
        return;
    };
    // The kernel kills this process when the thread that started it ends: its test is over.
    set_pdeathsig(Signal::SIGKILL).unwrap();
    let folder = Path::new(&folder);
    match &role[..] {
        "hold" => {
            let receiver = open(&socket(folder)).receiver();
            let delivery = receiver.recv().unwrap();
            let number = number_in(delivery.payload());
            say(&format!("got {number}, attempt {}", delivery.attempt()));
            wait_to_be_killed();
        }
        "ack later" => {
            let receiver = open(&socket(folder)).receiver();
            let mut held: Vec<_> = (0..6).map(|_| receiver.recv().unwrap()).collect();
            for delivery in held.drain(..3) {
                receiver.ack_later(delivery).unwrap();
            }
            say("acked 0, 1 and 2 later");
            wait_to_be_killed();
        }
        "lend" => {
            let sender = open(&socket(folder)).sender();
            let _loan = sender.loan(100).unwrap();
            say("lent");
            wait_to_be_killed();
        }
        "serve local" => serve(
            folder,
            Arc::new(LocalQueue::open(&jobs(), &OpenRequest::default()).unwrap()),
        ),
        "serve shm" => {
            let queue = ShmQueue::open(&namespace(folder), &jobs(), &OpenRequest::default());
            serve(folder, Arc::new(queue.unwrap()));
        }
        "knock" => {
            let opened =
                QueueOptions::new().open_bytes(format!("unix:{}", socket(folder).display()));
            say(&opened.map_or_else(|error| error.to_string(), |_| "opened".to_owned()));
        }
        other => panic!("there is no role {other:?}"),
    }
}

fn serve(folder: &Path, queue: Arc<dyn Transport>) {
    let _server = UnixServer::bind(socket(folder), queue).unwrap();
    say("serving");
    wait_to_be_killed();
}

fn wait_to_be_killed() {
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn say(line: &str) {
    // The harness may have begun a line.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{MARK}{line}\n").as_bytes())
        .unwrap();
    out.flush().unwrap();
}

fn namespace(folder: &Path) -> Namespace {
    Namespace::in_folder(folder.join("ipc"), "test").unwrap()
}

fn jobs() -> Name {
    Name::new("jobs").unwrap()
}
