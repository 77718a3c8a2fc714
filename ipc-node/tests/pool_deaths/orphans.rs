//! Programs that workers started end with the pool, however the pool ends.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::other::{OtherPool, Script};
use crate::support::{is_gone, numbers_in, said_in, until};

const WORKERS: usize = 8;
const TIMES: usize = 12;

fn children_end_with_the_pool(address: impl Fn(usize) -> Option<String>) {
    for time in 0..TIMES {
        let mut other = OtherPool::start(address(time).as_deref(), WORKERS, Script::Children);
        let children = numbers_in(other.folder.path(), "child");
        assert_eq!(children.len(), WORKERS);
        let workers = other.workers();
        other.kill();
        for process in workers.iter().chain(&children) {
            until("it ends", || is_gone(*process));
        }
    }
}

#[test]
fn programs_started_by_workers_end_with_a_killed_pool_over_shared_memory() {
    children_end_with_the_pool(|_| None);
}

#[test]
fn programs_started_by_workers_end_with_a_killed_pool_over_sockets() {
    let folder = tempfile::tempdir().unwrap();
    children_end_with_the_pool(|time| Some(format!("unix:{}/{time}", folder.path().display())));
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 0, "the workers remove its sockets before they end");
}

#[test]
fn a_worker_that_ends_kills_what_it_started_even_if_its_pool_cannot() {
    let other = OtherPool::start(None, 1, Script::Leaving);
    let child = said_in(&other.file("0.child"));
    let (worker, pool) = (said_in(&other.file("0.busy")), other.pid().cast_signed());
    kill(Pid::from_raw(pool), Signal::SIGSTOP).unwrap();
    std::fs::remove_file(other.file("0.busy")).unwrap();
    until("the worker ends", || is_gone(worker));
    until("what it started ends", || is_gone(child));
}
