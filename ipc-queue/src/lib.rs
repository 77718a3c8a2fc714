//! Work queues between processes, with a broker's guarantees and no broker.
#![cfg_attr(doc, doc = include_str!("../README.md"))]

mod ack_window;
mod address;
mod aging;
mod asynchronous;
mod batch;
mod block_on;
mod bridge;
mod bytes;
mod capability;
#[cfg(feature = "conformance")]
pub mod conformance;
mod connector;
mod contract;
mod control;
mod controls;
mod dead_letter;
mod delivery;
mod error;
#[cfg(target_os = "linux")]
mod held;
#[cfg(not(target_os = "linux"))]
#[path = "held/elsewhere.rs"]
mod held;
mod iter;
mod loan;
mod local;
mod metadata;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod notifier;
mod open_request;
mod options;
mod owned;
mod port;
mod process;
mod queue;
#[cfg(target_os = "linux")]
mod readiness;
mod received;
mod receiver;
mod send_options;
mod sender;
mod settle;
mod settle_once;
mod settling;
#[cfg(target_os = "linux")]
pub mod shm;
#[cfg(target_os = "linux")]
pub mod snapshot;
mod stats;
mod together;
#[cfg(target_os = "linux")]
pub mod unix;
mod wait;

pub use ack_window::{MAX_ACK_AGE, MAX_ACKS_IN_FLIGHT};
pub use address::{Address, ToAddress, without_secrets};
pub use batch::Batch;
pub use bridge::{Bridge, BridgeError, Carried, Note, Until};
pub use bytes::{ByteQueue, ByteReceiver, ByteSender};
pub use capability::{Capabilities, Feature, Support, Unsupported};
pub use connector::remove;
pub use control::{ControlCall, ControlError, ControlFailure, Outcome};
pub use dead_letter::{DeadLetter, DeadLetterId, DeadReason};
pub use delivery::ByteDelivery;
pub use error::{
    BatchAckError, BatchSendError, BatchSendTimeoutError, DrainError, NoRoom, QueueError,
    RecvError, RecvFailure, RecvTimeoutError, SendError, SendFailure, SendTimeoutError,
    SettleError, SettleFailure, TryRecvError, TrySendError, Unavailable,
};
pub use iter::{IntoIter, Iter, TryIter};
pub use loan::{Loan, OwnedLoan};
pub use local::LocalQueue;
pub use metadata::{FencingToken, Metadata};
pub use options::QueueOptions;
pub use owned::{OwnedByteDelivery, OwnedDelivery};
pub use process::ThisProcess;
pub use queue::Queue;
#[cfg(target_os = "linux")]
pub use readiness::Readiness;
pub use received::{Delivery, Incoming};
pub use receiver::Receiver;
pub use send_options::{Key, OverflowPolicy, SendOptions};
pub use sender::{SendValue, Sender};
pub use settle::Nack;
#[cfg(target_os = "linux")]
#[doc(inline)]
pub use shm::ShmQueue;
pub use stats::QueueStats;
#[cfg(target_os = "linux")]
#[doc(inline)]
pub use unix::{UnixQueue, UnixServer};

// The types of messages, and the settings of queues.
pub use ipc_proto::{
    Backoff, CodecError, Encoding, HeaderError, Headers, Kind, Message, MessageId, Name,
    PayloadName, Priority, QueueSettings, SenderId, Shape, ShapeError, Signal, Timestamp,
};

/// For authors of transports: the contract, and what an implementation needs.
pub mod transport {
    #[doc(inline)]
    pub use crate::connector::{Connector, register};
    #[doc(inline)]
    pub use crate::contract::*;
}

/// The workspace's README: its program must compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The guide to workers: its programs must run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/worker.md")]
struct WorkerGuide;
