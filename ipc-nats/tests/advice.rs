//! Each test causes an error, follows its advice, and checks that it helps. Logins and certificates
//! are in `credentials.rs`.

use std::fmt::Display;
use std::fs;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use ipc_nats::testing::{Program, TestCluster, TestServer};
use ipc_nats::{NatsAddress, NatsOptions, NatsQueue};
use ipc_queue::ByteQueue;
use serde_json::Value;

ipc_nats::on_each_server! {
    a_server_without_jetstream_is_started_with_it
    an_account_without_jetstream_gets_it_in_the_configuration
    a_queue_with_replicas_needs_a_cluster_or_has_one_replica
    a_cluster_without_a_leader_is_waited_for
    a_queue_of_a_later_layout_is_used_by_the_version_that_created_it
}

#[track_caller]
fn advises(error: impl Display, advice: &str) {
    let text = error.to_string();
    assert!(text.contains(advice), "{advice:?} is not in {text:?}");
}

// --- Addresses ---

const FORM: &str =
    "write nats://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]]/QUEUE[?replicas=3&storage";
const LOGIN: &str = "a login is USER:PASSWORD@ or TOKEN@; write %2F for a slash in it, %2C for a \
                     comma, %3F for a question mark, %40 for an @ and %25 for a percent sign";

/// Addresses that are refused, with what their errors advise, and the address that follows it.
const MENDED: [(&str, &str, &str); 16] = [
    (
        "jobs",
        FORM,
        "//ann:x@one:1,two:2/jobs?replicas=3&storage=memory",
    ),
    ("//host", FORM, "//host/jobs"),
    ("//ann:a?b@host/jobs", LOGIN, "//ann:a%3Fb@host/jobs"),
    ("//a,b@host/jobs", LOGIN, "//a%2Cb@host/jobs"),
    (
        "//host/jobs?replicas=9",
        "replicas must be 1 to 5",
        "//host/jobs?replicas=5",
    ),
    (
        "//host/jobs?replicas=0",
        "replicas must be 1 to 5",
        "//host/jobs?replicas=1",
    ),
    (
        "//host/jobs?storage=tape",
        "must be file or memory",
        "//host/jobs?storage=file",
    ),
    (
        "//host/jobs?storage=",
        "must be file or memory",
        "//host/jobs?storage=memory",
    ),
    (
        "//ann:x@host/jobs?creds=a",
        "two logins: give one",
        "//host/jobs?creds=a",
    ),
    (
        "//host/jobs?creds=a&nkey=b",
        "two logins: give one",
        "//host/jobs?nkey=b",
    ),
    (
        "//host/jobs?tls=yes",
        "tls must be required or first",
        "//host/jobs?tls=required",
    ),
    (
        "//host/jobs?tls=",
        "tls must be required or first",
        "//host/jobs?tls=first",
    ),
    (
        "//host/jobs?timeout=5",
        "a time such as 2s or 500ms",
        "//host/jobs?timeout=2s",
    ),
    (
        "//host/jobs?timeout=0s",
        "a time such as 2s or 500ms",
        "//host/jobs?timeout=500ms",
    ),
    (
        "//host/jobs?cert=a",
        "belong together: give both",
        "//host/jobs?cert=a&key=b",
    ),
    (
        "//host/jobs?key=b",
        "belong together: give both",
        "//host/jobs?cert=a&key=b",
    ),
];

#[test]
fn a_refused_address_is_accepted_once_it_is_written_as_the_error_says() {
    for (refused, advice, mended) in MENDED {
        let error = NatsAddress::parse(refused).expect_err(refused);
        advises(error, advice);
        let accepted = NatsAddress::parse(mended);
        accepted.unwrap_or_else(|error| panic!("{refused} {mended}: {error}"));
    }
    let every_sign = NatsAddress::parse("//ann:%2F%2C%3F%40%25@host/jobs").unwrap();
    assert_eq!(every_sign.options, NatsOptions::new().user("ann", "/,?@%"));
}

// --- Servers ---

fn open(server: &TestServer) -> Result<ByteQueue, ipc_queue::QueueError> {
    ipc_nats::register();
    ByteQueue::open(format!("{}?storage=memory", server.address("jobs")))
}

#[track_caller]
fn works(queue: &ByteQueue) {
    queue.sender().send(b"one").unwrap();
    queue.receiver().recv().unwrap().ack().unwrap();
}

fn a_server_without_jetstream_is_started_with_it(program: &Program) {
    let without = TestServer::start_with(program, &["-js=false"]);
    let refused = open(&without).unwrap_err();
    advises(&refused, "start it with -js");
    let with = TestServer::start_with(program, &["-js"]);
    works(&open(&with).unwrap());
}

fn an_account_without_jetstream_gets_it_in_the_configuration(program: &Program) {
    let start = |jetstream: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.conf");
        let user = "users: [ { user: ann, password: x } ]";
        let config =
            format!("accounts {{ WORK {{\n{jetstream}\n{user}\n}} }}\nno_auth_user: ann\n");
        fs::write(&path, config).unwrap();
        TestServer::start_with(program, &["-c", path.to_str().unwrap()])
    };
    let refused = open(&start("")).unwrap_err();
    advises(
        &refused,
        "put jetstream: enabled into the account's configuration",
    );
    works(&open(&start("jetstream: enabled")).unwrap());
}

fn a_queue_with_replicas_needs_a_cluster_or_has_one_replica(program: &Program) {
    ipc_nats::register();
    let server = TestServer::of(program);
    let open =
        |replicas| ByteQueue::open(format!("{}?replicas={replicas}", server.address("jobs")));
    advises(
        open(3).unwrap_err(),
        "use replicas=1, or start it in a cluster",
    );
    works(&open(1).unwrap());
    let cluster = TestCluster::of(program);
    works(&ByteQueue::open(cluster.address("jobs")).unwrap());
}

fn a_cluster_without_a_leader_is_waited_for(program: &Program) {
    let mut cluster = TestCluster::of(program);
    ipc_nats::register();
    let address = format!("{}&timeout=2s", cluster.address("jobs"));
    works(&ByteQueue::open(&address).unwrap());
    cluster.servers[1].kill();
    cluster.servers[2].kill();
    // Much more than both need: the last server notices after a while that it leads no longer, and
    // the next election also takes its time.
    let deadline = Instant::now() + Duration::from_secs(240);
    loop {
        let refused = NatsQueue::remove(&NatsAddress::parse(&address[5..]).unwrap()).unwrap_err();
        if refused
            .to_string()
            .contains("; wait until its cluster has a leader")
        {
            break;
        }
        assert!(Instant::now() < deadline, "{refused}");
    }
    cluster.servers[1].restart();
    while ByteQueue::open(&address).is_err() {
        assert!(Instant::now() < deadline, "the cluster has no leader");
    }
    works(&ByteQueue::open(&address).unwrap());
}

/// Changes the version in the directory's entry of the queue `jobs`, and returns the former one.
async fn change_version(server: &TestServer, version: u64) -> u64 {
    let client = async_nats::connect(server.host()).await.unwrap();
    let bucket = jetstream::new(client).get_key_value("ipc-queues").await;
    let bucket = bucket.unwrap();
    let entry = bucket.get("jobs").await.unwrap().expect("an entry");
    let mut entry: Value = serde_json::from_slice(&entry).unwrap();
    let former = std::mem::replace(&mut entry["version"], version.into());
    bucket.put("jobs", entry.to_string().into()).await.unwrap();
    former.as_u64().unwrap()
}

fn a_queue_of_a_later_layout_is_used_by_the_version_that_created_it(program: &Program) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = TestServer::of(program);
    drop(open(&server).unwrap());
    let ours = runtime.block_on(change_version(&server, 77));
    advises(
        open(&server).unwrap_err(),
        "use the version that created it",
    );
    // This program takes the part of the later version.
    runtime.block_on(change_version(&server, ours));
    works(&open(&server).unwrap());
}
