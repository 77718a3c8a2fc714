//! A pool's worker, and a process with a pool, for the scenarios about pools.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{fs, process, thread};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use ipc_node::pool::{Context, Handlers, JobError, Pool, PoolBuilder, Ticket};
use serde::de::DeserializeOwned;

const PATIENCE: Duration = Duration::from_secs(30);

/// The arguments of a worker.
#[derive(Debug, Args)]
pub struct Worker {
    /// If this file does not exist, create it and never become ready
    #[arg(long)]
    hesitate: Option<PathBuf>,
}

/// The arguments of a process with a pool, whose only worker works until it is killed.
#[derive(Debug, Args)]
pub struct Supervisor {
    /// File for the worker's process number
    #[arg(long)]
    file: PathBuf,

    /// Start workers from the running program, even if its file was replaced
    #[arg(long)]
    again: bool,

    /// Drain on SIGTERM
    #[arg(long)]
    drains: bool,
}

pub fn work(worker: &Worker) -> ExitCode {
    if let Some(file) = &worker.hesitate
        && !file.exists()
    {
        hang(file);
    }
    handlers().work_if_worker();
    ExitCode::FAILURE
}

pub fn supervise(supervisor: &Supervisor) -> Result<ExitCode> {
    handlers().work_if_worker();
    let mut pool = if supervisor.again {
        Pool::builder().workers(1)
    } else {
        pool(None)
    };
    if supervisor.drains {
        pool = pool.sigterm_drains();
    }
    let pool = pool.start()?;
    let hung = pool.submit::<_, ()>("hang", &supervisor.file)?;
    let ended = wait(hung)?;
    Err(anyhow!("the hung job ended with {ended:?}"))
}

fn handlers() -> Handlers {
    let mut handlers = Handlers::new();
    handlers.add("square", |n: u64, _: &Context<'_>| Ok::<_, String>(n * n));
    handlers.add(
        "hang",
        |file: PathBuf, _: &Context<'_>| -> Result<(), String> { hang(&file) },
    );
    // Hangs unless the file exists; creates it.
    handlers.add("hang once", |file: PathBuf, context: &Context<'_>| {
        if !file.exists() {
            hang(&file);
        }
        Ok::<_, String>(context.attempt())
    });
    // Works for this time, and reports progress all the while.
    handlers.add("report", |time: Duration, context: &Context<'_>| {
        let started = Instant::now();
        while started.elapsed() < time {
            let done = u64::try_from(started.elapsed().as_millis()).unwrap_or(0);
            context.progress(done, done + 1);
            thread::sleep(Duration::from_millis(10));
        }
        Ok::<_, String>(context.attempt())
    });
    handlers.add("crash", |(): (), _: &Context<'_>| -> Result<(), String> {
        process::abort()
    });
    handlers.add("eat", |mib: usize, _: &Context<'_>| -> Result<(), String> {
        let eaten = vec![1_u8; mib << 20];
        loop {
            thread::park();
            std::hint::black_box(&eaten);
        }
    });
    handlers
}

/// Writes its number into the file, whole or not at all, and stays.
fn hang(file: &Path) -> ! {
    let draft = file.with_extension("draft");
    let said = fs::write(&draft, process::id().to_string()).and_then(|()| fs::rename(&draft, file));
    said.expect("the scenario's folder is there");
    loop {
        thread::park();
    }
}

/// A pool of one worker, which is this program.
pub fn pool(hesitate: Option<&Path>) -> PoolBuilder {
    let mut command = Command::new("/proc/self/exe");
    command.arg("scenario-pool-worker");
    if let Some(file) = hesitate {
        command.arg("--hesitate").arg(file);
    }
    Pool::builder().workers(1).command(command)
}

/// The answer to a job, which must come.
pub fn wait<T: DeserializeOwned>(ticket: Ticket<T>) -> Result<Result<T, JobError>> {
    let answer = ticket.wait_timeout(PATIENCE);
    answer.map_err(|_| anyhow!("no answer in {PATIENCE:?}"))
}

/// Checks that the pool works: it does another job.
pub fn does_its_work(pool: &Pool) -> Result<()> {
    let square = wait(pool.submit::<u64, u64>("square", &3)?)?;
    ensure!(square == Ok(9), "3 squared is {square:?}");
    Ok(())
}

/// Checks again and again until it holds.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_micros(100));
    }
}

/// The number that a process wrote into a file.
pub fn said_in(file: &Path) -> Result<i32> {
    until("a process says its number", || {
        fs::read_to_string(file).ok()?.parse().ok()
    })
}

/// A fresh path for a file, and the folder that must be kept while it is used.
pub fn file() -> Result<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir().context("a folder")?;
    let file = folder.path().join("said");
    Ok((folder, file))
}

/// Returns whether the process has ended, even if it was not reaped.
pub fn is_gone(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with('Z'))
}
