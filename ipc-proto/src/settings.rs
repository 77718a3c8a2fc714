//! The settings of a queue: chosen when it is created, the same for every process that opens it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::retry::Backoff;

/// The behavior of a queue, fixed when it is created.
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
    /// The exact number of messages that the queue holds, including leased, delayed and dead ones.
    /// 1 to 1,048,576.
    pub capacity: u32,
    /// Payloads of up to this many bytes are stored in the cell itself. At most 65,472.
    pub inline_bytes: u32,
    /// The maximum payload size, in bytes. At most 1 GiB.
    pub max_message_bytes: u32,
    /// Memory for payloads that do not fit inline, in bytes. While it is used up, a send waits as
    /// for a full queue. In shared memory a payload takes its size, rounded up to a cache line.
    pub pool_bytes: u64,
    /// The number of attempts before a message becomes a dead letter, however they ended. Snoozing
    /// does not count as an attempt. 1 to 250.
    pub attempt_limit: u8,
    /// The number of receivers that may die holding a message before it becomes a dead letter. 1 to
    /// 250.
    pub crash_limit: u8,
    /// The number of leases of a message that may time out before it becomes a dead letter. 1 to
    /// 250.
    pub expiry_limit: u8,
    /// The delay of a message after a failure.
    pub backoff: Backoff,
    /// The time for which a receiver may hold a message without settling it or extending its lease.
    /// `None`: no limit; only the death of the receiver ends the lease. 1 ms to 1 year, rounded to
    /// milliseconds.
    pub lease: Option<Duration>,
    /// The maximum number of processes attached at once. Tools such as the command `ipc` do not
    /// count. 1 to 503.
    pub max_participants: u16,
    /// `true` if messages have priorities. Each of the four priorities then has its own cells and
    /// memory: `capacity` and `pool_bytes` apply to each.
    pub priorities: bool,
    /// A message that waited this long is delivered before new ones of the next higher priority.
    /// After twice this time it is delivered before new ones of the priority above that. 1 ms to 1
    /// year.
    // The alias reads settings that a NATS server stores under the former name.
    #[serde(alias = "ageing")]
    pub aging: Duration,
    /// The time for which a message's key is remembered, so that the message is not sent twice.
    /// `None`: messages have no keys. 1 ms to 1 year, in whole milliseconds.
    pub dedup_window: Option<Duration>,
    /// The minimum number of keys that are remembered at once. 64 to 16,777,216, a power of two.
    pub dedup_keys: u32,
}

impl QueueSettings {
    /// The maximum capacity of a queue, in messages.
    pub const MAX_CAPACITY: u32 = 1 << 20;
    /// The maximum size of an inline payload, in bytes.
    pub const MAX_INLINE_BYTES: u32 = 64 * 1023;
    /// The maximum payload size, in bytes.
    pub const MAX_MESSAGE_BYTES: u32 = 1 << 30;
    /// The maximum number of deliveries of one message.
    pub const MAX_ATTEMPTS: u8 = 250;
    /// The maximum number of attached processes. A cell can name 511 owners, and 8 slots are kept
    /// for tools.
    pub const MAX_PARTICIPANTS: u16 = 503;
    /// The shortest lease.
    pub const MIN_LEASE: Duration = Duration::from_millis(1);
    /// The longest lease.
    pub const MAX_LEASE: Duration = Duration::from_secs(365 * 24 * 3600);
    /// The lowest allowed value of `dedup_keys`.
    pub const MIN_DEDUP_KEYS: u32 = 64;
    /// The highest allowed value of `dedup_keys`.
    pub const MAX_DEDUP_KEYS: u32 = 1 << 24;

    /// Returns the default settings with another capacity.
    #[must_use]
    pub fn with_capacity(capacity: u32) -> Self {
        Self {
            capacity,
            ..Self::default()
        }
    }

    /// Returns the name of each field and its value as text, in declaration order.
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
            ("aging", format!("{:?}", self.aging)),
            ("dedup_window", format!("{:?}", self.dedup_window)),
            ("dedup_keys", self.dedup_keys.to_string()),
        ]
    }

    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`SettingsError`] names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingsError> {
        self.check_sizes()?;
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
            ("aging (in ms)", Some(self.aging)),
            ("dedup_window (in ms)", self.dedup_window),
        ] {
            let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
            let (least, most) = (millis(Self::MIN_LEASE), millis(Self::MAX_LEASE));
            time.map_or(Ok(()), |time| check(field, millis(time), least, most))?;
        }
        self.check_keys()
    }

    fn check_sizes(&self) -> Result<(), SettingsError> {
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
            // The pool must have room for one message of the maximum size, or that message could
            // never be sent.
            let least = self.max_message_bytes.into();
            check("pool_bytes", self.pool_bytes, least, 1 << 40)?;
        }
        Ok(())
    }

    fn check_keys(&self) -> Result<(), SettingsError> {
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
            .try_for_each(|delay| check("backoff (in ms)", delay, 1, most))?;
        match &self.backoff {
            Backoff::Exponential { first, most } => check(
                "backoff (its first delay, in ms)",
                millis(*first),
                1,
                millis(*most),
            ),
            _ => Ok(()),
        }
    }
}

/// Default values:
///
/// - 1,024 messages, up to 192 bytes inline, larger ones up to 1 MiB in a pool of 8 MiB;
/// - 12 attempts, with an exponential backoff from 100 ms to one minute;
/// - a dead letter after 5 crashes or 2 expired leases, but no time limit for leases;
/// - 256 processes, no priorities, no keys.
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
            aging: Duration::from_secs(10),
            dedup_window: None,
            dedup_keys: 4096,
        }
    }
}

/// The reason why settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A field is outside its range.
    #[error("invalid queue setting: {field} is {given}; use a value from {least} to {most}")]
    OutOfRange {
        /// The name of the field.
        field: &'static str,
        /// Its value.
        given: u64,
        /// The lowest allowed value.
        least: u64,
        /// The highest allowed value.
        most: u64,
    },
    /// A field must be a power of two.
    #[error("invalid queue setting: {field} is {given}; use a power of two")]
    NoPowerOfTwo {
        /// The name of the field.
        field: &'static str,
        /// Its value.
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
    fn a_backoff_that_would_shrink_is_refused() {
        let backoff = |first, most| QueueSettings {
            backoff: Backoff::Exponential {
                first: Duration::from_secs(first),
                most: Duration::from_secs(most),
            },
            ..QueueSettings::default()
        };
        assert_eq!(backoff(1, 1).validate(), Ok(()));
        let error = backoff(60, 1).validate().unwrap_err().to_string();
        assert!(
            error.contains("first delay") && error.contains("60000"),
            "{error}"
        );
    }

    #[test]
    fn the_defaults_are_valid() {
        QueueSettings::default().validate().unwrap();
    }

    #[test]
    fn a_setting_outside_its_range_is_refused_by_name() {
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
        assert!(refused(|s| s.aging = Duration::ZERO).contains("aging"));
        assert!(refused(|s| s.dedup_window = Some(Duration::ZERO)).contains("dedup_window"));
        assert!(refused(|s| s.dedup_keys = 63).contains("dedup_keys"));
        assert!(refused(|s| s.dedup_keys = 65).contains("power of two"));
    }

    #[cfg(feature = "json")]
    #[test]
    fn settings_stored_under_a_former_name_are_read() {
        let settings = QueueSettings::default();
        let text = serde_json::to_string(&settings).unwrap();
        let former = text.replace("\"aging\"", "\"ageing\"");
        assert_ne!(text, former);
        assert_eq!(
            serde_json::from_str::<QueueSettings>(&former).unwrap(),
            settings
        );
    }

    #[test]
    fn a_pool_is_required_only_for_payloads_that_do_not_fit_inline() {
        let settings = QueueSettings {
            inline_bytes: 64,
            max_message_bytes: 64,
            pool_bytes: 0,
            ..QueueSettings::default()
        };
        settings.validate().unwrap();
    }
}
