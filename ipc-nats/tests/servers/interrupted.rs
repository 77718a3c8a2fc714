//! Operations of several requests that are cut off after any of them.

use std::time::Instant;

use ipc_nats::testing::{Program, TestServer, streams};
use ipc_nats::{NatsAddress, NatsQueue};
use ipc_queue::conformance::{Fault, Proxy};
use ipc_queue::transport::{OpenRequest, Transport, Wait};
use ipc_queue::{Kind, QueueOptions};

use super::{A_WHILE, open};

ipc_nats::on_each_server! {
    an_interrupted_removal_is_completed_by_the_next_removal_or_creation
    an_interrupted_creation_is_completed_by_the_next_open_or_removal
    an_interrupted_purge_is_an_error_and_the_next_drops_the_rest
}

/// Starts a proxy to the server, and returns it with the queue's address through it.
fn proxied(server: &TestServer) -> (Proxy, NatsAddress) {
    let target = server.host().parse().expect("an address of a socket");
    let (proxy, host) = Proxy::tcp(target).expect("a free port");
    let rest = format!("//{host}/jobs?timeout=500ms");
    (proxy, NatsAddress::parse(&rest).expect("an address"))
}

/// Opens the queue until that succeeds: a busy machine may need longer than its time-out.
fn open_at_last(address: &NatsAddress) -> NatsQueue {
    let request = OpenRequest::default();
    let deadline = Instant::now() + A_WHILE;
    loop {
        match NatsQueue::open(address, &request) {
            Ok(queue) => return queue,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

fn an_interrupted_removal_is_completed_by_the_next_removal_or_creation(program: &Program) {
    let server = TestServer::of(program);
    let rest = format!("//{}/jobs", server.host());
    let direct = NatsAddress::parse(&rest).expect("an address");
    let is_there = |how| {
        let stats = open(&server.address("jobs")).transport().stats();
        assert_eq!(stats.expect("it exists").in_use(), 0, "{how}");
    };
    let mut was_cut = true;
    for request in 0.. {
        if !was_cut {
            break;
        }
        for creates in [false, true] {
            let (proxy, address) = proxied(&server);
            // The connection exists already, so requests are counted from the first one of the
            // removal.
            let queue = open_at_last(&address);
            queue
                .sender()
                .send(b"lost", Kind::Data, Wait::No)
                .expect("a place");
            proxy.arm(Fault::CutRequest, request);
            let removed = NatsQueue::remove(&address);
            was_cut = proxy.heal();
            drop(queue);
            if creates && removed.is_err() {
                let unknown = removed.is_err_and(|error| error.is_outcome_unknown());
                // If the removal had not begun, the queue still exists.
                if unknown {
                    let queue = open(&server.address("jobs"));
                    let _ = queue.transport().purge().expect("it exists");
                    is_there("it can be created again");
                }
            }
            NatsQueue::remove(&direct).expect("the server is there");
            let left = streams(&direct);
            assert!(left.is_empty(), "cut at request {request}: {left:?}");
        }
    }
}

fn an_interrupted_creation_is_completed_by_the_next_open_or_removal(program: &Program) {
    ipc_nats::register();
    let server = TestServer::of(program);
    let rest = format!("//{}/jobs", server.host());
    let direct = NatsAddress::parse(&rest).expect("an address");
    let mut was_cut = true;
    for request in 0.. {
        if !was_cut {
            break;
        }
        for opens in [false, true] {
            let (proxy, address) = proxied(&server);
            let mut other = address.clone();
            other.name = "other".parse().expect("a name");
            // Keeps a connection open that the creation will use.
            let keeps = open_at_last(&other);
            proxy.arm(Fault::CutRequest, request);
            let created = NatsQueue::open(&address, &OpenRequest::default());
            was_cut = proxy.heal();
            if opens && (created.is_err() || was_cut) {
                let queue = QueueOptions::new().open_bytes(server.address("jobs"));
                let queue = queue.expect("the server is there");
                queue.sender().try_send(b"carried").expect("a place");
                let receiver = queue.receiver();
                let delivery = receiver.recv_timeout(A_WHILE);
                delivery.expect("it was sent").ack().expect("we hold it");
            }
            drop((created, keeps));
            NatsQueue::remove(&direct).expect("the server is there");
            let mut others = direct.clone();
            others.name = other.name;
            NatsQueue::remove(&others).expect("the server is there");
            let left = streams(&direct);
            assert!(left.is_empty(), "cut at request {request}: {left:?}");
        }
    }
}

fn an_interrupted_purge_is_an_error_and_the_next_drops_the_rest(program: &Program) {
    let server = TestServer::of(program);
    let queue = open(&server.address("jobs"));
    let in_use = || queue.transport().stats().expect("it exists").in_use();
    let mut was_partial = false;
    for request in 0.. {
        let (proxy, address) = proxied(&server);
        let purger = open_at_last(&address);
        for _ in 0..4 {
            queue.sender().try_send(b"waits").expect("a place");
        }
        proxy.arm(Fault::StallRequest, request);
        let purged = purger.purge();
        let left = in_use();
        let was_stalled = proxy.heal();
        match purged {
            Ok(purged) => assert_eq!((purged, left), (4, 0)),
            Err(error) => {
                assert!(error.is_outcome_unknown() || left == 4, "{error}");
                was_partial |= left < 4;
            }
        }
        queue.transport().purge().expect("the server is there");
        assert_eq!(in_use(), 0);
        if !was_stalled {
            break;
        }
    }
    assert!(was_partial, "it was never cut off half-way");
}
