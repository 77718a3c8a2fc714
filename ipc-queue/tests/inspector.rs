//! An inspector changes nothing in a queue, and takes no slot.

use std::fs;

use std::time::Duration;

use ipc_queue::shm::Inspector;
use ipc_queue::transport::Wait;
use ipc_queue::{ByteQueue, Name, Priority, QueueError, QueueOptions, SendOptions, remove};
use ipc_shm::{Namespace, Presence};

struct Place(String);

impl Place {
    fn new(test: &str) -> Self {
        Self(format!("inspector-{}-{test}", std::process::id()))
    }

    fn address(&self) -> String {
        format!("shm:{}/jobs", self.0)
    }

    fn inspect(&self) -> Result<Inspector, QueueError> {
        let namespace = Namespace::new(&self.0).unwrap();
        Inspector::open(&namespace, &Name::new("jobs").unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = remove(self.address());
    }
}

fn some_queue(place: &Place) -> ByteQueue {
    let options = QueueOptions::new().capacity(8).priorities(true);
    let queue = options.open_bytes(place.address()).unwrap();
    let sender = queue.sender();
    let large = vec![7; 100_000];
    for (payload, priority) in [(&b"held"[..], Priority::Urgent), (b"small", Priority::Low)] {
        let options = SendOptions::new().priority(priority);
        sender
            .send_with(payload, &options.clone().wait(Wait::No))
            .unwrap();
    }
    sender.send(&large).unwrap();
    sender.send(b"buried").unwrap();
    queue
}

#[test]
fn inspecting_shows_everything_and_changes_no_byte() {
    let place = Place::new("seen");
    let queue = some_queue(&place);
    let receiver = queue.receiver();
    let held = receiver.try_recv().unwrap();
    let other = queue.receiver();
    let large = other.try_recv().unwrap();
    other.try_recv().unwrap().bury().unwrap();
    large.nack_after(Duration::ZERO).unwrap();

    let inspector = place.inspect().unwrap();
    let stats = inspector.stats();
    assert_eq!((stats.ready, stats.leased, stats.dead), (2, 1, 1));
    assert_eq!(stats.participants, 1, "the inspector is not attached");
    let mut waiting = inspector.waiting(10);
    assert_eq!(inspector.oldest(), Some(waiting[0].sent_at));
    waiting.sort_by_key(|one| one.payload.len()); // Their clock is coarse.
    let seen: Vec<_> = waiting
        .iter()
        .map(|one| (one.payload.len(), one.priority, one.attempts))
        .collect();
    assert_eq!(
        seen,
        [(5, Priority::Low, 0), (100_000, Priority::Normal, 1)]
    );
    assert!(waiting[1].payload.iter().all(|byte| *byte == 7));
    assert_eq!(inspector.waiting(1).len(), 1);
    let leases = inspector.leases();
    assert_eq!(
        (leases[0].pid, leases[0].message),
        (std::process::id(), held.id())
    );
    assert_eq!(inspector.dead_letters()[0].payload, b"buried");
    let (slot, gone) = &inspector.participants()[0];
    assert_eq!((slot.presence, *gone), (Presence::Live, false));
    assert_eq!(inspector.id(), queue.transport().id());
    // This process's own watcher raises hints twice a second, so not every inspection can be
    // compared.
    let looks_without_a_trace = |_| {
        let before = fs::read(inspector.path()).unwrap();
        let _ = (inspector.stats(), inspector.oldest(), inspector.waiting(10));
        let _ = (inspector.leases(), inspector.dead_letters());
        let _ = (inspector.participants(), inspector.id());
        fs::read(inspector.path()).unwrap() == before
    };
    assert!(
        (0..100).any(looks_without_a_trace),
        "the inspection changed the queue"
    );
    held.ack().unwrap();
    assert_eq!(inspector.stats().leased, 0, "the inspector sees changes");
}

#[test]
fn a_queue_of_any_type_can_be_inspected_and_a_missing_one_is_an_error() {
    let place = Place::new("typed");
    let error = place.inspect().unwrap_err();
    assert!(matches!(error, QueueError::NotFound { .. }), "{error}");
    let queue = QueueOptions::new()
        .type_name("order/2")
        .open::<u32>(&place.address());
    queue.unwrap().sender().send(17).unwrap();
    let inspector = place.inspect().unwrap();
    assert_eq!(
        (inspector.payload_type(), inspector.stats().ready),
        ("msgpack:order/2", 1)
    );
    let seen = inspector.waiting(1).remove(0).payload;
    let as_bytes = QueueOptions::new().open_any(place.address()).unwrap();
    let receiver = as_bytes.receiver();
    let delivery = receiver.try_recv().unwrap();
    assert_eq!(delivery.payload(), seen);
    delivery.ack().unwrap();
}

#[test]
fn an_inspectors_mapping_cannot_be_written() {
    let place = Place::new("read-only");
    drop(some_queue(&place));
    let inspector = place.inspect().unwrap();
    let path = inspector.path();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let ours: Vec<_> = maps
        .lines()
        .filter(|line| line.ends_with(path.to_str().unwrap()))
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    assert!(!ours.is_empty());
    assert!(
        ours.iter().all(|access| access.starts_with("r--")),
        "{ours:?}"
    );
}
