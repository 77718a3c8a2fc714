//! Requests and replies between processes, with deaths on both sides.
#![cfg(target_os = "linux")]

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use ipc_node::request::{Client, OpenError, RequestError, Server};
use ipc_proto::Name;
use ipc_queue::{QueueOptions, SendOptions, ShmQueue, remove};
use ipc_shm::Namespace;

const ROLE: &str = "IPC_REQUEST_ROLE";
const ADDRESS: &str = "IPC_REQUEST_ADDRESS";
const PATIENCE: Duration = Duration::from_secs(60);

/// A queue of requests in a separate namespace, removed at the end.
struct Place {
    address: String,
    namespace: Namespace,
}

impl Place {
    fn new(test: &str) -> Self {
        let namespace = format!("request-{test}-{}", std::process::id());
        Self {
            address: format!("shm:{namespace}/squares"),
            namespace: Namespace::new(&namespace).unwrap(),
        }
    }

    fn client(&self) -> Client<u64, u64> {
        Client::open(self.address.as_str()).unwrap()
    }

    fn server(&self) -> Server<u64, u64> {
        Server::open(self.address.as_str()).unwrap()
    }

    fn queues(&self) -> Vec<Name> {
        ShmQueue::list(&self.namespace).unwrap()
    }

    /// Starts this program in another role, and waits until it is ready.
    fn start(&self, role: &str) -> Other {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["a_child_in_its_role", "--exact", "--nocapture"])
            .env(ROLE, role)
            .env(ADDRESS, &self.address)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut other = Other { child, said };
        other.expect("ready");
        other
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in self.queues() {
            let _ = ShmQueue::remove(&self.namespace, &name);
        }
        let _ = std::fs::remove_dir(self.namespace.path());
    }
}

struct Other {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Other {
    fn expect(&mut self, wanted: &str) {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "not {wanted}");
            if line.trim_end().ends_with(wanted) {
                return;
            }
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Not a real test: the other processes run it.
#[test]
fn a_child_in_its_role() {
    let (Ok(role), Ok(address)) = (env::var(ROLE), env::var(ADDRESS)) else {
        return;
    };
    match role.as_str() {
        "server" => {
            let server = Server::<u64, u64>::open(address.as_str()).unwrap();
            println!("ready");
            let squared = server.serve(|n| n.checked_mul(*n).ok_or("too large"));
            squared.unwrap();
        }
        "server that holds" => {
            let server = Server::<u64, u64>::open(address.as_str()).unwrap();
            println!("ready");
            let _held = server.recv().unwrap();
            println!("holds");
            loop {
                thread::park();
            }
        }
        "client" => {
            let client = Client::<u64, u64>::open(address.as_str()).unwrap();
            let _pending = client.send(&7).unwrap();
            println!("ready");
            loop {
                thread::park();
            }
        }
        other => panic!("no role {other:?}"),
    }
}

#[test]
fn a_client_gets_the_replies_to_its_own_requests() {
    let place = Place::new("own");
    let server = place.start("server");
    let clients = [place.client(), place.client()];
    thread::scope(|scope| {
        for client in &clients {
            for first in [0, 1000] {
                scope.spawn(move || {
                    let numbers = first..first + 50;
                    let pending: Vec<_> = numbers.clone().map(|n| client.send(&n)).collect();
                    for (n, reply) in numbers.zip(pending) {
                        assert_eq!(reply.unwrap().wait_timeout(PATIENCE).unwrap(), n * n);
                    }
                });
            }
        }
    });
    assert_eq!(place.queues().len(), 3, "{:?}", place.queues());
    drop(clients);
    assert_eq!(place.queues().len(), 1, "the queues for replies are gone");
    server.kill();
}

#[test]
fn a_handlers_error_is_the_clients_error() {
    let place = Place::new("errors");
    let server = place.start("server");
    let failed = place.client().call_timeout(&u64::MAX, PATIENCE);
    assert!(
        matches!(&failed, Err(RequestError::Failed { reason }) if reason == "too large"),
        "{failed:?}"
    );
    server.kill();
}

#[test]
fn a_request_whose_server_is_killed_is_served_by_another() {
    let place = Place::new("killed");
    let mut holder = place.start("server that holds");
    let client = place.client();
    let pending = client.send(&12).unwrap();
    holder.expect("holds");
    assert!(!pending.is_ready());
    holder.kill();
    let server = place.start("server");
    assert_eq!(pending.wait_timeout(PATIENCE).unwrap(), 144);
    server.kill();
}

#[test]
fn the_queue_of_a_killed_client_is_removed_by_the_next_client() {
    let place = Place::new("orphan");
    let client = place.start("client");
    assert_eq!(place.queues().len(), 2, "requests and replies");
    client.kill();
    assert_eq!(place.queues().len(), 2, "nobody has looked yet");
    let server = place.server();
    assert_eq!(place.queues().len(), 1, "the orphan is gone");
    // Its request is acknowledged, although the reply is dropped.
    let request = server.recv_timeout(PATIENCE).unwrap();
    assert_eq!((*request.data(), request.attempt()), (7, 1));
    request.reply(&49).unwrap();
    assert_eq!(server.queue().stats().unwrap().in_use(), 0);
}

#[test]
fn a_second_reply_and_a_late_one_are_dropped() {
    let place = Place::new("twice");
    let (client, server) = (place.client(), place.server());
    let late = client.send(&1).unwrap();
    let timed_out = late.wait_timeout(Duration::from_millis(1));
    assert!(
        matches!(timed_out, Err(RequestError::TimedOut { .. })),
        "{timed_out:?}"
    );
    server.recv_timeout(PATIENCE).unwrap().reply(&1).unwrap();
    // The next reply belongs to the next request.
    let next = client.send(&2).unwrap();
    server.recv_timeout(PATIENCE).unwrap().reply(&4).unwrap();
    assert_eq!(next.wait_timeout(PATIENCE).unwrap(), 4);
}

#[test]
fn an_unanswered_request_returns_to_the_queue() {
    let place = Place::new("dropped");
    let (client, server) = (place.client(), place.server());
    let pending = client.send(&3).unwrap();
    drop(server.recv_timeout(PATIENCE).unwrap());
    let again = server.recv_timeout(PATIENCE).unwrap();
    assert_eq!(again.attempt(), 2);
    again.reply(&9).unwrap();
    assert_eq!(pending.wait_timeout(PATIENCE).unwrap(), 9);
}

#[test]
fn a_message_without_a_client_needs_no_reply() {
    let place = Place::new("one-way");
    let server = place.server();
    server.queue().sender().send(&5).unwrap();
    server.recv_timeout(PATIENCE).unwrap().reply(&25).unwrap();
    assert_eq!(server.queue().stats().unwrap().acked, 1);
}

#[test]
fn a_request_can_not_direct_its_reply_to_another_queue() {
    let place = Place::new("elsewhere");
    let server = place.server();
    let victim = format!("shm:{}/victim", place.namespace.name());
    let victim = QueueOptions::new().open_bytes(&victim).unwrap();
    let options = SendOptions::new()
        .header("ipc-reply-to", victim.transport().address())
        .unwrap();
    let options = options.header("ipc-request", [0; 8]).unwrap();
    server.queue().sender().send_with(&6, &options).unwrap();
    server.recv_timeout(PATIENCE).unwrap().reply(&36).unwrap();
    assert_eq!(victim.stats().unwrap().sent, 0);
}

#[test]
fn a_removed_queue_ends_every_wait() {
    let place = Place::new("removed");
    let client = place.client();
    let pending = client.send(&1).unwrap();
    let replies = place.queues().into_iter();
    let replies = replies.filter(|name| name.as_str().starts_with("reply-"));
    for name in replies {
        assert!(ShmQueue::remove(&place.namespace, &name).unwrap());
    }
    let over = pending.wait();
    assert!(matches!(over, Err(RequestError::Over { .. })), "{over:?}");
    let over = client.send(&2).map(drop);
    assert!(matches!(over, Err(RequestError::Over { .. })), "{over:?}");
}

#[test]
fn other_transports_are_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}/socket", folder.path().display());
    let queue = QueueOptions::new()
        .open_bytes("local:request-served")
        .unwrap();
    let path = folder.path().join("socket");
    let server = ipc_queue::UnixServer::bind(&path, queue.transport().clone()).unwrap();
    let refused = Client::<u64, u64>::open_with(socket.as_str(), &QueueOptions::new());
    let error = refused.map(drop).unwrap_err();
    let typed = matches!(error, OpenError::Unsupported { .. } | OpenError::Queue(_));
    assert!(typed, "{error}");
    drop(server);
    remove("local:request-served").unwrap();
}
