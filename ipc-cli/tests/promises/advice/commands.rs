//! Advice of single commands: what to name, where to look, where to listen.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::{fs, iter};

use ipc_queue::{Encoding, Queue, QueueOptions};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::advises;
use crate::doctor::Folder;
use crate::place::{Ended, Place, Running, ipc, program, run, say_skipped, wait_until};
use crate::signals::signal;

// --- Messages ---

/// Returns a folder with a queue `jobs` in which one message has failed.
fn with_a_dead_letter() -> Folder {
    let folder = Folder::new();
    let create = ["create", "jobs", "--attempt-limit", "1"];
    for args in [
        &create[..],
        &["send", "jobs", "one"],
        &["recv", "jobs", "--nack"],
    ] {
        folder.run(args).expect(0);
    }
    folder
}

#[test]
fn messages_to_delete_are_named_or_all_are_meant() {
    let folder = Folder::new();
    let send = || folder.run(&["send", "jobs", "one", "--create", "--json"]);
    let id = send().expect(0).json()["message"].clone();
    send().expect(0);
    let refused = folder.run(&["delete", "jobs"]).expect(2);
    advises(
        &refused,
        "say which messages (see --help), or --all for all that wait",
    );
    let help = folder.run(&["delete", "--help"]).expect(0).out;
    assert!(help.contains("--id <MESSAGE>"), "{help}");
    let ready = || folder.run(&["stat", "jobs", "--json"]).json()["stats"]["ready"].clone();
    folder
        .run(&["delete", "jobs", "--id", id.as_str().unwrap()])
        .expect(0);
    assert_eq!(ready(), 1);
    folder.run(&["delete", "jobs", "--all"]).expect(0);
    assert_eq!(ready(), 0);
}

#[test]
fn a_message_that_is_not_found_is_looked_up_where_the_error_says() {
    let folder = with_a_dead_letter();
    folder.run(&["send", "jobs", "two"]).expect(0);
    let refused = folder.run(&["delete", "jobs", "--id", "17-0"]).expect(3);
    advises(
        &refused,
        "see ipc peek jobs --json, and ipc export jobs --state dead",
    );
    let waiting = folder.run(&["peek", "jobs", "--json"]).expect(0).json();
    let dead = folder
        .run(&["export", "jobs", "--state", "dead"])
        .expect(0)
        .json();
    let delete = |id: &Value, state: &str| {
        let args = [
            "delete",
            "jobs",
            "--id",
            id.as_str().unwrap(),
            "--state",
            state,
        ];
        folder.run(&args).expect(0);
    };
    delete(&waiting[0]["message"], "ready");
    delete(&dead["message"], "dead");
    let stats = folder.run(&["stat", "jobs", "--json"]).json()["stats"].clone();
    assert_eq!((&stats["ready"], &stats["dead"]), (&0.into(), &0.into()));
}

#[test]
fn a_message_that_nobody_holds_is_looked_up_in_stat() {
    let place = Place::new("held-by-nobody");
    let queue = place.make("jobs", &QueueOptions::new());
    let name = place.name("jobs");
    queue.sender().send(b"one").unwrap();
    let receiver = queue.receiver();
    let _held = receiver.recv().unwrap();
    let refused = run(&["revoke", &name, "17-0"]).expect(3);
    advises(&refused, &format!("see ipc stat {name}"));
    let held = run(&["stat", &name, "--json"]).expect(0).json();
    let id = held["leases"][0]["message"].as_str().unwrap().to_owned();
    run(&["revoke", &name, &id]).expect(0);
}

#[test]
fn a_dead_letter_is_named_as_listed() {
    let folder = with_a_dead_letter();
    let refused = folder.run(&["dlq", "show", "jobs", "first"]).expect(2);
    advises(&refused, "take one from ipc dlq ls, such as ");
    let listed = folder
        .run(&["dlq", "ls", "jobs", "--json"])
        .expect(0)
        .json();
    let letter = listed[0]["letter"].as_str().unwrap();
    folder.run(&["dlq", "show", "jobs", letter]).expect(0);
}

#[test]
fn messages_that_a_bridge_could_not_carry_are_listed_as_dead_letters() {
    let folder = Folder::new();
    folder
        .run(&["create", "to", "--max-message-bytes", "1000"])
        .expect(0);
    let large = "x".repeat(2000);
    folder.run(&["send", "from", &large, "--create"]).expect(0);
    let ended = folder.run(&["bridge", "from", "to", "--close"]).expect(1);
    advises(&ended, "see ipc dlq ls from");
    // Both the list and its JSON say why.
    let letters = folder
        .run(&["dlq", "ls", "from", "--json"])
        .expect(0)
        .json();
    let why = letters[0]["error"].as_str().unwrap();
    assert!(
        why.contains("larger than the 1000 that the queue accepts"),
        "{why}"
    );
    let listed = folder.run(&["dlq", "ls", "from"]).expect(0).out;
    assert!(listed.contains("larger than the 1000"), "{listed}");
}

#[test]
fn a_typed_queue_gets_messages_from_its_program_or_has_an_encoding_for_json() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Job {
        width: u32,
    }
    let place = Place::new("typed-advice");
    let address = |name: &str| format!("shm:{}", place.name(name));
    let open = |name: &str, encoding: Encoding| -> Queue<Job> {
        let options = QueueOptions::new().encoding(encoding);
        options.open(address(name)).unwrap()
    };
    let json = r#"{"width": 640}"#;
    let queue = open("postcard", Encoding::Postcard);
    let refused = run(&["send", &place.name("postcard"), json]).expect(5);
    advises(
        &refused,
        "send with such a program, or create the queue with Encoding::MessagePack or \
         Encoding::Json, into which ipc send puts JSON",
    );
    queue.sender().send(Job { width: 640 }).unwrap();
    for (name, encoding) in [("msgpack", Encoding::MessagePack), ("json", Encoding::Json)] {
        let queue = open(name, encoding);
        run(&["send", &place.name(name), json]).expect(0);
        let receiver = queue.receiver();
        let delivery = receiver.recv().unwrap();
        assert_eq!(*delivery.data(), Job { width: 640 });
        delivery.ack().unwrap();
    }
}

#[test]
fn a_served_queue_that_is_paused_is_resumed_so_that_its_server_ends() {
    let place = Place::new("paused-at-the-end");
    let folder = tempfile::tempdir().unwrap();
    let at = format!("unix:{}", folder.path().join("x.sock").display());
    let mut server = Running::start(&mut ipc(&[
        "serve",
        &format!("local:{}", place.0),
        "--at",
        &at,
    ]));
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    run(&["send", &at, "one"]).expect(0);
    run(&["pause", &at]).expect(0);
    signal(&server, Signal::SIGTERM);
    let said = lines
        .find(|line| line.as_ref().unwrap().contains("are left"))
        .unwrap()
        .unwrap();
    assert!(
        said.contains("they are delivered only after ipc resume"),
        "{said}"
    );
    run(&["resume", &at]).expect(0);
    assert_eq!(run(&["recv", &at]).expect(0).out, "one\n");
    server.end().expect(0);
}

#[test]
fn a_stopped_holder_is_continued_or_loses_its_message() {
    for is_continued in [true, false] {
        let folder = Folder::new();
        let go = folder.0.path().with_extension("go");
        folder.run(&["send", "jobs", "one", "--create"]).expect(0);
        let script = format!("until test -e {}; do sleep 0.01; done", go.display());
        let mut work = ipc(&["work", "jobs", "--count", "1", "--", "sh", "-c", &script]);
        let worker = Running::start(work.env("IPC_SHM_DIR", folder.0.path()));
        let stat = || folder.run(&["stat", "jobs", "--json"]).json();
        wait_until("it is held", || stat()["stats"]["leased"] == 1);
        signal(&worker, Signal::SIGSTOP);
        wait_until("it is stopped", || {
            stat()["leases"][0]["health"] == "stopped"
        });
        let (_, what) = folder.finding("jobs");
        let told = what
            .split_once("holds message ")
            .unwrap()
            .1
            .split_once(": ")
            .unwrap()
            .1;
        let (resume, rest) = told.split_once(" lets it run, ipc ").unwrap();
        let (revoke, _) = rest
            .split_once(" gives the message to another receiver")
            .unwrap();
        if is_continued {
            assert_eq!(Ended::of(program("sh").args(["-c", resume])).code, 0);
            fs::write(&go, "").unwrap();
            worker.end().expect(0);
            assert_eq!(stat()["stats"]["acked"], 1);
        } else {
            let revoke: Vec<_> = revoke.split(' ').collect();
            folder.run(&revoke).expect(0);
            let received = folder.run(&["recv", "jobs", "--timeout", "30s"]).expect(0);
            assert_eq!(received.out, "one\n");
            fs::write(&go, "").unwrap();
        }
        fs::remove_file(&go).unwrap();
    }
}

// --- Queues ---

#[test]
fn a_queue_is_served_at_a_socket() {
    let place = Place::new("at-a-socket");
    place.make("jobs", &QueueOptions::new());
    let refused = run(&["serve", &place.name("jobs"), "--at", "shm:other"]).expect(2);
    advises(&refused, "serve at unix:/PATH");
    let folder = tempfile::tempdir().unwrap();
    let at = format!("unix:{}", folder.path().join("x.sock").display());
    let _server = Running::start(&mut ipc(&["serve", &place.name("jobs"), "--at", &at]));
    wait_until("it is served", || run(&["stat", &at]).code == 0);
}

#[test]
fn what_cannot_be_listed_is_explained_by_the_doctor() {
    let folder = Folder::new();
    folder.run(&["create", "jobs"]).expect(0);
    let file = folder.file("jobs").with_file_name("bad.queue");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let refused = folder.run(&["ls"]).expect(1);
    advises(
        &refused,
        "1 of 2 can't be opened: ipc doctor says what to do",
    );
    let (_, what) = folder.finding("bad");
    let told = what.rsplit_once("; ").unwrap().1;
    let told = told
        .strip_prefix("ipc ")
        .unwrap()
        .strip_suffix(" removes it")
        .unwrap();
    folder.run(&told.split(' ').collect::<Vec<_>>()).expect(0);
    folder.run(&["ls"]).expect(0);
}

#[test]
fn queues_to_watch_are_one_namespace_or_addresses() {
    let place = Place::new("watched");
    place.make("jobs", &QueueOptions::new());
    let once = ["--json", "--once", "--every", "1ms"];
    let top = |queues: &[&str]| run(&[&["top"], queues, &once[..]].concat());
    let refused = top(&[&place.0, "other"]).expect(2);
    advises(
        &refused,
        "give one namespace, or queues by their addresses (shm:NAME, unix:/PATH)",
    );
    let address = format!("shm:{}", place.name("jobs"));
    let folder = tempfile::tempdir().unwrap();
    let at = format!("unix:{}", folder.path().join("x.sock").display());
    let _server = Running::start(&mut ipc(&["serve", &address, "--at", &at]));
    wait_until("it is served", || run(&["stat", &at]).code == 0);
    for (queues, count) in [(&[&place.0[..]][..], 1), (&[&address[..], &at], 2)] {
        let shown = top(queues).expect(0).json();
        assert_eq!(shown["queues"].as_array().unwrap().len(), count, "{shown}");
    }
}

#[test]
fn a_socket_without_a_server_gets_one_and_a_missing_queue_is_made() {
    let place = Place::new("unserved");
    let folder = tempfile::tempdir().unwrap();
    let at = format!("unix:{}", folder.path().join("x.sock").display());
    let doctor = |about: &str| {
        let ended = run(&["doctor", about, "--json"]);
        crate::doctor::finding(&ended, about)
    };
    let (_, what) = doctor(&at);
    let told = format!("no server listens there: ipc serve QUEUE --at {at} starts one");
    assert!(what.contains(&told), "{what}");
    let address = format!("shm:{}", place.name("jobs"));
    let (_, what) = doctor(&address);
    assert!(
        what.contains(&format!("ipc create {address} makes it")),
        "{what}"
    );
    run(&["create", &address]).expect(0);
    assert_eq!(doctor(&address).0, "ok");
    let _server = Running::start(&mut ipc(&["serve", &address, "--at", &at]));
    wait_until("it is served", || run(&["stat", &at]).code == 0);
    assert_eq!(doctor(&at).0, "ok");
}

// --- Figures ---

#[test]
fn figures_as_json_come_from_ls() {
    let folder = Folder::new();
    folder.run(&["send", "jobs", "one", "--create"]).expect(0);
    let refused = folder.run(&["metrics", "--json"]).expect(2);
    advises(&refused, "ipc ls --json has the same counters");
    let figures = folder.run(&["metrics"]).expect(0).out;
    assert!(
        figures.contains("ipc_queue_ready{queue=\"jobs\"} 1"),
        "{figures}"
    );
    let listed = folder.run(&["ls", "--json"]).expect(0).json();
    assert_eq!(listed[0]["stats"]["ready"], 1);
}

/// Starts a command that listens, and returns it once it says where.
fn listening(command: &mut Command) -> Running {
    let mut running = Running::start(command);
    let mut said = String::new();
    let out = running.0.stdout.as_mut().unwrap();
    BufReader::new(out).read_line(&mut said).unwrap();
    assert!(said.starts_with("http://127.0.0.1:"), "{said}");
    running
}

#[test]
fn a_port_in_use_is_left_for_another_or_freed() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    for command in ["metrics", "web"] {
        let refused = run(&[command, "--listen", &at]).expect(1);
        advises(
            &refused,
            "another program listens there; stop it, or give another port, or port 0 for a free one",
        );
        drop(listening(&mut ipc(&[command, "--listen", "127.0.0.1:0"])));
    }
    drop(taken);
    for command in ["metrics", "web"] {
        drop(listening(&mut ipc(&[command, "--listen", &at])));
    }
}

#[test]
fn a_port_that_needs_a_privilege_is_replaced_by_one_above_1023() {
    let metrics = |at: &str| {
        let mut command = program("setpriv");
        command.args([
            "--bounding-set=-net_bind_service",
            "--",
            env!("CARGO_BIN_EXE_ipc"),
        ]);
        command.args(["metrics", "--listen", at]);
        command
    };
    let allowed = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    let allowed = fs::read_to_string(allowed).unwrap_or_default();
    let possible = program("setpriv")
        .args(["--bounding-set=-all", "true"])
        .status();
    if allowed.trim() != "1024" || !possible.is_ok_and(|status| status.success()) {
        return say_skipped("ports that need a privilege", "there are none here");
    }
    let refused = Ended::of(&mut metrics("127.0.0.1:1023")).expect(1);
    advises(&refused, "give a port above 1023");
    // A free one, as another program may have any.
    let free = iter::repeat_with(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let mut ports = free.map(|listener| listener.local_addr().unwrap().to_string());
    drop(listening(&mut metrics(&ports.next().unwrap())));
}
