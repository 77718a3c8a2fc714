//! Work queues over NATS JetStream.
#![cfg_attr(doc, doc = include_str!("../README.md"))]
#![forbid(unsafe_code)]

mod address;
mod answers;
mod bucket;
mod connection;
mod content;
mod counts;
mod dead;
mod directory;
mod door;
mod event;
mod keeper;
mod keys;
mod lane;
mod nodes;
mod objects;
mod options;
mod pull;
mod queue;
mod receiver;
mod record;
mod repair;
mod runtime;
mod sender;
mod settle;
mod shared;
mod steps;
#[cfg(feature = "test-server")]
pub mod testing;

pub use address::NatsAddress;
pub use answers::{AnswerError, Answers, Put};
pub use nodes::{Membership, Node, Nodes, NodesError};
pub use options::NatsOptions;
pub use queue::{NatsQueue, register, register_with};
