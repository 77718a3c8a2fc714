//! How much of a queue's payload memory can be filled, and how much few messages use.

use std::collections::VecDeque;
use std::ops::Range;

use ipc_queue::{ByteQueue, ByteReceiver, ByteSender, QueueOptions, TrySendError, remove};

const MIB: usize = 1 << 20;
const LINE: usize = 64;

/// A queue with this much payload memory and many places, removed in the end.
struct Fixture {
    address: String,
    queue: ByteQueue,
    pool: usize,
}

impl Fixture {
    fn new(test: &str, pool: usize, options: QueueOptions) -> Self {
        let address = format!("shm:memory-{}/{test}", std::process::id());
        let options = options.capacity(50_000).pool_bytes(pool as u64);
        let queue = options.open_bytes(&address).unwrap();
        Self {
            address,
            queue,
            pool,
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = remove(&self.address);
    }
}

/// Returns whether the queue had memory for it.
fn send(sender: &ByteSender, bytes: usize) -> bool {
    match sender.try_send(&vec![bytes as u8; bytes]) {
        Ok(_) => true,
        Err(TrySendError::NoMemory { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

fn ack_one(receiver: &ByteReceiver) -> usize {
    let delivery = receiver.try_recv().unwrap();
    let payload = delivery.payload();
    let bytes = payload.len();
    assert!(payload.iter().all(|byte| *byte == bytes as u8));
    delivery.ack().unwrap();
    bytes
}

#[test]
fn payloads_of_one_size_fill_the_pool_except_for_their_rounding() {
    let sizes = [
        193, 200, 256, 257, 300, 448, 449, 500, 513, 577, 640, 641, 1000, 1500, 2049, 4097, 10_000,
        33_000, 65_537, 100_000, 131_073, 262_145, 300_000, 500_000, 700_000, 932_068, MIB,
    ];
    for (test, pool, inline) in [("default", 8 * MIB, 192), ("other", 7 * MIB + 100, 400)] {
        let options = QueueOptions::new().inline_bytes(inline);
        let fixture = Fixture::new(test, pool, options);
        let (sender, receiver) = (fixture.queue.sender(), fixture.queue.receiver());
        let inline = (inline as usize).next_multiple_of(LINE);
        for bytes in sizes.into_iter().filter(|bytes| *bytes > inline) {
            let count = (0..).take_while(|_| send(&sender, bytes)).count();
            // The rule that the documentation states.
            let pool = fixture.pool.next_multiple_of(LINE);
            assert_eq!(count, pool / bytes.next_multiple_of(LINE), "{bytes}");
            let lost = 100 - 100 * count * bytes / pool;
            assert!(lost <= 15 || bytes <= 448, "{lost} % of {bytes} lost");
            (0..count).for_each(|_| assert_eq!(ack_one(&receiver), bytes));
        }
    }
}

fn mixed(random: &mut fastrand::Rng, sizes: &Range<usize>) -> usize {
    // As many small ones as large ones, on a scale of powers of two.
    let powers = (sizes.start as f64).log2()..(sizes.end as f64).log2();
    let power = powers.start + random.f64() * (powers.end - powers.start);
    power.exp2() as usize
}

#[test]
fn payloads_of_mixed_sizes_fill_three_quarters_of_the_pool_also_after_churn() {
    let fixture = Fixture::new("mixed", 8 * MIB, QueueOptions::new());
    let (sender, receiver) = (fixture.queue.sender(), fixture.queue.receiver());
    for (seed, sizes) in (0..).zip([193..1000, 449..MIB / 16, 10_000..MIB / 4, 193..MIB / 2]) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut held = VecDeque::new();
        for _ in 0..40 {
            loop {
                let bytes = mixed(&mut random, &sizes);
                if !send(&sender, bytes) {
                    break;
                }
                held.push_back(bytes);
            }
            let percent = 100 * held.iter().sum::<usize>() / fixture.pool;
            assert!(percent >= 75, "{percent} % are filled with {sizes:?}");
            for _ in 0..random.usize(1..=held.len()) {
                assert_eq!(Some(ack_one(&receiver)), held.pop_front());
            }
        }
        held.into_iter()
            .for_each(|bytes| assert_eq!(ack_one(&receiver), bytes));
    }
}

/// Returns the distance between the first and the last byte that the payloads use.
fn span(sender: &ByteSender, receiver: &ByteReceiver, in_flight: usize, sizes: &[usize]) -> usize {
    let mut used: Option<Range<usize>> = None;
    let mut held = VecDeque::new();
    for bytes in sizes.iter().cycle().take(2000) {
        assert!(send(sender, *bytes));
        held.push_back(receiver.try_recv().unwrap());
        let payload = held.back().unwrap().payload().as_ptr_range();
        let payload = payload.start as usize..payload.end as usize;
        let used = used.get_or_insert(payload.clone());
        *used = used.start.min(payload.start)..used.end.max(payload.end);
        if held.len() == in_flight {
            held.pop_front().unwrap().ack().unwrap();
        }
    }
    held.into_iter()
        .for_each(|delivery| delivery.ack().unwrap());
    used.map_or(0, |used| used.end - used.start)
}

#[test]
fn few_messages_in_flight_use_little_memory_whatever_the_pool_held_before() {
    let fixture = Fixture::new("few", 32 * MIB, QueueOptions::new());
    let (sender, receiver) = (fixture.queue.sender(), fixture.queue.receiver());
    for before in [1000, 300_000] {
        let count = (0..).take_while(|_| send(&sender, before)).count();
        (0..count).for_each(|_| assert_eq!(ack_one(&receiver), before));
        assert!(span(&sender, &receiver, 1, &[100_000]) <= 100_000);
        assert!(span(&sender, &receiver, 1, &[500, 100_000, 7000]) <= 100_000);
        assert!(span(&sender, &receiver, 10, &[4096]) <= 12 * 4096);
        assert!(span(&sender, &receiver, 10, &[500, 10_000, 7000]) <= 300_000);
    }
}
