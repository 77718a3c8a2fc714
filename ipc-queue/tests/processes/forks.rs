//! Forked processes: a copy has everything that its parent has, and must not use it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ipc_queue::conformance::{content, number_in};
use ipc_queue::{ByteQueue, ControlFailure, SendFailure, Unavailable};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::stage::{HOUR, LARGEST, SMALL, Stage, expect_message, listen, say, settings, stats};

#[test]
fn a_forked_copy_is_refused_and_disturbs_nothing() {
    let stage = Stage::new(&settings(4));
    // In a separate process, so that no other test's thread is forked in the middle of something.
    let process = stage.start("fork");
    assert!(process.end().success());
    let queue = stage.open();
    assert_eq!((stats(&queue).sent, stats(&queue).acked), (4, 4));
    stage.assert_all_free(&queue);
}

pub fn fork_and_use(open: impl Fn() -> ByteQueue) {
    let queue = open();
    an_owned_loan_is_its_parents(&queue);
    let (sender, receiver) = (queue.sender(), queue.receiver());
    sender.try_send(&content(1, LARGEST)).unwrap();
    receiver.try_recv().unwrap().bury().unwrap();
    let letter = queue.transport().dead_letters().unwrap().remove(0);
    sender.try_send(&content(2, LARGEST)).unwrap();
    let held = receiver.try_recv().unwrap();
    let mut loan = sender.try_loan(LARGEST).unwrap();
    loan.copy_from_slice(&content(3, LARGEST));

    let (held, loan) = in_forked_copy((held, loan), |(held, loan)| {
        let forked = SendFailure::from(Unavailable::Forked);
        let refused = sender.try_send(b"not ours").unwrap_err();
        assert_eq!(refused.failure(), Some(&forked));
        assert_eq!(sender.send(b"not ours").unwrap_err().failure, forked);
        let refused = sender.try_loan(LARGEST).map(drop).unwrap_err();
        assert_eq!(refused.failure(), Some(&forked));
        assert_eq!(loan.publish().unwrap_err().failure, forked);
        assert_eq!(
            receiver.try_recv().unwrap_err().failure(),
            Some(&Unavailable::Forked.into())
        );
        assert_eq!(
            receiver.recv().unwrap_err().failure,
            Unavailable::Forked.into()
        );
        assert_eq!(
            held.extend(HOUR).unwrap_err().failure,
            Unavailable::Forked.into()
        );
        assert_eq!(held.ack().unwrap_err().failure, Unavailable::Forked.into());
        let requeued = queue.transport().requeue(letter.id);
        let refused = requeued.unwrap_err().failure;
        assert!(matches!(
            refused,
            ControlFailure::Unavailable(Unavailable::Forked)
        ));
        // Opened here, the queue can be used here.
        let ours = open();
        assert_eq!(stats(&ours).participants, 2);
        ours.sender().try_send(&content(4, LARGEST)).unwrap();
    });
    let (held, loan) = in_forked_copy((held, loan), drop);

    let now = stats(&queue);
    assert_eq!((now.leased, now.writing, now.dead, now.ready), (1, 1, 1, 1));
    assert_eq!(number_in(held.payload()), 2);
    held.ack().unwrap();
    loan.publish().unwrap();
    // Lent before the other was sent.
    expect_message(&receiver, 3, 1).ack().unwrap();
    expect_message(&receiver, 4, 1).ack().unwrap();
    let (queue, sender, receiver) = in_forked_copy((queue, sender, receiver), drop);
    assert!(queue.transport().requeue(letter.id).unwrap());
    expect_message(&receiver, 1, 1).ack().unwrap();
    assert_eq!(stats(&queue).participants, 1);
    drop(sender);
}

fn an_owned_loan_is_its_parents(queue: &ByteQueue) {
    let loan = queue.sender().try_loan(SMALL).unwrap().into_owned();
    let loan = in_forked_copy(loan, |loan| {
        let refused = loan.publish().unwrap_err();
        assert_eq!(refused.failure, Unavailable::Forked.into());
    });
    let loan = in_forked_copy(loan, drop);
    assert_eq!(stats(queue).writing, 1);
    drop(loan);
    assert_eq!(stats(queue).writing, 0);
}

/// Runs `child` in a forked copy of this process. Both have a copy of `value`, and neither copy
/// knows about the other.
fn in_forked_copy<T>(value: T, child: impl FnOnce(T)) -> T {
    // SAFETY: other threads of this process hold no lock that `child` needs. They belong to the
    // test harness, which waits, and to the watcher, whose lock a copy does not take. The child
    // ends without clean-up.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
            value
        }
        ForkResult::Child => {
            let ended = catch_unwind(AssertUnwindSafe(|| child(value)));
            // SAFETY: ends the copy at once, without the clean-up that its parent would do at its
            // end.
            unsafe { libc::_exit(i32::from(ended.is_err())) }
        }
    }
}

#[test]
fn a_forked_copy_does_not_keep_its_dead_parents_message() {
    let stage = Stage::new(&settings(2));
    let queue = stage.open();
    queue.sender().try_send(&content(1, SMALL)).unwrap();
    let mut holder = stage.start("fork-and-wait");
    holder.expect("forked");
    let input = holder.kill_but_keep_input();
    // The copy lives on, with all of its parent's open files.
    expect_message(&queue.receiver(), 1, 2).ack().unwrap();
    stage.assert_all_free(&queue);
    drop(input);
}

pub fn fork_and_wait(queue: &ByteQueue) {
    let receiver = queue.receiver();
    let _held = receiver.recv().unwrap();
    let _loan = queue.sender();
    // SAFETY: the copy only reads its input, and ends without clean-up.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => {
            say("forked");
            let _ = waitpid(child, None);
        }
        ForkResult::Child => {
            listen();
            // SAFETY: ends the copy at once.
            unsafe { libc::_exit(0) }
        }
    }
}
