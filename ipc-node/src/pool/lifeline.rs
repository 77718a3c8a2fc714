//! How a worker's process ends: with its pool, and never without what it started.
//!
//! A worker's standard input is a pipe that only the pool holds open, so the end of that pipe is
//! the end of the pool, however it came. Then the worker kills its own process group. A signal for
//! a parent's death would not do: it belongs to the thread that started the worker, not to the
//! process.
//!
//! While the pool lives, it kills the group of each worker that ended. But it may die between the
//! worker's end and that. So a worker that ends by itself first leaves its group and kills the
//! rest. What remains: a worker that is killed from outside together with its pool kills nothing
//! any more.

use std::fs::File;
use std::io::{self, PipeReader};
use std::os::fd::AsFd;
use std::process;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid, getpgrp, getppid, setpgid};

use super::PoolError;
use super::notices::Inbox;
use super::owner;
use super::wire::Place;

/// Longer than it takes to remove a pool's queues.
const REMOVAL: Duration = Duration::from_secs(5);
/// How long the end of the pipe may come after the error that the pool's end caused in a queue.
const LAST_LOOK: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(1);

/// The process group that the pool made for this worker. Asked once: a worker that ends leaves it,
/// and the group that it is in then is not its own to kill.
static GROUP: LazyLock<Pid> = LazyLock::new(getpgrp);

/// Kills this process and what it started when the pool is gone; and takes the pool's queues away,
/// if they are its own pool's.
///
/// What the worker starts gets another standard input: it would take notices out of this one.
pub(super) fn end_with_the_pool(place: Place) -> io::Result<Arc<Inbox<PipeReader>>> {
    LazyLock::force(&GROUP);
    // Only says for how long to wait: whether it is gone, its lock says.
    let pool = getppid();
    let pipe = io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    let watched = pipe.try_clone()?;
    let inbox = Arc::new(Inbox::new(PipeReader::from(pipe))?);
    let reader = Arc::clone(&inbox);
    let watch = move || {
        while reader.look() {
            let mut fds = [PollFd::new(watched.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::NONE);
        }
        if !place.is_guest() {
            remove_all_but_briefly(place, pool);
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
    // A pool that was killed shows as an error in a queue, perhaps just before its pipe ends.
    let deadline = Instant::now() + if code == 0 { Duration::ZERO } else { LAST_LOOK };
    while inbox.look() && Instant::now() < deadline {
        thread::sleep(PAUSE);
    }
    if !inbox.look() {
        end_with_all();
    }
    // Not if it has no group of its own, or is in another session than the pool: then the pool
    // does.
    if !kill_the_others() && !inbox.look() {
        end_with_all();
    }
}

/// The pool is gone. The thread that watches for that is about to end us, when it has taken away
/// what was left.
pub(super) fn end_with_all() -> ! {
    thread::sleep(REMOVAL);
    kill_group()
}

fn kill_group() -> ! {
    let _ = killpg(*GROUP, Signal::SIGKILL);
    // It has left the group.
    process::exit(1);
}

/// Leaves the process group for the pool's, and kills what is in it. `false` if that can't be.
fn kill_the_others() -> bool {
    let group = *GROUP;
    let Ok(of_pool) = getpgid(Some(getppid())) else {
        return false;
    };
    let ourselves = Pid::from_raw(0);
    // 0: a group of another PID namespace.
    if of_pool == ourselves || of_pool == group || setpgid(ourselves, of_pool).is_err() {
        return false;
    }
    let _ = killpg(group, Signal::SIGKILL);
    true
}

/// Where the queues are out of reach, too, they are nobody's to take away.
fn remove_all_but_briefly(place: Place, pool: Pid) {
    let (done, is_done) = flume::bounded::<()>(0);
    let remove = move || {
        let started = Instant::now();
        // The pool's end may show in the pipe before its lock is free. A next owner has removed
        // them.
        while let Err(PoolError::Taken { owner, .. }) = owner::remove(&place.address) {
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
