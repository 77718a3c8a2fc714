//! The README's program, run as the README says: one process sends, another works and is killed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use ipc_proto::Name;
use ipc_queue::transport::{OpenMode, OpenRequest, Transport};
use ipc_queue::{ByteQueue, ShmQueue};
use ipc_shm::Namespace;

/// Returns the example's path. Cargo builds examples before it runs tests, next to this test's
/// folder.
fn program() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    deps.parent()
        .unwrap()
        .with_file_name("examples")
        .join("quickstart")
}

fn start(folder: &Path, args: &[&str]) -> Child {
    Command::new(program())
        .args(args)
        .env("IPC_SHM_DIR", folder)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example, built by `cargo test`")
}

/// `ipc send --raw` can send what is no text of the program's type.
#[test]
fn the_program_in_the_readme_continues_after_a_message_that_it_cannot_read() {
    let folder = tempfile::Builder::new()
        .prefix("ipc-test-")
        .tempdir_in("/dev/shm")
        .unwrap();
    let root = folder.path().join("root");
    assert!(start(&root, &[]).wait().unwrap().success());
    let namespace = Namespace::in_folder(&root, "default").unwrap();
    let request = OpenRequest {
        mode: OpenMode::Open,
        payload: OpenRequest::ANY_PAYLOAD.to_owned(),
        ..OpenRequest::default()
    };
    let queue = ShmQueue::open(&namespace, &Name::new("jobs").unwrap(), &request);
    let queue = ByteQueue::over(Arc::new(queue.unwrap()));
    queue.sender().send(b"\xc1").unwrap();
    assert!(start(&root, &[]).wait().unwrap().success());

    let mut worker = start(&root, &["work"]);
    let lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    let done: Vec<String> = lines.take(20).map(Result::unwrap).collect();
    worker.kill().unwrap();
    worker.wait().unwrap();
    let once = (1..=10).map(|n| format!("job {n}, attempt 1"));
    assert_eq!(done, once.clone().chain(once).collect::<Vec<_>>());
}

#[test]
fn the_program_in_the_readme_works_between_two_processes() {
    let folder = tempfile::Builder::new()
        .prefix("ipc-test-")
        .tempdir_in("/dev/shm")
        .unwrap();
    let root = folder.path().join("root");
    assert!(start(&root, &[]).wait().unwrap().success());
    let mut worker = start(&root, &["work"]);
    let lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    let done: Vec<String> = lines.take(10).map(Result::unwrap).collect();
    worker.kill().unwrap();
    worker.wait().unwrap();
    let expected: Vec<String> = (1..=10).map(|n| format!("job {n}, attempt 1")).collect();
    assert_eq!(done, expected);

    // The last job was printed, but perhaps not acked. Then it is ready again, and nothing else is.
    let namespace = Namespace::in_folder(&root, "default").unwrap();
    let name = Name::new("jobs").unwrap();
    let request = OpenRequest {
        mode: OpenMode::Open,
        payload: OpenRequest::ANY_PAYLOAD.to_owned(),
        ..OpenRequest::default()
    };
    let queue = ShmQueue::open(&namespace, &name, &request).unwrap();
    let stats = queue.stats().unwrap();
    assert!(
        stats.ready <= 1 && stats.in_use() == stats.ready,
        "{stats:?}"
    );
    drop(queue);
    assert!(ShmQueue::remove(&namespace, &name).unwrap());
    assert!(!root.exists());
}
