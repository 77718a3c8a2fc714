//! What can be said about a message when it is sent.

use std::hash::Hasher;
use std::time::Duration;

use ipc_proto::{HeaderError, Headers, Kind, Priority};
use serde::{Deserialize, Serialize};

use crate::capability::{Capabilities, Feature, Unsupported};
use crate::error::SendFailure;
use crate::transport::Wait;

/// How a message is to be sent; the default is a plain `Data` message that goes at once.
///
/// ```
/// use std::time::Duration;
/// use ipc_queue::{Priority, QueueOptions, SendOptions};
///
/// let queue = QueueOptions::new().priorities(true).open::<String>("local:letters")?;
/// let sender = queue.sender();
/// sender.send("in its turn".to_owned())?;
/// let now = SendOptions::new().priority(Priority::Urgent).expires_in(Duration::from_secs(60));
/// sender.send_with("at once".to_owned(), &now)?;
/// let receiver = queue.receiver();
/// assert_eq!(receiver.recv()?.data(), "at once");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
#[non_exhaustive]
pub struct SendOptions {
    /// What the message is for.
    pub kind: Kind,
    /// How urgent it is.
    pub priority: Priority,
    /// How long it is kept back. Zero: not at all.
    pub delay: Duration,
    /// How long anybody may want it, from now on. `None`: for ever.
    pub expires_in: Option<Duration>,
    /// What it is known by: another message of this key is not sent while the queue remembers it.
    pub key: Option<Key>,
    /// What to do when the queue is full.
    pub overflow: OverflowPolicy,
    /// Named values that travel beside the payload.
    pub headers: Headers,
    /// How long a send waits for room. Not a part of the message.
    #[serde(skip)]
    pub wait: Wait,
}

/// What to do when a queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OverflowPolicy {
    /// Wait, as told, or refuse.
    #[default]
    Wait,
    /// Make room by dropping the message of the same priority that waited longest; wait if none does: messages that
    /// somebody holds, and dead letters, are not dropped.
    DropOldest,
}

/// What a message is known by: a hash of any bytes, the same in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key(u64);

impl Key {
    /// What no bytes at all make. Not a key: all messages with it would be duplicates of the first.
    const EMPTY: Self = Self(0);

    /// The key of these bytes.
    ///
    /// That of no bytes [is empty](Self::is_empty), and sending with it is refused.
    #[must_use]
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        if bytes.is_empty() {
            return Self::EMPTY;
        }
        // SipHash with fixed keys: the same in every process.
        let mut hasher = siphasher::sip::SipHasher24::new();
        hasher.write(bytes);
        // Zero stands for no bytes.
        Self(hasher.finish().max(1))
    }

    /// Returns whether it was made of no bytes, as an unset variable has none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl SendOptions {
    /// A plain `Data` message.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it is for.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// How urgent it is. Only on queues with [priorities](crate::QueueOptions::priorities).
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Keeps it back for so long, in whole milliseconds, rounded up. It takes a place meanwhile, and comes before nobody:
    /// order is kept only among messages without a delay.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Drops it when so long has gone by, in whole milliseconds, rounded up, and nobody holds it. By the monotonic clock.
    pub fn expires_in(mut self, time: Duration) -> Self {
        self.expires_in = Some(time);
        self
    }

    /// Sends it only if none of this key was sent within the queue's [window](crate::QueueOptions::dedup_window). 64
    /// bits of the bytes' hash are compared. An empty key is refused by the send, as
    /// [`SendFailure::EmptyKey`].
    ///
    /// The window begins with the send, and nothing that becomes of the message ends it: not an ack, a purge, an expiry, a
    /// burial, a requeueing, a discard, or that it was dropped to make room. A loan that is dropped frees its key at once.
    /// [`forget`](crate::transport::Transport::forget) frees the key of a message that was sent.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(Key::of(key));
        self
    }

    /// Adds a header, or replaces it.
    ///
    /// # Errors
    /// [`HeaderError`] when the name is not one, or the headers are too many or too large.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self, HeaderError> {
        self.headers.insert(name, value)?;
        Ok(self)
    }

    /// All headers at once.
    pub fn headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// Waits for room for at most this long. Default: without limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.wait = Wait::at_most(timeout);
        self
    }

    /// Waits for room as told.
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// What to do when the queue is full.
    pub fn overflow(mut self, then: OverflowPolicy) -> Self {
        self.overflow = then;
        self
    }

    /// Whether a transport that can do so much can do all that is wanted.
    ///
    /// # Errors
    /// [`Unsupported`] names the first that it can't.
    pub fn check(&self, capabilities: Capabilities) -> Result<(), Unsupported> {
        let missing = self.features().find(|feature| !capabilities.has(*feature));
        missing.map_or(Ok(()), |feature| Err(Unsupported::by_transport(feature)))
    }

    /// Checks that the key, if there is one, tells messages apart.
    ///
    /// # Errors
    /// [`SendFailure::EmptyKey`].
    pub fn check_key(&self) -> Result<(), SendFailure> {
        match self.key {
            Some(key) if key.is_empty() => Err(SendFailure::EmptyKey),
            _ => Ok(()),
        }
    }

    /// Something that is wanted and not every transport has; `None`: nothing but the kind is said.
    #[must_use]
    pub fn first_feature(&self) -> Option<Feature> {
        self.features().next()
    }

    fn features(&self) -> impl Iterator<Item = Feature> {
        let wanted = [
            (self.priority != Priority::default(), Feature::Priorities),
            (!self.delay.is_zero(), Feature::Delay),
            (self.expires_in.is_some(), Feature::Expiry),
            (self.key.is_some(), Feature::Deduplication),
            (
                self.overflow != OverflowPolicy::default(),
                Feature::DropOldest,
            ),
            (!self.headers.is_empty(), Feature::Headers),
        ];
        wanted
            .into_iter()
            .filter_map(|(wanted, feature)| wanted.then_some(feature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_in_every_process() {
        assert_eq!(Key::of("order 17"), Key::of(b"order 17"));
        assert_ne!(Key::of("order 17"), Key::of("order 18"));
        // Written down: programs built by other compilers, at other times, must agree.
        assert_eq!(Key::of("order 17").number(), 14_432_809_041_534_623_000);
    }

    #[test]
    fn only_an_empty_key_is_no_key() {
        let checked = |key: &str| SendOptions::new().key(key).check_key();
        assert_eq!(checked(""), Err(SendFailure::EmptyKey));
        assert_eq!((checked("0"), checked("\0")), (Ok(()), Ok(())));
        assert_eq!(SendOptions::new().check_key(), Ok(()));
    }

    #[test]
    fn what_is_wanted_beyond_the_kind_is_named() {
        let wanted = |options: SendOptions| options.first_feature();
        let plain = SendOptions::new();
        assert_eq!(wanted(plain.clone().kind(Kind::Shutdown)), None);
        let low = plain.clone().priority(Priority::Low);
        assert_eq!(wanted(low), Some(Feature::Priorities));
        assert_eq!(wanted(plain.clone().key("1")), Some(Feature::Deduplication));
        let drop_oldest = plain.overflow(OverflowPolicy::DropOldest);
        assert_eq!(wanted(drop_oldest), Some(Feature::DropOldest));
    }
}
