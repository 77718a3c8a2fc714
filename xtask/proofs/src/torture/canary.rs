//! The delay after which a blocked process continues when the one that it waits for is killed,
//! measured throughout a run.
//!
//! It uses a queue of its own. In turns, a holder takes its one message while this process is
//! blocked in `recv`, or a holder takes all places while this process is blocked in `send`. The
//! holder is killed. The promise concerns the time from the SIGKILL until this process has the
//! message, or a place. It contains the end of the killed process, the wake-up, and the whole
//! recovery.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipc_proto::{Kind, Name};
use ipc_queue::ShmQueue;
use ipc_queue::transport::{
    OpenMode, OpenRequest, RecvPortError, SendPortError, Settle, Transport, Wait,
};
use ipc_shm::Namespace;

use super::{BOUND, QUEUE, Role};

/// Measures until stopped.
pub struct Canary {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Measured>>,
}

/// The measurements.
#[derive(Default)]
pub struct Measured {
    /// From each SIGKILL until the blocked receiver had the message, or the blocked sender a place.
    pub times: Vec<Duration>,
    /// The number of times that it did not get it within the bound.
    pub hung: u64,
}

impl Canary {
    pub fn start(folder: &Path) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (namespace, seen) = (Namespace::in_folder(folder, QUEUE)?, Arc::clone(&stop));
        let folder = folder.to_owned();
        let queue = open(&namespace, OpenMode::Create)?;
        let thread = thread::Builder::new()
            .name("canary".to_owned())
            .spawn(move || measure(&queue, &namespace, &folder, &seen))?;
        Ok(Self { stop, thread })
    }

    pub fn finish(self) -> Result<Measured> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(measured) => measured,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Takes the message, reports it, and waits to be killed.
pub fn hold(namespace: &Namespace) -> Result<()> {
    let queue = open(namespace, OpenMode::Open)?;
    let receiver = queue.receiver();
    let _delivery = receiver.recv(Wait::Forever).context("nothing to hold")?;
    lease()
}

/// Like `hold`, with every place.
pub fn hold_room(namespace: &Namespace) -> Result<()> {
    let queue = open(namespace, OpenMode::Open)?;
    let sender = queue.sender();
    let _loans = (0..CAPACITY)
        .map(|_| sender.loan(8, Kind::Data, Wait::No))
        .collect::<Result<Vec<_>, _>>()
        .context("no places to hold")?;
    lease()
}

fn lease() -> ! {
    println!("holding");
    loop {
        thread::park();
    }
}

const CAPACITY: u32 = 4;

fn open(namespace: &Namespace, mode: OpenMode) -> Result<ShmQueue> {
    let request = OpenRequest {
        mode,
        settings: ipc_proto::QueueSettings {
            attempt_limit: 250,
            crash_limit: 250,
            backoff: ipc_queue::Backoff::None,
            ..ipc_proto::QueueSettings::with_capacity(CAPACITY)
        },
        ..OpenRequest::default()
    };
    Ok(ShmQueue::open(namespace, &name(), &request)?)
}

fn name() -> Name {
    Name::new("canary").expect("a valid name")
}

fn measure(
    queue: &ShmQueue,
    namespace: &Namespace,
    folder: &Path,
    stop: &AtomicBool,
) -> Result<Measured> {
    let mut measured = Measured::default();
    let (sender, receiver) = (queue.sender(), queue.receiver());
    for turn in [Role::Hold, Role::HoldRoom].into_iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if turn == Role::Hold {
            sender.loan(8, Kind::Data, Wait::Forever)?.publish()?;
        }
        let mut holder = start_holder(folder, turn)?;
        let killed_at = thread::scope(|scope| -> Result<Instant> {
            // Killed from another thread, a little later, so that this one is asleep by then.
            let killer = scope.spawn(|| {
                thread::sleep(Duration::from_millis(fastrand::u64(1..5)));
                let now = Instant::now();
                holder.kill().map(|()| now)
            });
            let wait = Wait::at_most(BOUND);
            match turn {
                Role::HoldRoom => match sender.loan(8, Kind::Data, wait) {
                    Ok(loan) => drop(loan),
                    Err(SendPortError::NoRoom { .. }) => measured.hung += 1,
                    Err(failure) => return Err(failure).context("the canary"),
                },
                _ => match receiver.recv(wait) {
                    Ok(delivery) => delivery.settle(Settle::Ack)?,
                    Err(RecvPortError::TimedOut { .. }) => measured.hung += 1,
                    Err(error) => return Err(error).context("the canary"),
                },
            }
            Ok(killer.join().expect("the killer does not panic")?)
        })?;
        measured.times.push(killed_at.elapsed());
        holder.wait()?;
    }
    ShmQueue::remove(namespace, &name())?;
    Ok(measured)
}

fn start_holder(folder: &Path, role: Role) -> Result<Child> {
    let mut holder = Command::new("/proc/self/exe")
        .args(["torture-actor", role.name(), "--folder"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting a holder")?;
    let mut said = [0; 7];
    holder
        .stdout
        .take()
        .expect("piped")
        .read_exact(&mut said)
        .context("a holder's word")?;
    ensure!(&said == b"holding", "a holder said {said:?}");
    Ok(holder)
}
