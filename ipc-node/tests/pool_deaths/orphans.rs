//! What workers started ends with the pool, whatever ended that.

use crate::other::{OtherPool, Script};
use crate::support::{is_gone, numbers_in, until};

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
fn what_workers_started_ends_with_a_killed_pool_over_shared_memory() {
    children_end_with_the_pool(|_| None);
}

#[test]
fn what_workers_started_ends_with_a_killed_pool_over_sockets() {
    let folder = tempfile::tempdir().unwrap();
    children_end_with_the_pool(|time| Some(format!("unix:{}/{time}", folder.path().display())));
}
