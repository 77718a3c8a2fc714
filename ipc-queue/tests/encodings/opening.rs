//! The programs that may open a queue.

use ipc_queue::{Encoding, Queue, QueueError, QueueOptions, SendFailure};
use serde::{Deserialize, Serialize};

use crate::Place;

mod before {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    pub struct Transfer {
        pub from: String,
        pub to: String,
        pub cents: u64,
    }
}

mod after {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    pub struct Transfer {
        pub to: String,
        pub from: String,
        pub cents: u64,
    }
}

fn transfer() -> before::Transfer {
    before::Transfer {
        from: "ann".to_owned(),
        to: "bob".to_owned(),
        cents: 7,
    }
}

#[test]
fn a_reordered_field_is_refused_at_open_or_read_right() {
    for encoding in [Encoding::MessagePack, Encoding::Json, Encoding::Postcard] {
        for mut place in Place::all() {
            place.create::<before::Transfer>(&QueueOptions::new().encoding(encoding));
            let queue = Queue::<before::Transfer>::open(&place.address).unwrap();
            assert_eq!(queue.encoding(), encoding);
            queue.sender().send(transfer()).unwrap();
            let opened = Queue::<after::Transfer>::open(&place.address);
            if encoding == Encoding::Postcard {
                let error = opened.unwrap_err();
                assert!(matches!(error, QueueError::ShapeDiffers { .. }), "{error}");
                let text = error.to_string();
                for part in ["-   from: str", "to: str", "+   from: str", "drain"] {
                    assert!(text.contains(part), "{text}");
                }
                continue;
            }
            let receiver = opened.unwrap().receiver();
            let delivery = receiver.try_recv().unwrap();
            let read = delivery.data();
            assert_eq!((&read.from[..], &read.to[..]), ("ann", "bob"));
            delivery.ack().unwrap();
        }
    }
}

#[test]
fn an_opener_without_a_choice_takes_the_queues_encoding_and_another_choice_is_refused() {
    for mut place in Place::all() {
        place.create::<u32>(&QueueOptions::new().encoding(Encoding::Json));
        assert_eq!(
            Queue::<u32>::open(&place.address).unwrap().encoding(),
            Encoding::Json
        );
        let other = QueueOptions::new().encoding(Encoding::Postcard);
        let error = other.open::<u32>(&place.address).unwrap_err().to_string();
        assert!(
            error.contains("json:u32") && error.contains("postcard:u32#"),
            "{error}"
        );
        let error = Queue::<String>::open(&place.address).unwrap_err();
        assert!(
            matches!(error, QueueError::PayloadDiffers { .. }),
            "{error}"
        );
        let bytes = QueueOptions::new().open_bytes(&place.address);
        assert!(matches!(bytes, Err(QueueError::PayloadDiffers { .. })));
    }
    let place = Place::new("local");
    let bytes = QueueOptions::new().open_bytes(&place.address).unwrap();
    let error = Queue::<u32>::open(&place.address).unwrap_err();
    assert!(
        matches!(error, QueueError::PayloadDiffers { .. }),
        "{error}"
    );
    drop(bytes);
}

#[test]
fn the_default_is_readable_by_other_languages() {
    let place = Place::new("local");
    let queue = Queue::<before::Transfer>::open(&place.address).unwrap();
    assert_eq!(queue.encoding(), Encoding::MessagePack);
    assert_eq!(queue.transport().payload(), Some("msgpack:Transfer"));
    queue.sender().send(transfer()).unwrap();
    let bytes = QueueOptions::new().open_any(&place.address).unwrap();
    let receiver = bytes.receiver();
    let delivery = receiver.try_recv().unwrap();
    let expected = b"\x83\xa4from\xa3ann\xa2to\xa3bob\xa5cents\x07";
    assert_eq!(delivery.payload(), expected);
    delivery.ack().unwrap();
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Number(u8),
    Text(String),
}

#[test]
fn a_type_without_a_shape_is_refused_only_by_postcard() {
    let place = Place::new("local");
    let postcard = QueueOptions::new().encoding(Encoding::Postcard);
    let error = postcard.open::<Either>(&place.address).unwrap_err();
    assert!(matches!(error, QueueError::Shape(_)), "{error}");
    assert!(error.to_string().contains("Either"), "{error}");
    let queue = Queue::<Either>::open(&place.address).unwrap();
    queue.sender().send(Either::Number(7)).unwrap();
    let receiver = queue.receiver();
    let delivery = receiver.try_recv().unwrap();
    assert!(matches!(delivery.data(), Either::Number(7)));
    delivery.ack().unwrap();
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Sparse {
    id: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// Serializes as a number and deserializes as a text.
#[derive(Debug, Serialize, Deserialize)]
struct Crooked(#[serde(serialize_with = "as_number")] String);

fn as_number<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(text.len() as u64)
}

#[test]
fn a_value_that_would_not_be_read_back_is_refused_and_returned_by_send() {
    let place = Place::new("local");
    let postcard = QueueOptions::new().encoding(Encoding::Postcard);
    let queue = postcard.open::<Sparse>(&place.address).unwrap();
    let sender = queue.sender();
    let note = Some(String::new());
    sender.send(Sparse { id: 1, note }).unwrap();
    let error = sender.send(Sparse { id: 2, note: None }).unwrap_err();
    assert_eq!(error.message, Sparse { id: 2, note: None });
    assert!(matches!(error.failure, SendFailure::Encode(_)), "{error}");
    assert!(error.to_string().contains("skip_serializing_if"), "{error}");
    let batch = [Sparse { id: 3, note: None }];
    assert_eq!(sender.send_batch(&batch).unwrap_err().sent, 0);
    assert_eq!(queue.transport().stats().unwrap().ready, 1);

    let place = Place::new("local");
    let queue = Queue::<Crooked>::open(&place.address).unwrap();
    let refused = queue
        .sender()
        .send(Crooked("three".to_owned()))
        .unwrap_err();
    assert!(
        refused.to_string().contains("be read back differently"),
        "{refused}"
    );
    assert_eq!(queue.transport().stats().unwrap().ready, 0);
}

#[test]
fn a_long_shape_is_kept_and_shown_whole() {
    #[derive(Serialize, Deserialize)]
    struct Job(Vec<(before::Transfer, after::Transfer, Vec<before::Transfer>)>);
    for mut place in Place::all() {
        let postcard = QueueOptions::new().encoding(Encoding::Postcard);
        place.create::<Job>(&postcard);
        let other = postcard.clone().type_name("Job");
        let error = other.open::<Vec<before::Transfer>>(&place.address);
        let text = error.unwrap_err().to_string();
        assert_eq!(text.matches("from: str").count(), 3, "{text}");
    }
}
