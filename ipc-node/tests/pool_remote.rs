//! A pool whose jobs come from another program, with deaths of the program that owns the pool.
#![cfg(target_os = "linux")]

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use ipc_node::pool::{
    Context, Handlers, Pool, PoolBuilder, PoolClient, PoolServer, RemoteJobError,
};
use ipc_node::request::RequestError;
use ipc_queue::ShmQueue;
use ipc_shm::Namespace;

const ADDRESS: &str = "IPC_POOL_REMOTE_ADDRESS";
const PATIENCE: Duration = Duration::from_secs(60);

fn handlers() -> Handlers {
    let mut handlers = Handlers::new();
    handlers.add("square", |n: u64, _: &Context<'_>| Ok::<_, String>(n * n));
    handlers.add("fail", |why: String, _: &Context<'_>| Err::<(), _>(why));
    handlers
}

/// Not a real test: the pools' workers run it.
#[test]
fn worker() {
    handlers().work_if_worker();
}

fn pool() -> PoolBuilder {
    let mut program = Command::new(env::current_exe().unwrap());
    program.args(["worker", "--exact", "--nocapture"]);
    program.env_remove(ADDRESS);
    Pool::builder().workers(2).command(program)
}

/// Not a real test: it runs as another program, which has a pool.
#[test]
fn a_program_with_a_pool() {
    let Ok(address) = env::var(ADDRESS) else {
        return;
    };
    // In the test's namespace, which is removed with the leftovers of killed pools.
    let namespace = address.trim_start_matches("shm:").split('/').next();
    let pool = pool().namespace(namespace.unwrap()).start().unwrap();
    let server = PoolServer::open(address.as_str()).unwrap();
    println!("ready");
    pool.serve(server).unwrap();
    pool.shutdown().unwrap();
}

struct Place {
    address: String,
    namespace: Namespace,
}

impl Place {
    fn new(test: &str) -> Self {
        let namespace = format!("remote-{test}-{}", std::process::id());
        Self {
            address: format!("shm:{namespace}/jobs"),
            namespace: Namespace::new(&namespace).unwrap(),
        }
    }

    fn start_program(&self) -> (Child, BufReader<ChildStdout>) {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["a_program_with_a_pool", "--exact", "--nocapture"])
            .env(ADDRESS, &self.address)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.trim_end().ends_with("ready") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "it is not ready");
        }
        (child, said)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in ShmQueue::list(&self.namespace).unwrap_or_default() {
            let _ = ShmQueue::remove(&self.namespace, &name);
        }
        let _ = std::fs::remove_dir(self.namespace.path());
    }
}

#[test]
fn jobs_of_another_program_are_done_even_after_the_pool_was_killed() {
    let place = Place::new("killed");
    let client = PoolClient::open(place.address.as_str()).unwrap();
    let submit = |n: u64| client.submit::<u64, u64>("square", &n).unwrap();
    // Submitted before any pool exists.
    let early = submit(3);
    assert!(!early.is_done());
    let (mut first, _said) = place.start_program();
    assert_eq!(early.wait_timeout(PATIENCE).unwrap(), 9);
    let tickets: Vec<_> = (0..200).map(submit).collect();
    first.kill().unwrap();
    first.wait().unwrap();
    let (mut second, _said) = place.start_program();
    for (n, ticket) in (0..).zip(tickets) {
        assert_eq!(ticket.wait_timeout(PATIENCE).unwrap(), n * n);
    }
    second.kill().unwrap();
    second.wait().unwrap();
}

#[test]
fn a_failed_job_gives_its_submitter_the_reason() {
    let place = Place::new("failed");
    let pool = pool().start().unwrap();
    let server = PoolServer::open(place.address.as_str()).unwrap();
    let stop = server.stop_handle();
    thread::scope(|scope| {
        let (pool, server) = (&pool, server);
        let serving = scope.spawn(move || pool.serve(server));
        let client = PoolClient::open(place.address.as_str()).unwrap();
        for (handler, wanted) in [("fail", "no such file"), ("unknown", "unknown")] {
            let ticket = client
                .submit::<_, ()>(handler, &"no such file".to_owned())
                .unwrap();
            let failed = ticket.wait_timeout(PATIENCE).unwrap_err();
            let RemoteJobError::Request(RequestError::Failed { reason }) = &failed else {
                panic!("{failed:?}");
            };
            assert!(reason.contains(wanted), "{reason}");
        }
        stop.stop();
        serving.join().unwrap().unwrap();
    });
    pool.shutdown().unwrap();
}
