//! The end of a worker's process: it ends with its pool, and never without the programs it started.
//!
//! A worker's standard input is a pipe that only the pool holds open. So the end of that pipe means
//! the end of the pool, whatever its cause. The worker then kills its own process group. A
//! parent-death signal would not work: it belongs to the thread that started the worker, not to the
//! process.
//!
//! While the pool lives, it kills the group of each worker that ended. But the pool may die after
//! the worker ended and before it does that. So a worker that ends by itself first leaves its group
//! and kills the rest. One case remains: a worker that is killed from outside together with its
//! pool kills nothing.

use std::fs::{self, File};
use std::io::{self, PipeReader};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::process;
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid, getpgrp, getppid, setpgid};

use super::cancellations::Inbox;
use super::error::PoolError;
use super::ownership;
use super::wire::{PLACE, WorkerConfig};

/// Longer than the removal of a pool's queues takes.
const REMOVAL: Duration = Duration::from_secs(5);
/// The end of a pool first causes a queue error in its worker, and then the end of the pipe. This
/// is the longest time between the two.
const LAST_LOOK: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(1);
const NULL: &str = "/dev/null";

/// The process group that the pool made for this worker. Read once: a worker that ends leaves it,
/// and must not kill the group in which it then is.
static GROUP: LazyLock<Pid> = LazyLock::new(getpgrp);

/// The number of the job queue that this worker has opened. Another queue of this name belongs to
/// another pool.
pub(super) static JOBS: OnceLock<u64> = OnceLock::new();

/// Returns the text of a worker's configuration, if a pool started this process as a worker and it
/// has not begun to work.
///
/// The variable alone is not enough: the programs that a worker starts inherit it. But they do not
/// inherit the pipe. The standard input of a worker that works is `/dev/null`.
pub(super) fn config_of_new_worker() -> Option<String> {
    let text = std::env::var(PLACE).ok()?;
    let is_null = input_is_null().unwrap_or(false);
    (!is_null).then_some(text)
}

fn input_is_null() -> io::Result<bool> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?).metadata()?;
    let null = fs::metadata(NULL)?;
    Ok((input.mode(), input.rdev()) == (null.mode(), null.rdev()))
}

/// When the pool is gone, kills this process and everything it started. Also removes the queues, if
/// the pool was its own.
///
/// Programs that the worker starts get another standard input, because they would read
/// cancellations from this one.
pub(super) fn end_with_the_pool(config: WorkerConfig) -> io::Result<Arc<Inbox<PipeReader>>> {
    LazyLock::force(&GROUP);
    // Decides only how long to wait. The lock shows whether the pool is gone.
    let pool = getppid();
    let pipe = io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(File::open(NULL)?)?;
    let watched = pipe.try_clone()?;
    let inbox = Arc::new(Inbox::new(PipeReader::from(pipe))?);
    let reader = Arc::clone(&inbox);
    let watch = move || {
        while reader.look() {
            let mut fds = [PollFd::new(watched.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::NONE);
        }
        if !config.is_remote() {
            remove_all_but_briefly(config, pool);
        }
        kill_group();
    };
    let named = thread::Builder::new().name("ipc-pool-end".to_owned());
    named.spawn(watch)?;
    Ok(inbox)
}

/// Kills what this worker started, before it ends with an exit code. Does not return if the pool is
/// gone.
pub(super) fn end_work(inbox: &Inbox<PipeReader>, code: i32) {
    // A killed pool causes an error in a queue, perhaps just before its pipe ends.
    let deadline = Instant::now() + if code == 0 { Duration::ZERO } else { LAST_LOOK };
    while inbox.look() && Instant::now() < deadline {
        thread::sleep(PAUSE);
    }
    if !inbox.look() {
        end_with_all();
    }
    // Fails if the worker has no group of its own, or is in another session than the pool. The pool
    // then kills the group.
    if !kill_the_others() && !inbox.look() {
        end_with_all();
    }
}

/// Waits for the end. The pool is gone, and the thread that watches for that ends this process once
/// it has removed what was left.
pub(super) fn end_with_all() -> ! {
    thread::sleep(REMOVAL);
    kill_group()
}

fn kill_group() -> ! {
    let _ = killpg(*GROUP, Signal::SIGKILL);
    // This process has left the group, so the signal did not end it.
    process::exit(1);
}

/// Moves to the pool's process group, and kills the own one. Returns `false` if that is not
/// possible.
fn kill_the_others() -> bool {
    let group = *GROUP;
    let Ok(of_pool) = getpgid(Some(getppid())) else {
        return false;
    };
    let ourselves = Pid::from_raw(0);
    // 0 stands for a group of another PID namespace.
    if of_pool == ourselves || of_pool == group || setpgid(ourselves, of_pool).is_err() {
        return false;
    }
    let _ = killpg(group, Signal::SIGKILL);
    true
}

/// Removes the pool's queues within a time limit. Queues out of reach are left.
fn remove_all_but_briefly(config: WorkerConfig, pool: Pid) {
    let (done, is_done) = flume::bounded::<()>(0);
    let remove = move || {
        let started = Instant::now();
        // The end of the pool may show in the pipe before its lock is free. If there is a new
        // owner, it has removed the queues.
        let jobs = JOBS.get().copied();
        while let Err(PoolError::Taken { owner, .. }) = ownership::remove_of_ended(&config, jobs) {
            let is_dying = owner.pid == pool.as_raw().cast_unsigned();
            let limit = if is_dying { REMOVAL } else { LAST_LOOK };
            if started.elapsed() >= limit {
                break;
            }
            thread::sleep(PAUSE);
        }
        drop(done);
    };
    let named = thread::Builder::new().name("ipc-pool-removal".to_owned());
    if named.spawn(remove).is_ok() {
        let _ = is_done.recv_timeout(REMOVAL);
    }
}
