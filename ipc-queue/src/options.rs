//! Opening queues: addresses, settings, and checks against a queue that exists.

use std::any::type_name;
use std::sync::Arc;
use std::time::Duration;

use ipc_proto::{Backoff, Encoding, PayloadName, QueueSettings, Shape};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::address::{Address, ToAddress, without_secrets};
use crate::bytes::ByteQueue;
use crate::connector;
use crate::contract::Transport;
use crate::error::QueueError;
use crate::open_request::{AttachAs, OpenMode, OpenRequest};
use crate::queue::Queue;

/// Options for opening a queue. The settings given here are used to create the queue. If it exists,
/// its settings must agree with those given; other settings may have any value.
///
/// ```
/// use std::time::Duration;
/// use ipc_queue::{QueueOptions, Queue};
///
/// let options = QueueOptions::new().capacity(4).lease(Duration::from_secs(30));
/// let queue: Queue<u32> = options.open("local:numbers")?;
/// assert_eq!(queue.settings().capacity, 4);
/// assert!(QueueOptions::new().capacity(5).open::<u32>("local:numbers").is_err());
/// # Ok::<(), ipc_queue::QueueError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct QueueOptions {
    mode: OpenMode,
    settings: QueueSettings,
    given: Vec<&'static str>,
    type_name: Option<String>,
    attach_as: AttachAs,
    encoding: Option<Encoding>,
}

impl QueueOptions {
    /// Creates options that open or create a queue with default settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the mode: the queue may exist, must exist, or must not exist.
    pub fn mode(mut self, mode: OpenMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets all settings. An existing queue must agree with every one.
    pub fn settings(mut self, settings: QueueSettings) -> Self {
        self.settings = settings;
        self.given = self.settings.fields().map(|(field, _)| field).to_vec();
        self
    }

    /// Sets the number of messages that the queue holds. Default 1,024.
    pub fn capacity(mut self, capacity: u32) -> Self {
        self.settings.capacity = capacity;
        self.given("capacity")
    }

    /// Sets the largest payload, in bytes, that is stored in the cell itself. Default 192.
    pub fn inline_bytes(mut self, bytes: u32) -> Self {
        self.settings.inline_bytes = bytes;
        self.given("inline_bytes")
    }

    /// Sets the largest payload, in bytes. Default 1 MiB.
    pub fn max_message_bytes(mut self, bytes: u32) -> Self {
        self.settings.max_message_bytes = bytes;
        self.given("max_message_bytes")
    }

    /// Sets the memory for payloads that do not fit inline. Default 8 MiB.
    ///
    /// In shared memory each such payload takes its size, rounded up to a multiple of 64 bytes. If
    /// `inline_bytes` is 896 or more, the multiple is larger: the largest power of two of which
    /// seven fit into `inline_bytes`. If the memory is 2 GiB or more, it is the smallest power of
    /// two of which less than 2^25 are needed. So rounding takes at most an eighth of the memory,
    /// except for payloads of up to 448 bytes, and in memory of 2 GiB or more.
    ///
    /// Payloads of one size then fill the memory, except for a rest smaller than one of them. A
    /// queue with default settings holds 1,024 messages of up to 8 KiB, or 512 of 16 KiB, 128 of 64
    /// KiB, 32 of 256 KiB, or 8 of 1 MiB. Payloads of mixed sizes may leave gaps that are too small
    /// for the next one. Headers of messages that need this memory count as part of the payload;
    /// there are 4 KiB more that only such messages use. `ipc stat` shows how many messages fit
    /// into any queue. A send that finds no room says whether a place or memory was missing.
    pub fn pool_bytes(mut self, bytes: u64) -> Self {
        self.settings.pool_bytes = bytes;
        self.given("pool_bytes")
    }

    /// Sets the number of attempts before a message becomes a dead letter, however they ended.
    /// Default 12.
    pub fn attempt_limit(mut self, attempts: u8) -> Self {
        self.settings.attempt_limit = attempts;
        self.given("attempt_limit")
    }

    /// Sets the number of receivers that may die with a message before it becomes a dead letter.
    /// Default 5.
    pub fn crash_limit(mut self, crashes: u8) -> Self {
        self.settings.crash_limit = crashes;
        self.given("crash_limit")
    }

    /// Sets the number of leases that may expire before a message becomes a dead letter. Default 2.
    pub fn expiry_limit(mut self, expiries: u8) -> Self {
        self.settings.expiry_limit = expiries;
        self.given("expiry_limit")
    }

    /// Sets the delay after a nack without a delay of its own, and after a dropped delivery.
    /// Default: 100 ms, doubled with each failure up to one minute, each delay shortened at random
    /// by up to half.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self.given("backoff")
    }

    /// Sets the time that a receiver may hold a message without settling or extending it. Default:
    /// as long as the receiver lives.
    ///
    /// A lease never ends early. In shared memory it ends late by at most an eighth of this time,
    /// and by at most half a second, plus the time until the operating system runs the watcher.
    pub fn lease(mut self, time: Duration) -> Self {
        self.settings.lease = Some(time);
        self.given("lease")
    }

    /// Sets the maximum number of attached processes, except those [attached as
    /// tools](Self::attach_as_tool). Default 256, at most 503. In shared memory each costs 448
    /// bytes.
    pub fn max_participants(mut self, processes: u16) -> Self {
        self.settings.max_participants = processes;
        self.given("max_participants")
    }

    /// Gives messages priorities. `capacity` and `pool_bytes` then apply to each of the four.
    /// Default: no priorities, and [`SendOptions::priority`](crate::SendOptions::priority) is
    /// refused.
    pub fn priorities(mut self, priorities: bool) -> Self {
        self.settings.priorities = priorities;
        self.given("priorities")
    }

    /// Sets the aging time: a message that waited this long goes before fresh messages of the next
    /// higher priority. Default 10 s.
    pub fn aging(mut self, time: Duration) -> Self {
        self.settings.aging = time;
        self.given("aging")
    }

    /// Gives messages keys, and remembers each key for `time`. A message that is sent again with a
    /// remembered key is not sent twice. Default: no keys, and
    /// [`SendOptions::key`](crate::SendOptions::key) is refused.
    pub fn dedup_window(mut self, time: Duration) -> Self {
        self.settings.dedup_window = Some(time);
        self.given("dedup_window")
    }

    /// Sets the minimum number of keys that are remembered at once; a power of two. Default 4,096.
    /// In shared memory each costs 96 bytes.
    ///
    /// Choose it for the window: at a steady rate of new keys, rate × window. With 10 new keys a
    /// second and a window of one hour that is 36,000, so choose 65,536. If there is no place for a
    /// key, sending fails as [`KeysFull`](crate::SendFailure::KeysFull).
    /// [`QueueStats::keys`](crate::QueueStats) is the number of remembered keys. `nats:` has no
    /// limit.
    pub fn dedup_keys(mut self, keys: u32) -> Self {
        self.settings.dedup_keys = keys;
        self.given("dedup_keys")
    }

    /// Attaches this process as a tool: a short-lived command, for example. A few participant slots
    /// are reserved for tools, so a tool can attach when `max_participants` processes are attached.
    /// Only queues in shared memory make this distinction.
    pub fn attach_as_tool(mut self) -> Self {
        self.attach_as = AttachAs::Tool;
        self
    }

    /// Sets the name of the payload type, instead of its Rust name: for example `"resize-job/2"`.
    pub fn type_name(mut self, name: &str) -> Self {
        self.type_name = Some(name.to_owned());
        self
    }

    /// Sets the encoding of a typed queue's payloads. Without it, a new queue has the default
    /// encoding, and an existing queue keeps its encoding.
    ///
    /// ```
    /// use ipc_queue::{Encoding, QueueOptions, Queue};
    ///
    /// let jobs: Queue<(u8, u8)> =
    ///     QueueOptions::new().encoding(Encoding::Postcard).open("local:pairs")?;
    /// assert_eq!(jobs.encoding(), Encoding::Postcard);
    /// assert_eq!(Queue::<(u8, u8)>::open("local:pairs")?.encoding(), Encoding::Postcard);
    /// // postcard can't tell a pair from a triple: it is refused when the queue is opened.
    /// let triples = QueueOptions::new().type_name("(u8, u8)").open::<(u8, u8, u8)>("local:pairs");
    /// assert!(matches!(triples, Err(ipc_queue::QueueError::ShapeDiffers { .. })));
    /// # Ok::<(), ipc_queue::QueueError>(())
    /// ```
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = Some(encoding);
        self
    }

    /// Opens a typed queue.
    ///
    /// # Errors
    /// [`QueueError`] has the reason.
    pub fn open<T: Serialize + DeserializeOwned>(
        &self,
        address: impl ToAddress,
    ) -> Result<Queue<T>, QueueError> {
        /// Meanwhile other processes may remove and create the queue, more than once.
        const TRIES: usize = 10;
        let address = &address.to_address()?;
        let mut tries = 0;
        loop {
            // Tries to open an existing queue first: it has an encoding already.
            if self.mode != OpenMode::Create {
                match self.open_transport(address, OpenMode::Open, OpenRequest::ANY_PAYLOAD) {
                    Ok(queue) => return self.typed::<T>(address, queue),
                    Err(QueueError::NotFound { .. }) if self.mode == OpenMode::OpenOrCreate => {}
                    Err(error) => return Err(error),
                }
            }
            let encoding = self.encoding.unwrap_or_default();
            let payload = self.payload::<T>(address, encoding)?.to_string();
            tries += 1;
            match self.open_transport(address, self.mode, &payload) {
                // Another process has just created it.
                Err(QueueError::PayloadDiffers { .. }) if tries < TRIES => {}
                opened => return self.typed::<T>(address, opened?),
            }
        }
    }

    /// Returns the name of the payloads of a queue of `T`.
    fn payload<T: DeserializeOwned>(
        &self,
        address: &Address,
        encoding: Encoding,
    ) -> Result<PayloadName, QueueError> {
        let unavailable = |source| QueueError::Encoding {
            name: without_secrets(&address.to_string()),
            source,
        };
        encoding.check_available().map_err(unavailable)?;
        let type_name = self.type_name.clone().unwrap_or_else(short_type_name::<T>);
        let payload = PayloadName::typed(encoding, &type_name);
        Ok(match encoding {
            Encoding::Postcard => payload.with_shape(&Shape::of::<T>()?),
            _ => payload,
        })
    }

    /// Returns the open queue as a queue of `T`s, if its payloads are `T`s.
    fn typed<T: Serialize + DeserializeOwned>(
        &self,
        address: &Address,
        queue: Arc<dyn Transport>,
    ) -> Result<Queue<T>, QueueError> {
        let found: Option<PayloadName> = queue.payload().and_then(|payload| payload.parse().ok());
        let found_encoding = found.as_ref().and_then(|found| found.encoding);
        let encoding = self.encoding.or(found_encoding).unwrap_or_default();
        let wanted = self.payload::<T>(address, encoding)?;
        match &found {
            // The transport does not know the payload name.
            None => {}
            Some(found) => check_payload(&queue.address(), found, &wanted)?,
        }
        Ok(Queue::over(ByteQueue::over(queue), encoding))
    }

    /// Opens a queue of plain bytes.
    ///
    /// # Errors
    /// [`QueueError`] has the reason.
    pub fn open_bytes(&self, address: impl ToAddress) -> Result<ByteQueue, QueueError> {
        let payload = self.type_name.as_deref().unwrap_or_default();
        self.open_transport(&address.to_address()?, self.mode, payload)
            .map(ByteQueue::over)
    }

    /// Opens an existing queue as one of plain bytes, whatever the type of its payloads: for tools.
    /// [`Transport::payload`] returns their name, which [`PayloadName`] parses.
    ///
    /// # Errors
    /// [`QueueError`] has the reason.
    pub fn open_any(&self, address: impl ToAddress) -> Result<ByteQueue, QueueError> {
        self.open_transport(
            &address.to_address()?,
            OpenMode::Open,
            OpenRequest::ANY_PAYLOAD,
        )
        .map(ByteQueue::over)
    }

    fn open_transport(
        &self,
        address: &Address,
        mode: OpenMode,
        payload: &str,
    ) -> Result<Arc<dyn Transport>, QueueError> {
        let request = OpenRequest {
            mode,
            settings: self.settings.clone(),
            insist_on: self.given.clone(),
            payload: payload.to_owned(),
            attach_as: self.attach_as,
        };
        connector::open(address, &request)
            .map_err(|error| error.about(&without_secrets(&address.to_string())))
    }

    /// Returns `base` with the settings that were given, and a request that requires these of an
    /// existing queue.
    #[cfg(target_os = "linux")]
    pub(crate) fn over(&self, base: QueueSettings, payload: &str) -> OpenRequest {
        let mut settings = base;
        macro_rules! take {
            ($($field:ident)*) => {$(
                if self.given.contains(&stringify!($field)) {
                    settings.$field = self.settings.$field.clone();
                }
            )*};
        }
        take!(capacity inline_bytes max_message_bytes pool_bytes attempt_limit crash_limit);
        take!(expiry_limit backoff lease max_participants priorities aging dedup_window);
        take!(dedup_keys);
        OpenRequest {
            mode: OpenMode::OpenOrCreate,
            settings,
            insist_on: self.given.clone(),
            payload: payload.to_owned(),
            attach_as: AttachAs::Tool,
        }
    }

    /// Returns whether this setting was given.
    #[cfg(target_os = "linux")]
    pub(crate) fn gives(&self, field: &str) -> bool {
        self.given.contains(&field)
    }

    fn given(mut self, field: &'static str) -> Self {
        self.given.push(field);
        self
    }
}

/// Checks that a queue of `found` payloads can be used as one of `wanted` payloads.
fn check_payload(name: &str, found: &PayloadName, wanted: &PayloadName) -> Result<(), QueueError> {
    if (found.encoding, &found.type_name) != (wanted.encoding, &wanted.type_name) {
        return Err(QueueError::PayloadDiffers {
            name: name.to_owned(),
            found: found.short(),
            wanted: wanted.short(),
        });
    }
    let fingerprint = |payload: &PayloadName| payload.shape.as_ref().map(|shape| shape.fingerprint);
    if fingerprint(found) != fingerprint(wanted) {
        return Err(QueueError::ShapeDiffers {
            name: name.to_owned(),
            found: found.short(),
            wanted: wanted.short(),
            difference: found.difference(wanted),
        });
    }
    Ok(())
}

/// Turns `alloc::vec::Vec<app::jobs::Resize>` into `Vec<Resize>`: two programs that define the same
/// type in different modules mean the same type.
fn short_type_name<T>() -> String {
    let mut short = String::new();
    let mut word_at = 0;
    let mut rest = type_name::<T>();
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("::") {
            short.truncate(word_at);
            rest = after;
            continue;
        }
        short.push(c);
        if !(c.is_alphanumeric() || c == '_') {
            word_at = short.len();
        }
        rest = &rest[c.len_utf8()..];
    }
    short
}

impl<T: Serialize + DeserializeOwned> Queue<T> {
    /// Opens the queue at `address`, or creates it with default settings.
    ///
    /// Addresses are `local:NAME` (threads of this process), `shm:NAME` or `shm:NAMESPACE/NAME`
    /// (processes of this machine), `unix:/PATH` (a queue that a process serves at that socket),
    /// and those of [registered](crate::transport::register) transports. An [`Address`] works
    /// as well. For other settings see [`QueueOptions`].
    ///
    /// # Errors
    /// [`QueueError`], for example if the queue carries another type than `T`. Types are compared
    /// by name, without module paths, so two programs may each define the same type. In a queue
    /// with the postcard encoding, types are also compared by [shape](ipc_proto::Shape).
    pub fn open(address: impl ToAddress) -> Result<Self, QueueError> {
        QueueOptions::new().open(address)
    }
}

impl ByteQueue {
    /// Opens the queue at `address`, or creates it with default settings.
    ///
    /// # Errors
    /// [`QueueError`], as [`Queue::open`](crate::Queue::open).
    pub fn open(address: impl ToAddress) -> Result<Self, QueueError> {
        QueueOptions::new().open_bytes(address)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn type_names_lose_their_modules_only() {
        assert_eq!(short_type_name::<u8>(), "u8");
        assert_eq!(
            short_type_name::<BTreeMap<String, Vec<Option<(u8, Address)>>>>(),
            "BTreeMap<String, Vec<Option<(u8, Address)>>>"
        );
    }
}
