//! Workers that are killed, stopped, added, or kept from working from outside.

use std::collections::HashMap;
use std::fs;

use ipc_proto::codec;
use ipc_queue::transport::{LeaseInfo, Settle, Transport, Wait};
use ipc_queue::{MessageId, ShmQueue};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Ended, Place, Running, state_of, sum, wait_until};

#[test]
fn workers_killed_at_random_cost_no_task() {
    const KILLS: u64 = 10;
    let place = Place::new();
    let running = place.start(["--simulate", "40", "--json"]);
    let tasks = running.tasks().unwrap();
    for kills in 0..KILLS {
        // One kill at a time: otherwise the same task might lose its worker until it is given up.
        wait_until("progress", || tasks.stats().unwrap().acked >= 3 * kills);
        wait_until("a victim", || {
            let mut workers = running.workers();
            let leases = tasks.leases().unwrap();
            workers
                .retain(|worker| holding_of(*worker, &leases).is_none_or(|held| held.attempt < 3));
            fastrand::choice(workers).is_some_and(|worker| kill(worker, Signal::SIGKILL).is_ok())
        });
    }
    drop(tasks);
    let report = running.end().exact_report(40);
    assert_eq!(report["distinct"], 40);
    assert_eq!(sum(&report["workers"], "restarts"), KILLS, "{report}");
}

#[test]
fn a_stopped_worker_keeps_its_task_until_it_continues() {
    let place = Place::new();
    let running = place.start(["--simulate", "12", "--workers", "3", "--json"]);
    let tasks = running.tasks().unwrap();
    let stopped = stop_one_at_work(&tasks);
    wait_until("the others' end", || {
        let stats = tasks.stats().unwrap();
        (stats.acked, stats.leased) == (11, 1)
    });
    kill(stopped, Signal::SIGCONT).unwrap();
    drop(tasks);
    let report = running.end().exact_report(12);
    assert_eq!(report["redelivered"], 0, "{report}");
    assert_eq!(sum(&report["workers"], "restarts"), 0, "{report}");
}

#[test]
fn tasks_that_kill_every_worker_are_abandoned() {
    let place = Place::new();
    let running = place.start(["--simulate", "6", "--workers", "2", "--json"]);
    let tasks = running.tasks().unwrap();
    let mut deaths: HashMap<MessageId, u8> = HashMap::new();
    wait_until("the end", || {
        // The queue is removed: the run has ended since the last look.
        let Ok(leases) = tasks.leases() else {
            return true;
        };
        for lease in leases {
            if deaths.insert(lease.message, lease.attempt) != Some(lease.attempt) {
                let _ = kill(pid_of(&lease), Signal::SIGKILL);
            }
        }
        tasks.is_closed().unwrap_or(true)
    });
    drop(tasks);
    let given_up = deaths.values().filter(|attempts| **attempts == 5).count();
    assert!(given_up > 0, "{deaths:?}");
    let ended = running.end();
    check_given_up(&ended, given_up, 6);
    let reason = "given up at attempt 5: the last worker that took it died";
    assert_eq!(ended.stderr.matches(reason).count(), given_up, "{ended:?}");
}

#[test]
fn an_abandoned_file_is_reported_as_such() {
    let place = Place::new();
    let folder = tempfile::tempdir().unwrap();
    for number in 0..1000 {
        fs::write(folder.path().join(format!("{number:03}")), "content").unwrap();
    }
    let args = ["--workers", "1", "--json", "--input"].map(AsRef::as_ref);
    let args = args.into_iter().chain([folder.path().as_os_str()]);
    let mut buried = None;
    wait_until("a run that is not too fast for us", || {
        let running = place.start(args.clone());
        let file = bury_one(&running);
        buried = file.map(|file| (file, running.end()));
        buried.is_some()
    });
    let (file, ended) = buried.unwrap();
    check_given_up(&ended, 1, 1000);
    let (_, report) = ended.report();
    let entry = &report["files"][file];
    let error = entry["error"].as_str().unwrap();
    assert!(
        error.contains("given up at attempt 1: a worker could not read it"),
        "{entry}"
    );
}

#[test]
fn workers_that_cannot_work_end_the_run_with_their_reason() {
    let place = Place::new();
    let running = place.start(["--simulate", "100", "--workers", "1"]);
    let tasks = running.tasks().unwrap();
    let worker = stop_one_at_work(&tasks);
    drop(tasks);
    // Open files stay open, and later processes find nothing. Deleting the file would also end the
    // use by processes that have it open.
    let folder = place.namespace_of(running.pid()).path();
    let answers = folder.join("run.answers.queue");
    fs::rename(&answers, folder.join("elsewhere")).unwrap();
    kill(worker, Signal::SIGKILL).unwrap();
    let ended = running.end();
    fs::remove_dir_all(folder.parent().unwrap()).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for words in [
        "workers can't work here",
        "too many workers died before they were ready",
        "there is no queue",
    ] {
        assert!(ended.stderr.contains(words), "{ended:?}");
    }
}

#[test]
fn a_worker_started_by_hand_does_some_of_the_work() {
    let place = Place::new();
    let running = place.start(["--simulate", "30", "--workers", "1"]);
    running.await_note("10 of 30");
    let helper = place.start(["host", "--at", &running.address(), "--name", "helper"]);
    let (ended, helper) = (running.end(), helper.end());
    assert_eq!(helper.status.code(), Some(0), "{helper:?}");
    assert!(
        ended.stdout.contains("tasks: 30 of 30 done, 0 redelivered"),
        "{ended:?}"
    );
    let rows = ended
        .stdout
        .lines()
        .filter(|line| line.contains("helper-1"));
    let rows: Vec<&str> = rows.collect();
    // The list of workers shows what it completed; the list of nodes shows what it sent.
    assert_eq!(rows.len(), 2, "{ended:?}");
    for (row, column) in rows.into_iter().zip([2, 3]) {
        let number = row.split_whitespace().nth(column).unwrap();
        assert!(number.parse::<u64>().unwrap() > 0, "{row}");
    }
}

#[test]
fn a_worker_started_by_hand_without_a_run_is_an_error() {
    let place = Place::new();
    let ended = place.run(["host", "--at", "shm:demo-0/run"]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("there is no queue"), "{ended:?}");
}

/// Stops a worker that holds a task and can't finish it.
fn stop_one_at_work(tasks: &ShmQueue) -> Pid {
    let mut stopped = None;
    wait_until("a worker at work", || {
        let Some(worker) = tasks.leases().unwrap().first().map(pid_of) else {
            return false;
        };
        kill(worker, Signal::SIGSTOP).unwrap();
        wait_until("a stop", || state_of(worker) == Some('T'));
        if holding_of(worker, &tasks.leases().unwrap()).is_some() {
            stopped = Some(worker);
        } else {
            kill(worker, Signal::SIGCONT).unwrap(); // The worker was faster.
        }
        stopped.is_some()
    });
    stopped.unwrap()
}

/// Takes a task before the workers do, and buries it. Returns its number, or `None` if no task is
/// left.
fn bury_one(running: &Running) -> Option<usize> {
    let tasks = running.tasks()?;
    let receiver = tasks.receiver();
    let delivery = receiver.recv(Wait::Forever).ok()?;
    // Tickets are numbered from 1, in the order of the files.
    let (ticket, _) = codec::decode_prefix::<u64>(delivery.payload()).unwrap();
    delivery.settle(Settle::Bury { reason: "" }).unwrap();
    Some(ticket as usize - 1)
}

fn check_given_up(ended: &Ended, given_up: usize, tasks: usize) {
    let (code, report) = ended.report();
    assert_eq!(code, Some(1), "{ended:?}");
    assert_eq!(report["dead_lettered"], given_up, "{ended:?}");
    assert_eq!(report["completed"], tasks, "{ended:?}");
    assert_eq!(report["distinct"], tasks - given_up, "{ended:?}");
}

fn holding_of(worker: Pid, leases: &[LeaseInfo]) -> Option<&LeaseInfo> {
    leases.iter().find(|lease| pid_of(lease) == worker)
}

fn pid_of(lease: &LeaseInfo) -> Pid {
    Pid::from_raw(lease.pid.cast_signed())
}
