//! Clients that know the protocol and abuse it, without an effect on other clients.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use ipc_proto::{Backoff, Name, QueueSettings};

use ipc_shm::KeptSocket;

use super::*;
use crate::bytes::ByteQueue;
use crate::error::{QueueError, RecvFailure, TryRecvError, Unavailable};
use crate::local::LocalQueue;
use crate::open_request::OpenRequest;
use crate::send_options::SendOptions;
use crate::settle::Settle;
use crate::unix::UnixQueue;
use crate::unix::frame::{Reader, Received};
use crate::unix::memfd::Sealed;
use crate::unix::wire::{Answer, Ask, Head, Hello, MAGIC, Patience};
use crate::wait::Wait;

/// Not a statement about speed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A served queue, removed at the end.
struct Stage {
    name: Name,
    server: Option<UnixServer>,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

/// A client that may send anything.
struct Rogue {
    socket: KeptSocket,
    reader: Reader,
    last_id: u32,
}

impl Stage {
    fn new(settings: QueueSettings, options: UnixServerOptions) -> Self {
        let name = Name::new(&format!("served-{:016x}", fastrand::u64(..))).unwrap();
        let request = OpenRequest {
            settings,
            ..OpenRequest::default()
        };
        let queue = LocalQueue::open(&name, &request).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let server = options.bind(&path, Arc::new(queue)).unwrap();
        Self {
            name,
            server: Some(server),
            path,
            _folder: folder,
        }
    }

    fn plain() -> Self {
        Self::new(QueueSettings::default(), UnixServer::options())
    }

    fn server(&self) -> &UnixServer {
        self.server.as_ref().unwrap()
    }

    fn try_open(&self) -> Result<ByteQueue, QueueError> {
        let queue = UnixQueue::open(&self.path, None, &OpenRequest::default())?;
        Ok(ByteQueue::over(Arc::new(queue)))
    }

    fn open(&self) -> ByteQueue {
        self.try_open().unwrap()
    }

    fn rogue(&self) -> Rogue {
        Rogue {
            socket: KeptSocket::new(UnixStream::connect(&self.path).unwrap()).unwrap(),
            reader: Reader::default(),
            last_id: 0,
        }
    }

    /// Returns a rogue client that has introduced itself and taken a role.
    fn handle(&self, role: Ask) -> Rogue {
        let mut rogue = self.rogue();
        let greeting = rogue.greet(PROTOCOL).unwrap();
        assert!(matches!(greeting, Greeting::Welcome(_)));
        rogue.ask(&role, &Carried::None);
        assert!(matches!(rogue.hear().unwrap().what, Answer::Done));
        rogue
    }

    /// Asserts that other clients are still served.
    fn assert_others_are_served(&self) {
        let queue = self.open();
        queue.sender().send_timeout(b"business", PATIENCE).unwrap();
        let receiver = queue.receiver();
        let delivery = receiver.recv_timeout(PATIENCE).unwrap();
        assert_eq!(delivery.payload(), b"business");
        delivery.ack().unwrap();
    }

    /// Waits until only `left` connections are left.
    fn await_connections(&self, left: usize) {
        let until = Instant::now() + PATIENCE;
        while self.server().connections() > left {
            assert!(Instant::now() < until, "connections are left");
            thread::yield_now();
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.server.take());
        assert!(!self.path.exists() || thread::panicking());
        let _ = LocalQueue::remove(&self.name);
    }
}

impl Rogue {
    fn greet(&mut self, protocol: u16) -> Result<Greeting, WireError> {
        let head = Head {
            magic: MAGIC,
            protocol,
        };
        let program = "rogue".to_owned();
        frame::write_raw(&self.socket, &Hello { head, program })?;
        self.read()
    }

    fn read<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, WireError> {
        let until = Some(Instant::now() + PATIENCE);
        let frame = self.reader.read::<T>(&self.socket, until)?;
        Ok(frame.expect("it arrives in time").what)
    }

    fn ask(&mut self, ask: &Ask, carried: &Carried<'_>) {
        self.last_id += 1;
        // The server may have closed the connection already.
        let _ = frame::write(&self.socket, &mut Vec::new(), self.last_id, ask, carried);
    }

    fn hear(&mut self) -> Result<Received<Answer>, WireError> {
        let until = Some(Instant::now() + PATIENCE);
        let frame = self.reader.read(&self.socket, until)?;
        Ok(frame.expect("it arrives in time"))
    }

    /// Asserts that the server sends this reason and closes the connection.
    #[track_caller]
    fn assert_hung_up_on(mut self, why: &str) {
        let said = self.hear().unwrap();
        let Answer::Violation(said) = said.what else {
            panic!("the connection was not closed: {said:?}");
        };
        assert!(said.contains(why), "{said}");
        let end = self.hear().unwrap_err();
        assert_eq!(end, WireError::Ended);
    }
}

fn send(bytes: usize) -> (Ask, Vec<u8>) {
    let ask = Ask::Send {
        options: SendOptions::new(),
        patience: Patience::None,
    };
    (ask, vec![7; bytes])
}

#[test]
fn garbage_is_refused_without_effect_on_others() {
    let stage = Stage::plain();
    let garbage: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 100],
        &[0; 100],
        b"\x04\0\0\0\x01abc",
        &[1],
    ];
    for garbage in garbage {
        let mut rogue = stage.rogue();
        rogue.socket.stream().unwrap().write_all(garbage).unwrap();
        rogue
            .socket
            .stream()
            .unwrap()
            .shutdown(Shutdown::Write)
            .unwrap();
        let greeting = rogue.read::<Greeting>().unwrap();
        let refused = matches!(greeting, Greeting::Refused(Refusal::NotOurs));
        assert!(refused, "{greeting:?}");
        stage.assert_others_are_served();
    }
    for role in [Ask::BecomeSender, Ask::BecomeReceiver] {
        for (garbage, why) in [
            (&[0xff; 20][..], "larger"),
            (b"\x05\0\0\0\x09aaaa", "version 9"),
            (b"\x03\0\0\0\x01\xff\xff", "cannot be decoded"),
        ] {
            let rogue = stage.handle(match role {
                Ask::BecomeSender => Ask::BecomeSender,
                _ => Ask::BecomeReceiver,
            });
            rogue.socket.stream().unwrap().write_all(garbage).unwrap();
            rogue.assert_hung_up_on(why);
            stage.assert_others_are_served();
        }
    }
    stage.await_connections(0);
}

#[test]
fn a_client_of_another_version_learns_the_servers_version() {
    let stage = Stage::plain();
    let greeting = stage.rogue().greet(PROTOCOL + 1).unwrap();
    let refusal = Refusal::Protocol { server: PROTOCOL };
    let advice = "use the same version of ipc-queue for both";
    assert!(refusal.to_string().ends_with(advice), "{refusal}");
    let refused = Greeting::Refused(refusal);
    assert_eq!(format!("{greeting:?}"), format!("{refused:?}"));
    let greeting = stage.rogue().greet(PROTOCOL).unwrap();
    assert!(matches!(greeting, Greeting::Welcome(_)), "{greeting:?}");
}

#[test]
fn an_invalid_request_ends_its_connection() {
    let stage = Stage::plain();
    let mut sender = stage.handle(Ask::BecomeSender);
    let how = Settle::Ack.into();
    sender.ask(&Ask::Settle { ticket: 1, how }, &Carried::None);
    sender.assert_hung_up_on("is a sender");
    let mut receiver = stage.handle(Ask::BecomeReceiver);
    let patience = Patience::Endless;
    for _ in 0..2 {
        receiver.ask(&Ask::Receive { most: 1, patience }, &Carried::None);
    }
    receiver.assert_hung_up_on("already waiting");
    let mut liar = stage.handle(Ask::BecomeSender);
    let batch = Ask::SendBatch {
        kind: ipc_proto::Kind::Data,
        patience: Patience::None,
        lengths: vec![u32::MAX, 2],
    };
    liar.ask(&batch, &Carried::Inline(&[b"abc"]));
    liar.assert_hung_up_on("another length");
    stage.assert_others_are_served();
}

#[test]
fn silent_or_slow_clients_are_disconnected_in_time() {
    let options = UnixServer::options().handshake_limit(Duration::from_secs(2));
    let stage = Stage::new(QueueSettings::default(), options);
    let (mut silent, mut halting) = (stage.rogue(), stage.rogue());
    halting.socket.stream().unwrap().write_all(&[9, 0]).unwrap();
    stage.assert_others_are_served();
    for rogue in [&mut silent, &mut halting] {
        let greeting = rogue.read::<Greeting>().unwrap();
        let slow = matches!(greeting, Greeting::Refused(Refusal::Slow));
        assert!(slow, "{greeting:?}");
    }
    stage.await_connections(0);
    // A client that has introduced itself may take its time, and delays no other.
    let halting = stage.handle(Ask::BecomeReceiver);
    halting.socket.stream().unwrap().write_all(&[9, 0]).unwrap();
    stage.assert_others_are_served();
}

#[test]
fn a_client_that_does_not_read_delays_no_other() {
    const MESSAGES: u32 = 64;
    let stage = Stage::plain();
    let queue = stage.open();
    let payload = vec![1; MAX_INLINE_BYTES_FOR_TEST];
    for _ in 0..MESSAGES {
        queue.sender().send(&payload).unwrap();
    }
    let mut lazy = stage.handle(Ask::BecomeReceiver);
    let ask = Ask::Receive {
        most: u32::MAX,
        patience: Patience::Endless,
    };
    lazy.ask(&ask, &Carried::None);
    // Continue until the socket for its answers is full. Then the server takes no more for it.
    let receiver = queue.receiver();
    let mut others = 0;
    while let Ok(delivery) = receiver.recv_timeout(Duration::from_secs(1)) {
        delivery.ack().unwrap();
        others += 1;
    }
    assert!(others >= MESSAGES / 2, "{others} were left for others");
    stage.assert_others_are_served();
    drop(lazy);
    // Its messages return.
    for _ in others..MESSAGES {
        let delivery = receiver.recv_timeout(PATIENCE).unwrap();
        assert_eq!(delivery.attempt(), 2);
        delivery.ack().unwrap();
    }
    assert_eq!(queue.transport().stats().unwrap().in_use(), 0);
}

/// Small, so that the socket's buffer holds few messages.
const MAX_INLINE_BYTES_FOR_TEST: usize = 60_000;

#[test]
fn a_payload_that_differs_from_its_announcement_is_refused() {
    let stage = Stage::plain();
    let (ask, payload) = send(100_000);
    let honest = || Sealed::copy_of(&payload).unwrap();
    for (sealed, why) in [
        (honest().said_to_have(99_999), "99999 bytes"),
        (honest().said_to_have(1 << 40), "were announced"),
        (Sealed::unsealed(&payload), "not sealed"),
    ] {
        let mut rogue = stage.handle(Ask::BecomeSender);
        rogue.ask(&ask, &Carried::Sealed(sealed));
        rogue.assert_hung_up_on(why);
    }
    // An honest payload is taken. One that is too large is refused by the queue, without being
    // read.
    let mut sender = stage.handle(Ask::BecomeSender);
    sender.ask(&ask, &Carried::Sealed(honest()));
    assert!(matches!(sender.hear().unwrap().what, Answer::Sent(Ok(_))));
    let (ask, payload) = send((1 << 20) + 1);
    let huge = Sealed::copy_of(&payload).unwrap();
    sender.ask(&ask, &Carried::Sealed(huge));
    let refused = sender.hear().unwrap().what;
    assert!(matches!(refused, Answer::Sent(Err(_))), "{refused:?}");
    let stats = stage.open().transport().stats().unwrap();
    assert_eq!((stats.sent, stats.ready), (1, 1));
}

#[test]
fn messages_of_a_vanished_client_return_at_once() {
    let settings = QueueSettings {
        backoff: Backoff::None,
        ..QueueSettings::default()
    };
    let stage = Stage::new(settings, UnixServer::options());
    let queue = stage.open();
    queue.sender().send(b"job").unwrap();
    let receiver = queue.receiver();
    for attempt in 1..5 {
        let mut rogue = stage.handle(Ask::BecomeReceiver);
        let patience = Patience::None;
        rogue.ask(&Ask::Receive { most: 1, patience }, &Carried::None);
        let taken = rogue.hear().unwrap();
        assert!(matches!(taken.what, Answer::Deliveries { .. }));
        assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
        drop(rogue);
        if attempt == 4 {
            let delivery = receiver.recv_timeout(PATIENCE).unwrap();
            assert_eq!(delivery.attempt(), 5);
            delivery.ack().unwrap();
        } else {
            while queue.transport().stats().unwrap().ready == 0 {
                thread::yield_now();
            }
        }
    }
}

#[test]
fn connections_are_bounded_and_released() {
    let stage = Stage::new(
        QueueSettings::default(),
        UnixServer::options().max_connections(3),
    );
    let open: Vec<_> = (0..3).map(|_| stage.open()).collect();
    let refused = stage.try_open().unwrap_err().to_string();
    assert!(refused.contains("3 connections"), "{refused}");
    drop(open);
    for _ in 0..200 {
        // Disconnects before it is greeted.
        drop(stage.rogue());
    }
    // A client behind them is greeted only after all of them.
    let until = Instant::now() + PATIENCE;
    while let Err(refused) = stage.try_open() {
        assert!(Instant::now() < until, "{refused}");
    }
    stage.await_connections(0);
    stage.assert_others_are_served();
}

#[test]
fn the_end_of_a_server_is_an_error_for_all_waiters() {
    let mut stage = Stage::plain();
    let queue = stage.open();
    thread::scope(|scope| {
        let (receiver, sender) = (queue.receiver(), queue.sender());
        sender.send(b"held").unwrap();
        let held = receiver.recv().unwrap();
        let waiting = scope.spawn(|| {
            let receiver = queue.receiver();
            // The messages of a connection return when it ends, and may still reach this receiver.
            loop {
                if let Err(ended) = receiver.recv_within(Wait::Forever).map(drop) {
                    return ended;
                }
            }
        });
        let draining = scope.spawn(|| queue.transport().drain(Wait::Forever));
        // The opening, two handles, the thread that waits, and the thread that drains.
        while stage.server().connections() < 5 {
            thread::yield_now();
        }
        drop(stage.server.take());
        let ended = waiting.join().unwrap();
        let lost = matches!(
            ended.failure().unwrap(),
            RecvFailure::Unavailable(Unavailable::Transport { .. })
        );
        assert!(lost, "{ended:?}");
        assert!(draining.join().unwrap().is_err());
        assert!(held.ack().is_err());
        assert!(sender.try_send(b"more").is_err());
        let error = queue.transport().is_closed().unwrap_err();
        assert!(!error.is_outcome_unknown(), "{error}");
    });
}

#[test]
fn a_socket_accepts_no_unrequested_descriptor() {
    // One descriptor too many with the first bytes: the stream is unusable, and the descriptor is
    // closed.
    let stage = Stage::plain();
    let rogue = stage.handle(Ask::BecomeSender);
    let extra = Sealed::copy_of(b"abc").unwrap();
    frame::send_descriptor(&rogue.socket, extra.as_fd());
    let mut rest = Vec::new();
    let _ = rogue.socket.stream().unwrap().read_to_end(&mut rest);
    stage.assert_others_are_served();
}
