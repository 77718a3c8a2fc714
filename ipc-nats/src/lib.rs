//! Work queues over NATS JetStream.
#![cfg_attr(doc, doc = include_str!("../README.md"))]
#![forbid(unsafe_code)]

mod address;
mod answers;
mod bucket;
mod capabilities;
mod connection;
mod content;
mod counts;
mod dead;
mod directory;
mod event;
mod keys;
mod lease_keeper;
mod left;
mod nodes;
mod notices;
mod objects;
mod opened;
mod options;
mod priority_stream;
mod pull;
mod queue;
mod receiver;
mod record;
mod remedy;
mod repair;
mod request_error;
mod runtime;
mod sender;
mod settle;
mod shared;
mod steps;
#[cfg(feature = "test-server")]
pub mod testing;
mod wait_queue;

pub use address::NatsAddress;
pub use answers::{AnswerError, Answers, Put};
pub use nodes::{Membership, Node, Nodes, NodesError};
pub use options::NatsOptions;
pub use queue::{NatsQueue, register, register_with};
