//! The same report over every transport, over two hosts, and while a server dies.

use std::time::Duration;

use ipc_nats::testing::{self, TestCluster, TestServer};
use ipc_queue::QueueOptions;
use ipc_queue::transport::OpenMode;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::fingerprints::{check_kills, fingerprint_everything};
use crate::support::{Place, Running, sum, wait_until};
use crate::tree::Tree;

#[test]
fn processes_that_share_only_sockets_give_the_same_report() {
    fingerprint_everything(&["--transport", "unix"]);
}

#[test]
fn processes_that_share_only_sockets_survive_killed_workers() {
    let report = fingerprint_everything(&["--transport", "unix", "--kill-workers", "5"]);
    check_kills(5, &report);
}

#[test]
fn processes_that_share_only_a_nats_server_give_the_same_report() {
    if testing::is_installed() {
        fingerprint_everything(&["--transport", "nats"]);
    }
}

#[test]
fn processes_that_share_only_a_nats_server_survive_killed_workers() {
    if testing::is_installed() {
        let report = fingerprint_everything(&["--transport", "nats", "--kill-workers", "5"]);
        check_kills(5, &report);
    }
}

#[test]
fn two_hosts_that_share_only_the_address_of_a_server_share_the_work() {
    const FILES: usize = 300;
    if !testing::is_installed() {
        return;
    }
    let server = TestServer::start();
    let servers = format!("nats://{}", server.host());
    let (here, there) = (Place::new(), Place::new());
    let tree = Tree::of_small_files(&here, FILES);
    wait_until("a run that is not too fast for the others", || {
        let running = start(&here, &tree, &servers, &["--workers", "1"]);
        let remote_workers = elsewhere(&there, &address_of(&running));
        let report = running.end().exact_report(FILES);
        tree.check(&report["files"]);
        let remote_workers = remote_workers.end();
        assert_eq!(remote_workers.status.code(), Some(0), "{remote_workers:?}");
        assert_eq!(sum(&report["workers"], "completed"), FILES as u64);
        completed(&report, "there-") > 0 && completed(&report, "worker-") > 0
    });
}

#[test]
fn a_cluster_that_loses_a_server_in_the_middle_loses_nothing() {
    const FILES: usize = 200;
    if !testing::is_installed() {
        return;
    }
    let mut cluster = TestCluster::start();
    let place = Place::new();
    let tree = Tree::of_small_files(&place, FILES);
    let servers = format!("nats://{}?replicas=3", cluster.hosts());
    let running = start(&place, &tree, &servers, &[]);
    running.await_note("40 of 200");
    cluster.servers[0].kill();
    assert!(!running.said().contains("200 of 200"), "it was too fast");
    let ended = running.end();
    let report = ended.exact_report(FILES);
    assert_eq!(report["distinct"], FILES);
    tree.check(&report["files"]);
    // Workers that could not reach it waited.
    assert_eq!(sum(&report["workers"], "restarts"), 0, "{}", ended.stderr);
}

#[test]
fn a_server_that_is_killed_and_started_again_in_the_middle_loses_nothing() {
    const FILES: usize = 400;
    if !testing::is_installed() {
        return;
    }
    let mut server = TestServer::start();
    let place = Place::new();
    let tree = Tree::of_small_files(&place, FILES);
    let servers = format!("nats://{}", server.host());
    let running = start(&place, &tree, &servers, &[]);
    running.await_note("40 of 400");
    server.kill();
    // Away for so long that every process notices.
    running.await_note("waiting: the NATS server");
    server.restart();
    let report = running.end().exact_report(FILES);
    assert_eq!(report["distinct"], FILES);
    tree.check(&report["files"]);
    assert_eq!(sum(&report["workers"], "restarts"), 0, "{report}");
}

#[test]
fn workers_killed_at_random_also_cost_no_task_over_a_server() {
    const KILLS: u64 = 4;
    if !testing::is_installed() {
        return;
    }
    let server = TestServer::start();
    let place = Place::new();
    let running = simulate(&place, &server, &["30", "--workers", "4"]);
    for kills in 0..KILLS {
        running.await_note(if kills < 2 { "10 of 30" } else { "20 of 30" });
        wait_until("a victim", || {
            let victim = fastrand::choice(running.workers());
            victim.is_some_and(|worker| kill(worker, Signal::SIGKILL).is_ok())
        });
    }
    let report = running.end().exact_report(30);
    assert_eq!(report["distinct"], 30);
    // A worker that was being replaced may have been killed instead.
    let restarts = sum(&report["workers"], "restarts");
    assert!((1..=KILLS).contains(&restarts), "{report}");
}

#[test]
fn a_worker_is_replaced_even_if_its_last_report_is_lost() {
    if !testing::is_installed() {
        return;
    }
    let server = TestServer::start();
    let place = Place::new();
    let running = simulate(&place, &server, &["6", "--workers", "1"]);
    let answers = format!("{}.answers", address_of(&running));
    ipc_nats::register();
    let answers = QueueOptions::new()
        .mode(OpenMode::Open)
        .open_bytes(&answers);
    let answers = answers.unwrap().receiver();
    // The pool can't receive this answer now, as if a worker had died while sending it.
    let unheard = answers.recv().unwrap();
    unheard.extend(Duration::from_secs(60)).unwrap();
    for worker in running.workers() {
        kill(worker, Signal::SIGKILL).unwrap();
    }
    running.await_note("worker-1 was lost");
    drop(unheard);
    running.end().exact_report(6);
}

/// Starts a run of this many simulated tasks over this server.
fn simulate<'a>(place: &'a Place, server: &TestServer, count: &[&str]) -> Running<'a> {
    let servers = format!("nats://{}", server.host());
    let args = [
        "--json",
        "--transport",
        "nats",
        "--at",
        &servers,
        "--simulate",
    ];
    place.start(args.iter().chain(count))
}

fn start<'a>(place: &'a Place, tree: &Tree, servers: &str, options: &[&str]) -> Running<'a> {
    let args = ["--json", "--transport", "nats", "--at", servers];
    let args = args.iter().chain(options).chain(&["--input"]);
    let inputs = tree.inputs.iter().map(|path| path.as_os_str());
    place.start(args.map(AsRef::as_ref).chain(inputs))
}

/// Starts workers that share nothing with the run at this address: no memory, no folder.
fn elsewhere<'a>(there: &'a Place, address: &str) -> Running<'a> {
    let args = ["host", "--name", "there", "--workers", "2", "--at", address];
    let mut host = there.demo(args);
    let folder = std::env::temp_dir().join("nowhere");
    host.current_dir("/").env("TMPDIR", folder);
    there.start_command(host)
}

/// Returns the address at which the run says it can be joined.
fn address_of(running: &Running<'_>) -> String {
    const BEFORE: &str = "host --at ";
    running.await_note(BEFORE);
    let said = running.said();
    let (_, rest) = said.split_once(BEFORE).unwrap();
    rest.split_whitespace().next().unwrap().to_owned()
}

/// Returns the number of tasks completed by the workers whose names begin with `name`.
fn completed(report: &Value, name: &str) -> u64 {
    let workers = report["workers"].as_array().unwrap().iter();
    let named = workers.filter(|worker| worker["name"].as_str().unwrap().starts_with(name));
    named
        .map(|worker| worker["completed"].as_u64().unwrap())
        .sum()
}
