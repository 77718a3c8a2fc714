//! Messages that a program cannot read go to other receivers first, and become dead letters only at
//! the attempt limit.

use ipc_queue::transport::Wait;
use ipc_queue::{
    Backoff, ByteQueue, DeadReason, Encoding, Feature, Queue, QueueOptions, RecvError, RecvFailure,
    TryRecvError,
};
use serde::{Deserialize, Serialize};

use crate::Place;

#[derive(Debug, Serialize, Deserialize)]
struct Old {
    id: u32,
    file: String,
}

/// The type in the next release.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct New {
    id: u32,
}

fn options() -> QueueOptions {
    QueueOptions::new()
        .encoding(Encoding::Json)
        .type_name("Job")
        .attempt_limit(3)
        .backoff(Backoff::None)
}

/// Returns the queue of `Old` jobs at a place, and the same queue as bytes.
fn opened(place: &Place) -> (Queue<Old>, ByteQueue) {
    let queue = QueueOptions::new().type_name("Job").open(&place.address);
    let bytes = QueueOptions::new().open_any(&place.address);
    (queue.unwrap(), bytes.unwrap())
}

#[test]
fn an_undecodable_message_goes_to_a_receiver_that_can_read_it() {
    for mut place in Place::all() {
        place.create::<New>(&options());
        let named = QueueOptions::new().type_name("Job");
        let old: Queue<Old> = named.open(&place.address).unwrap();
        let new: Queue<New> = named.open(&place.address).unwrap();
        new.sender().send(New { id: 7 }).unwrap();
        match old.receiver().try_recv() {
            Err(error) => {
                let decode = matches!(
                    error.failure(),
                    Some(RecvFailure::Decode { attempt: 1, .. })
                );
                assert!(decode && error.is_of_one_message(), "{error}");
                assert!(
                    error.to_string().contains("missing field `file`"),
                    "{error}"
                );
            }
            other => panic!("{}: {other:?}", place.address),
        }
        let receiver = new.receiver();
        let delivery = receiver.try_recv().unwrap();
        assert_eq!((delivery.data(), delivery.attempt()), (&New { id: 7 }, 2));
        delivery.ack().unwrap();
    }
}

#[test]
fn an_undecodable_message_is_buried_at_the_attempt_limit_with_the_decoding_error() {
    for mut place in Place::all() {
        place.create::<Old>(&options());
        let (queue, bytes) = opened(&place);
        let id = bytes.sender().send(b"resize a.png").unwrap();
        let (id_of, receiver) = (id, queue.receiver());
        for expected in 1..=3 {
            match receiver.try_recv() {
                Err(TryRecvError::Failed(RecvError {
                    failure: RecvFailure::Decode { id, attempt, .. },
                    ..
                })) => {
                    assert_eq!((id, attempt), (id_of, expected), "{}", place.address);
                }
                other => panic!("{}: {other:?}", place.address),
            }
        }
        assert!(matches!(receiver.try_recv(), Err(TryRecvError::Empty)));
        let transport = queue.transport();
        let letter = transport.dead_letters().unwrap().remove(0);
        assert_eq!((letter.reason, letter.attempts), (DeadReason::Nacked, 3));
        if transport.capabilities().has(Feature::Reasons) {
            assert!(letter.error.contains("expected value"), "{}", letter.error);
        }
    }
}

#[test]
fn a_batch_omits_and_returns_unreadable_messages() {
    for mut place in Place::all() {
        place.create::<Old>(&options());
        let (queue, bytes) = opened(&place);
        let file = || "a.png".to_owned();
        queue
            .sender()
            .send(Old {
                id: 1,
                file: file(),
            })
            .unwrap();
        bytes.sender().send(b"{\"id\":2}").unwrap();
        queue
            .sender()
            .send(Old {
                id: 3,
                file: file(),
            })
            .unwrap();
        let receiver = queue.receiver();
        let batch = receiver.recv_batch(3, Wait::No).unwrap();
        let ids: Vec<u32> = batch.iter().map(|job| job.data().id).collect();
        assert_eq!(ids, [1, 3]);
        for job in batch {
            job.ack().unwrap();
        }
        // A batch that contains nothing else is an error.
        let error = receiver.recv_batch(3, Wait::No).unwrap_err();
        assert!(
            matches!(
                error.failure(),
                Some(RecvFailure::Decode { attempt: 2, .. })
            ),
            "{error}"
        );
    }
}
