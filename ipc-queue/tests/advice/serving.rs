//! Advice about queues at a socket.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use ipc_queue::unix::ServeError;
use ipc_queue::{ByteQueue, UnixServer};
use tempfile::TempDir;

use crate::{Place, advises};

/// The environment variable with the path at which the other process of a test serves.
pub const PATH: &str = "IPC_QUEUE_TEST_ADVICE_PATH";

/// A queue to serve, and a folder for its socket.
struct Stage {
    place: Place,
    queue: ByteQueue,
    folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        let place = Place::new("local");
        Self {
            queue: ByteQueue::open(&place.0).unwrap(),
            place,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn bind(&self, path: impl AsRef<Path>) -> Result<UnixServer, ServeError> {
        UnixServer::bind(path, Arc::clone(self.queue.transport()))
    }
}

fn open(path: &Path) -> Result<ByteQueue, ipc_queue::QueueError> {
    ByteQueue::open(format!("unix:{}", path.display()))
}

#[track_caller]
fn assert_served(path: &Path) {
    let queue = open(path).unwrap();
    queue.sender().send(b"one").unwrap();
    queue.receiver().recv().unwrap().ack().unwrap();
}

#[test]
fn a_socket_without_a_server_has_a_queue_once_one_is_started() {
    let stage = Stage::new();
    let path = stage.folder.path().join("x.sock");
    advises(open(&path).unwrap_err(), "start its server first");
    let _server = stage.bind(&path).unwrap();
    assert_served(&path);
}

#[test]
fn the_path_of_a_socket_is_absolute() {
    let stage = Stage::new();
    let refused = stage.bind("x.sock").unwrap_err();
    advises(
        refused,
        "it must be absolute, to be the same for every process",
    );
    let path = stage.folder.path().join("x.sock");
    let _server = stage.bind(&path).unwrap();
    assert_served(&path);
}

#[test]
fn the_longest_path_of_a_socket_is_named() {
    let stage = Stage::new();
    let of_length = |bytes: usize| {
        let folder = stage.folder.path();
        folder.join("x".repeat(bytes - folder.as_os_str().len() - 1))
    };
    let refused = stage.bind(of_length(109)).unwrap_err().to_string();
    assert!(
        refused.contains("has 109 bytes") && refused.contains("at most 108"),
        "{refused}"
    );
    let path = of_length(108);
    let _server = stage.bind(&path).unwrap();
    assert_served(&path);
}

#[test]
fn a_path_with_a_server_is_free_at_its_end_and_others_are_free_before() {
    let stage = Stage::new();
    let (path, other) = (stage.folder.path().join("x"), stage.folder.path().join("y"));
    let first = stage.bind(&path).unwrap();
    advises(
        stage.bind(&path).unwrap_err(),
        "end it, or choose another path",
    );
    let _other = stage.bind(&other).unwrap();
    assert_served(&other);
    drop(first);
    let _second = stage.bind(&path).unwrap();
    assert_served(&path);
}

#[test]
fn a_file_in_the_place_of_a_socket_is_removed_or_avoided() {
    let stage = Stage::new();
    let (path, other) = (stage.folder.path().join("x"), stage.folder.path().join("y"));
    fs::write(&path, "").unwrap();
    advises(
        stage.bind(&path).unwrap_err(),
        "remove it, or choose another path",
    );
    let _other = stage.bind(&other).unwrap();
    assert_served(&other);
    fs::remove_file(&path).unwrap();
    let _server = stage.bind(&path).unwrap();
    assert_served(&path);
}

#[test]
fn a_socket_is_served_in_a_folder_of_ones_own() {
    let stage = Stage::new();
    let path = stage.folder.path().join("x");
    let set = |mode| fs::set_permissions(stage.folder.path(), Permissions::from_mode(mode));
    set(0o777).unwrap();
    advises(
        stage.bind(&path).unwrap_err(),
        "serve in a folder that is yours alone",
    );
    set(0o700).unwrap();
    let _server = stage.bind(&path).unwrap();
    assert_served(&path);
}

#[test]
fn a_full_server_has_room_when_a_connection_closes_or_with_a_larger_limit() {
    let stage = Stage::new();
    let (path, larger) = (stage.folder.path().join("x"), stage.folder.path().join("y"));
    let serve = |path: &Path, most| {
        let options = UnixServer::options().max_connections(most);
        options
            .bind(path, Arc::clone(stage.queue.transport()))
            .unwrap()
    };
    let server = serve(&path, 1);
    let first = open(&path).unwrap();
    let refused = open(&path).unwrap_err();
    advises(
        refused,
        "close some, or serve with a larger max_connections",
    );
    drop(first);
    while server.connections() > 0 {
        thread::yield_now();
    }
    open(&path).unwrap();
    let _larger = serve(&larger, 2);
    let _first = open(&larger).unwrap();
    open(&larger).unwrap();
}

#[test]
fn a_served_queue_is_removed_where_it_is_or_after_the_servers_end() {
    for ends_server in [true, false] {
        let stage = Stage::new();
        let path = stage.folder.path().join("x");
        let server = stage.bind(&path).unwrap();
        let refused = ipc_queue::remove(format!("unix:{}", path.display())).unwrap_err();
        advises(&refused, "end the server, or remove the queue where it is");
        if ends_server {
            drop(server);
        }
        assert!(ipc_queue::remove(&stage.place.0).unwrap());
        assert!(stage.queue.sender().send(b"one").is_err());
    }
}

#[test]
fn a_server_of_another_user_is_replaced_by_one_of_the_same_user() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a_server_of_another_user_is_replaced_by_one_of_the_same_user: not root");
        return;
    }
    let stage = Stage::new();
    let path = stage.folder.path().join("x");
    fs::set_permissions(stage.folder.path(), Permissions::from_mode(0o777)).unwrap();
    let there = path.clone();
    let listener = thread::spawn(move || {
        // SAFETY: takes three numbers. It changes the user of this thread only, which then ends.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, 12345, -1) };
        assert_eq!(changed, 0);
        // The kernel notes the user that listens.
        UnixListener::bind(there).unwrap()
    });
    let listener = listener.join().unwrap();
    let refused = open(&path).unwrap_err();
    advises(
        &refused,
        "is served by user 12345: it must be the same user as this process's",
    );
    drop(listener);
    fs::remove_file(&path).unwrap();
    fs::set_permissions(stage.folder.path(), Permissions::from_mode(0o700)).unwrap();
    let _server = stage.bind(&path).unwrap();
    assert_served(&path);
}

/// Plays the role of a process in another user namespace.
pub fn bind_and_say_so(path: &str) {
    let stage = Stage::new();
    match stage.bind(path) {
        Ok(_) => println!("served"),
        Err(error) => println!("{error}"),
    }
}

#[test]
fn a_user_without_a_mapping_serves_once_it_is_mapped() {
    let stage = Stage::new();
    let serve = |flags: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(flags).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "role", "--nocapture", "--quiet"]);
        let output = command
            .env(PATH, stage.folder.path().join("x"))
            .output()
            .ok()?;
        let said = String::from_utf8(output.stdout).unwrap();
        output.status.success().then_some(said)
    };
    let Some(refused) = serve(&["--user"]) else {
        println!("skipped: a_user_without_a_mapping_serves_once_it_is_mapped: not permitted here");
        return;
    };
    advises(refused, "map it, or run as one that is mapped");
    let said = serve(&["--user", "--map-root-user"]).unwrap();
    assert!(said.contains("served"), "{said}");
}
