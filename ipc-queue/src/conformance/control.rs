//! The promises about control calls: no call claims an effect that it did not have.

use std::fmt::Debug;
use std::sync::Arc;

use super::proxy::{Fault, Proxy};
use super::{Subject, Trial, settings};
use crate::bytes::ByteQueue;
use crate::capability::Feature;
use crate::contract::Transport;
use crate::control::{ControlCall, ControlError, ControlFailure};
use crate::error::{DrainError, SendFailure, Unavailable};
use crate::stats::QueueStats;
use crate::wait::Wait;

/// A queue of the subject that is reached through a [`Proxy`].
pub struct Proxied {
    /// The proxy.
    pub proxy: Proxy,
    /// The queue, opened through the proxy.
    pub queue: Arc<dyn Transport>,
    /// Removes the queue, through the proxy.
    pub remove: Box<dyn Fn() -> Result<bool, ControlError>>,
}

/// On a removed queue every control call is an error that names the queue and the call. For a
/// transport with a server, a proxy stalls, cuts and delays the connection at each request of each
/// call. `Ok` must then mean that the call happened and that its answer is true. An error that says
/// "nothing was changed" must mean that nothing was.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_control_call_without_effect_is_an_error(subject: &dyn Subject) {
    on_a_removed_queue(subject);
    for case in CASES {
        let supported = case.needs.is_none_or(|feature| {
            let trial = Trial::new(subject);
            let queue = trial.create(&settings(4));
            queue.transport().capabilities().has(feature)
        });
        if supported {
            for fault in Fault::ALL {
                let mut requests = 0;
                while interrupted(subject, case, fault, requests) {
                    requests += 1;
                }
            }
        }
    }
}

/// A queue can be closed and reopened any number of times. Its contents stay.
///
/// # Panics
/// If the subject breaks the promise.
pub fn a_closed_queue_can_be_reopened(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let (queue, other) = (trial.create(&settings(4)), trial.open());
    let (sender, receiver) = (queue.sender(), queue.receiver());
    sender.try_send(b"before").expect("there is room");
    for _ in 0..2 {
        queue.transport().close().expect("it is ours");
        assert_eq!(
            sender.try_send(b"").unwrap_err().failure(),
            Some(&SendFailure::Closed)
        );
        other.transport().reopen().expect("it exists");
        assert!(!queue.transport().is_closed().expect("it exists"));
        sender.try_send(b"after").expect("it takes messages again");
    }
    other
        .transport()
        .reopen()
        .expect("an open queue stays open");
    for said in [&b"before"[..], b"after", b"after"] {
        let delivery = receiver.try_recv().expect("it was sent");
        assert_eq!(delivery.payload(), said);
        delivery.ack().expect("we hold it");
    }
    assert!(queue.transport().stats().expect("it exists").in_use() == 0);
}

fn on_a_removed_queue(subject: &dyn Subject) {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(4));
    let (dead, queue) = (fill(&queue), queue.transport());
    assert!(trial.remove());
    let letter = dead.id;
    let removed = |call, outcome: Result<(), ControlError>| {
        let error = outcome.expect_err("the queue was removed");
        assert_eq!((error.call, &error.queue), (call, &queue.address()));
        assert!(is_removed(&error) || error.is_unsupported(), "{error}");
    };
    removed(ControlCall::Close, queue.close());
    removed(ControlCall::Reopen, queue.reopen());
    removed(ControlCall::IsClosed, queue.is_closed().map(drop));
    removed(ControlCall::Pause, queue.pause());
    removed(ControlCall::Resume, queue.resume());
    removed(ControlCall::IsPaused, queue.is_paused().map(drop));
    removed(ControlCall::Purge, queue.purge().map(drop));
    removed(ControlCall::Stats, queue.stats().map(drop));
    removed(ControlCall::Leases, queue.leases().map(drop));
    removed(ControlCall::DeadLetters, queue.dead_letters().map(drop));
    removed(ControlCall::Requeue, queue.requeue(letter).map(drop));
    removed(ControlCall::Discard, queue.discard(letter).map(drop));
    match queue.drain(Wait::No) {
        Err(DrainError::Control(_)) => {}
        other => panic!("{other:?}"),
    }
}

/// A call, its claim, and a check of the claim.
struct Case {
    call: ControlCall,
    needs: Option<Feature>,
    /// Prepares the queue, over a working connection.
    prepare: fn(&dyn Transport),
    /// Makes the call. `Ok(false)`: the call's answer is wrong.
    act: fn(&Proxied, &Scene) -> Result<bool, ControlError>,
    /// Returns whether the call had its effect, seen over a working connection. `None` for a call
    /// without one.
    happened: Option<fn(&Stats) -> bool>,
}

/// The queue's statistics after the call, or the error of asking for them.
type Stats = Result<QueueStats, ControlError>;

/// The contents of the queue: one message ready, one leased, one dead letter.
struct Scene {
    dead: crate::dead_letter::DeadLetterId,
}

const CASES: &[Case] = &[
    Case {
        call: ControlCall::Close,
        needs: None,
        prepare: |_| (),
        act: |proxied, _| proxied.queue.close().map(|()| true),
        happened: Some(|stats| matches!(stats, Ok(stats) if stats.closed)),
    },
    Case {
        call: ControlCall::Reopen,
        needs: None,
        prepare: |queue| queue.close().expect("it is ours"),
        act: |proxied, _| proxied.queue.reopen().map(|()| true),
        happened: Some(|stats| matches!(stats, Ok(stats) if !stats.closed)),
    },
    Case {
        call: ControlCall::IsClosed,
        needs: None,
        prepare: |queue| queue.close().expect("it is ours"),
        act: |proxied, _| proxied.queue.is_closed(),
        happened: None,
    },
    Case {
        call: ControlCall::IsClosed,
        needs: None,
        prepare: |_| (),
        act: |proxied, _| proxied.queue.is_closed().map(|closed| !closed),
        happened: None,
    },
    Case {
        call: ControlCall::Pause,
        needs: Some(Feature::Pause),
        prepare: |_| (),
        act: |proxied, _| proxied.queue.pause().map(|()| true),
        happened: Some(|stats| matches!(stats, Ok(stats) if stats.paused)),
    },
    Case {
        call: ControlCall::Resume,
        needs: Some(Feature::Pause),
        prepare: |queue| queue.pause().expect("it is ours"),
        act: |proxied, _| proxied.queue.resume().map(|()| true),
        happened: Some(|stats| matches!(stats, Ok(stats) if !stats.paused)),
    },
    Case {
        call: ControlCall::IsPaused,
        needs: Some(Feature::Pause),
        prepare: |queue| queue.pause().expect("it is ours"),
        act: |proxied, _| proxied.queue.is_paused(),
        happened: None,
    },
    Case {
        call: ControlCall::Purge,
        needs: Some(Feature::Purge),
        prepare: |_| (),
        act: |proxied, _| proxied.queue.purge().map(|purged| purged == 1),
        happened: Some(|stats| matches!(stats, Ok(stats) if stats.ready == 0)),
    },
    Case {
        call: ControlCall::Stats,
        needs: None,
        prepare: |_| (),
        act: |proxied, _| {
            let stats = proxied.queue.stats()?;
            Ok((stats.ready, stats.leased, stats.dead) == (1, 1, 1))
        },
        happened: None,
    },
    Case {
        call: ControlCall::Leases,
        needs: Some(Feature::Leases),
        prepare: |_| (),
        act: |proxied, _| Ok(proxied.queue.leases()?.len() == 1),
        happened: None,
    },
    Case {
        call: ControlCall::DeadLetters,
        needs: None,
        prepare: |_| (),
        act: |proxied, scene| {
            let letters = proxied.queue.dead_letters()?;
            Ok(letters.iter().map(|letter| letter.id).eq([scene.dead]))
        },
        happened: None,
    },
    Case {
        call: ControlCall::Requeue,
        needs: None,
        prepare: |_| (),
        act: |proxied, scene| proxied.queue.requeue(scene.dead),
        happened: Some(|stats| matches!(stats, Ok(stats) if stats.dead == 0 && stats.ready == 2)),
    },
    Case {
        call: ControlCall::Discard,
        needs: None,
        prepare: |_| (),
        act: |proxied, scene| proxied.queue.discard(scene.dead),
        happened: Some(|stats| matches!(stats, Ok(stats) if stats.dead == 0 && stats.ready == 1)),
    },
    Case {
        call: ControlCall::Drain,
        needs: Some(Feature::Drain),
        prepare: |_| (),
        // The queue cannot be drained. An interrupted call says nothing about the messages left.
        act: |proxied, _| match proxied.queue.drain(Wait::No) {
            Err(DrainError::TimedOut { left, .. }) => Ok(left == 2),
            Err(DrainError::Control(error)) => Err(error),
            Ok(()) => Ok(false),
        },
        happened: Some(|stats| matches!(stats, Ok(stats) if stats.closed)),
    },
    Case {
        call: ControlCall::Remove,
        needs: None,
        prepare: |_| (),
        act: |proxied, _| (proxied.remove)(),
        happened: Some(|stats| matches!(stats, Err(error) if is_removed(error))),
    },
];

/// Applies `fault` to request number `requests` of the call. `false`: the call has fewer requests,
/// or the subject has no server.
fn interrupted(subject: &dyn Subject, case: &Case, fault: Fault, requests: u32) -> bool {
    let trial = Trial::new(subject);
    let queue = trial.create(&settings(4));
    let Some(proxied) = subject.proxied(&trial.name) else {
        return false;
    };
    let dead = fill(&queue).id;
    let receiver = queue.receiver();
    let held = receiver.try_recv().expect("it was sent");
    (case.prepare)(&**queue.transport());
    proxied.proxy.arm(fault, requests);
    let outcome = (case.act)(&proxied, &Scene { dead });
    let has_happened = proxied.proxy.heal();
    let place = format!("{}, {fault:?} at request {requests}", case.call);
    let stats = queue.transport().stats();
    match outcome {
        Ok(claim) => {
            assert!(claim, "{place}: the answer is not true");
            if let Some(happened) = case.happened {
                assert!(happened(&stats), "{place}: it did not happen: {stats:?}");
            }
        }
        Err(error) => {
            if !has_happened {
                // The time-outs of a proxied queue are short, and a server may be slow on a busy
                // machine. So the call is tried once more.
                let is_slow = subject.slowness() > 1;
                assert!(is_slow, "{place}: nothing was in its way: {error}");
                return true;
            }
            assert_eq!(error.call, case.call, "{place}");
            assert!(!error.queue.is_empty(), "{place}");
            if let (false, Some(happened)) = (error.is_outcome_unknown(), case.happened) {
                assert!(!happened(&stats), "{place}: it did happen: {error}");
            }
        }
    }
    drop(held);
    has_happened
}

fn is_removed(error: &ControlError) -> bool {
    matches!(
        error.failure,
        ControlFailure::Unavailable(Unavailable::Removed)
    )
}

/// Puts in two messages and a dead letter. Returns the letter.
fn fill(queue: &ByteQueue) -> crate::dead_letter::DeadLetter {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    sender.try_send(b"dead").expect("there is room");
    let delivery = receiver.try_recv().expect("it was sent");
    delivery.bury().expect("we hold it");
    for payload in [&b"held"[..], b"ready"] {
        sender.try_send(payload).expect("there is room");
    }
    let letters = queue.transport().dead_letters();
    letters.expect("it exists").remove(0)
}

/// Asserts that a call was refused because the transport does not support it.
pub(super) fn expect_unsupported<R: Debug>(outcome: Result<R, ControlError>, feature: Feature) {
    let error = outcome.expect_err("the transport does not declare it");
    match &error.failure {
        ControlFailure::Unsupported(unsupported) => assert_eq!(unsupported.feature, feature),
        other => panic!("{other}"),
    }
}
