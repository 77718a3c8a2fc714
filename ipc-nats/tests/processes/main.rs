//! Effects of one process on another that uses the same queue: closing, pausing, dying in the
//! middle of a send. All processes are real.

mod other;
mod wire;

use std::thread;
use std::time::{Duration, Instant};

use ipc_nats::testing::{Program, TestServer};
use ipc_queue::transport::Wait;
use ipc_queue::{
    ByteQueue, MessageId, NoRoom, QueueOptions, SendOptions, SendTimeoutError, TryRecvError,
    TrySendError,
};

use other::Other;
use wire::{Cut, To, Wire};

const A_WHILE: Duration = Duration::from_secs(30);

ipc_nats::on_each_server! {
    a_queue_that_another_process_pauses_delivers_nothing_until_it_is_resumed
    a_queue_that_another_process_closes_takes_nothing_and_drains
    a_receiver_that_waits_hears_that_another_process_closed_the_queue
    processes_that_race_for_places_fill_a_queue_exactly
    a_dead_letter_whose_requeuer_was_killed_is_delivered_once_or_stays
    a_requeued_letter_is_redelivered_if_its_first_receiver_was_killed_too_early
    a_queue_whose_creator_was_killed_halfway_can_be_used_and_removed
    the_place_of_a_killed_sender_is_freed
    a_killed_sender_does_not_keep_a_closed_queue_from_draining
    a_killed_senders_key_is_free_at_once_and_a_live_senders_key_is_not
    the_place_of_a_sender_killed_before_publishing_is_freed_after_a_while
    a_message_whose_sender_was_killed_before_it_was_confirmed_is_sent_once_by_its_key
    messages_with_unconfirmed_acks_of_a_killed_receiver_are_gone_or_come_again
}

fn create(server: &TestServer, options: &QueueOptions) -> (String, ByteQueue) {
    ipc_nats::register();
    let address = server.address("jobs");
    let queue = options.open_bytes(&address).expect("the server is there");
    (address, queue)
}

fn wait_for(other: &mut Other, question: &str) {
    let deadline = Instant::now() + A_WHILE;
    while other.asked(question) != "true" {
        assert!(Instant::now() < deadline, "{question}");
        thread::yield_now();
    }
}

fn a_queue_that_another_process_pauses_delivers_nothing_until_it_is_resumed(program: &Program) {
    let server = TestServer::of(program);
    let (address, queue) = create(&server, &QueueOptions::new());
    let mut other = Other::start(&address);
    queue.transport().pause().expect("it can");
    wait_for(&mut other, "paused?");
    queue.sender().try_send(b"later").expect("a place");
    assert_eq!(other.asked("try_recv"), "Paused");
    other.notify("recv");
    queue.transport().resume().expect("it can");
    assert_eq!(other.answer(), "later");
}

fn processes_that_race_for_places_fill_a_queue_exactly(program: &Program) {
    const CAPACITY: u32 = 32;
    let server = TestServer::of(program);
    let (address, queue) = create(&server, &QueueOptions::new().capacity(CAPACITY));
    let mut others: Vec<Other> = (0..3).map(|_| Other::start(&address)).collect();
    let receiver = queue.receiver();
    for _ in 0..3 {
        for other in &mut others {
            other.notify("fill");
        }
        let sent = others.iter_mut().map(Other::answer);
        let sent: u32 = sent
            .map(|count| count.parse::<u32>().expect("a number"))
            .sum();
        let counts = queue.transport().stats().unwrap();
        assert_eq!((sent, counts.ready), (CAPACITY, u64::from(CAPACITY)));
        for _ in 0..CAPACITY {
            let delivery = receiver.recv_timeout(A_WHILE).expect("it was sent");
            delivery.ack().expect("we hold it");
        }
    }
}

/// The requeuer is killed after its published message was lost or has arrived, before it changes
/// the record.
fn a_dead_letter_whose_requeuer_was_killed_is_delivered_once_or_stays(program: &Program) {
    for cut in [Cut::Before, Cut::After] {
        let server = TestServer::of(program);
        let (_, queue) = create(&server, &QueueOptions::new().capacity(1));
        let receiver = queue.receiver();
        let id = queue.sender().try_send(b"once").expect("a place");
        receiver
            .recv()
            .expect("it was sent")
            .bury()
            .expect("we hold it");
        kill_while_sending(&server, cut, "requeue for ever");
        if cut == Cut::Before {
            let letters = queue.transport().dead_letters().unwrap();
            assert!(queue.transport().requeue(letters[0].id).unwrap());
        }
        let delivery = receiver.recv_timeout(A_WHILE).expect("it was requeued");
        assert_eq!((delivery.id(), delivery.attempt()), (id, 1));
        assert_eq!(delivery.payload(), b"once");
        assert!(queue.transport().dead_letters().unwrap().is_empty());
        delivery.ack().expect("we hold it");
        let nothing = receiver.try_recv().map(drop);
        assert_eq!(nothing, Err(TryRecvError::Empty));
        assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
    }
}

/// In addition, the requeuer was killed before it could change the letter's record.
fn a_requeued_letter_is_redelivered_if_its_first_receiver_was_killed_too_early(program: &Program) {
    let server = TestServer::of(program);
    let (_, queue) = create(&server, &QueueOptions::new().capacity(1));
    let receiver = queue.receiver();
    let id = queue.sender().try_send(b"once").expect("a place");
    let delivery = receiver.recv().expect("it was sent");
    delivery.bury().expect("we hold it");
    kill_while_sending(&server, Cut::After, "requeue for ever");
    let wire = Wire::to(&server, To::Places, Cut::Before);
    let mut other = Other::start(&format!("nats://{}/jobs", wire.host()));
    other.notify("recv");
    wait_until("it is handed out", || wire.is_cut());
    drop(other);
    let letters = queue.transport().dead_letters().expect("it exists");
    assert_eq!(letters.len(), 1);
    let delivery = receiver.recv_timeout(A_WHILE).expect("it comes again");
    assert_eq!((delivery.id(), delivery.attempt()), (id, 1));
    delivery.ack().expect("we hold it");
}

fn a_queue_whose_creator_was_killed_halfway_can_be_used_and_removed(program: &Program) {
    for uses in [true, false] {
        let server = TestServer::of(program);
        let wire = Wire::to(&server, To::NewStream, Cut::Before);
        let creator = Other::create(&format!("nats://{}/jobs", wire.host()));
        wait_until("its streams are about to be made", || wire.is_cut());
        drop(creator);
        if uses {
            let (_, queue) = create(&server, &QueueOptions::new());
            queue.sender().try_send(b"carried").expect("a place");
            let receiver = queue.receiver();
            let delivery = receiver.recv_timeout(A_WHILE).expect("it was sent");
            delivery.ack().expect("we hold it");
        }
        ipc_nats::register();
        let removed = ipc_queue::remove(server.address("jobs"));
        assert!(removed.expect("the server is there"));
    }
}

fn a_queue_that_another_process_closes_takes_nothing_and_drains(program: &Program) {
    let server = TestServer::of(program);
    let (address, queue) = create(&server, &QueueOptions::new());
    let mut other = Other::start(&address);
    queue.sender().try_send(b"the last").expect("a place");
    queue.transport().close().unwrap();
    wait_for(&mut other, "closed?");
    assert_eq!(other.asked("send"), "Closed");
    assert_eq!(other.asked("recv"), "the last");
    assert_eq!(other.asked("recv"), "Closed");
}

fn a_receiver_that_waits_hears_that_another_process_closed_the_queue(program: &Program) {
    let server = TestServer::of(program);
    let (address, queue) = create(&server, &QueueOptions::new());
    let mut other = Other::start(&address);
    other.notify("recv");
    queue.transport().close().unwrap();
    assert_eq!(other.answer(), "Closed");
}

fn the_place_of_a_killed_sender_is_freed(program: &Program) {
    let server = TestServer::of(program);
    let (address, queue) = create(&server, &QueueOptions::new().capacity(1));
    let mut other = Other::start(&address);
    assert_eq!(other.asked("loan"), "lent");
    let sender = queue.sender();
    let full = sender.try_send(b"no");
    assert!(matches!(full, Err(TrySendError::Full { .. })), "{full:?}");
    drop(other);
    let sent = sender.send_timeout(b"now there is room", A_WHILE);
    sent.expect("its place was taken back");
    let counts = queue.transport().stats().unwrap();
    assert_eq!((counts.in_use(), counts.ready), (1, 1));
}

fn a_killed_sender_does_not_keep_a_closed_queue_from_draining(program: &Program) {
    let server = TestServer::of(program);
    let (address, queue) = create(&server, &QueueOptions::new());
    let mut other = Other::start(&address);
    assert_eq!(other.asked("loan"), "lent");
    drop(other);
    let drained = queue.transport().drain(Wait::at_most(A_WHILE));
    drained.unwrap();
}

fn a_killed_senders_key_is_free_at_once_and_a_live_senders_key_is_not(program: &Program) {
    let server = TestServer::of(program);
    let keys = QueueOptions::new().dedup_window(Duration::from_secs(3600));
    let (address, queue) = create(&server, &keys);
    let mut other = Other::start(&address);
    assert_eq!(other.asked("loan with the key"), "lent");
    let (sender, keyed) = (queue.sender(), SendOptions::new().key("the one"));
    let taken = sender.send_with(b"one", &keyed.clone().wait(Wait::No));
    assert!(is_in_use(&taken), "{taken:?}");
    drop(other);
    let deadline = Instant::now() + A_WHILE;
    let first = loop {
        let sent = sender.send_with(b"one", &keyed.clone().wait(Wait::No));
        if !is_in_use(&sent) {
            break sent;
        }
        // This also waits until the server has noticed the death.
        assert!(Instant::now() < deadline, "it is not free");
    };
    assert!(first.is_ok(), "{first:?}");
    assert_eq!(
        sender.send_with(b"two", &keyed.clone().wait(Wait::No)),
        first
    );
    assert_eq!(queue.transport().stats().unwrap().in_use(), 1);
}

/// Returns `true` if another sender has the key.
fn is_in_use(sent: &Result<MessageId, SendTimeoutError>) -> bool {
    let missing = NoRoom::Key;
    matches!(sent, Err(SendTimeoutError::TimedOut { missing: m, .. }) if *m == missing)
}

/// Kills a sender that has a place and is publishing its message: before the work queue has it, or
/// after.
fn kill_while_sending(server: &TestServer, cut: Cut, how: &str) {
    let wire = Wire::to(server, To::Work, cut);
    let mut other = Other::start(&format!("nats://{}/jobs", wire.host()));
    other.notify(how);
    wait_until("the message is on its way", || wire.is_cut());
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + A_WHILE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
}

fn the_place_of_a_sender_killed_before_publishing_is_freed_after_a_while(program: &Program) {
    let server = TestServer::of(program);
    let (address, queue) = create(&server, &QueueOptions::new().capacity(1));
    kill_while_sending(&server, Cut::Before, "send for ever");
    let full = queue.sender().try_send(b"no");
    assert!(matches!(full, Err(TrySendError::Full { .. })), "{full:?}");
    let mut impatient = Other::start(&address);
    impatient.notify("give up soon");
    assert_eq!(impatient.asked("send in time"), "sent");
    let counts = queue.transport().stats().unwrap();
    assert_eq!((counts.in_use(), counts.ready), (1, 1));
}

fn a_message_whose_sender_was_killed_before_it_was_confirmed_is_sent_once_by_its_key(
    program: &Program,
) {
    for (cut, duplicates) in [(Cut::Before, 0), (Cut::After, 1)] {
        let server = TestServer::of(program);
        let keys = QueueOptions::new().dedup_window(Duration::from_secs(3600));
        let (_, queue) = create(&server, &keys);
        kill_while_sending(&server, cut, "send with the key for ever");
        let (sender, keyed) = (queue.sender(), SendOptions::new().key("the one"));
        wait_until("the key is free, or known", || {
            let sent = sender.send_with(b"again", &keyed.clone().wait(Wait::No));
            !is_in_use(&sent) && (sent.is_ok() || panic!("{sent:?}"))
        });
        assert_eq!(queue.transport().stats().unwrap().duplicates, duplicates);
        let receiver = queue.receiver();
        let delivery = receiver.recv_timeout(A_WHILE).expect("it was sent");
        let expected = if duplicates > 0 { "for ever" } else { "again" };
        assert_eq!(delivery.payload(), expected.as_bytes());
        delivery.ack().expect("we hold it");
        assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
    }
}

/// The receiver is killed in its flush. The server got none of its acks, or the first.
fn messages_with_unconfirmed_acks_of_a_killed_receiver_are_gone_or_come_again(program: &Program) {
    const MESSAGES: [&[u8]; 3] = [b"acked first", b"acked second", b"held"];
    for cut in [Cut::Before, Cut::After] {
        let server = TestServer::of(program);
        let leased = QueueOptions::new().lease(Duration::from_secs(1));
        let (_, queue) = create(&server, &leased);
        queue.sender().send_batch(&MESSAGES).expect("places");
        let wire = Wire::to(&server, To::Ack, cut);
        let mut other = Other::start(&format!("nats://{}/jobs", wire.host()));
        other.notify("receive three and ack two later");
        wait_until("an ack is on its way", || wire.is_cut());
        drop(other);
        let receiver = queue.receiver();
        let mut again = Vec::new();
        while queue.transport().stats().unwrap().in_use() > 0 {
            let Ok(delivery) = receiver.recv_timeout(Duration::from_secs(1)) else {
                continue;
            };
            assert_eq!(delivery.attempt(), 2);
            again.push(delivery.payload().to_vec());
            delivery.ack().expect("we hold it");
        }
        again.sort_unstable();
        assert!(again.is_sorted_by(|one, next| one < next), "{again:?}");
        if cut == Cut::Before {
            assert_eq!(again, MESSAGES);
        }
        assert!(again.iter().any(|message| message == b"held"), "{again:?}");
    }
}
