//! The number of messages to the server for each message of a queue.

use ipc_nats::NatsAddress;
use ipc_nats::testing::{Program, TestServer, messages_to};
use ipc_queue::transport::Wait;
use ipc_queue::{ByteQueue, QueueOptions};

ipc_nats::on_each_server! {
    a_single_message_costs_two_requests_to_send_and_four_to_receive_and_ack
    a_batch_asks_for_all_its_messages_at_once
    each_step_of_a_batch_has_its_number_of_requests
    an_ack_in_flight_costs_no_more_than_one_that_is_waited_for
    waiters_of_other_processes_cost_two_reports_more
}

const BATCH: u64 = 100;

struct Counted {
    queue: ByteQueue,
    address: NatsAddress,
    _server: TestServer,
}

impl Counted {
    fn new(program: &Program) -> Self {
        ipc_nats::register();
        let server = TestServer::of(program);
        let rest = format!("//{}/counted?storage=memory", server.host());
        let address = NatsAddress::parse(&rest).expect("an address");
        let options = QueueOptions::new().capacity(1000);
        let queue = options.open_bytes(format!("nats:{rest}"));
        Self {
            queue: queue.expect("the server is there"),
            address,
            _server: server,
        }
    }

    /// Returns the smallest number of messages to the server in several trials, because those of
    /// the connection itself and those that keep leases come in between.
    fn count(&self, mut trial: impl FnMut()) -> u64 {
        let trials = (0..20).map(|_| {
            let before = messages_to(&self.address);
            trial();
            messages_to(&self.address) - before
        });
        trials.min().expect("twenty")
    }
}

fn a_single_message_costs_two_requests_to_send_and_four_to_receive_and_ack(program: &Program) {
    let counted = Counted::new(program);
    let (sender, receiver) = (counted.queue.sender(), counted.queue.receiver());
    // One for its place, then one for its payload.
    let sends = counted.count(|| {
        sender.send(b"message").expect("there is room");
    });
    assert_eq!(sends, 2);
    // One for the message, then one for its lease.
    let mut held = Vec::new();
    let receives = counted.count(|| held.push(receiver.recv().expect("it was sent")));
    assert_eq!(receives, 2);
    // One for the place, then one for the message in the work queue, without an answer.
    let mut held = held.into_iter();
    let acks = counted.count(|| held.next().expect("it is held").ack().expect("it is ours"));
    assert_eq!(acks, 2);
}

fn a_batch_asks_for_all_its_messages_at_once(program: &Program) {
    let counted = Counted::new(program);
    let (sender, receiver) = (counted.queue.sender(), counted.queue.receiver());
    let payloads = [&b"message"[..]; BATCH as usize];
    let whole = counted.count(|| {
        sender.send_batch(&payloads).expect("there is room");
        let mut batch = receiver
            .recv_batch(BATCH as usize, Wait::Forever)
            .expect("it was sent");
        assert_eq!(batch.len() as u64, BATCH);
        batch.ack().expect("it is ours");
    });
    assert_eq!(whole, 5 * BATCH + 1);
}

fn each_step_of_a_batch_has_its_number_of_requests(program: &Program) {
    const TRIALS: usize = 20;
    let counted = Counted::new(program);
    let (sender, receiver) = (counted.queue.sender(), counted.queue.receiver());
    let payloads = [&b"message"[..]; 40];
    let size = payloads.len() as u64;
    // One for each place and one for each payload.
    let sends = counted.count(|| sender.send_batch(&payloads).expect("there is room"));
    assert_eq!(sends, 2 * size);
    // One for all messages, then one for each lease.
    let mut held = Vec::new();
    let receives = counted.count(|| {
        let batch = receiver.recv_batch(payloads.len(), Wait::Forever);
        held.push(batch.expect("they were sent"));
    });
    assert_eq!(receives, 1 + size);
    assert_eq!(
        held.iter().map(|batch| batch.len()).sum::<usize>(),
        TRIALS * payloads.len()
    );
    // One for each place, and one for each message in the work queue, without an answer.
    let mut held = held.into_iter();
    let acks = counted.count(|| {
        let mut batch = held.next().expect("it is held");
        batch.ack().expect("it is ours");
    });
    assert_eq!(acks, 2 * size);
}

fn an_ack_in_flight_costs_no_more_than_one_that_is_waited_for(program: &Program) {
    let counted = Counted::new(program);
    let (sender, receiver) = (counted.queue.sender(), counted.queue.receiver());
    let payloads = [&b"message"[..]; 40];
    let mut held = Vec::new();
    let trial = || {
        sender.send_batch(&payloads).expect("there is room");
        let batch = receiver.recv_batch(payloads.len(), Wait::Forever);
        held.push(batch.expect("they were sent"));
    };
    counted.count(trial);
    let mut held = held.into_iter();
    let acks = counted.count(|| {
        for delivery in held.next().expect("it is held") {
            receiver.ack_later(delivery).expect("it is ours");
        }
        receiver.flush().expect("it is ours");
    });
    assert_eq!(acks, 2 * payloads.len() as u64);
}

fn waiters_of_other_processes_cost_two_reports_more(program: &Program) {
    let counted = Counted::new(program);
    let (sender, receiver) = (counted.queue.sender(), counted.queue.receiver());
    let both = || {
        sender.send(b"message").expect("there is room");
        let delivery = receiver.recv().expect("it was sent");
        delivery.ack().expect("it is ours");
    };
    assert_eq!(counted.count(both), 6);
    // The state after another process has waited for room, and for messages without a thread.
    ipc_nats::testing::hear_others(&counted.address);
    assert_eq!(counted.count(both), 8);
}
