//! Advice about queues that are closed, were removed, or lost their file.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipc_queue::{
    ByteQueue, ControlFailure, Queue, QueueOptions, RecvFailure, SendFailure, Signal, TryRecvError,
    Unavailable, UnixServer,
};
use rustix::net::SocketAddrUnix;

use crate::{Place, advises};

#[test]
fn a_removed_queue_is_opened_again() {
    for scheme in ["local", "shm"] {
        let place = Place::new(scheme);
        let old = ByteQueue::open(&place.0).unwrap();
        assert!(ipc_queue::remove(&place.0).unwrap());
        let refused = old.sender().send(b"one").unwrap_err();
        assert_eq!(refused.failure, SendFailure::from(Unavailable::Removed));
        advises(refused, "the queue was removed; open it again");
        let new = ByteQueue::open(&place.0).unwrap();
        new.sender().send(b"one").unwrap();
    }
}

#[test]
fn a_truncated_queue_is_removed_and_created_again() {
    let place = Place::new("shm");
    let old = QueueOptions::new().open_bytes(&place.0).unwrap();
    let sender = old.sender();
    let name = place.0.strip_prefix("shm:").unwrap();
    let root = ipc_shm::Namespace::new("x").unwrap();
    let path = root.path().with_file_name(format!("{name}.queue"));
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(0).unwrap();
    let refused = sender.send(b"one").unwrap_err();
    assert_eq!(refused.failure, SendFailure::from(Unavailable::Truncated));
    advises(refused, "remove the queue and create it again");
    drop((sender, old));
    assert!(ipc_queue::remove(&place.0).unwrap());
    let new = ByteQueue::open(&place.0).unwrap();
    new.sender().send(b"one").unwrap();
}

#[test]
fn a_readiness_that_lost_its_descriptor_is_replaced_by_another() {
    let queue = ByteQueue::open("local:advice-readiness").unwrap();
    let receiver = queue.receiver();
    let mut lost = receiver.readiness().unwrap();
    let number = lost.as_fd().as_raw_fd();
    let log = tempfile::tempfile().unwrap();
    // SAFETY: takes only numbers. The test checks what happens to the code that relies on one of
    // them.
    assert_eq!(unsafe { libc::dup2(log.as_raw_fd(), number) }, number);
    advises(lost.arm().unwrap_err(), "create another one");
    let mut another = receiver.readiness().unwrap();
    another.arm().unwrap();
    queue.sender().send(b"one").unwrap();
    let readable = nix::poll::PollFd::new(another.as_fd(), nix::poll::PollFlags::POLLIN);
    let ready = nix::poll::poll(&mut [readable], nix::poll::PollTimeout::NONE);
    assert_eq!(ready, Ok(1));
    drop(lost);
    // SAFETY: closes the file of this test that took the number.
    assert_eq!(unsafe { libc::close(number) }, 0);
}

#[test]
fn a_closed_queue_takes_its_dead_letter_back_once_it_is_reopened() {
    for scheme in ["local", "shm"] {
        let place = Place::new(scheme);
        let queue = ByteQueue::open(&place.0).unwrap();
        queue.sender().send(b"one").unwrap();
        queue.receiver().recv().unwrap().bury().unwrap();
        let letter = queue.dead_letters().unwrap().remove(0);
        let transport = queue.transport();
        transport.close().unwrap();
        let refused = transport.requeue(letter.id).unwrap_err();
        assert!(
            matches!(refused.failure, ControlFailure::Closed),
            "{refused}"
        );
        advises(refused, "takes no message: reopen it first");
        transport.reopen().unwrap();
        assert!(transport.requeue(letter.id).unwrap());
        queue.receiver().recv().unwrap().ack().unwrap();
    }
}

#[test]
fn a_receiver_that_stops_at_a_shutdown_leaves_the_next_message_to_others() {
    let place = Place::new("local");
    let queue = Queue::<u32>::open(&place.0).unwrap();
    queue.sender().send_signal(Signal::Shutdown).unwrap();
    queue.sender().send(7).unwrap();
    let receiver = queue.receiver();
    let refused = receiver.recv().unwrap_err();
    assert_eq!(refused.failure, RecvFailure::Shutdown);
    advises(refused, "a shutdown message was received; stop receiving");
    drop(receiver);
    let other = queue.receiver();
    other.recv().unwrap().ack().unwrap();
    assert!(matches!(other.try_recv(), Err(TryRecvError::Empty)));
}

/// Closes this process's connections to a socket by mistake. Another file gets their numbers.
fn lose_connections_to(path: &Path) -> Vec<RawFd> {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_ours = |number: &RawFd| {
        // SAFETY: only asks the kernel, which refuses a number that is closed meanwhile.
        let socket = unsafe { BorrowedFd::borrow_raw(*number) };
        let peer = rustix::net::getpeername(socket).ok().flatten();
        let peer = peer.and_then(|peer| SocketAddrUnix::try_from(peer).ok());
        peer.is_some_and(|peer| peer.path_bytes() == Some(path.as_os_str().as_bytes()))
    };
    let lost: Vec<_> = numbers.filter(is_ours).collect();
    let log = tempfile::tempfile().unwrap();
    for number in &lost {
        // SAFETY: takes only numbers, as above.
        assert_eq!(unsafe { libc::dup2(log.as_raw_fd(), *number) }, *number);
    }
    lost
}

/// The error itself (`ipc_shm::KeptSocket`) stays inside, because the client connects again.
#[test]
fn a_client_that_lost_its_connection_connects_again_by_itself_or_is_opened_again() {
    let served = ByteQueue::open("local:advice-connection").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let _server = UnixServer::bind(&path, Arc::clone(served.transport())).unwrap();
    let open = || ByteQueue::open(format!("unix:{}", path.display())).unwrap();
    let queue = open();
    let receiver = queue.receiver();
    served.sender().send(b"one").unwrap();
    let delivery = receiver.recv().unwrap();
    let lost = lose_connections_to(&path);
    assert!(!lost.is_empty());
    assert!(delivery.ack().unwrap_err().is_lease_lost());
    let again = receiver.recv().unwrap();
    assert_eq!(again.attempt(), 2);
    again.nack_after(Duration::ZERO).unwrap();
    open().receiver().recv().unwrap().ack().unwrap();
    drop((receiver, queue));
    for number in lost {
        // SAFETY: closes a file of this test that took the number.
        assert_eq!(unsafe { libc::close(number) }, 0);
    }
}
