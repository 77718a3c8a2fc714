//! What a queue promises, chosen by whoever creates it and the same for everybody who opens it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::retry::Backoff;

/// How a queue behaves, fixed when it is created.
///
/// ```
/// use ipc_proto::QueueSettings;
///
/// let settings = QueueSettings { capacity: 64, ..QueueSettings::default() };
/// settings.validate()?;
/// # Ok::<(), ipc_proto::SettingsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSettings {
    /// How many messages it holds, exactly; those leased, delayed or dead count. 1 to 1,048,576.
    pub capacity: u32,
    /// Payloads up to this many bytes travel in the cell itself. At most 65,472.
    pub inline_bytes: u32,
    /// The largest payload, in bytes. At most 1 GiB.
    pub max_message_bytes: u32,
    /// Memory for payloads that do not fit inline, in bytes. What exceeds it waits, like a full queue.
    pub pool_bytes: u64,
    /// How many attempts a message gets before it becomes a dead letter, whatever ended them. Snoozing is not an attempt.
    /// 1 to 250.
    pub attempt_limit: u8,
    /// How many receivers may die over a message before it becomes a dead letter. 1 to 250.
    pub crash_limit: u8,
    /// How many leases of a message may end by time before it becomes a dead letter. 1 to 250.
    pub expiry_limit: u8,
    /// How long a message waits after a failure.
    pub backoff: Backoff,
    /// How long a receiver may hold a message that it neither settles nor extends. `None`: for as
    /// long as it lives; only its death ends the lease. 1 ms to 1 year, kept to the millisecond.
    pub lease: Option<Duration>,
    /// How many processes may be attached at once, tools such as the command `ipc` not counted. 1
    /// to 503.
    pub max_participants: u16,
    /// Whether messages have priorities. Each of the four then has places and memory of its own: `capacity` and
    /// `pool_bytes` hold for each.
    pub priorities: bool,
    /// A message that waited this long goes before fresh ones of the next higher priority; twice as long, before those
    /// of the one after. 1 ms to 1 year.
    pub ageing: Duration,
    /// For how long a message's key is remembered, so that it is not sent twice. `None`: messages have no keys.
    /// 1 ms to 1 year, kept to the millisecond.
    pub dedup_window: Option<Duration>,
    /// How many keys are remembered at once, at least. 64 to 16,777,216, a power of two.
    pub dedup_keys: u32,
}

impl QueueSettings {
    /// The most messages one queue can hold.
    pub const MAX_CAPACITY: u32 = 1 << 20;
    /// The largest inline payload, in bytes.
    pub const MAX_INLINE_BYTES: u32 = 64 * 1023;
    /// The largest payload, in bytes.
    pub const MAX_MESSAGE_BYTES: u32 = 1 << 30;
    /// The most deliveries of one message.
    pub const MAX_ATTEMPTS: u8 = 250;
    /// The most attached processes: 511 can be told apart, and 8 slots are kept for tools.
    pub const MAX_PARTICIPANTS: u16 = 503;
    /// The shortest lease.
    pub const MIN_LEASE: Duration = Duration::from_millis(1);
    /// The longest lease.
    pub const MAX_LEASE: Duration = Duration::from_secs(365 * 24 * 3600);
    /// The fewest keys that are remembered.
    pub const MIN_DEDUP_KEYS: u32 = 64;
    /// The most keys that are remembered.
    pub const MAX_DEDUP_KEYS: u32 = 1 << 24;

    /// The default settings with another capacity.
    #[must_use]
    pub fn with_capacity(capacity: u32) -> Self {
        Self {
            capacity,
            ..Self::default()
        }
    }

    /// Every field by its name, with its value as text, in the order of their declaration.
    #[must_use]
    pub fn fields(&self) -> [(&'static str, String); 14] {
        [
            ("capacity", self.capacity.to_string()),
            ("inline_bytes", self.inline_bytes.to_string()),
            ("max_message_bytes", self.max_message_bytes.to_string()),
            ("pool_bytes", self.pool_bytes.to_string()),
            ("attempt_limit", self.attempt_limit.to_string()),
            ("crash_limit", self.crash_limit.to_string()),
            ("expiry_limit", self.expiry_limit.to_string()),
            ("backoff", format!("{:?}", self.backoff)),
            ("lease", format!("{:?}", self.lease)),
            ("max_participants", self.max_participants.to_string()),
            ("priorities", self.priorities.to_string()),
            ("ageing", format!("{:?}", self.ageing)),
            ("dedup_window", format!("{:?}", self.dedup_window)),
            ("dedup_keys", self.dedup_keys.to_string()),
        ]
    }

    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`SettingsError::OutOfRange`] names the first field outside its range.
    pub fn validate(&self) -> Result<(), SettingsError> {
        check(
            "capacity",
            self.capacity.into(),
            1,
            Self::MAX_CAPACITY.into(),
        )?;
        check(
            "inline_bytes",
            self.inline_bytes.into(),
            0,
            Self::MAX_INLINE_BYTES.into(),
        )?;
        let (given, most) = (
            self.max_message_bytes.into(),
            Self::MAX_MESSAGE_BYTES.into(),
        );
        check("max_message_bytes", given, 0, most)?;
        if self.max_message_bytes > self.inline_bytes {
            // One message of the largest size must fit, or it could never be sent.
            let least = self.max_message_bytes.into();
            check("pool_bytes", self.pool_bytes, least, 1 << 40)?;
        }
        for (field, limit) in [
            ("attempt_limit", self.attempt_limit),
            ("crash_limit", self.crash_limit),
            ("expiry_limit", self.expiry_limit),
        ] {
            check(field, limit.into(), 1, Self::MAX_ATTEMPTS.into())?;
        }
        self.check_backoff()?;
        let participants = self.max_participants.into();
        check(
            "max_participants",
            participants,
            1,
            Self::MAX_PARTICIPANTS.into(),
        )?;
        for (field, time) in [
            ("lease (in ms)", self.lease),
            ("ageing (in ms)", Some(self.ageing)),
            ("dedup_window (in ms)", self.dedup_window),
        ] {
            let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
            let (least, most) = (millis(Self::MIN_LEASE), millis(Self::MAX_LEASE));
            time.map_or(Ok(()), |time| check(field, millis(time), least, most))?;
        }
        check(
            "dedup_keys",
            self.dedup_keys.into(),
            Self::MIN_DEDUP_KEYS.into(),
            Self::MAX_DEDUP_KEYS.into(),
        )?;
        if !self.dedup_keys.is_power_of_two() {
            return Err(SettingsError::NoPowerOfTwo {
                field: "dedup_keys",
                given: self.dedup_keys.into(),
            });
        }
        Ok(())
    }

    fn check_backoff(&self) -> Result<(), SettingsError> {
        if let Backoff::List(delays) = &self.backoff {
            let most = Backoff::MAX_LIST as u64;
            check("backoff (delays in its list)", delays.len() as u64, 1, most)?;
        }
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let most = millis(Backoff::MAX_DELAY);
        let delays = self.backoff.delays().into_iter();
        delays
            .map(millis)
            .try_for_each(|delay| check("backoff (in ms)", delay, 1, most))
    }
}

/// 1,024 messages up to 192 bytes inline, larger ones to 1 MiB in a pool of 8 MiB, 12 attempts with an
/// exponential back-off from 100 ms to a minute, 5 crashes, 2 ended leases, no lease time-out,
/// 256 processes, no priorities, no keys.
impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            capacity: 1024,
            inline_bytes: 192,
            max_message_bytes: 1 << 20,
            pool_bytes: 8 << 20,
            attempt_limit: 12,
            crash_limit: 5,
            expiry_limit: 2,
            backoff: Backoff::default(),
            lease: None,
            max_participants: 256,
            priorities: false,
            ageing: Duration::from_secs(10),
            dedup_window: None,
            dedup_keys: 4096,
        }
    }
}

/// Why settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A field lies outside its range.
    #[error("queue setting {field} is {given}: it must be from {least} to {most}")]
    OutOfRange {
        /// Which.
        field: &'static str,
        /// What it is.
        given: u64,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
    /// A field must be a power of two.
    #[error("queue setting {field} is {given}: it must be a power of two")]
    NoPowerOfTwo {
        /// Which.
        field: &'static str,
        /// What it is.
        given: u64,
    },
}

fn check(field: &'static str, given: u64, least: u64, most: u64) -> Result<(), SettingsError> {
    if (least..=most).contains(&given) {
        return Ok(());
    }
    Err(SettingsError::OutOfRange {
        field,
        given,
        least,
        most,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        QueueSettings::default().validate().unwrap();
    }

    #[test]
    fn each_field_is_held_to_its_range_and_named() {
        let refused = |change: fn(&mut QueueSettings)| {
            let mut settings = QueueSettings::default();
            change(&mut settings);
            settings.validate().unwrap_err().to_string()
        };
        assert!(refused(|s| s.capacity = 0).contains("capacity is 0"));
        assert!(refused(|s| s.capacity = (1 << 20) + 1).contains("1048576"));
        assert!(refused(|s| s.inline_bytes = 65_473).contains("inline_bytes"));
        assert!(refused(|s| s.pool_bytes = 1000).contains("pool_bytes is 1000"));
        assert!(refused(|s| s.attempt_limit = 251).contains("attempt_limit"));
        assert!(refused(|s| s.attempt_limit = 0).contains("attempt_limit"));
        assert!(refused(|s| s.crash_limit = 0).contains("crash_limit"));
        assert!(refused(|s| s.expiry_limit = 251).contains("expiry_limit"));
        assert!(refused(|s| s.backoff = Backoff::Fixed(Duration::ZERO)).contains("backoff"));
        assert!(refused(|s| s.backoff = Backoff::List(Vec::new())).contains("list"));
        assert!(refused(|s| s.max_participants = 504).contains("max_participants"));
        assert!(refused(|s| s.lease = Some(Duration::from_micros(5))).contains("lease"));
        assert!(refused(|s| s.ageing = Duration::ZERO).contains("ageing"));
        assert!(refused(|s| s.dedup_window = Some(Duration::ZERO)).contains("dedup_window"));
        assert!(refused(|s| s.dedup_keys = 63).contains("dedup_keys"));
        assert!(refused(|s| s.dedup_keys = 65).contains("power of two"));
    }

    #[test]
    fn a_pool_is_needed_only_for_what_does_not_fit_inline() {
        let settings = QueueSettings {
            inline_bytes: 64,
            max_message_bytes: 64,
            pool_bytes: 0,
            ..QueueSettings::default()
        };
        settings.validate().unwrap();
    }
}
