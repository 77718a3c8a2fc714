//! Starts servers for tests, on free ports of 127.0.0.1, with separate folders. A server is killed
//! when it is dropped, and when this process ends in any way: a shell that waits for the end of a
//! pipe watches each server.
//!
//! Needs a program `nats-server` (Debian and Ubuntu: `apt-get install nats-server`).
//! [`Program::found`] documents where it is searched for. The tests of this crate run against two
//! of them, if there are two.

mod program;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::ClusterInfo;
use futures_util::TryStreamExt;
use ipc_proto::QueueSettings;
use tempfile::TempDir;

use crate::connection::Connection;
use crate::directory::Directory;
use crate::repair::GIVEN_UP_AFTER_MS;
use crate::runtime::block_on;
use crate::{NatsAddress, shared};

pub use program::{Program, Which};

/// A running server.
#[derive(Debug)]
pub struct TestServer {
    program: Program,
    port: u16,
    args: Vec<String>,
    child: Child,
    folder: TempDir,
}

/// The file in its folder with its process number.
const PID: &str = "pid";
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// Returns whether a `nats-server` is installed. If not, prints that once, so that the output shows
/// that the test was skipped.
#[must_use]
pub fn is_installed() -> bool {
    let program = std::env::current_exe().unwrap_or_default();
    let suite = program.file_stem().unwrap_or_default().to_string_lossy();
    Program::get(Which::First, &suite).is_some()
}

/// Makes tests of functions that take a [`Program`]: one for each of two servers. If a server is
/// missing, they are skipped, and one line reports that.
#[macro_export]
macro_rules! on_each_server {
    ($($test:ident)*) => {
        $crate::on_each_server!(@on on_the_first_server First $($test)*);
        $crate::on_each_server!(@on on_the_second_server Second $($test)*);
    };
    (@on $module:ident $which:ident $($test:ident)*) => {
        mod $module {
            use $crate::testing::{Program, Which};

            $(
                #[test]
                fn $test() {
                    if let Some(program) = Program::get(Which::$which, env!("CARGO_CRATE_NAME")) {
                        super::$test(&program);
                    }
                }
            )*
        }
    };
}

/// From now on this process takes back the place of a silent sender after `time`, instead of 30 s.
pub fn take_back_after(time: Duration) {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    GIVEN_UP_AFTER_MS.store(ms, Ordering::Relaxed);
}

/// Creates a queue as the first version of this crate did, with this capacity.
///
/// # Panics
/// If it can't be created.
pub fn create_in_first_layout(address: &NatsAddress, capacity: u32) {
    let settings = QueueSettings {
        capacity,
        ..QueueSettings::default()
    };
    let created = crate::NatsQueue::create_in_first_layout(address, settings);
    assert!(created.is_ok_and(|made| made), "the queue is created");
}

/// The number of messages that this process has sent to the servers at this address.
///
/// # Panics
/// If they do not answer.
#[must_use]
pub fn messages_to(address: &NatsAddress) -> u64 {
    let connection = block_on(Connection::to(address)).expect("the server is there");
    // A message handed to the connection is counted when it is written.
    let written = block_on(connection.client.flush());
    written.expect("the server is there");
    let statistics = connection.client.statistics();
    statistics.out_messages.load(Ordering::Relaxed)
}

/// Lets this process receive reports about the queue at this address, as if its senders and its
/// futures waited. Returns when the directory contains that.
///
/// # Panics
/// If the queue is not open.
pub fn hear_others(address: &NatsAddress) {
    block_on(async {
        let connection = Connection::to(address).await.expect("the server is there");
        let directory = Directory::of(&connection, address).await;
        let directory = directory.expect("there is a directory");
        let name = address.name.as_str();
        loop {
            let found = directory.find(name).await.expect("the server answers");
            let entry = found.expect("the queue exists");
            if entry.subscribed == [true; 2] {
                return;
            }
            for shared in crate::opened::find(entry.id) {
                shared.subscribe(shared::Side::Items).await;
                shared.subscribe(shared::Side::Room).await;
            }
        }
    });
}

/// The streams of the server at this address, without that of the directory.
///
/// # Panics
/// If the server does not answer.
#[must_use]
pub fn streams(address: &NatsAddress) -> Vec<String> {
    block_on(async {
        let connection = Connection::to(address).await.expect("the server is there");
        let names = connection.jetstream.stream_names();
        let names: Vec<String> = names.try_collect().await.expect("the server says");
        let names = names.into_iter().filter(|name| name != "KV_ipc-queues");
        names.collect()
    })
}

/// Damages the headers of the last message that waits in the queue at this address, as another
/// program could: names a header that does not exist.
///
/// # Panics
/// If it can't, or the server has other queues.
pub fn damage_last_headers(address: &NatsAddress) {
    let work = streams(address).into_iter();
    let work = work.filter(|name| name.contains("-work-"));
    block_on(async {
        let connection = Connection::to(address).await.expect("the server is there");
        for name in work {
            let stream = connection.jetstream.get_stream(&name).await;
            let stream = stream.expect("it was just listed");
            let last = stream.cached_info().state.last_sequence;
            let found = stream.get_raw_message(last).await.expect("it waits");
            stream.delete_message(last).await.expect("it is there");
            let mut headers = async_nats::HeaderMap::new();
            for (name, values) in found.headers.iter() {
                // The server would mistake the new message for the old one.
                if name.to_string() != "Nats-Msg-Id" {
                    let values = values.iter().cloned();
                    values.for_each(|value| headers.append(name.clone(), value));
                }
            }
            headers.insert("Ipc-Headers", "lost");
            let jetstream = &connection.jetstream;
            let sent = jetstream.publish_with_headers(found.subject, headers, found.payload);
            let sent = sent.await.expect("the server takes it");
            sent.await.expect("and says so");
        }
    });
}

/// A cluster of three servers.
#[derive(Debug)]
pub struct TestCluster {
    /// Each can be killed and restarted by itself.
    pub servers: Vec<TestServer>,
}

impl TestCluster {
    /// Starts servers of the first program found, and waits until they have a leader.
    ///
    /// # Panics
    /// If they do not start.
    #[must_use]
    pub fn start() -> Self {
        Self::of(Program::found().first().expect("a nats-server"))
    }

    /// Like [`start`](Self::start), with this program.
    ///
    /// # Panics
    /// If they do not start.
    #[must_use]
    pub fn of(program: &Program) -> Self {
        let routes: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let all: Vec<String> = routes
            .iter()
            .map(|port| format!("nats://127.0.0.1:{port}"))
            .collect();
        let all = all.join(",");
        let servers = routes.iter().map(|port| {
            let (name, own) = (format!("n{port}"), format!("nats://127.0.0.1:{port}"));
            let args = [
                "-n",
                &name,
                "--cluster_name",
                "test",
                "--cluster",
                &own,
                "--routes",
                &all,
            ];
            TestServer::start_with(program, &args)
        });
        let cluster = Self {
            servers: servers.collect(),
        };
        cluster.wait_for_leader();
        cluster
    }

    /// `127.0.0.1:PORT,127.0.0.1:PORT,127.0.0.1:PORT`.
    #[must_use]
    pub fn hosts(&self) -> String {
        let hosts: Vec<String> = self.servers.iter().map(TestServer::host).collect();
        hosts.join(",")
    }

    /// The address of a queue that is kept on all three.
    #[must_use]
    pub fn address(&self, queue: &str) -> String {
        format!("nats://{}/{queue}?replicas=3", self.hosts())
    }

    /// The index of the server that leads the stream of this queue's records. The queue can't
    /// continue without it. `None` while there is none.
    #[must_use]
    pub fn leader_of(&self, queue: &str) -> Option<usize> {
        let leader = self.cluster_of(queue)?.leader?;
        let is_it = |server: &TestServer| server.args.contains(&leader);
        self.servers.iter().position(is_it)
    }

    /// Returns whether all servers have all messages of that stream.
    #[must_use]
    pub fn is_whole(&self, queue: &str) -> bool {
        let cluster = self.cluster_of(queue);
        cluster.is_some_and(|found| {
            let current = found.replicas.iter().filter(|peer| peer.current);
            current.count() + 1 == self.servers.len()
        })
    }

    fn cluster_of(&self, queue: &str) -> Option<ClusterInfo> {
        let address = self.address(queue);
        let address = NatsAddress::parse(address.strip_prefix("nats:")?).ok()?;
        block_on(async {
            let connection = Connection::to(&address).await.ok()?;
            let directory = Directory::of(&connection, &address).await.ok()?;
            let entry = directory.find(queue).await.ok()??;
            let streams = shared::streams(&connection, queue, &entry);
            streams.first()?.cluster().await
        })
    }

    /// A cluster that has just formed does not answer.
    fn wait_for_leader(&self) {
        let deadline = Instant::now() + 2 * STARTS_WITHIN;
        let address = format!("//{}/is-there-a-leader?replicas=3", self.hosts());
        let address = NatsAddress::parse(&address).expect("an address");
        while crate::NatsQueue::remove(&address).is_err() {
            assert!(Instant::now() < deadline, "the cluster has no leader");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

impl TestServer {
    /// Starts a server with JetStream, of the first program found, and waits until it listens.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::of(Program::found().first().expect("a nats-server"))
    }

    /// Like [`start`](Self::start), with this program.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn of(program: &Program) -> Self {
        Self::start_with(program, &[])
    }

    /// Like [`of`](Self::of), with more arguments.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_with(program: &Program, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the server");
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        // Another process may take the port in between.
        let tries = (0..5).find_map(|_| {
            let port = free_port();
            let child = spawn(program, port, &args, folder.path());
            wait_until_it_listens(port, child).map(|child| (port, child))
        });
        let (port, child) = tries.expect("nats-server starts");
        Self {
            program: program.clone(),
            port,
            args,
            child,
            folder,
        }
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The address of a queue on this server.
    #[must_use]
    pub fn address(&self, queue: &str) -> String {
        format!("nats://{}/{queue}", self.host())
    }

    /// Its process number, which [`kill`](Self::kill) uses. `None` if the server has not written it
    /// yet.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.folder.path().join(PID)).ok()?;
        text.trim().parse().ok()
    }

    /// Kills the server with SIGKILL. Its store stays.
    pub fn kill(&mut self) {
        end(&mut self.child);
    }

    /// Restarts the server, on the same port and store.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.kill();
        let child = spawn(&self.program, self.port, &self.args, self.folder.path());
        let child = wait_until_it_listens(self.port, child);
        self.child = child.expect("nats-server starts again");
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills the server when its input ends, which the kernel guarantees.
const WATCH: &str =
    r#""$@" </dev/null >/dev/null 2>&1 & server=$!; read -r _; kill -9 $server; wait $server"#;

fn spawn(program: &Program, port: u16, args: &[String], folder: &Path) -> Child {
    Command::new("sh")
        .args(["-c", WATCH, "sh"])
        .arg(&program.path)
        .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
        .arg(folder)
        .arg("-P")
        .arg(folder.join(PID))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server can be started")
}

fn wait_until_it_listens(port: u16, mut child: Child) -> Option<Child> {
    let deadline = Instant::now() + STARTS_WITHIN;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() >= deadline {
            end(&mut child);
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
    Some(child)
}

fn end(watched: &mut Child) {
    drop(watched.stdin.take());
    let _ = watched.wait();
}
