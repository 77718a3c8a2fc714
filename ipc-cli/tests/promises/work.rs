//! `work`: no job is lost, whatever is killed; and how each message is settled when its command
//! ends.

use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipc_nats::testing::TestServer;
use ipc_queue::{Backoff, QueueOptions, SendOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::place::{Ended, Place, Running, ipc, run, wait_until};
use crate::signals::{ask_to_end, signal, wait_for_handler};

/// Returns the arguments that run `script` for each message of a queue.
fn work<'a>(queue: &'a str, options: &[&'a str], script: &'a str) -> Vec<&'a str> {
    [&["work", queue], options, &["--", "sh", "-c", script]].concat()
}

/// Options of a queue in which a failed message is redelivered at once, as often as needed.
fn options(capacity: u32) -> QueueOptions {
    let options = QueueOptions::new().capacity(capacity);
    let options = options.attempt_limit(250).crash_limit(250);
    options.backoff(Backoff::None)
}

fn send(queue: &ipc_queue::ByteQueue, payload: &str) {
    queue.sender().send(payload.as_bytes()).unwrap();
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Returns the running children of a process: guards, and others.
fn children(parent: u32) -> (Vec<i32>, Vec<i32>) {
    let tasks = fs::read_dir(format!("/proc/{parent}/task"))
        .into_iter()
        .flatten();
    let lists = tasks
        .flatten()
        .map(|task| read(&task.path().join("children")));
    let lists: Vec<_> = lists.collect();
    let pids = lists.iter().flat_map(|list| list.split_whitespace());
    let is_guard =
        |pid: &i32| read(&PathBuf::from(format!("/proc/{pid}/cmdline"))).contains("guard");
    pids.map(|pid| pid.parse::<i32>().unwrap())
        .partition(is_guard)
}

fn is_running(pid: i32) -> bool {
    let stat = read(&PathBuf::from(format!("/proc/{pid}/stat")));
    let state = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned();
    !stat.is_empty() && !state.starts_with('Z')
}

#[test]
fn no_job_is_lost_when_commands_and_their_worker_are_killed() {
    const JOBS: usize = 10_000;
    /// The number of jobs that are done between two kills.
    const PER_COMMAND: u64 = 40;
    const PER_WORKER: u64 = 500;
    let place = Place::new("work-kills");
    let queue = place.make("jobs", &options(JOBS as u32));
    for number in 0..JOBS {
        send(&queue, &format!("job-{number}\n"));
    }
    let folder = tempfile::tempdir().unwrap();
    let done = folder.path().join("done");
    let script = format!("read id; echo $id >> {}", done.display());
    let name = place.name("jobs");
    let args = work(&name, &["--jobs", "4"], &script);
    let acked = || queue.transport().stats().unwrap().acked;
    let said = folder.path().join("said");
    let start = || {
        let mut command = ipc(&args);
        Running::start(command.stderr(File::create(&said).unwrap()))
    };
    let mut worker = start();
    let (mut command_at, mut worker_at) = (PER_COMMAND, PER_WORKER);
    let (mut killed_commands, mut killed_workers) = (0, 0);
    while acked() < JOBS as u64 {
        let ended = worker.0.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}: {}", read(&said));
        if acked() >= worker_at {
            worker_at += PER_WORKER;
            drop(worker);
            killed_workers += 1;
            worker = start();
        } else if acked() >= command_at {
            for pid in children(worker.0.id()).1.into_iter().take(1) {
                killed_commands += usize::from(kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok());
                command_at = acked() + PER_COMMAND;
            }
        }
        std::thread::yield_now();
    }
    wait_for_handler(&worker, Signal::SIGTERM);
    signal(&worker, Signal::SIGTERM);
    worker.end().expect(0);
    let stats = queue.transport().stats().unwrap();
    assert_eq!(
        (stats.acked, stats.in_use(), stats.dead),
        (JOBS as u64, 0, 0),
        "{stats:?}"
    );
    let lines = read(&done);
    let seen: HashSet<_> = lines.lines().collect();
    let missing = (0..JOBS).filter(|number| !seen.contains(&*format!("job-{number}")));
    assert_eq!(missing.count(), 0);
    assert!(killed_workers > 10, "{killed_workers}");
    assert!(
        killed_commands > 50 && stats.nacked > 10,
        "{killed_commands}, {stats:?}"
    );
    assert!(stats.crashes > 5, "{stats:?}");
}

#[test]
fn the_exit_code_of_a_command_decides_how_its_message_is_settled() {
    let place = Place::new("work-ends");
    let queue = place.make("jobs", &QueueOptions::new().attempt_limit(1));
    let scripts = [
        "exit 0",
        "echo first >&2; echo 'not a png' >&2; exit 65",
        "echo; echo 'disk full' >&2; exit 3",
        "kill -SEGV $$",
        "exit 75",
    ];
    for script in scripts {
        send(&queue, script);
    }
    let name = place.name("jobs");
    let args = work(
        &name,
        &["--count", "5", "--snooze", "1h"],
        r#"eval "$(cat)""#,
    );
    let ended = run(&args).expect(0);
    assert!(ended.err.contains("not a png\n"), "{ended:?}");
    let stats = queue.transport().stats().unwrap();
    assert_eq!(
        (stats.acked, stats.dead, stats.delayed),
        (1, 3, 1),
        "{stats:?}"
    );
    let letters = run(&["dlq", "ls", &name, "--json"]).expect(0).json();
    let reason = |script: &str| {
        let letter = letters.as_array().unwrap().iter();
        let mut letter = letter.filter(|one| one["payload"]["text"] == script);
        letter.next().unwrap_or_else(|| panic!("no {script:?}"))["error"].clone()
    };
    assert_eq!(reason(scripts[1]), "exit code 65: not a png");
    assert_eq!(reason(scripts[2]), "exit code 3: disk full");
    assert_eq!(reason(scripts[3]), "SIGSEGV");
}

#[test]
fn a_command_knows_its_message() {
    let place = Place::new("work-environment");
    let queue = place.make("jobs", &QueueOptions::new());
    let told = SendOptions::new().header("tenant", "acme co").unwrap();
    let told = told.header("x.trace-id", "4b").unwrap();
    let id = queue.sender().send_with(b"resize", &told).unwrap();
    let name = place.name("jobs");
    let script = "cat; echo; echo $IPC_QUEUE $IPC_MESSAGE $IPC_KIND $IPC_ATTEMPT; \
                  echo $IPC_HEADER_TENANT $IPC_HEADER_X_TRACE_ID; echo \"$IPC_HEADERS\"";
    let ended = run(&work(&name, &["--count", "1"], script)).expect(0);
    let lines: Vec<_> = ended.out.lines().collect();
    assert_eq!(
        lines[..3],
        ["resize", &format!("{name} {id} data 1"), "acme co 4b"]
    );
    let headers: Value = serde_json::from_str(lines[3]).unwrap();
    assert_eq!(headers["x.trace-id"], "4b");
}

#[test]
fn a_payload_in_a_file_is_there_for_as_long_as_its_command_runs() {
    let place = Place::new("work-file");
    let queue = place.make("jobs", &QueueOptions::new());
    for payload in ["one", "two"] {
        send(&queue, payload);
    }
    let name = place.name("jobs");
    let script = "echo {} $IPC_PAYLOAD_FILE $(stat -c %a {}) $(cat {}) $(cat)";
    let ended = run(&work(&name, &["--count", "2", "--json"], script)).expect(0);
    let said: Vec<_> = ended
        .err
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .collect();
    assert_eq!(said.len(), 2, "{ended:?}");
    for (words, payload) in said.iter().zip(["one", "two"]) {
        assert_eq!(words[0], words[1]);
        assert_eq!(words[3..], [payload]);
        assert!(!Path::new(words[0]).parent().unwrap().exists(), "{words:?}");
    }
    let objects: Vec<Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects.len(), 2);
    assert_eq!(
        (&objects[0]["outcome"], &objects[0]["exit_code"]),
        (&"acked".into(), &0.into())
    );
}

#[test]
fn a_lease_is_extended_for_as_long_as_its_command_runs() {
    let place = Place::new("work-lease");
    let options = QueueOptions::new().lease(Duration::from_millis(500));
    let queue = place.make("jobs", &options);
    send(&queue, "one");
    run(&work(&place.name("jobs"), &["--count", "1"], "sleep 2")).expect(0);
    let stats = queue.transport().stats().unwrap();
    assert_eq!(
        (stats.acked, stats.received, stats.expiries),
        (1, 1, 0),
        "{stats:?}"
    );
}

#[test]
fn a_command_is_ended_at_its_time_limit_with_all_that_it_started() {
    let place = Place::new("work-limit");
    let queue = place.make("jobs", &QueueOptions::new().attempt_limit(1));
    send(&queue, "one");
    let name = place.name("jobs");
    let options = ["--count", "1", "--time-limit", "200ms"];
    run(&work(
        &name,
        &options,
        "sleep 1000 & echo waits >&2; wait; sleep 1000",
    ))
    .expect(0);
    let letters = queue.dead_letters().unwrap();
    assert_eq!(letters[0].error, "killed at the time limit: waits");
}

#[test]
fn commands_and_their_files_end_with_a_killed_worker() {
    let place = Place::new("work-orphans");
    let queue = place.make("jobs", &options(8));
    send(&queue, "one");
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    // A grandchild would outlive the shell that started it if nothing killed the group.
    let script = format!(
        "sleep 1000 & echo $$ $! {{}} > {0}.new; mv {0}.new {0}; wait",
        pids.display()
    );
    let worker = Running::start(&mut ipc(&work(&place.name("jobs"), &[], &script)));
    wait_until("the command runs", || !read(&pids).is_empty());
    let line = read(&pids);
    let words: Vec<_> = line.split_whitespace().collect();
    let [shell, grandchild] = [words[0], words[1]].map(|pid| pid.parse().unwrap());
    assert!(is_running(shell) && is_running(grandchild) && Path::new(words[2]).exists());
    let guards = children(worker.0.id()).0;
    assert_eq!(guards.len(), 1);
    drop(worker);
    for pid in [shell, grandchild, guards[0]] {
        wait_until("it is gone", || !is_running(pid));
    }
    assert!(!Path::new(words[2]).parent().unwrap().exists());
    wait_until("the message waits again", || {
        queue.transport().stats().unwrap().ready == 1
    });
}

/// Starts a worker whose command runs until the file `go` exists.
fn waiting(place: &Place, folder: &Path) -> Running {
    let queue = place.make("jobs", &options(8));
    for payload in ["one", "two"] {
        send(&queue, payload);
    }
    let (name, at) = (place.name("jobs"), folder.display());
    let script = format!("echo > {at}/runs; until [ -e {at}/go ]; do sleep 0.01; done");
    let worker = Running::start(&mut ipc(&work(&name, &[], &script)));
    wait_until("the command runs", || folder.join("runs").exists());
    worker
}

#[test]
fn a_worker_that_gets_a_signal_waits_for_its_command_and_takes_no_more() {
    for end in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGQUIT,
    ] {
        let (place, folder) = (Place::new("work-end"), tempfile::tempdir().unwrap());
        let worker = waiting(&place, folder.path());
        // Otherwise the command might end, and the next one begin, before the worker knows.
        ask_to_end(&worker, end);
        fs::write(folder.path().join("go"), "").unwrap();
        worker.end().expect(0);
        let stats = place.look("jobs").unwrap().stats();
        assert_eq!((stats.acked, stats.ready), (1, 1), "{end}: {stats:?}");
    }
}

#[test]
fn a_second_signal_ends_a_worker_at_once_and_its_message_is_redelivered() {
    let (place, folder) = (Place::new("work-twice"), tempfile::tempdir().unwrap());
    let worker = waiting(&place, folder.path());
    let command = children(worker.0.id()).1[0];
    signal(&worker, Signal::SIGTERM);
    signal(&worker, Signal::SIGINT);
    let ended = worker.end();
    assert!([130, 143].contains(&ended.code), "{ended:?}");
    wait_until("the command is gone", || !is_running(command));
    // The next process that opens the queue frees what the worker held.
    let name = place.name("jobs");
    run(&work(&name, &["--idle-timeout", "0s"], "true")).expect(0);
    assert_eq!(place.look("jobs").unwrap().stats().acked, 2);
}

#[test]
fn a_missing_command_costs_no_message() {
    let place = Place::new("work-nosuch");
    let queue = place.make("jobs", &QueueOptions::new());
    send(&queue, "one");
    for command in ["no-such-command", "./no/such/command", "/dev/null"] {
        let ended = run(&["work", &place.name("jobs"), "--", command]).expect(1);
        assert!(ended.error().contains(command), "{ended:?}");
    }
    let stats = queue.transport().stats().unwrap();
    assert_eq!((stats.ready, stats.received), (1, 0));
}

/// A script without a first line that names its interpreter.
#[test]
fn a_command_that_cannot_start_costs_no_message_an_attempt() {
    let place = Place::new("work-noexec");
    let queue = place.make("jobs", &options(4).attempt_limit(1));
    send(&queue, "one");
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    fs::write(&script, "true\n").unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
    let name = place.name("jobs");
    let command = script.to_str().unwrap();
    let ended = run(&["work", &name, "--idle-timeout", "0s", "--", command]).expect(1);
    assert!(ended.error().contains(command), "{ended:?}");
    let stats = queue.transport().stats().unwrap();
    assert_eq!((stats.ready, stats.dead), (1, 0), "{stats:?}");
    assert_eq!(queue.receiver().try_recv().unwrap().attempt(), 1);
}

#[test]
fn a_deleted_payload_folder_is_made_again() {
    let place = Place::new("work-cleaner");
    let queue = place.make("jobs", &options(4).attempt_limit(1));
    send(&queue, "one");
    send(&queue, "two");
    let script = "rm -r \"$(dirname {})\"";
    run(&work(
        &place.name("jobs"),
        &["--idle-timeout", "0s"],
        script,
    ))
    .expect(0);
    assert_eq!(queue.transport().stats().unwrap().acked, 2);
}

#[test]
fn an_idle_limit_reports_messages_that_a_pause_keeps_back() {
    let place = Place::new("work-paused");
    let queue = place.make_with_one("jobs");
    queue.transport().pause().unwrap();
    let name = place.name("jobs");
    for limit in ["0s", "200ms"] {
        let ended = run(&work(&name, &["--idle-timeout", limit], "true")).expect(5);
        assert!(ended.error().contains(&format!("ipc resume {name}")));
    }
    run(&["resume", &name]).expect(0);
    run(&work(&name, &["--idle-timeout", "0s"], "true")).expect(0);
    assert_eq!(queue.transport().stats().unwrap().acked, 1);
    queue.transport().pause().unwrap();
    run(&work(&name, &["--idle-timeout", "0s"], "true")).expect(0);
}

#[test]
fn an_empty_placeholder_is_refused() {
    let place = Place::new("work-placeholder");
    let queue = place.make_with_one("jobs");
    let name = place.name("jobs");
    run(&work(&name, &["--placeholder", ""], "true")).expect(2);
    assert_eq!(queue.transport().stats().unwrap().received, 0);
}

#[test]
fn a_worker_ends_when_its_queue_is_closed_and_drained() {
    let place = Place::new("work-drain");
    let queue = place.make("jobs", &QueueOptions::new());
    send(&queue, "one");
    queue.transport().close().unwrap();
    run(&work(&place.name("jobs"), &["-j", "3"], "true")).expect(0);
    assert_eq!(queue.transport().stats().unwrap().acked, 1);
}

/// Runs ten jobs, one of which fails once.
fn work_over(address: &str, folder: &Path) {
    for number in 0..10 {
        run(&["send", address, &format!("job-{number}")]).expect(0);
    }
    let at = folder.display();
    let script = format!(
        "id=$(cat); echo $id >> {at}/done; \
         [ $id = job-3 ] && [ $IPC_ATTEMPT = 1 ] && exit 1; exit 0"
    );
    let ended: Ended = run(&work(address, &["-j", "2", "--count", "11"], &script)).expect(0);
    assert_eq!(
        ended.err.matches("nacked: exit code 1").count(),
        1,
        "{ended:?}"
    );
    let done = read(&folder.join("done"));
    let seen: HashSet<_> = done.lines().collect();
    assert_eq!((seen.len(), done.lines().count()), (10, 11), "{done}");
    // The count of acks is not compared: over NATS each process counts its own.
    let stats = run(&["stat", address, "--json"]).expect(0).json();
    for left in ["ready", "leased", "delayed", "dead"] {
        assert_eq!(stats["stats"][left], 0, "{stats}");
    }
}

#[test]
fn jobs_also_come_over_a_socket() {
    let place = Place::new("work-unix");
    place.make("jobs", &options(16));
    let folder = tempfile::tempdir().unwrap();
    let at = format!("unix:{}", folder.path().join("x.sock").display());
    let _server = Running::start(&mut ipc(&["serve", &place.name("jobs"), "--at", &at]));
    wait_until("it is served", || run(&["stat", &at]).code == 0);
    work_over(&at, folder.path());
}

#[test]
fn jobs_also_come_over_nats() {
    if !ipc_nats::testing::is_installed() {
        println!("skipped: work over NATS: no server is installed");
        return;
    }
    ipc_nats::register();
    let server = TestServer::start();
    let address = server.address("work");
    options(16).open_bytes(&address).unwrap();
    let folder = tempfile::tempdir().unwrap();
    work_over(&address, folder.path());
}
