//! Queue addresses.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipc_proto::Name;

use crate::error::QueueError;

/// The place of a queue. `Display` writes all of it, including a login; `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// `local:NAME`: a queue among the threads of this process.
    Local {
        /// The queue's name.
        name: Name,
    },
    /// `shm:NAME` or `shm:NAMESPACE/NAME`: a queue among this user's processes on this machine.
    Shm {
        /// The namespace; `default` if none is given.
        namespace: Name,
        /// The queue's name.
        name: Name,
    },
    /// `unix:/PATH` or `unix:/PATH?timeout=2s`: a queue that is served at a socket on this machine.
    Unix {
        /// The socket's file. Absolute, so that it is the same for every process.
        path: PathBuf,
        /// The time that the server may take for an answer before it counts as unreachable.
        timeout: Option<Duration>,
    },
    /// `SCHEME:REST`: a queue of another crate's transport, which
    /// [registered](crate::transport::register) that scheme.
    Other {
        /// The part before the first colon.
        scheme: String,
        /// The part after the first colon. Only the transport interprets it.
        rest: String,
    },
}

/// The schemes of this crate's own transports.
pub(crate) const BUILT_IN: [&str; 3] = ["local", "shm", "unix"];
const DEFAULT_NAMESPACE: &str = "default";

impl FromStr for Address {
    type Err = QueueError;

    fn from_str(text: &str) -> Result<Self, QueueError> {
        let bad = |reason: String| QueueError::Address {
            address: without_secrets(text),
            reason,
        };
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(bad(
                "the scheme is missing; write local:NAME, shm:NAME or unix:/PATH".to_owned(),
            ));
        };
        let name = |text: &str| Name::new(text).map_err(|error| bad(error.to_string()));
        match scheme {
            "local" => Ok(Self::Local { name: name(rest)? }),
            "shm" => {
                let (namespace, rest) = rest.split_once('/').unwrap_or((DEFAULT_NAMESPACE, rest));
                Ok(Self::Shm {
                    namespace: name(namespace)?,
                    name: name(rest)?,
                })
            }
            "unix" if rest.starts_with('/') => match rest.rsplit_once("?timeout=") {
                None => Ok(Self::Unix {
                    path: rest.into(),
                    timeout: None,
                }),
                Some((path, time)) => Ok(Self::Unix {
                    path: path.into(),
                    timeout: Some(duration(time).ok_or_else(|| {
                        bad(format!(
                            "{time:?} is not a time; write ?timeout=2s or 500ms"
                        ))
                    })?),
                }),
            },
            "unix" => Err(bad(
                "a socket's path begins with '/', as in unix:/run/user/1000/jobs".to_owned(),
            )),
            other => Ok(Self::Other {
                scheme: other.to_owned(),
                rest: rest.to_owned(),
            }),
        }
    }
}

/// The address parameter of functions that open queues: a text, or an [`Address`].
pub trait ToAddress {
    /// Returns the address.
    ///
    /// # Errors
    /// [`QueueError::Address`] for a text that is not an address.
    fn to_address(&self) -> Result<Address, QueueError>;
}

impl ToAddress for str {
    fn to_address(&self) -> Result<Address, QueueError> {
        self.parse()
    }
}

impl ToAddress for String {
    fn to_address(&self) -> Result<Address, QueueError> {
        self.parse()
    }
}

impl ToAddress for Address {
    fn to_address(&self) -> Result<Address, QueueError> {
        Ok(self.clone())
    }
}

impl<A: ToAddress + ?Sized> ToAddress for &A {
    fn to_address(&self) -> Result<Address, QueueError> {
        (**self).to_address()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { name } => write!(f, "local:{name}"),
            Self::Shm { namespace, name } => write!(f, "shm:{namespace}/{name}"),
            Self::Unix { path, timeout } => {
                write!(f, "unix:{}", path.display())?;
                match timeout {
                    Some(time) => write!(f, "?timeout={}ms", time.as_millis()),
                    None => Ok(()),
                }
            }
            Self::Other { scheme, rest } => write!(f, "{scheme}:{rest}"),
        }
    }
}

/// Parses a positive whole number of seconds or milliseconds: `2s`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let time = match text.strip_suffix("ms") {
        Some(millis) => Duration::from_millis(millis.parse().ok()?),
        None => Duration::from_secs(text.strip_suffix('s')?.parse().ok()?),
    };
    (!time.is_zero()).then_some(time)
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = without_secrets(&self.to_string());
        f.debug_tuple("Address").field(&shown).finish()
    }
}

/// Returns an address without secrets: without the login and the options that an address of the
/// form `SCHEME://LOGIN@HOST/NAME?OPTIONS` may have. If the address is malformed, shows too little
/// rather than too much.
#[must_use]
pub fn without_secrets(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("//") else {
        // A path, which may contain any character, or a name, which cannot contain an `@`.
        let is_path = address.starts_with("unix:");
        return match address.rsplit_once('@') {
            Some((_, rest)) if !is_path => format!("…@{rest}"),
            _ => address.to_owned(),
        };
    };
    let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
    if is_login_cut(place, options) {
        return format!("{scheme}//…");
    }
    let (login, place) = place.rsplit_once('@').unwrap_or(("", place));
    match login {
        "" => format!("{scheme}//{place}"),
        _ => format!("{scheme}//…@{place}"),
    }
}

/// Returns whether the text before the question mark may be the beginning of a login. Then no host
/// follows it, or the question mark is part of the password.
fn is_login_cut(place: &str, options: &str) -> bool {
    let is_bare = !place.contains('/') && place.contains(':');
    let before = options.split_once('@').map(|(before, _)| before);
    !place.contains('@') && (is_bare || before.is_some_and(|before| !before.contains('=')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_their_text() {
        for text in [
            "local:jobs",
            "shm:media/jobs",
            "unix:/run/jobs.sock",
            "unix:/run/jobs.sock?timeout=1500ms",
            "nats://host:4222/jobs",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!(
            "shm:jobs".parse::<Address>().unwrap().to_string(),
            "shm:default/jobs"
        );
    }

    #[test]
    fn a_login_is_never_shown() {
        for (address, shown) in [
            ("nats://ann:hush@host/jobs?ca=a", "nats://…@host/jobs"),
            ("nats://ann:hu/sh@host/jobs", "nats://…@host/jobs"),
            ("nats://ann:hush@one,ann:hush@two/jobs", "nats://…@two/jobs"),
            ("nats://ann:hush", "nats://…"),
            ("nats://ann:hu/s?h@host/jobs", "nats://…"),
            ("nats://host/jobs?ca=/a@b", "nats://host/jobs"),
            ("nats:ann:hush@host/jobs", "…@host/jobs"),
            ("nats://host:4222/jobs", "nats://host:4222/jobs"),
            ("unix:/run/a@b", "unix:/run/a@b"),
            ("shm:jobs", "shm:jobs"),
        ] {
            assert_eq!(without_secrets(address), shown);
        }
    }

    #[test]
    fn a_bad_address_is_quoted_with_the_reason() {
        for (text, reason) in [
            ("jobs", "scheme is missing"),
            ("shm:a/b/c", "'/' at byte 1"),
            ("local:", "empty"),
            ("shm:Jobs", "'J' at byte 0"),
            ("unix:jobs.sock", "begins with '/'"),
            ("unix:/jobs.sock?timeout=soon", "not a time"),
            ("unix:/jobs.sock?timeout=0s", "not a time"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains(reason), "{error}");
        }
    }
}
