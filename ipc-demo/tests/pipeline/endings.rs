//! Runs that end early. They leave nothing, or at most leftovers that the next run removes.

use ipc_nats::testing::is_installed;
use ipc_queue::transport::Transport;
use nix::sys::signal::{Signal, kill};
use std::process::{Command, Stdio};

use crate::support::{Place, wait_until};

#[test]
fn ctrl_c_finishes_only_the_begun_tasks() {
    for transport in ["shm", "local", "unix", "nats"] {
        if transport == "nats" && !is_installed() {
            continue;
        }
        let place = Place::new();
        let running = place.start(["--simulate", "50", "--json", "--transport", transport]);
        running.await_note("10 of 50");
        running.signal(Signal::SIGINT);
        let ended = running.end();
        let (code, report) = ended.report();
        assert_eq!(code, Some(130), "{ended:?}");
        let completed = report["completed"].as_u64().unwrap();
        assert!((10..50).contains(&completed), "{ended:?}");
        assert_eq!(report["tasks"], 50, "{ended:?}");
        assert_eq!(report["distinct"], completed, "{ended:?}");
        assert!(
            ended.stderr.contains("once more to stop at once"),
            "{ended:?}"
        );
    }
}

#[test]
fn a_second_ctrl_c_waits_for_nothing() {
    let place = Place::new();
    let running = place.start(["--simulate", "50", "--json"]);
    let tasks = running.tasks().unwrap();
    wait_until("workers at work", || tasks.stats().unwrap().leased == 4);
    // The tasks that they have begun will never be finished.
    for worker in running.workers() {
        kill(worker, Signal::SIGSTOP).unwrap();
    }
    drop(tasks);
    running.signal(Signal::SIGINT);
    running.await_note("finishing what the workers have begun");
    running.signal(Signal::SIGINT);
    let ended = running.end();
    let (code, report) = ended.report();
    assert_eq!(code, Some(130), "{ended:?}");
    assert!(report["completed"].as_u64() < Some(50), "{ended:?}");
}

#[test]
fn a_killed_run_ends_its_workers_and_the_next_run_cleans_up() {
    kill_a_run("shm");
}

#[test]
fn a_killed_run_with_sockets_is_cleaned_up_by_the_next_run() {
    kill_a_run("unix");
}

#[test]
fn a_killed_run_with_its_nats_server_is_cleaned_up_by_the_next_run() {
    if is_installed() {
        kill_a_run("nats");
    }
}

fn kill_a_run(transport: &str) {
    let place = Place::new();
    let running = place.start(["--simulate", "50", "--json", "--transport", transport]);
    running.await_note("10 of 50");
    let (pid, folder) = (running.pid(), place.namespace_of(running.pid()).path());
    running.signal(Signal::SIGKILL);
    assert_eq!(running.end().signal(), Some(9));
    wait_until("the workers' end", || place.processes().is_empty());
    assert!(folder.exists());

    let ended = place.run(["--simulate", "12", "--json"]);
    ended.exact_report(12);
    let note = format!("removed what a killed run left behind: demo-{pid}");
    assert!(ended.stderr.contains(&note), "{ended:?}");
    assert!(!folder.exists());
}

#[test]
fn a_worker_started_by_hand_leaves_when_the_coordinator_is_killed() {
    let place = Place::new();
    let running = place.start(["--simulate", "20", "--workers", "1"]);
    assert!(running.tasks().is_some());
    let helper = place.start(["host", "--at", &running.address(), "--name", "helper"]);
    running.await_note("10 of 20");
    running.signal(Signal::SIGKILL);
    running.end();
    let helper = helper.end();
    assert_eq!(helper.status.code(), Some(0), "{helper:?}");
    place.run(["--simulate", "1", "--json"]).exact_report(1);
}

#[test]
fn a_run_leaves_other_runs_alone() {
    let place = Place::new();
    let others: Vec<_> = (0..4)
        .map(|_| place.start(["--simulate", "20", "--json"]))
        .collect();
    for running in others {
        let ended = running.end();
        ended.exact_report(20);
        assert!(!ended.stderr.contains("left behind"), "{ended:?}");
    }
}

#[test]
fn runs_of_one_process_number_in_two_pid_namespaces_leave_each_other_alone() {
    let place = Place::new();
    let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child", "--"];
    let start = || {
        let demo = place.demo(["--simulate", "12", "--workers", "2", "--json"]);
        let mut command = Command::new("unshare");
        command
            .args(unshare)
            .arg(demo.get_program())
            .args(demo.get_args());
        for (name, value) in demo.get_envs() {
            command.env(name, value.unwrap());
        }
        command.stdin(Stdio::null());
        place.start_command(command)
    };
    let can_unshare = Command::new("unshare").args(unshare).arg("true").output();
    if !can_unshare.is_ok_and(|made| made.status.success()) {
        eprintln!("skipped: no PID namespace can be made here");
        return;
    }
    let runs = [start(), start(), start()];
    for running in runs {
        running.end().exact_report(12);
    }
}
