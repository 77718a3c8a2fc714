//! Liveness from heartbeat *messages*, for transports without shared memory.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ipc_proto::{Message, SenderId};

/// Remembers when the last message of each sender arrived.
///
/// Every message is a sign of life; a `Heartbeat` has no other purpose. Without shared memory a
/// dead sender cannot be told from a slow one. So the monitor only reports whether a message
/// arrived in time. It reads no clock: the caller passes the time.
///
/// ```
/// use std::time::{Duration, Instant};
/// use ipc_node::Monitor;
/// use ipc_proto::{Message, MessageId, SenderId, Timestamp};
///
/// let (start, sender) = (Instant::now(), SenderId::new(7));
/// let mut monitor = Monitor::default();
/// monitor.heard(&Message::<()>::heartbeat(MessageId::new(sender, 0), Timestamp::default()), start);
/// assert!(monitor.is_alive(sender, Duration::from_secs(10), start + Duration::from_secs(9)));
/// assert!(!monitor.is_alive(sender, Duration::from_secs(10), start + Duration::from_secs(11)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Monitor {
    last_heard: HashMap<SenderId, Instant>,
}

impl Monitor {
    /// Records that a message arrived at `now`.
    pub fn heard<T>(&mut self, message: &Message<T>, now: Instant) {
        let last = self.last_heard.entry(message.sender()).or_insert(now);
        // Messages may be recorded out of order.
        *last = now.max(*last);
    }

    /// Returns `true` if a message of `sender` arrived within `timeout` before `now`. `false` for
    /// an unknown sender.
    #[must_use]
    pub fn is_alive(&self, sender: SenderId, timeout: Duration, now: Instant) -> bool {
        let last = self.last_heard.get(&sender);
        last.is_some_and(|last| now.saturating_duration_since(*last) <= timeout)
    }

    /// Returns the known senders of which no message arrived within `timeout` before `now`.
    pub fn silent(&self, timeout: Duration, now: Instant) -> impl Iterator<Item = SenderId> + '_ {
        let silent = move |sender: &SenderId| !self.is_alive(*sender, timeout, now);
        self.last_heard.keys().copied().filter(silent)
    }

    /// Forgets a sender.
    pub fn forget(&mut self, sender: SenderId) {
        self.last_heard.remove(&sender);
    }
}

#[cfg(test)]
mod tests {
    use ipc_proto::{MessageId, Timestamp};

    use super::*;

    fn from(sender: u64) -> Message<u8> {
        Message::data(
            MessageId::new(SenderId::new(sender), 0),
            Timestamp::default(),
            1,
        )
    }

    #[test]
    fn only_known_senders_can_fall_silent() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut monitor = Monitor::default();
        monitor.heard(&from(1), start);
        monitor.heard(&from(2), start + 2 * second);
        let now = start + 3 * second;
        assert_eq!(
            monitor.silent(2 * second, now).collect::<Vec<_>>(),
            [SenderId::new(1)]
        );
        assert!(!monitor.is_alive(SenderId::new(3), 2 * second, now));
        monitor.forget(SenderId::new(1));
        assert_eq!(monitor.silent(2 * second, now).count(), 0);
    }

    #[test]
    fn a_message_looked_at_late_does_not_age_its_sender() {
        let start = Instant::now();
        let mut monitor = Monitor::default();
        monitor.heard(&from(1), start + Duration::from_secs(5));
        monitor.heard(&from(1), start);
        assert!(monitor.is_alive(
            SenderId::new(1),
            Duration::ZERO,
            start + Duration::from_secs(5)
        ));
    }
}
