//! What travels between processes: messages, names, settings, and their encoding.
//!
//! Pure types. Nothing here does I/O, reads a clock or uses `unsafe`. So every transport on every
//! platform can share these types, and a test can construct any of them.
//!
//! Start at [`Message`], then read [`codec`] for its bytes and [`Name`] for the names of queues.
//!
//! ```
//! use ipc_proto::{codec, Message, MessageId, SenderId, Timestamp};
//!
//! let sender = SenderId::new(7);
//! let sent = Message::data(MessageId::new(sender, 1), Timestamp::from_nanos(0), "resize cat.png");
//! let bytes = codec::encode(&sent)?;
//! let received: Message<&str> = codec::decode(&bytes)?;
//! assert_eq!(received, sent);
//!
//! // Decoding any bytes returns a value or an error that says what is wrong. It never panics.
//! let error = codec::decode::<Message<&str>>(&[99, 1, 2]).unwrap_err();
//! assert!(error.to_string().contains("version 99"));
//! # Ok::<(), ipc_proto::CodecError>(())
//! ```
#![forbid(unsafe_code)]

mod encoding;
mod faithful;
mod headers;
mod id;
mod message;
mod name;
mod payload;
mod priority;
mod retry;
mod settings;
mod shape;

pub mod codec;

pub use codec::CodecError;
pub use encoding::Encoding;
pub use headers::{HeaderError, Headers};
pub use id::{MessageId, SenderId, Timestamp};
pub use message::{Kind, Message, Signal, UnknownKind};
pub use name::{MAX_NAME_BYTES, Name, NameError, shortened};
pub use payload::{PayloadName, PayloadShape};
pub use priority::Priority;
pub use retry::Backoff;
pub use settings::{QueueSettings, SettingsError};
pub use shape::{Shape, ShapeError};
