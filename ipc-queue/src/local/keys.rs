//! The keys that a local queue remembers, so that no message is sent twice.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ipc_proto::MessageId;

use crate::error::{NoRoom, SendFailure};
use crate::send_options::Key;

/// The reason why a message was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// Waiting may help.
    Room(NoRoom),
    Failed(SendFailure),
}

impl From<SendFailure> for Lack {
    fn from(failure: SendFailure) -> Self {
        Self::Failed(failure)
    }
}

/// The keys and their use.
#[derive(Debug)]
pub(super) struct Keys {
    window: Duration,
    most: usize,
    known: HashMap<Key, Use>,
}

#[derive(Clone, Copy, Debug)]
enum Use {
    /// Taken by a loan.
    Now,
    /// Sent with this message, and remembered until this time. `None`: forever.
    Sent(MessageId, Option<Instant>),
}

impl Keys {
    pub(super) fn new(window: Duration, most: u32) -> Self {
        Self {
            window,
            most: most as usize,
            known: HashMap::new(),
        }
    }

    /// Takes a key for a loan.
    pub(super) fn take(&mut self, key: Key, now: Instant) -> Result<(), Lack> {
        let remembered = |until: Option<Instant>| until.is_none_or(|until| now < until);
        match self.known.get(&key) {
            Some(Use::Now) => return Err(Lack::Room(NoRoom::Key)),
            Some(Use::Sent(of, until)) if remembered(*until) => {
                return Err(SendFailure::Duplicate { of: *of }.into());
            }
            _ => {}
        }
        if self.known.len() >= self.most {
            self.known.retain(|_, used| match used {
                Use::Now => true,
                Use::Sent(_, until) => remembered(*until),
            });
        }
        if self.known.len() >= self.most {
            let keys = self.known.len() as u64;
            let window = self.window;
            return Err(SendFailure::KeysFull { keys, window }.into());
        }
        self.known.insert(key, Use::Now);
        Ok(())
    }

    /// Remembers a key that was taken, after its message was sent.
    pub(super) fn sent(&mut self, key: Key, by: MessageId, now: Instant) {
        let until = now.checked_add(self.window);
        self.known.insert(key, Use::Sent(by, until));
    }

    /// Forgets a key that was sent. `false`: the key is not remembered, or is just being sent.
    pub(super) fn forget(&mut self, key: Key, now: Instant) -> bool {
        let Some(Use::Sent(_, until)) = self.known.get(&key).copied() else {
            return false;
        };
        self.known.remove(&key);
        until.is_none_or(|until| now < until)
    }

    /// The number of keys that are remembered, or being sent.
    pub(super) fn count(&self, now: Instant) -> u64 {
        let counts = |used: &&Use| match used {
            Use::Now => true,
            Use::Sent(_, until) => until.is_none_or(|until| now < until),
        };
        self.known.values().filter(counts).count() as u64
    }

    /// Frees a key that was taken, because nothing was sent.
    pub(super) fn give_back(&mut self, key: Key) {
        self.known.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use ipc_proto::SenderId;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    #[test]
    fn a_key_is_one_messages_for_the_window() {
        let (start, id) = (Instant::now(), MessageId::new(SenderId::new(1), 2));
        let mut keys = Keys::new(WINDOW, 64);
        let key = Key::of("one");
        assert_eq!(keys.take(key, start), Ok(()));
        assert_eq!(keys.take(key, start), Err(Lack::Room(NoRoom::Key)));
        keys.sent(key, id, start);
        let before_its_end = start + WINDOW - Duration::from_millis(1);
        let again = keys.take(key, before_its_end);
        assert_eq!(again, Err(SendFailure::Duplicate { of: id }.into()));
        assert_eq!(keys.take(key, start + WINDOW), Ok(()));
        keys.give_back(key);
        assert_eq!(keys.take(key, start), Ok(()));
    }

    #[test]
    fn no_more_keys_are_remembered_than_may_be_and_none_is_forgotten_early() {
        let (start, id) = (Instant::now(), MessageId::new(SenderId::new(1), 2));
        let mut keys = Keys::new(WINDOW, 2);
        for key in ["one", "two"].map(Key::of) {
            keys.take(key, start).unwrap();
            keys.sent(key, id, start);
        }
        let third = keys.take(Key::of("three"), start);
        let full = SendFailure::KeysFull {
            keys: 2,
            window: WINDOW,
        };
        assert_eq!(third, Err(full.into()));
        assert_eq!(keys.take(Key::of("three"), start + WINDOW), Ok(()));
    }
}
