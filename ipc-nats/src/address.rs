//! Addresses:
//!
//! ```text
//! nats://[user:password@]host[:port][,host2[:port]…]/queue
//!     [?replicas=3][&storage=memory][&tls=required]…
//! ```

use std::fmt;

use async_nats::ServerAddr;
use async_nats::jetstream::stream::StorageType;
use ipc_proto::Name;
use ipc_queue::{QueueError, without_secrets};

use crate::options::NatsOptions;

/// The servers of a queue, how to reach them, and how to store the queue if it is created.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatsAddress {
    /// `host:port`, at least one; all belong to one cluster. Without a login.
    pub servers: Vec<String>,
    /// The queue's name.
    pub name: Name,
    /// The number of servers that keep each message, 1 to 5. Only for a queue that is created.
    pub replicas: usize,
    /// Keeps messages only in the servers' memory. Only for a queue that is created.
    pub in_memory: bool,
    /// Login, TLS and time-out.
    pub options: NatsOptions,
}

const MOST_REPLICAS: usize = 5;
const OPTIONS: &str = "creds=FILE, nkey=FILE, tls=required or first, ca=FILE, cert=FILE with \
    key=FILE, and timeout=5s";
const FORM_OF_LOGIN: &str = "a login is USER:PASSWORD@ or TOKEN@; write %2F for a slash in it, \
    %2C for a comma, %3F for a question mark, %40 for an @ and %25 for a percent sign";

impl NatsAddress {
    /// Parses the part of an address after `nats:`.
    ///
    /// # Errors
    /// [`QueueError::Address`] says what is wrong with it.
    pub fn parse(rest: &str) -> Result<Self, QueueError> {
        let bad = |reason: String| QueueError::Address {
            address: without_secrets(&format!("nats:{rest}")),
            reason,
        };
        let form = "write \
            nats://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]]/QUEUE[?replicas=3&storage=memory]";
        let place = rest
            .strip_prefix("//")
            .ok_or_else(|| bad(form.to_owned()))?;
        let (place, query) = place.split_once('?').unwrap_or((place, ""));
        let is_login_cut = query
            .split_once('@')
            .is_some_and(|(before, _)| !before.contains('='));
        if is_login_cut && !place.contains('@') {
            return Err(bad(FORM_OF_LOGIN.to_owned()));
        }
        let (login, place) = place.rsplit_once('@').unwrap_or(("", place));
        let (servers, name) = place.split_once('/').ok_or_else(|| bad(form.to_owned()))?;
        let name = Name::new(name).map_err(|error| bad(error.to_string()))?;
        let mut options = NatsOptions::new();
        let mut servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
        if login.contains(',') {
            let (first, others) = logins(login).ok_or_else(|| {
                bad(format!(
                    "every host has the same login, which stands before the first; {FORM_OF_LOGIN}"
                ))
            })?;
            servers.splice(0..0, others);
            options = first;
        } else if !login.is_empty() {
            options = login_in(login).ok_or_else(|| bad(FORM_OF_LOGIN.to_owned()))?;
        }
        for server in &servers {
            let known = format!("nats://{server}").parse::<ServerAddr>();
            let known = known.map_err(|error| error.to_string()).and_then(|known| {
                let is_plain = !known.host().is_empty() && !known.has_user_pass();
                is_plain.then_some(known).ok_or("no host".to_owned())
            });
            known.map_err(|error| bad(format!("{server:?} is not a server: {error}; {form}")))?;
        }
        let mut address = Self {
            servers,
            name,
            replicas: 1,
            in_memory: false,
            options,
        };
        for option in query.split('&').filter(|option| !option.is_empty()) {
            address.set(option).map_err(bad)?;
        }
        address.options.check().map_err(bad)?;
        Ok(address)
    }

    fn set(&mut self, option: &str) -> Result<(), String> {
        let (option, value) = option.split_once('=').unwrap_or((option, ""));
        let value = decoded(value).ok_or_else(|| format!("the value of {option:?} is not text"))?;
        match (option, &*value) {
            ("replicas", count) => {
                let count = count.parse().ok();
                let count = count.filter(|count| (1..=MOST_REPLICAS).contains(count));
                self.replicas =
                    count.ok_or_else(|| format!("replicas must be 1 to {MOST_REPLICAS}"))?;
            }
            ("storage", "memory") => self.in_memory = true,
            ("storage", "file") => self.in_memory = false,
            ("storage", _) => return Err("storage must be file or memory".to_owned()),
            ("creds" | "nkey", _) if self.options.has_login() => {
                return Err("there are two logins: give one".to_owned());
            }
            (option, value) => self.options.set(option, value).map_err(|reason| {
                format!(
                    "{reason}; there are replicas=1 to {MOST_REPLICAS}, storage=file and \
                    storage=memory, {OPTIONS}"
                )
            })?,
        }
        Ok(())
    }

    pub(crate) fn storage(&self) -> StorageType {
        storage(self.in_memory)
    }
}

pub(crate) fn storage(in_memory: bool) -> StorageType {
    if in_memory {
        StorageType::Memory
    } else {
        StorageType::File
    }
}

/// The login of an address: `USER:PASSWORD`, or a token.
fn login_in(text: &str) -> Option<NatsOptions> {
    let options = NatsOptions::new();
    Some(match text.split_once(':') {
        Some((user, password)) => options.user(decoded(user)?, decoded(password)?),
        None => options.token(decoded(text)?),
    })
}

/// The login of `LOGIN@HOST,LOGIN@HOST,LOGIN`, if all are the same, and the hosts in it.
fn logins(text: &str) -> Option<(NatsOptions, Vec<String>)> {
    let mut parts = text.split(',').rev();
    let last = parts.next()?;
    let mut hosts = Vec::new();
    for part in parts {
        let (login, host) = part.rsplit_once('@')?;
        if login != last {
            return None;
        }
        hosts.insert(0, host.to_owned());
    }
    Some((login_in(last)?, hosts))
}

fn decoded(text: &str) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded.ok().map(|text| text.into_owned())
}

/// The address without the parts that matter only to the creator.
impl fmt::Display for NatsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nats://{}/{}", self.servers.join(","), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gives_the_place_and_the_options() {
        let all = "//one:4222,two/jobs.a?replicas=3&storage=memory";
        let address = NatsAddress::parse(all).unwrap();
        assert_eq!(address.servers, ["one:4222", "two"]);
        assert_eq!(address.name.as_str(), "jobs.a");
        assert_eq!((address.replicas, address.in_memory), (3, true));
        let plain = NatsAddress::parse("//127.0.0.1/jobs").unwrap();
        assert_eq!((plain.replicas, plain.in_memory), (1, false));
        assert_eq!(plain.to_string(), "nats://127.0.0.1/jobs");
    }

    #[test]
    fn a_bad_address_is_quoted_with_the_reason() {
        for (rest, reason) in [
            ("jobs", "write nats://"),
            ("//host", "write nats://"),
            ("//host:port/jobs", "not a server"),
            ("//host/Jobs", "'J' at byte 0"),
        ] {
            let error = NatsAddress::parse(rest).unwrap_err().to_string();
            assert!(error.contains(rest) && error.contains(reason), "{error}");
        }
        for (query, reason) in [
            ("replicas=9", "1 to 5"),
            ("colour=red", "no option \"colour\""),
            ("cert=a.pem", "belong together"),
            ("timeout=soon", "2s"),
        ] {
            let rest = format!("//host/jobs?{query}");
            let error = NatsAddress::parse(&rest).unwrap_err().to_string();
            assert!(
                error.contains("nats://host/jobs") && error.contains(reason),
                "{error}"
            );
        }
    }

    #[test]
    fn a_login_is_read_and_never_shown() {
        let user = NatsOptions::new().user("ann", "hu/sh");
        for (rest, servers, options) in [
            (
                "//ann:hu%2Fsh@one,two:1/jobs",
                vec!["one", "two:1"],
                user.clone(),
            ),
            (
                "//ann:hu%2Fsh@one,ann:hu%2Fsh@two/jobs",
                vec!["one", "two"],
                user,
            ),
            (
                "//hush@one/jobs",
                vec!["one"],
                NatsOptions::new().token("hush"),
            ),
        ] {
            let address = NatsAddress::parse(rest).unwrap();
            assert_eq!(
                (address.servers.clone(), address.options.clone()),
                (servers.into_iter().map(str::to_owned).collect(), options)
            );
            for shown in [address.to_string(), format!("{address:?}")] {
                assert!(!shown.contains("hu"), "{shown}");
            }
        }
        for rest in [
            "//ann:hu/sh@one/jobs",
            "//ann:hush@one/Jobs",
            "//ann:hush@one",
            "//ann:hush@/jobs",
            "//ann:hush@one,bob:hush@two/jobs",
            "//one/jobs?password=hush",
            "//ann:hush@one/jobs?creds=a",
            "//ann:hush",
            "//ann:hu/s?h@one/jobs",
            "ann:hush@one/jobs",
        ] {
            match NatsAddress::parse(rest) {
                Ok(address) => assert!(!format!("{address:?}{address}").contains("hu"), "{rest}"),
                Err(error) => assert!(!format!("{error:?}{error}").contains("hu"), "{error}"),
            }
        }
    }
}
