//! Each test causes an error or a warning, follows its advice, and checks that it helps.

mod unreaped;

use std::fmt::Display;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, thread};

use ipc_node::pool::{Context, Handlers, JobError, Pool, PoolBuilder, PoolError, Ticket};
use ipc_node::request::{Client, OpenError, Server};
use ipc_node::{ControlError, JoinError, Node};
use ipc_queue::{QueueOptions, UnixServer};
use ipc_shm::Namespace;

/// Long enough for anything that ends at all.
use unreaped::zombies;

const PATIENCE: Duration = Duration::from_secs(60);

#[track_caller]
fn advises(error: impl Display, advice: &str) {
    let text = error.to_string();
    assert!(text.contains(advice), "{advice:?} is not in {text:?}");
}

// --- Nodes ---

/// A namespace of a test's own.
fn namespace() -> (tempfile::TempDir, Namespace) {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let namespace = Namespace::in_folder(folder.path().join("root"), "test").unwrap();
    (folder, namespace)
}

#[test]
fn a_node_name_in_use_is_left_for_another_or_freed() {
    let (_folder, namespace) = namespace();
    let first = Node::join(&namespace, "worker").unwrap();
    let refused = Node::join(&namespace, "worker").map(drop).unwrap_err();
    assert!(matches!(refused, JoinError::NameTaken { .. }));
    advises(refused, "choose another name, or stop that one");
    Node::join(&namespace, "worker-2").unwrap();
    drop(first);
    Node::join(&namespace, "worker").unwrap();
}

#[test]
fn the_first_inbox_of_a_node_stays_in_use() {
    let (_folder, namespace) = namespace();
    let (node, other) = (
        Node::join(&namespace, "worker").unwrap(),
        Node::join(&namespace, "other").unwrap(),
    );
    let inbox = node.inbox::<u32>().unwrap();
    let refused = node.inbox::<u32>().map(drop).unwrap_err();
    assert!(matches!(refused, ControlError::Listening));
    advises(refused, "this node has an inbox already: keep using that");
    other.send_to("worker", &7_u32).unwrap();
    assert_eq!(inbox.recv_timeout(PATIENCE), Ok(7));
}

#[test]
fn requests_go_to_a_queue_in_shared_memory_or_in_this_process() {
    let shm = format!("shm:default/advice-request-{}", std::process::id());
    let local = "local:advice-request";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let queue = QueueOptions::new().open::<u64>(local).unwrap();
    let server = UnixServer::options().any_payload();
    let _served = server.bind(&path, Arc::clone(queue.transport())).unwrap();
    let socket = format!("unix:{}", path.display());
    let refused = Client::<u64, u64>::open(socket.as_str()).map(drop);
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, OpenError::Unsupported { .. }),
        "{refused}"
    );
    advises(refused, "use an address that begins with shm: or local:");
    for address in [&shm[..], local] {
        let server = Server::<u64, u64>::open(address).unwrap();
        let client = Client::<u64, u64>::open(address).unwrap();
        let pending = client.send(&3).unwrap();
        server.recv_timeout(PATIENCE).unwrap().reply(&9).unwrap();
        assert_eq!(pending.wait_timeout(PATIENCE).unwrap(), 9);
    }
    ipc_queue::remove(shm).unwrap();
}

// --- Pools ---

/// Returns this program. `current_exe` would need `/proc`.
fn program(test: &str) -> Command {
    let mut command = Command::new(env::args().next().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command
}

fn pool(worker: &str) -> PoolBuilder {
    Pool::builder().workers(1).command(program(worker))
}

fn wait<T: serde::de::DeserializeOwned>(ticket: Ticket<T>) -> Result<T, JobError> {
    let Ok(answer) = ticket.wait_timeout(PATIENCE) else {
        panic!("no answer in {PATIENCE:?}");
    };
    answer
}

/// Not a test: a worker without handlers.
#[test]
fn worker_without_handlers() {
    Handlers::new().work_if_worker();
}

/// Not a test: a worker with a handler.
#[test]
fn worker() {
    let mut handlers = Handlers::new();
    handlers.add("square", |n: u64, _: &Context<'_>| Ok::<_, String>(n * n));
    // Starts a program in a process group of its own, which ends without a parent.
    handlers.add("leave a group", |(): (), _: &Context<'_>| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "(setsid true &)"]);
        shell.status().map(|status| status.success())
    });
    handlers.work_if_worker();
}

fn square(pool: &Pool) -> Result<u64, JobError> {
    wait(pool.submit("square", &3_u64).unwrap())
}

#[test]
fn a_missing_handler_is_added_before_the_worker_works() {
    let refused = square(&pool("worker_without_handlers").start().unwrap()).unwrap_err();
    advises(
        refused,
        "this worker has no handler \"square\": add it before work_if_worker",
    );
    assert_eq!(square(&pool("worker").start().unwrap()), Ok(9));
}

/// A worker whose program forgot to work.
#[test]
fn worker_that_starts_a_pool() {
    if env::var_os("IPC_POOL_WORKER").is_some() {
        let refused = pool("worker").start().map(drop).unwrap_err();
        assert!(matches!(refused, PoolError::InWorker), "{refused}");
    }
}

#[test]
fn a_worker_starts_no_pool_before_it_works() {
    let refused = square(&pool("worker_that_starts_a_pool").start().unwrap()).unwrap_err();
    advises(
        refused,
        "call `Handlers::work_if_worker` before a pool is started",
    );
    assert_eq!(square(&pool("worker").start().unwrap()), Ok(9));
}

#[test]
fn an_address_with_a_pool_is_left_for_another_or_freed() {
    let address = |name: &str| format!("shm:default/advice-{name}-{}", std::process::id());
    let first = pool("worker").at(&address("one")).start().unwrap();
    let refused = pool("worker").at(&address("one")).start().map(drop);
    let refused = refused.unwrap_err();
    assert!(matches!(refused, PoolError::Taken { .. }), "{refused}");
    advises(refused, "end it, or choose another address");
    let other = pool("worker").at(&address("two")).start().unwrap();
    assert_eq!(square(&other), Ok(9));
    first.shutdown().unwrap();
    let second = pool("worker").at(&address("one")).start().unwrap();
    assert_eq!(square(&second), Ok(9));
}

/// What the other process of a test does.
const ROLE: &str = "IPC_NODE_TEST_ADVICE_ROLE";

/// Not a test, unless this program was started as another test's process.
#[test]
fn role() {
    match env::var(ROLE).as_deref() {
        Ok("limit memory") => match pool("worker").max_memory_bytes(1 << 30).start() {
            Ok(pool) => println!("said: {:?}", square(&pool)),
            Err(error) => println!("said: {error}"),
        },
        Ok("leave a group") => leave_a_group(),
        _ => {}
    }
}

/// Runs a shell script that starts this program in a role, as `"$@"`. Returns `None`, with a note,
/// if namespaces are forbidden.
fn in_namespaces(test: &str, flags: &[&str], role: &str, script: &str) -> Option<Output> {
    let possible = Command::new("unshare").args(flags).arg("true").output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("skipped: {test}: no namespaces can be made here");
        return None;
    }
    let inner = program("role");
    let mut command = Command::new("unshare");
    command.args(flags).args(["sh", "-c", script, "sh"]);
    command
        .arg(env::current_exe().unwrap())
        .args(inner.get_args());
    Some(command.env(ROLE, role).output().unwrap())
}

#[test]
fn memory_is_limited_once_proc_is_mounted() {
    let script = "mount -t tmpfs x /proc; \"$@\"; mount -t proc proc /proc; \"$@\"";
    let test = "memory_is_limited_once_proc_is_mounted";
    let Some(output) = in_namespaces(test, &["--mount"], "limit memory", script) else {
        return;
    };
    let out = String::from_utf8(output.stdout).unwrap();
    let said: Vec<_> = out
        .lines()
        .filter_map(|line| line.split_once("said: "))
        .collect();
    let [(_, refused), (_, answer)] = said[..] else {
        panic!("{out}{}", String::from_utf8_lossy(&output.stderr));
    };
    advises(
        refused,
        "max_memory_bytes needs /proc, which can't be read here: mount it",
    );
    assert_eq!(answer, "Ok(9)");
}

/// Says how many zombies there are in the end: one if this is PID 1, otherwise none.
fn leave_a_group() {
    tracing_subscriber::fmt().with_ansi(false).init();
    let pool = pool("worker").start().unwrap();
    let left: Ticket<bool> = pool.submit("leave a group", &()).unwrap();
    assert_eq!(wait(left), Ok(true));
    let expected = usize::from(std::process::id() == 1);
    let deadline = Instant::now() + PATIENCE;
    while zombies() != expected && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    println!("said: {}", zombies());
}

#[test]
fn programs_of_workers_leave_no_zombies_under_an_init() {
    let test = "programs_of_workers_leave_no_zombies_under_an_init";
    let flags = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    // A shell that runs more than one command stays and reaps what it adopts, like an init.
    for (script, zombies, is_warned) in [("exec \"$@\"", 1, true), ("\"$@\"; true", 0, false)] {
        let Some(output) = in_namespaces(test, &flags, "leave a group", script) else {
            return;
        };
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(out.contains(&format!("said: {zombies}")), "{out}");
        let advice = "run it under an init (docker run --init)";
        assert_eq!(out.contains(advice), is_warned, "{out}");
    }
}
