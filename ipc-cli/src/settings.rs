//! The settings of a queue, as given on the command line and as shown.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use ipc_proto::QueueSettings;
use ipc_queue::{Backoff, QueueOptions};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::format;

/// Settings for a queue to create. An existing queue must have the same values for those that are
/// given.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Settings of a new queue")]
pub struct Settings {
    /// Number of messages that fit, counting those that are leased, delayed or dead [default: 1024]
    #[arg(long, value_name = "MESSAGES")]
    pub capacity: Option<u32>,
    /// Largest payload that is stored without memory of the pool [default: 192]
    #[arg(long, value_name = "BYTES", value_parser = bytes::<u32>)]
    pub inline_bytes: Option<u32>,
    /// Largest payload [default: 1MiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes::<u32>)]
    pub max_message_bytes: Option<u32>,
    /// Memory for payloads that do not fit inline [default: 8MiB]
    #[arg(long, value_name = "BYTES", value_parser = bytes::<u64>)]
    pub pool_bytes: Option<u64>,
    /// Number of attempts before a message becomes a dead letter [default: 12]
    #[arg(long, value_name = "ATTEMPTS")]
    pub attempt_limit: Option<u8>,
    /// Number of receivers that may die while holding a message before it becomes a dead letter
    /// [default: 5]
    #[arg(long, value_name = "CRASHES")]
    pub crash_limit: Option<u8>,
    /// Number of leases of a message that may expire before it becomes a dead letter [default: 2]
    #[arg(long, value_name = "LEASES")]
    pub expiry_limit: Option<u8>,
    /// Delay of a message after a failure: none, one time (5s), a list (1s,10s,60s), or a range in
    /// which it doubles (100ms..1m) [default: 100ms..1m]
    #[arg(long, value_name = "TIMES", value_parser = backoff)]
    pub backoff: Option<Backoff>,
    /// Time for which a receiver may hold a message [default: for as long as it lives]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub lease: Option<Duration>,
    /// Number of processes that may be attached at once, not counting commands [default: 256]
    #[arg(long, value_name = "PROCESSES")]
    pub max_participants: Option<u16>,
    /// Give messages priorities; capacity and pool then apply to each of the four
    #[arg(long)]
    pub priorities: bool,
    /// Time after which a waiting message is raised to the next higher priority [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub aging: Option<Duration>,
    /// Let messages have keys, and remember each key for this long [default: no keys]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub dedup_window: Option<Duration>,
    /// Number of keys that are remembered at once, a power of two [default: 4096]
    #[arg(long, value_name = "KEYS")]
    pub dedup_keys: Option<u32>,
    /// Rust type name of the payloads [default: plain bytes]
    #[arg(long = "type", value_name = "NAME")]
    pub type_name: Option<String>,
}

impl Settings {
    /// Checks that each setting of a new queue has an effect.
    pub fn check_effect(&self) -> Result<()> {
        let vain = |setting, without| {
            Err(Exit::Usage.error(format!("--{setting} has no effect without --{without}")))
        };
        match self {
            Self {
                dedup_keys: Some(_),
                dedup_window: None,
                ..
            } => vain("dedup-keys", "dedup-window"),
            Self {
                aging: Some(_),
                priorities: false,
                ..
            } => vain("aging", "priorities"),
            _ => Ok(()),
        }
    }

    /// Returns `options` with the given settings applied.
    pub fn apply(&self, mut options: QueueOptions) -> QueueOptions {
        macro_rules! given {
            ($($setting:ident)*) => {$(
                if let Some(value) = &self.$setting {
                    options = options.$setting(value.clone());
                }
            )*};
        }
        given!(capacity inline_bytes max_message_bytes pool_bytes attempt_limit lease);
        given!(crash_limit expiry_limit backoff max_participants aging dedup_window dedup_keys);
        if self.priorities {
            options = options.priorities(true);
        }
        if let Some(name) = &self.type_name {
            options = options.type_name(name);
        }
        options
    }
}

/// Returns every setting for programs.
pub fn value(settings: &QueueSettings) -> Value {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    json!({
        "capacity": settings.capacity,
        "inline_bytes": settings.inline_bytes,
        "max_message_bytes": settings.max_message_bytes,
        "pool_bytes": settings.pool_bytes,
        "attempt_limit": settings.attempt_limit,
        "crash_limit": settings.crash_limit,
        "expiry_limit": settings.expiry_limit,
        "backoff": backoff_value(&settings.backoff),
        "lease_seconds": seconds(settings.lease),
        "max_participants": settings.max_participants,
        "priorities": settings.priorities,
        "aging_seconds": settings.aging.as_secs_f64(),
        "dedup_window_seconds": seconds(settings.dedup_window),
        "dedup_keys": settings.dedup_keys,
    })
}

fn backoff_value(backoff: &Backoff) -> Value {
    let (kind, delays) = match backoff {
        Backoff::None => ("none", Vec::new()),
        Backoff::Fixed(delay) => ("fixed", vec![*delay]),
        Backoff::List(delays) => ("list", delays.clone()),
        Backoff::Exponential { first, most } => ("exponential", vec![*first, *most]),
    };
    let delays: Vec<_> = delays.iter().map(Duration::as_secs_f64).collect();
    json!({ "kind": kind, "delays_seconds": delays })
}

/// Returns every setting in words, under the name of its `ipc create` option.
pub fn in_words(settings: &QueueSettings) -> Vec<(&'static str, String)> {
    let lease = settings
        .lease
        .map_or_else(|| "until its holder dies".to_owned(), format::time);
    let (priorities, aging) = match settings.priorities {
        true => ("four", format::time(settings.aging)),
        false => ("none", "not used".to_owned()),
    };
    let (window, keys) = match settings.dedup_window {
        Some(window) => (format::time(window), settings.dedup_keys.to_string()),
        None => ("no keys".to_owned(), "not used".to_owned()),
    };
    vec![
        ("capacity", format!("{} messages", settings.capacity)),
        ("inline-bytes", format::bytes(settings.inline_bytes.into())),
        (
            "max-message-bytes",
            format::bytes(settings.max_message_bytes.into()),
        ),
        ("pool-bytes", format::bytes(settings.pool_bytes)),
        ("attempt-limit", settings.attempt_limit.to_string()),
        ("crash-limit", settings.crash_limit.to_string()),
        ("expiry-limit", settings.expiry_limit.to_string()),
        ("backoff", backoff_in_words(&settings.backoff)),
        ("lease", lease),
        ("max-participants", settings.max_participants.to_string()),
        ("priorities", priorities.to_owned()),
        ("aging", aging),
        ("dedup-window", window),
        ("dedup-keys", keys),
    ]
}

/// Describes the size of the key table, and the rate of new keys that it allows. `None`: no keys.
pub fn keys_in_words(settings: &QueueSettings) -> Option<String> {
    let window = settings.dedup_window?;
    let most = settings.dedup_keys;
    let rate = f64::from(most) / window.as_secs_f64().max(1e-3);
    let rate = match rate {
        rate if rate >= 10.0 => format!("{rate:.0} a second"),
        rate if rate >= 0.2 => format!("{rate:.1} a second"),
        rate => format!("{:.1} a minute", rate * 60.0),
    };
    Some(format!(
        "at least {most} at once, each for {}: {rate} sustained (--dedup-keys)",
        format::time(window)
    ))
}

/// `none`, `5s`, `1s,10s,60s`, `100ms..1m`.
fn backoff(text: &str) -> Result<Backoff, String> {
    let time = |text: &str| {
        humantime::parse_duration(text.trim()).map_err(|error| format!("{text:?}: {error}"))
    };
    if text == "none" {
        return Ok(Backoff::None);
    }
    if let Some((first, most)) = text.split_once("..") {
        let (first, most) = (time(first)?, time(most)?);
        return Ok(Backoff::Exponential { first, most });
    }
    let times: Vec<Duration> = text.split(',').map(time).collect::<Result<_, _>>()?;
    Ok(match times[..] {
        [only] => Backoff::Fixed(only),
        _ => Backoff::List(times),
    })
}

/// Formats a backoff as it is given on the command line.
fn backoff_in_words(backoff: &Backoff) -> String {
    let time = |time: Duration| humantime::format_duration(time).to_string();
    match backoff {
        Backoff::None => "none".to_owned(),
        Backoff::Fixed(delay) => time(*delay),
        Backoff::Exponential { first, most } => format!("{}..{}", time(*first), time(*most)),
        Backoff::List(delays) => delays
            .iter()
            .copied()
            .map(time)
            .collect::<Vec<_>>()
            .join(","),
    }
}

/// `4096`, `300k`, `8MiB`.
fn bytes<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..].to_ascii_lowercase()[..] {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        unit => {
            return Err(format!(
                "unknown unit {unit:?} (available: B, KiB, MiB, GiB)"
            ));
        }
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{digits:?} is not a number"))?;
    let number = number.checked_mul(1 << shift);
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("{text} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes::<u32>("4096"), Ok(4096));
        assert_eq!(bytes::<u64>("8MiB"), Ok(8 << 20));
        assert_eq!(bytes::<u32>("300k"), Ok(300 << 10));
        assert!(bytes::<u32>("5GiB").unwrap_err().contains("too large"));
        assert!(bytes::<u32>("5 parsecs").is_err() && bytes::<u32>("").is_err());
    }

    #[test]
    fn a_backoff_is_shown_in_its_input_form() {
        for text in ["none", "5s", "1s,10s,1m", "100ms..1m"] {
            assert_eq!(backoff_in_words(&backoff(text).unwrap()), text);
        }
        assert_eq!(backoff("100ms..1m"), Ok(Backoff::default()));
        assert!(backoff("soon").is_err() && backoff("1s..").is_err());
    }

    #[test]
    fn the_help_shows_the_defaults() {
        let defaults = QueueSettings::default();
        let mut command = Settings::augment_args(clap::Command::new("create"));
        let help = command.render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for default in [
            defaults.capacity.to_string(),
            defaults.inline_bytes.to_string(),
            defaults.attempt_limit.to_string(),
            defaults.crash_limit.to_string(),
            defaults.expiry_limit.to_string(),
            backoff_in_words(&defaults.backoff),
            defaults.max_participants.to_string(),
            defaults.dedup_keys.to_string(),
            humantime::format_duration(defaults.aging).to_string(),
        ] {
            assert!(
                help.contains(&format!("[default: {default}]")),
                "no {default} in {help}"
            );
        }
        for (size, default) in [
            (defaults.max_message_bytes.into(), "1MiB"),
            (defaults.pool_bytes, "8MiB"),
        ] {
            assert_eq!(bytes(default), Ok(size));
            assert!(
                help.contains(&format!("[default: {default}]")),
                "no {default} in {help}"
            );
        }
    }

    #[test]
    fn every_setting_is_shown_by_the_name_of_its_option() {
        let shown = in_words(&QueueSettings::default());
        let shown: Vec<_> = shown.iter().map(|(name, _)| format!("--{name}")).collect();
        let known = crate::advice::SETTINGS.map(|(_, option)| option);
        assert_eq!(shown, known);
    }
}
