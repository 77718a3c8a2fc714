//! Advice about addresses, types and settings.

use std::panic;
use std::sync::Arc;

use ipc_queue::transport::{Connector, OpenMode, OpenRequest, Transport, register};
use ipc_queue::{
    ByteQueue, ControlError, Encoding, LocalQueue, Queue, QueueError, QueueOptions, UnixServer,
};

use crate::{Place, advises};

#[test]
fn an_address_without_a_scheme_is_valid_with_one() {
    let refused = ByteQueue::open("jobs").unwrap_err();
    advises(&refused, "write local:NAME, shm:NAME or unix:/PATH");
    let local = ByteQueue::open("local:advice-scheme").unwrap();
    let shm = Place::new("shm");
    ByteQueue::open(&shm.0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let _server = UnixServer::bind(&path, Arc::clone(local.transport())).unwrap();
    ByteQueue::open(format!("unix:{}", path.display())).unwrap();
}

#[test]
fn a_time_in_an_address_is_written_with_its_unit() {
    let local = ByteQueue::open("local:advice-time").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let _server = UnixServer::bind(&path, Arc::clone(local.transport())).unwrap();
    let open = |query: &str| ByteQueue::open(format!("unix:{}{query}", path.display()));
    advises(
        open("?timeout=2").unwrap_err(),
        "write ?timeout=2s or 500ms",
    );
    open("?timeout=2s").unwrap();
    open("?timeout=500ms").unwrap();
}

/// Opens `local:` queues under another scheme.
#[derive(Debug)]
struct Alias;

impl Connector for Alias {
    fn open(&self, rest: &str, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
        Ok(Arc::new(LocalQueue::open(&rest.parse()?, request)?))
    }

    fn remove(&self, _: &str) -> Result<bool, ControlError> {
        unreachable!()
    }
}

#[test]
fn an_unknown_transport_is_registered_under_a_scheme_that_matches() {
    let open = || ByteQueue::open("alias+1:advice");
    advises(
        open().unwrap_err(),
        "call the register function of its crate first",
    );
    let refused = panic::catch_unwind(|| register("Alias", Arc::new(Alias))).unwrap_err();
    advises(
        refused.downcast_ref::<String>().unwrap(),
        "it must match [a-z][a-z0-9+.-]*",
    );
    register("alias+1", Arc::new(Alias));
    open().unwrap();
}

#[test]
fn a_type_of_another_shape_gets_a_drained_queue_another_name_or_another_encoding() {
    type Old = (u8, String);
    type New = (String, u8);
    let (place, other) = (Place::new("shm"), Place::new("shm"));
    let postcard = QueueOptions::new()
        .encoding(Encoding::Postcard)
        .type_name("Job");
    let old = postcard.clone().open::<Old>(&place.0).unwrap();
    old.sender().send((7, "a.png".to_owned())).unwrap();
    let open = |address: &str| postcard.clone().open::<New>(address);
    let refused = open(&place.0).unwrap_err();
    advises(
        &refused,
        "Let the old program drain the queue and remove it, or open one of another name",
    );
    open(&other.0).unwrap();
    let receiver = old.receiver();
    old.transport().close().unwrap();
    receiver.recv().unwrap().ack().unwrap();
    drop((receiver, old));
    assert!(ipc_queue::remove(&place.0).unwrap());
    open(&place.0).unwrap();

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Small {
        id: u8,
    }
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Large {
        id: u8,
        #[serde(default)]
        width: u32,
    }
    advises(
        &refused,
        "a queue of Encoding::MessagePack or Encoding::Json lets fields be added and removed",
    );
    for encoding in [Encoding::MessagePack, Encoding::Json] {
        let place = Place::new("shm");
        let options = QueueOptions::new().encoding(encoding).type_name("Job");
        let small = options.clone().open::<Small>(&place.0).unwrap();
        let large = options.open::<Large>(&place.0).unwrap();
        small.sender().send(Small { id: 7 }).unwrap();
        large.sender().send(Large { id: 8, width: 640 }).unwrap();
        let (first, second) = (large.receiver(), small.receiver());
        let first = first.recv().unwrap();
        assert_eq!((first.data().id, first.data().width), (7, 0));
        assert_eq!(second.recv().unwrap().data().id, 8);
    }
}

#[test]
fn a_queue_of_other_settings_is_opened_with_its_own() {
    let place = Place::new("shm");
    let _queue = QueueOptions::new()
        .capacity(4)
        .open_bytes(&place.0)
        .unwrap();
    let refused = QueueOptions::new()
        .capacity(8)
        .open_bytes(&place.0)
        .unwrap_err();
    advises(refused, "open it with its own settings");
    QueueOptions::new()
        .capacity(4)
        .open_bytes(&place.0)
        .unwrap();
    let whatever = QueueOptions::new().mode(OpenMode::Open);
    whatever.open_bytes(&place.0).unwrap();
}

#[test]
fn a_type_without_a_shape_is_opened_with_the_encodings_that_need_none() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u8),
        Text(String),
    }
    let open = |place: &Place, encoding| {
        let options = QueueOptions::new().encoding(encoding);
        options.open::<Either>(&place.0)
    };
    let refused = open(&Place::new("local"), Encoding::Postcard).unwrap_err();
    advises(refused, "use Encoding::MessagePack or Encoding::Json");
    for encoding in [Encoding::MessagePack, Encoding::Json] {
        let place = Place::new("local");
        let queue: Queue<Either> = open(&place, encoding).unwrap();
        queue.sender().send(Either::Text("a".to_owned())).unwrap();
        let receiver = queue.receiver();
        let delivery = receiver.recv().unwrap();
        assert_eq!(*delivery.data(), Either::Text("a".to_owned()));
        delivery.ack().unwrap();
    }
}
