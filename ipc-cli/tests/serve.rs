//! `ipc serve`, and other commands on the served queue.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// A server, killed when its test ends.
struct Server {
    child: Child,
    said: BufReader<ChildStdout>,
    folder: TempDir,
}

impl Server {
    fn start(queue: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = format!("unix:{}", folder.path().join("x.sock").display());
        let mut child = Command::new(env!("CARGO_BIN_EXE_ipc"))
            .args(["serve", queue, "--at", &at, "--json"])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self {
            child,
            said,
            folder,
        };
        let ready = server.hear();
        assert_eq!(ready["at"], server.address());
        server
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("x.sock")
    }

    fn address(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        let address = self.address();
        let args = args.iter().map(|arg| arg.replace("AT", &address));
        let mut command = Command::new(env!("CARGO_BIN_EXE_ipc"));
        command.args(args).stdin(Stdio::null()).output().unwrap()
    }

    fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[args, &["--json"]].concat())).unwrap()
    }

    fn end(&mut self) {
        assert!(self.child.wait().unwrap().success());
        assert!(!self.socket().exists());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_served_queue_is_used_like_any_queue_and_drained_at_the_end() {
    let mut server = Server::start("local:jobs", &["--capacity", "8"]);
    for payload in ["one", "two", "three"] {
        server.text(&["send", "AT", payload]);
    }
    assert_eq!(server.text(&["recv", "AT"]), "one\n");
    let stat = server.json(&["stat", "AT"]);
    assert_eq!(
        (&stat["stats"]["ready"], &stat["settings"]["capacity"]),
        (&2.into(), &8.into())
    );
    assert!(server.text(&["stat", "AT"]).contains("2 ready"));
    server.text(&["pause", "AT"]);
    assert_eq!(
        server.run(&["recv", "AT", "--timeout", "0s"]).status.code(),
        Some(3)
    );
    server.text(&["resume", "AT"]);
    // After the first signal it waits until everything is settled.
    server.signal(Signal::SIGINT);
    assert_eq!(server.hear()["left"], 2);
    assert_eq!(server.run(&["send", "AT", "late"]).status.code(), Some(5));
    assert_eq!(server.text(&["recv", "AT", "--count", "2"]), "two\nthree\n");
    server.end();
}

#[test]
fn a_queue_in_shared_memory_stays_when_its_server_ends() {
    let queue = format!("cli-{}-served/jobs", std::process::id());
    let mut server = Server::start(&queue, &["--create"]);
    server.text(&["send", "AT", "one"]);
    let refused = server.run(&["rm", "AT", "--force"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("does not let its clients remove"), "{said}");
    server.signal(Signal::SIGTERM);
    server.end();
    let received = server.text(&["recv", &queue]);
    assert_eq!(received, "one\n");
    assert!(ipc_queue::remove(format!("shm:{queue}")).unwrap());
}

#[test]
fn removing_a_servers_local_queue_ends_the_server() {
    let mut server = Server::start("local:jobs", &[]);
    server.text(&["send", "AT", "one"]);
    let letters = server.json(&["dlq", "ls", "AT"]);
    assert_eq!(letters, Value::Array(Vec::new()));
    assert_eq!(server.run(&["rm", "AT"]).status.code(), Some(5));
    server.text(&["rm", "AT", "--force"]);
    server.end();
}
