//! The nodes of a namespace: their presence, their health, and their statistics.
#![cfg_attr(doc, doc = include_str!("../README.md"))]
#![forbid(unsafe_code)]

mod control;
mod heartbeat;
mod inbox_name;
mod monitor;
mod node;
pub mod pool;
mod registry;
pub mod request;
mod stats;
mod value;

pub use control::{BroadcastReport, ControlError, Inbox};
pub use monitor::Monitor;
pub use node::{JoinError, Node, NodeOptions};
pub use registry::{Health, NodeInfo, Registry, RegistryError};
pub use stats::{Counters, NodeStats};
