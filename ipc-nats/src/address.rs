//! `nats://host[:port][,host2[:port]…]/queue[?replicas=3][&storage=memory]`

use std::fmt;

use async_nats::ServerAddr;
use async_nats::jetstream::stream::StorageType;
use ipc_proto::Name;
use ipc_queue::QueueError;

/// Where a queue is, and how to keep it if it is to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsAddress {
    /// `host:port`, at least one; those of one cluster.
    pub servers: Vec<String>,
    /// What the queue is called.
    pub name: Name,
    /// On how many servers each message is kept, 1 to 5. Only for a queue that is created.
    pub replicas: usize,
    /// Whether messages are kept in the servers' memory only. Only for a queue that is created.
    pub in_memory: bool,
}

const MOST_REPLICAS: usize = 5;

impl NatsAddress {
    /// Reads what follows `nats:` in an address.
    ///
    /// # Errors
    /// [`QueueError::Address`] says what is wrong with it.
    pub fn parse(rest: &str) -> Result<Self, QueueError> {
        let bad = |reason: String| QueueError::Address {
            address: format!("nats:{rest}"),
            reason,
        };
        let form = "write nats://HOST[:PORT][,HOST[:PORT]]/QUEUE[?replicas=3&storage=memory]";
        let place = rest.strip_prefix("//");
        let (servers, queue) = place
            .and_then(|place| place.split_once('/'))
            .ok_or_else(|| bad(form.to_owned()))?;
        let servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
        for server in &servers {
            let known = format!("nats://{server}").parse::<ServerAddr>();
            known.map_err(|error| bad(format!("{server:?} is no server: {error}; {form}")))?;
        }
        let (name, query) = queue.split_once('?').unwrap_or((queue, ""));
        let name = Name::new(name).map_err(|error| bad(error.to_string()))?;
        let mut address = Self {
            servers,
            name,
            replicas: 1,
            in_memory: false,
        };
        for option in query.split('&').filter(|option| !option.is_empty()) {
            address.set(option).map_err(bad)?;
        }
        Ok(address)
    }

    fn set(&mut self, option: &str) -> Result<(), String> {
        match option.split_once('=') {
            Some(("replicas", count)) => {
                let count = count.parse().ok();
                let count = count.filter(|count| (1..=MOST_REPLICAS).contains(count));
                self.replicas =
                    count.ok_or_else(|| format!("replicas must be 1 to {MOST_REPLICAS}"))?;
            }
            Some(("storage", "memory")) => self.in_memory = true,
            Some(("storage", "file")) => self.in_memory = false,
            _ => {
                return Err(format!(
                    "{option:?} is no option: there are replicas=1 to {MOST_REPLICAS}, storage=file and storage=memory"
                ));
            }
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

/// As it is written, without what only matters to whoever creates it.
impl fmt::Display for NatsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nats://{}/{}", self.servers.join(","), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_and_how() {
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
    fn a_bad_address_is_quoted_with_what_is_wrong() {
        for (rest, reason) in [
            ("jobs", "write nats://"),
            ("//host", "write nats://"),
            ("//host:port/jobs", "no server"),
            ("//host/Jobs", "'J' at byte 0"),
            ("//host/jobs?replicas=9", "1 to 5"),
            ("//host/jobs?colour=red", "no option"),
        ] {
            let error = NatsAddress::parse(rest).unwrap_err().to_string();
            assert!(error.contains(rest) && error.contains(reason), "{error}");
        }
    }
}
