//! Opening queues: addresses, settings, and what must hold of a queue that exists.

use std::any::type_name;
use std::sync::Arc;
use std::time::Duration;

use ipc_proto::{Backoff, Encoding, PayloadName, QueueSettings, Shape};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::address::{Address, ToAddress, without_secrets};
use crate::bytes::ByteQueue;
use crate::connector;
use crate::error::QueueError;
use crate::queue::Queue;
use crate::transport::{AttachAs, OpenMode, OpenRequest, Transport};

/// How to open a queue. Settings given here are used to create it; a queue that exists must agree with
/// them, while those not given may be anything.
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
    /// Opens or creates, with default settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the queue may exist, or must.
    pub fn mode(mut self, mode: OpenMode) -> Self {
        self.mode = mode;
        self
    }

    /// All settings at once; a queue that exists must agree with every one.
    pub fn settings(mut self, settings: QueueSettings) -> Self {
        self.settings = settings;
        self.given = self.settings.fields().map(|(field, _)| field).to_vec();
        self
    }

    /// How many messages it holds. Default 1,024.
    pub fn capacity(mut self, capacity: u32) -> Self {
        self.settings.capacity = capacity;
        self.given("capacity")
    }

    /// Up to how many bytes travel in the cell itself. Default 192.
    pub fn inline_bytes(mut self, bytes: u32) -> Self {
        self.settings.inline_bytes = bytes;
        self.given("inline_bytes")
    }

    /// The largest payload. Default 1 MiB.
    pub fn max_message_bytes(mut self, bytes: u32) -> Self {
        self.settings.max_message_bytes = bytes;
        self.given("max_message_bytes")
    }

    /// Memory for payloads that do not fit inline. Default 8 MiB.
    pub fn pool_bytes(mut self, bytes: u64) -> Self {
        self.settings.pool_bytes = bytes;
        self.given("pool_bytes")
    }

    /// How many attempts a message gets before it becomes a dead letter, whatever ended them. Default 12.
    pub fn attempt_limit(mut self, attempts: u8) -> Self {
        self.settings.attempt_limit = attempts;
        self.given("attempt_limit")
    }

    /// How many receivers may die over a message before it becomes a dead letter. Default 5.
    pub fn crash_limit(mut self, crashes: u8) -> Self {
        self.settings.crash_limit = crashes;
        self.given("crash_limit")
    }

    /// How many leases of a message may end by time before it becomes a dead letter. Default 2.
    pub fn expiry_limit(mut self, expiries: u8) -> Self {
        self.settings.expiry_limit = expiries;
        self.given("expiry_limit")
    }

    /// How long a message waits after a nack without a delay of its own, or a dropped delivery. Default: 100 ms, doubled
    /// with each failure, to at most a minute, each delay shortened at random by up to a half.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self.given("backoff")
    }

    /// How long a receiver may hold a message without settling or extending it. Default: as long as it lives.
    pub fn lease(mut self, time: Duration) -> Self {
        self.settings.lease = Some(time);
        self.given("lease")
    }

    /// How many processes may be attached at once, those [attached as tools](Self::attach_as_tool)
    /// not counted. Default 256, at most 503. In shared memory each costs 448 bytes.
    pub fn max_participants(mut self, processes: u16) -> Self {
        self.settings.max_participants = processes;
        self.given("max_participants")
    }

    /// Whether messages have priorities; then `capacity` and `pool_bytes` hold for each of the four. Default: they
    /// have none, and [`SendOptions::priority`](crate::SendOptions::priority) is refused.
    pub fn priorities(mut self, priorities: bool) -> Self {
        self.settings.priorities = priorities;
        self.given("priorities")
    }

    /// How long a message waits before it goes before fresh ones of the next higher priority. Default 10 s.
    pub fn aging(mut self, time: Duration) -> Self {
        self.settings.aging = time;
        self.given("aging")
    }

    /// Lets messages have keys, and remembers each for so long: what is sent again with the same key meanwhile is
    /// not sent twice. Default: no keys, and [`SendOptions::key`](crate::SendOptions::key) is refused.
    pub fn dedup_window(mut self, time: Duration) -> Self {
        self.settings.dedup_window = Some(time);
        self.given("dedup_window")
    }

    /// How many keys are remembered at once, at least; a power of two. Default 4,096. In shared memory each costs 96 bytes.
    ///
    /// Choose it for the window: at a steady rate of new keys, rate × window. With 10 new keys a second and a window of an
    /// hour, 36,000, so 65,536. Where there is no place for a key, sending fails as
    /// [`KeysFull`](crate::SendFailure::KeysFull); [`QueueStats::keys`](crate::QueueStats) says how many are remembered.
    /// `nats:` keeps as many keys as come.
    pub fn dedup_keys(mut self, keys: u32) -> Self {
        self.settings.dedup_keys = keys;
        self.given("dedup_keys")
    }

    /// Attaches this process as a tool: one that looks or acts for a moment, such as a command. A
    /// few slots are kept for tools, so it can attach when as many processes are attached as
    /// `max_participants` allows. Only queues in shared memory make a difference.
    pub fn attach_as_tool(mut self) -> Self {
        self.attach_as = AttachAs::Tool;
        self
    }

    /// What to call the payload type, instead of its Rust name: `"resize-job/2"`, say.
    pub fn type_name(mut self, name: &str) -> Self {
        self.type_name = Some(name.to_owned());
        self
    }

    /// The encoding of a typed queue's payloads. Without it a new queue has the default, and one
    /// that exists keeps its own.
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
    /// [`QueueError`] says what stands in the way.
    pub fn open<T: Serialize + DeserializeOwned>(
        &self,
        address: impl ToAddress,
    ) -> Result<Queue<T>, QueueError> {
        /// The queue may be removed and created by others meanwhile, more than once.
        const TRIES: usize = 10;
        let address = &address.to_address()?;
        let mut tries = 0;
        loop {
            // First whatever is there: it has its encoding already.
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
                // Created by somebody else just now.
                Err(QueueError::PayloadDiffers { .. }) if tries < TRIES => {}
                opened => return self.typed::<T>(address, opened?),
            }
        }
    }

    /// What the payloads of a queue of `T` are called.
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

    /// A queue that is open as one of `T`s, if it is one.
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
            // The transport does not know.
            None => {}
            Some(found) => check_payload(&queue.address(), found, &wanted)?,
        }
        Ok(Queue::over(ByteQueue::over(queue), encoding))
    }

    /// Opens a queue of plain bytes.
    ///
    /// # Errors
    /// [`QueueError`] says what stands in the way.
    pub fn open_bytes(&self, address: impl ToAddress) -> Result<ByteQueue, QueueError> {
        let payload = self.type_name.as_deref().unwrap_or_default();
        self.open_transport(&address.to_address()?, self.mode, payload)
            .map(ByteQueue::over)
    }

    /// Opens an existing queue, whatever the type of its payloads, as one of plain bytes: for
    /// tools. [`Transport::payload`] says what they are, and [`PayloadName`] reads that.
    ///
    /// # Errors
    /// [`QueueError`] says what stands in the way.
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
    }

    /// `base` with the settings that were given, and a request that insists on these.
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

    /// Whether this setting was given.
    #[cfg(target_os = "linux")]
    pub(crate) fn gives(&self, field: &str) -> bool {
        self.given.contains(&field)
    }

    fn given(mut self, field: &'static str) -> Self {
        self.given.push(field);
        self
    }
}

/// Whether a queue of what was found can be used as one of what is wanted.
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

/// `alloc::vec::Vec<app::jobs::Resize>` → `Vec<Resize>`: two programs that define the same type in different
/// modules mean the same.
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
