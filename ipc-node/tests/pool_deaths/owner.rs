//! An address has one live pool, and a dead pool is replaced.

use std::fs;
use std::time::Duration;

use ipc_node::pool::{LeftoverJobs, Pool, PoolError, Ticket};
use ipc_queue::QueueError;
use ipc_shm::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::other::{OtherPool, Script};
use crate::support::{PATIENCE, in_pid_namespace, is_gone, pool, said_in, until, wait};

/// Returns an address that no other test uses.
fn address(name: &str) -> String {
    format!("shm:default/deaths-{name}-{}", std::process::id())
}

/// Returns the files of the pool at that address.
fn files_of(address: &str) -> Vec<String> {
    let (_, name) = address.rsplit_once('/').unwrap();
    let folder = Namespace::new("default").unwrap();
    let entries = fs::read_dir(folder.path()).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|file| file.starts_with(name)).collect()
}

fn does_its_work(pool: &Pool) {
    let ticket: Ticket<u64> = pool.submit_timeout("square", 3_u64, PATIENCE).unwrap();
    assert_eq!(wait(ticket), Ok(9));
}

#[test]
fn a_pool_restarts_at_its_address_after_it_was_killed_with_all_its_workers() {
    let address = address("together");
    for what in [LeftoverJobs::Keep, LeftoverJobs::Run, LeftoverJobs::Drop] {
        let mut other = OtherPool::start(Some(&address), 3, Script::Busy);
        let handed_out = crate::support::numbers_in(other.folder.path(), "busy").len();
        assert_eq!(handed_out, 3);
        other.kill_with_workers();
        let pool = pool(2).at(&address).leftover_jobs(what).start().unwrap();
        assert_eq!(pool.status().unwrap().leftover_jobs, 6);
        let kept = if what == LeftoverJobs::Keep { 6 } else { 0 };
        assert_eq!(pool.dead_letters().len(), kept);
        if what == LeftoverJobs::Run {
            // Each of them creates its file again, and stays until it is removed.
            until("all are done", || {
                for job in 0..6 {
                    let _ = fs::remove_file(other.file(&format!("{job}.busy")));
                }
                pool.stats().unwrap().0.acked == 6
            });
        }
        does_its_work(&pool);
        pool.shutdown().unwrap();
        assert!(files_of(&address).is_empty());
    }
}

#[test]
fn a_pool_starts_even_if_another_was_killed_while_starting_there() {
    let address = address("starting");
    for time in 0..12 {
        let mut other = OtherPool::begin(Some(&address), 2, Script::Idle);
        said_in(&other.file("starts"));
        // At some point between the lock and the first worker.
        std::thread::sleep(Duration::from_micros(200 * time));
        other.kill();
        let pool = pool(1).at(&address).start();
        does_its_work(&pool.unwrap());
    }
    until("nothing is left", || files_of(&address).is_empty());
}

#[test]
fn a_pool_restarts_at_its_socket_after_it_was_killed_with_all_its_workers() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix:{}/pool", folder.path().display());
    let mut other = OtherPool::start(Some(&address), 2, Script::Busy);
    other.kill_with_workers();
    does_its_work(&pool(1).at(&address).start().unwrap());
}

#[test]
fn a_killed_pools_queues_can_be_removed_and_a_live_pools_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}/pool", folder.path().display());
    for address in [address("removed"), socket] {
        assert!(!Pool::remove(&address).unwrap());
        let mut other = OtherPool::start(Some(&address), 1, Script::Busy);
        let refused = Pool::remove(&address);
        let Err(PoolError::Taken { owner, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(owner.pid, other.pid());
        other.kill_with_workers();
        assert!(Pool::remove(&address).unwrap());
        assert!(!Pool::remove(&address).unwrap());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_address_whose_owner_lives_is_refused_and_the_owner_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}/pool", folder.path().display());
    for address in [address("taken"), socket] {
        let other = OtherPool::start(Some(&address), 1, Script::Busy);
        let refused = pool(1).at(&address).start();
        let Err(PoolError::Taken { owner, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((owner.pid, owner.is_elsewhere), (other.pid(), false));
        let remote = pool(1).at(&address).worker_name("remote").join();
        drop(remote.expect("the pool there is well"));
    }
}

#[test]
fn the_next_pool_of_a_namespace_removes_leftovers_of_a_killed_pool() {
    let mut other = OtherPool::start(None, 2, Script::Busy);
    let address = format!("shm:default/pool-{}-", other.pid());
    assert_eq!(files_of(&address).len(), 3);
    other.kill_with_workers();
    assert_eq!(files_of(&address).len(), 3);
    let pool = pool(1).start().unwrap();
    assert!(files_of(&address).is_empty());
    does_its_work(&pool);
}

#[test]
fn a_worker_that_outlives_its_pool_leaves_the_next_one_alone() {
    let address = address("late");
    let mut other = OtherPool::start(Some(&address), 1, Script::Idle);
    let worker = other.workers()[0];
    kill(Pid::from_raw(worker), Signal::SIGSTOP).unwrap();
    other.kill();
    let pool = pool(1).at(&address).start().unwrap();
    kill(Pid::from_raw(worker), Signal::SIGCONT).unwrap();
    until("the late worker ends", || is_gone(worker));
    does_its_work(&pool);
    assert_eq!(files_of(&address).len(), 3);
}

#[test]
fn a_pool_that_starts_in_another_pid_namespace_leaves_our_pools_alone() {
    let ours = pool(2).start().unwrap();
    let named = address("namespace");
    let at_name = pool(1).at(&named).start().unwrap();
    for (address, file) in [(None, "pool"), (Some(&named[..]), "taken")] {
        let folder = tempfile::tempdir().unwrap();
        let inner = OtherPool::command(folder.path(), address, 1, Script::Idle);
        let Some(mut command) = in_pid_namespace(&inner) else {
            return;
        };
        let mut process = command.spawn().unwrap();
        until("it has started, or not", || {
            fs::read_to_string(folder.path().join(file)).is_ok_and(|text| !text.is_empty())
        });
        if address.is_some() {
            let text = format!("{} true", std::process::id());
            assert_eq!(fs::read_to_string(folder.path().join(file)).unwrap(), text);
        }
        let _ = kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGKILL);
        process.wait().unwrap();
    }
    let squares = ours.map::<u64, u64>("square", 0..40);
    assert!(squares.into_iter().eq((0..40).map(|n| Ok(n * n))));
    does_its_work(&at_name);
}

#[test]
fn a_pool_in_another_pid_namespace_is_not_taken_for_dead() {
    let folder = tempfile::tempdir().unwrap();
    let inner = OtherPool::command(folder.path(), None, 1, Script::Busy);
    let Some(mut command) = in_pid_namespace(&inner) else {
        return;
    };
    let mut process = command.spawn().unwrap();
    let theirs = said_in(&folder.path().join("pool"));
    let address = format!("shm:default/pool-{theirs}-");
    assert_eq!(files_of(&address).len(), 3);
    does_its_work(&pool(1).start().unwrap());
    assert_eq!(files_of(&address).len(), 3);
    let _ = kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGKILL);
    process.wait().unwrap();
    // The kernel released its lock.
    until("its queues are removed", || {
        does_its_work(&pool(1).start().unwrap());
        files_of(&address).is_empty()
    });
}

#[test]
fn a_starting_pool_does_not_remove_a_queue_that_is_not_a_pools() {
    let address = address("foreign");
    let queue = ipc_queue::ByteQueue::open(format!("{address}.jobs")).unwrap();
    queue.sender().send(b"a message").unwrap();
    for _ in 0..2 {
        let refused = pool(1).at(&address).start();
        let exists = matches!(refused, Err(PoolError::Queue(QueueError::Exists { .. })));
        assert!(exists, "{refused:?}");
    }
    assert_eq!(queue.receiver().recv().unwrap().payload(), b"a message");
    assert_eq!(files_of(&address).len(), 1);
    ipc_queue::remove(format!("{address}.jobs")).unwrap();
}
