//! A message costs no allocation, on either side of a queue in shared memory.
#![cfg(target_os = "linux")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::process;

use ipc_queue::transport::Wait;
use ipc_queue::{Batch, Queue, QueueOptions, remove};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: forwards to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Returns the number of allocations of this thread in `run`, which has run once before.
fn allocations(mut run: impl FnMut()) -> u64 {
    run();
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

fn open(address: &str) -> Queue<(u64, u32, bool)> {
    QueueOptions::new().capacity(256).open(address).unwrap()
}

#[test]
fn a_value_is_sent_and_received_without_an_allocation() {
    let address = format!("shm:allocations-{}/single", process::id());
    let queue = open(&address);
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let count = allocations(|| {
        for number in 0..100 {
            sender.send((number, 7, true)).unwrap();
        }
        for number in 0..100 {
            let delivery = receiver.recv().unwrap();
            assert_eq!(delivery.data().0, number);
            delivery.ack().unwrap();
        }
    });
    assert_eq!(count, 0);
    remove(&*address).unwrap();
}

#[test]
fn a_batch_is_received_into_memory_that_is_used_again() {
    let address = format!("shm:allocations-{}/batch", process::id());
    let queue = open(&address);
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let mut batch = Batch::new();
    let count = allocations(|| {
        for number in 0..100 {
            sender.send((number, 7, true)).unwrap();
        }
        let mut received = 0;
        while received < 100 {
            receiver.recv_batch_into(&mut batch, 30, Wait::No).unwrap();
            received += batch.len();
            batch.ack().unwrap();
        }
    });
    assert_eq!(count, 0);
    remove(&*address).unwrap();
}
