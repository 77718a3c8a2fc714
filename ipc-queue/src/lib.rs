//! Work queues between processes, with a broker's guarantees and no broker.
#![cfg_attr(doc, doc = include_str!("../README.md"))]

mod address;
mod ageing;
mod bytes;
mod capability;
#[cfg(feature = "conformance")]
pub mod conformance;
mod dead_letter;
mod delivery;
mod error;
mod loan;
mod local;
mod options;
mod queue;
mod send_options;
#[cfg(target_os = "linux")]
pub mod shm;
mod stats;
pub mod transport;

pub use address::Address;
pub use bytes::{ByteQueue, ByteReceiver, ByteSender};
pub use capability::{Capabilities, Semantic, Support, Unsupported};
pub use dead_letter::{DeadLetter, DeadLetterId, DeadReason};
pub use delivery::{About, ByteDelivery, Token};
pub use error::{
    BatchFailure, DrainError, QueueError, RecvError, SendError, SendFailure, SettleError,
};
pub use loan::Loan;
pub use local::LocalQueue;
pub use options::{QueueOptions, remove};
pub use queue::{Delivery, Queue, Receiver, Sender};
pub use send_options::{Key, SendOptions, WhenFull};
#[cfg(target_os = "linux")]
pub use shm::ShmQueue;
pub use stats::QueueStats;

/// The types of messages that travel, and how queues are set up.
pub use ipc_proto::{Kind, Message, MessageId, Name, Priority, QueueSettings, SenderId, Timestamp};

/// The workspace's README: its program must compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
