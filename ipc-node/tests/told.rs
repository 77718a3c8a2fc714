//! What a pool reports to `tracing` and `metrics` while its workers are really killed; and requests
//! as types.
//!
//! Workers are this test program again, as its test `worker`.

use std::io;
use std::process::Command;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ipc_node::pool::{Context, Handlers, JobError, Pool, PoolBuilder, Request};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use serde::{Deserialize, Serialize};

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Square(u64);

impl Request for Square {
    const HANDLER: &'static str = "square";
    type Reply = u64;
}

/// Kills its worker with this signal.
#[derive(Serialize, Deserialize)]
struct Die(i32);

impl Request for Die {
    const HANDLER: &'static str = "die";
    type Reply = ();
}

/// Never begun.
#[derive(Serialize, Deserialize)]
struct TooLate;

impl Request for TooLate {
    const HANDLER: &'static str = "too late";
    type Reply = ();

    fn begin_within(&self) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

#[test]
fn worker() {
    let mut handlers = Handlers::new();
    handlers.reply(|Square(n), _: &Context<'_>| Ok::<_, String>(n * n));
    handlers.reply(|Die(signal), _: &Context<'_>| -> Result<(), String> {
        let signal = nix::sys::signal::Signal::try_from(signal).expect("a signal");
        nix::sys::signal::kill(nix::unistd::Pid::this(), signal).expect("ours");
        loop {
            thread::park();
        }
    });
    handlers.work_if_worker();
}

fn pool() -> PoolBuilder {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "worker", "--nocapture", "--test-threads=1"]);
    Pool::builder().workers(1).command(command)
}

static SAID: Mutex<String> = Mutex::new(String::new());

struct Keep;

impl io::Write for Keep {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(|| Keep)
            .init();
    });
}

/// Waits for a line that contains all of these words.
#[track_caller]
fn hear(words: &[&str]) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = SAID.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut lines = said.lines();
        if let Some(line) = lines.find(|line| words.iter().all(|word| line.contains(word))) {
            return line.to_owned();
        }
        assert!(
            Instant::now() < deadline,
            "nobody said {words:?} in\n{said}"
        );
        thread::yield_now();
    }
}

#[test]
fn events_of_workers_and_jobs_are_traced() {
    listen();
    let pool = pool().attempt_limit(1).start().unwrap();
    assert_eq!(pool.request(&Square(7)).unwrap().wait(), Ok(49));
    let pid = format!("pid={}", pool.status().unwrap().workers[0].pid);
    hear(&["worker started", &pid, "ipc_node"]);
    hear(&["worker ready", &pid]);
    let doomed = pool.request(&Die(9)).unwrap();
    let ticket = format!("ticket={}", doomed.number());
    let crashed = doomed.wait();
    assert!(
        matches!(
            crashed,
            Err(JobError::Crashed {
                signal: Some(9),
                ..
            })
        ),
        "{crashed:?}"
    );
    let letter = &pool.dead_letters()[0];
    assert_eq!(letter.signal, Some(9));
    assert_eq!(letter.last_worker, pid[4..].parse().ok());
    let died = hear(&["worker died", &pid, &ticket, "WARN"]);
    assert!(
        died.contains("signal=9") && died.contains("out of memory"),
        "{died}"
    );
    hear(&["job without result", &ticket, "how=\"crashed\""]);
    // Stops the only worker, so no later job begins.
    let cancelled = pool.request(&Die(19)).unwrap();
    let late = pool.request(&TooLate).unwrap();
    let ticket = format!("ticket={}", late.number());
    let expired = late.wait();
    assert!(
        matches!(expired, Err(JobError::Expired { .. })),
        "{expired:?}"
    );
    hear(&["job without result", &ticket, "how=\"expired\""]);
    let ticket = format!("ticket={}", cancelled.number());
    cancelled.cancel();
    hear(&["job without result", &ticket, "how=\"cancelled\""]);
    // The queue's own events name the same queue.
    let queue = died.split("queue=").nth(1).unwrap();
    let queue = queue.split(' ').next().unwrap().replace('"', "");
    drop(pool);
    hear(&["pool ended", &queue]);
}

#[test]
fn how_long_jobs_took_is_measured() {
    let recorder = DebuggingRecorder::new();
    let seen = recorder.snapshotter();
    recorder.install().unwrap();
    let pool = pool().start().unwrap();
    for n in 0..3 {
        assert_eq!(pool.request(&Square(n)).unwrap().wait(), Ok(n * n));
    }
    pool.shutdown().unwrap();
    let figures = seen.snapshot().into_vec().into_iter();
    let mut durations = figures.filter_map(|(key, .., value)| match value {
        DebugValue::Histogram(times) if key.key().name() == "messaging.process.duration" => {
            Some(times.len())
        }
        _ => None,
    });
    assert!(durations.any(|count| count == 3), "three jobs");
}
