//! The program of `examples/`, run over two transports. One of its workers is killed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ipc_nats::testing::{Program, TestServer};
use ipc_queue::{Queue, UnixServer};

/// Long enough for anything that ends at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// `O_NONBLOCK` of Linux.
const NONBLOCKING: i32 = 0o4000;

ipc_nats::on_each_server! {
    the_program_loses_no_file_over_nats_when_a_worker_is_killed
}

fn the_program_loses_no_file_over_nats_when_a_worker_is_killed(program: &Program) {
    let server = TestServer::of(program);
    ipc_nats::register();
    let jobs = Queue::<String>::open(server.address("files")).unwrap();
    kill_one_of_two_workers(&server.address("files"), &jobs);
}

#[test]
fn the_program_loses_no_file_over_a_socket_when_a_worker_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("files.sock");
    let jobs = Queue::<String>::open("local:files").unwrap();
    let _server = UnixServer::bind(&socket, Arc::clone(jobs.transport())).unwrap();
    kill_one_of_two_workers(&format!("unix:{}", socket.display()), &jobs);
}

fn kill_one_of_two_workers(address: &str, jobs: &Queue<String>) {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let pipe = pipe.to_str().unwrap();
    assert!(start(address, &["send", pipe]).wait().unwrap().success());

    let mut worker = start(address, &["work"]);
    let writer = write_to(pipe);
    worker.kill().unwrap();
    worker.wait().unwrap();
    drop(writer);
    let mut worker = start(address, &["work"]);
    write_to(pipe).write_all(b"one\ntwo\n").unwrap();
    jobs.close().unwrap(); // the worker ends when everything is done
    let mut output = String::new();
    worker
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut output)
        .unwrap();
    assert!(worker.wait().unwrap().success());
    assert_eq!(output, format!("{pipe}: 2 lines, attempt 2\n"));
    assert_eq!(jobs.len().unwrap(), 0);
}

/// Opens a named pipe for writing once a process reads from it.
fn write_to(pipe: &str) -> File {
    let deadline = Instant::now() + PATIENCE;
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(NONBLOCKING);
    loop {
        match options.open(pipe) {
            Ok(file) => return file,
            Err(error) => assert!(Instant::now() < deadline, "nothing reads {pipe}: {error}"),
        }
        thread::yield_now();
    }
}

/// Starts the example. Cargo builds examples before it runs tests, next to this test's folder.
fn start(address: &str, task: &[&str]) -> Child {
    let deps = std::env::current_exe().unwrap();
    let examples: &Path = &deps.parent().unwrap().with_file_name("examples");
    Command::new(examples.join("anywhere"))
        .arg(address)
        .args(task)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example, built by `cargo test`")
}
