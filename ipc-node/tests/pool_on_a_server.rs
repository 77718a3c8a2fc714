//! The address of a pool on a NATS server belongs to the holder of a lease. The processes are
//! really killed and stopped.
//!
//! Other processes are this test program again, as its tests `worker` and `pool_of_another_process`.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use ipc_nats::testing::{self, TestServer};
use ipc_node::pool::{Context, Handlers, LeftoverJobs, Pool, PoolBuilder, PoolError, Ticket};
use ipc_queue::transport::OpenMode;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Long enough for anything that ends at all.
const PATIENCE: Duration = Duration::from_secs(120);
const ADDRESS: &str = "IPC_NODE_TEST_SERVER_ADDRESS";
const FOLDER: &str = "IPC_NODE_TEST_SERVER_FOLDER";
const WORKERS: usize = 2;
const JOBS: usize = 4;

/// Not a test: a worker.
#[test]
fn worker() {
    ipc_nats::register();
    let mut handlers = Handlers::new();
    handlers.add("square", |n: u64, _: &Context<'_>| Ok::<_, String>(n * n));
    // Says that it runs, and stays.
    handlers.add(
        "stay",
        |folder: String, _: &Context<'_>| -> Result<(), String> {
            say(Path::new(&folder), &format!("{}.busy", std::process::id()));
            loop {
                thread::park();
            }
        },
    );
    handlers.work_if_worker();
}

/// Creates an empty file.
fn say(folder: &Path, name: &str) {
    fs::write(folder.join(name), "").unwrap();
}

/// Not a test, unless `OtherPool` started this program.
#[test]
fn pool_of_another_process() {
    let (Ok(address), Ok(folder)) = (env::var(ADDRESS), env::var(FOLDER)) else {
        return;
    };
    let pool = pool(&address).start().unwrap();
    let tickets: Vec<Ticket<()>> = (0..JOBS)
        .map(|_| pool.submit("stay", &folder).unwrap())
        .collect();
    say(Path::new(&folder), "submitted");
    // They are answered when the pool ends.
    for ticket in tickets {
        assert!(ticket.wait().is_err());
    }
    drop(pool);
    say(Path::new(&folder), "ended");
}

fn pool(address: &str) -> PoolBuilder {
    ipc_nats::register();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "worker", "--nocapture", "--test-threads=1"]);
    let pool = Pool::builder().at(address).workers(WORKERS);
    pool.command(command)
}

fn does_its_work(pool: &Pool) {
    let ticket: Ticket<u64> = pool.submit("square", &3_u64).unwrap();
    let Ok(answer) = ticket.wait_timeout(PATIENCE) else {
        panic!("no answer in {PATIENCE:?}");
    };
    assert_eq!(answer, Ok(9));
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A pool in another process, all of whose workers are busy.
struct OtherPool {
    process: Child,
    folder: TempDir,
}

impl OtherPool {
    fn start(address: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "pool_of_another_process", "--nocapture"]);
        command.env(ADDRESS, address).env(FOLDER, folder.path());
        let other = Self {
            process: command.spawn().unwrap(),
            folder,
        };
        until("its workers are busy, and all is submitted", || {
            let is_submitted = other.folder.path().join("submitted").exists();
            is_submitted && other.workers().len() == WORKERS
        });
        other
    }

    fn workers(&self) -> Vec<i32> {
        let entries = fs::read_dir(self.folder.path()).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let busy = names.filter_map(|name| name.strip_suffix(".busy")?.parse().ok());
        busy.collect()
    }

    fn send_all(&self, signal: Signal) {
        let ours = self.process.id().cast_signed();
        for pid in self.workers().into_iter().chain([ours]) {
            kill(Pid::from_raw(pid), signal).unwrap();
        }
    }

    /// Kills all of them at once, so that none sees another's end.
    fn kill_with_workers(&mut self) {
        self.send_all(Signal::SIGSTOP);
        self.send_all(Signal::SIGKILL);
        self.process.wait().unwrap();
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Even a failing test leaves no process behind.
impl Drop for OtherPool {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for pid in self.workers() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Returns a server and the address of a pool on it; `None`, with a note, where there is none.
fn server() -> Option<(TestServer, String)> {
    let server = testing::is_installed().then(TestServer::start)?;
    let address = server.address("pool");
    Some((server, address))
}

fn streams(address: &str) -> Vec<String> {
    let rest = address.strip_prefix("nats:").unwrap();
    testing::streams(&ipc_nats::NatsAddress::parse(rest).unwrap())
}

#[test]
fn a_pool_restarts_by_itself_after_it_was_killed_with_all_its_workers() {
    let Some((_server, address)) = server() else {
        return;
    };
    let mut other = OtherPool::start(&address);
    other.kill_with_workers();
    let next = pool(&address).leftover_jobs(LeftoverJobs::Keep).start();
    let next = next.unwrap();
    assert_eq!(next.status().unwrap().leftover_jobs, JOBS as u64);
    assert_eq!(next.dead_letters().len(), JOBS);
    does_its_work(&next);
    next.shutdown().unwrap();
    assert!(streams(&address).is_empty(), "{:?}", streams(&address));
}

#[test]
fn a_pool_restarts_by_itself_after_it_was_killed_and_its_workers_removed_its_queues() {
    let Some((_server, address)) = server() else {
        return;
    };
    let mut other = OtherPool::start(&address);
    other.kill();
    until("its workers remove its queues", || {
        let queues = ["jobs", "answers"].map(|queue| format!("{address}.{queue}"));
        let open = ipc_queue::QueueOptions::new().mode(OpenMode::Open);
        queues.iter().all(|queue| open.open_bytes(queue).is_err())
    });
    let next = pool(&address).start().unwrap();
    assert_eq!(next.status().unwrap().leftover_jobs, 0);
    does_its_work(&next);
    next.shutdown().unwrap();
    assert!(streams(&address).is_empty(), "{:?}", streams(&address));
}

#[test]
fn an_address_whose_owner_lives_is_neither_taken_nor_removed() {
    let Some((_server, address)) = server() else {
        return;
    };
    let other = OtherPool::start(&address);
    thread::scope(|scope| {
        let removed = scope.spawn(|| Pool::remove(&address));
        let started = pool(&address).start().map(drop);
        for refused in [started, removed.join().unwrap().map(drop)] {
            let Err(PoolError::Taken { owner, .. }) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!((owner.pid, owner.is_elsewhere), (other.process.id(), true));
        }
    });
}

#[test]
fn what_a_killed_pool_left_is_removed_on_request() {
    let Some((_server, address)) = server() else {
        return;
    };
    ipc_nats::register();
    assert!(!Pool::remove(&address).unwrap());
    let mut other = OtherPool::start(&address);
    other.kill_with_workers();
    assert!(Pool::remove(&address).unwrap());
    assert!(!Pool::remove(&address).unwrap());
    assert!(streams(&address).is_empty(), "{:?}", streams(&address));
}

#[test]
fn a_pool_that_was_stopped_for_too_long_leaves_the_next_one_alone() {
    let Some((_server, address)) = server() else {
        return;
    };
    let other = OtherPool::start(&address);
    other.send_all(Signal::SIGSTOP);
    let next = pool(&address).start().unwrap();
    does_its_work(&next);
    let queues = streams(&address);
    other.send_all(Signal::SIGCONT);
    until("the former pool ends", || {
        other.folder.path().join("ended").exists()
    });
    does_its_work(&next);
    assert_eq!(streams(&address), queues);
}

#[test]
fn a_queue_that_is_not_a_pools_is_left_alone() {
    let Some((server, address)) = server() else {
        return;
    };
    ipc_nats::register();
    let queue = ipc_queue::ByteQueue::open(server.address("pool.jobs")).unwrap();
    queue.sender().send(b"a message").unwrap();
    for _ in 0..2 {
        let refused = pool(&address).start().map(drop);
        let exists = matches!(
            refused,
            Err(PoolError::Queue(ipc_queue::QueueError::Exists { .. }))
        );
        assert!(exists, "{refused:?}");
    }
    assert_eq!(queue.receiver().recv().unwrap().payload(), b"a message");
}
