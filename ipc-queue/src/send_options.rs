//! Options of a message when it is sent.

use std::hash::Hasher;
use std::time::Duration;

use ipc_proto::{HeaderError, Headers, Kind, Priority};
use serde::{Deserialize, Serialize};

use crate::capability::{Capabilities, Feature, Unsupported};
use crate::error::SendFailure;
use crate::wait::Wait;

/// Options for sending a message. The default is a plain `Data` message without a delay.
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
    /// The message's kind.
    pub kind: Kind,
    /// The message's priority.
    pub priority: Priority,
    /// The delay before the message can be received. Zero: none.
    pub delay: Duration,
    /// The time within which the message must be received, from now on. `None`: no limit.
    pub expires_in: Option<Duration>,
    /// The message's key: while the queue remembers it, no other message with it is sent.
    pub key: Option<Key>,
    /// The overflow policy: what to do if the queue is full.
    pub overflow: OverflowPolicy,
    /// Named values that travel with the payload.
    pub headers: Headers,
    /// The time limit of a send that waits for room. Not part of the message.
    #[serde(skip)]
    pub wait: Wait,
}

/// The overflow policy: what to do if the queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OverflowPolicy {
    /// Wait as the options say, or refuse.
    #[default]
    Wait,
    /// Make room by dropping the message of the same priority that waited longest. Leased messages
    /// and dead letters are not dropped; if no other message is in the queue, wait.
    DropOldest,
}

/// The key of a message: a hash of any bytes, the same in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key(u64);

impl Key {
    /// The hash of an empty byte string. Not a valid key: all messages with it would be duplicates
    /// of the first.
    const EMPTY: Self = Self(0);

    /// Returns the key of these bytes.
    ///
    /// The key of no bytes [is empty](Self::is_empty), and sending with it is refused.
    #[must_use]
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        if bytes.is_empty() {
            return Self::EMPTY;
        }
        // SipHash with fixed keys, so that the result is the same in every process.
        let mut hasher = siphasher::sip::SipHasher24::new();
        hasher.write(bytes);
        // Zero stands for the key of no bytes.
        Self(hasher.finish().max(1))
    }

    /// Returns whether the key was made of no bytes, for example from an unset variable.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// Returns the key's number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl SendOptions {
    /// Creates the options of a plain `Data` message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the kind.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Sets the priority. Only for queues with [priorities](crate::QueueOptions::priorities).
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Delays the message by `delay`, in whole milliseconds, rounded up. A delayed message takes a
    /// place, but holds up no other message: order is kept only among messages without a delay.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Drops the message after `time`, in whole milliseconds, rounded up, unless a receiver holds
    /// it then. Measured with the monotonic clock. A time that ends with the message's delay or
    /// before is refused, with [`SendFailure::NeverDelivered`].
    pub fn expires_in(mut self, time: Duration) -> Self {
        self.expires_in = Some(time);
        self
    }

    /// Sends the message only if none with this key was sent within the queue's
    /// [window](crate::QueueOptions::dedup_window). Keys are compared by a 64-bit hash of their
    /// bytes. The send refuses an empty key with [`SendFailure::EmptyKey`].
    ///
    /// The window begins with the send, and nothing that happens to the message ends it: not an
    /// ack, purge, expiry, burial, requeue, discard or overflow. A loan that is dropped frees its
    /// key at once. [`forget`](crate::transport::Transport::forget) frees the key of a message that
    /// was sent.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(Key::of(key));
        self
    }

    /// Adds a header, or replaces it.
    ///
    /// # Errors
    /// [`HeaderError`] if the name is not valid, or there are too many headers, or they are too
    /// large.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self, HeaderError> {
        self.headers.insert(name, value)?;
        Ok(self)
    }

    /// Sets all headers at once.
    pub fn headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// Waits for room for at most `timeout`. Default: without limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.wait = Wait::at_most(timeout);
        self
    }

    /// Waits for room as `wait` says.
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// Sets the overflow policy.
    pub fn overflow(mut self, then: OverflowPolicy) -> Self {
        self.overflow = then;
        self
    }

    /// Checks that a transport with these capabilities supports all options.
    ///
    /// # Errors
    /// [`Unsupported`] names the first option that it does not support.
    pub fn check(&self, capabilities: Capabilities) -> Result<(), Unsupported> {
        let missing = self.features().find(|feature| !capabilities.has(*feature));
        missing.map_or(Ok(()), |feature| Err(Unsupported::by_transport(feature)))
    }

    /// Checks that the key, if there is one, distinguishes messages, and that the message does not
    /// expire before it can be delivered.
    ///
    /// # Errors
    /// [`SendFailure::EmptyKey`], [`SendFailure::NeverDelivered`].
    pub fn check_values(&self) -> Result<(), SendFailure> {
        if self.key.is_some_and(Key::is_empty) {
            return Err(SendFailure::EmptyKey);
        }
        match (self.delay, self.expires_in) {
            (delay, Some(expires_in)) if expires_in <= delay => {
                Err(SendFailure::NeverDelivered { delay, expires_in })
            }
            _ => Ok(()),
        }
    }

    /// Returns the first feature in use that some transport may lack. `None` if only the kind is
    /// set.
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
        // A fixed value: programs built by other compilers, at other times, must agree.
        assert_eq!(Key::of("order 17").number(), 14_432_809_041_534_623_000);
    }

    #[test]
    fn only_an_empty_key_is_invalid() {
        let checked = |key: &str| SendOptions::new().key(key).check_values();
        assert_eq!(checked(""), Err(SendFailure::EmptyKey));
        assert_eq!((checked("0"), checked("\0")), (Ok(()), Ok(())));
        assert_eq!(SendOptions::new().check_values(), Ok(()));
    }

    #[test]
    fn a_message_that_would_expire_before_it_is_delivered_is_refused() {
        let [short, long] = [Duration::from_secs(5), Duration::from_secs(10)];
        let checked = |delay, expires_in| {
            let options = SendOptions::new().delay(delay).expires_in(expires_in);
            options.check_values()
        };
        assert_eq!(checked(short, long), Ok(()));
        for (delay, expires_in) in [
            (long, short),
            (short, short),
            (Duration::ZERO, Duration::ZERO),
        ] {
            let never = SendFailure::NeverDelivered { delay, expires_in };
            assert_eq!(checked(delay, expires_in), Err(never));
        }
    }

    #[test]
    fn requested_features_are_named() {
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
