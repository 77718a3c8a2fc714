//! `stat --prometheus`: a queue's figures in Prometheus's text format.

use std::fmt::Write as _;

use anyhow::{Error, Result};
use ipc_queue::QueueStats;
use ipc_queue::shm::Inspector;

use crate::address::{self, Subject};
use crate::format;
use crate::held::{self, Health, Held};
use crate::secrets;
use crate::show::Show;

/// Name, help, value.
type Figure = (&'static str, &'static str, fn(&QueueStats) -> u64);

const COUNTERS: [Figure; 16] = [
    ("sent_total", "Messages accepted.", |stats| stats.sent),
    ("sent_bytes_total", "Bytes of payloads accepted.", |stats| {
        stats.bytes_sent
    }),
    ("refused_total", "Sends that found no room.", |stats| {
        stats.refused
    }),
    (
        "delivered_total",
        "Deliveries, redeliveries included.",
        |stats| stats.received,
    ),
    (
        "delivered_bytes_total",
        "Bytes of payloads delivered.",
        |stats| stats.bytes_received,
    ),
    (
        "redelivered_total",
        "Deliveries that were not their message's first.",
        |stats| stats.redelivered,
    ),
    ("acked_total", "Deliveries acked.", |stats| stats.acked),
    ("nacked_total", "Deliveries nacked.", |stats| stats.nacked),
    ("buried_total", "Deliveries buried.", |stats| stats.buried),
    (
        "lease_expiries_total",
        "Deliveries that ended with their lease.",
        |stats| stats.expiries,
    ),
    (
        "crashes_total",
        "Deliveries that ended with their receiver's death.",
        |stats| stats.crashes,
    ),
    (
        "leases_lost_total",
        "Settlements that came too late.",
        |stats| stats.leases_lost,
    ),
    (
        "expired_total",
        "Messages that were not received in time.",
        |stats| stats.expired,
    ),
    ("purged_total", "Messages purged.", |stats| stats.purged),
    (
        "overflowed_total",
        "Messages dropped to make room for later ones.",
        |stats| stats.overflowed,
    ),
    (
        "duplicates_total",
        "Sends with a key that was remembered.",
        |stats| stats.duplicates,
    ),
];

const GAUGES: [Figure; 10] = [
    ("ready", "Messages that wait.", |stats| stats.ready),
    ("leased", "Messages that a receiver holds.", |stats| {
        stats.leased
    }),
    ("writing", "Messages being written.", |stats| stats.writing),
    ("delayed", "Messages whose delay has not passed.", |stats| {
        stats.delayed
    }),
    ("dead_letters", "Messages given up.", |stats| stats.dead),
    (
        "quarantined",
        "Settled messages whose payload may still be read.",
        |stats| stats.quarantined,
    ),
    ("keys", "Keys remembered.", |stats| stats.keys),
    ("participants", "Processes attached.", |stats| {
        stats.participants
    }),
    ("paused", "1 if nothing is delivered.", |stats| {
        stats.paused.into()
    }),
    ("closed", "1 if no more messages are accepted.", |stats| {
        stats.closed.into()
    }),
];

/// Text for a scraper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

pub fn stat(queue: &str, show: &Show) -> Result<()> {
    let mut families = Families::default();
    families.add_queue(queue, &Subject::open(queue)?)?;
    show.line(&families.text(Format::Prometheus));
    Ok(())
}

/// Returns the figures of these queues, or of all queues in shared memory if none is named. A queue
/// that can't be asked has only `ipc_queue_up 0`; the first such error is returned too.
pub fn metrics(queues: &[String], format: Format) -> Result<(String, Option<Error>)> {
    for queue in queues {
        address::shared(queue)?;
    }
    let mut names = queues.to_vec();
    if names.is_empty() {
        let found = address::queues(None)?.queues;
        names.extend(
            found
                .iter()
                .map(|(space, name)| address::short(space, name)),
        );
    }
    let (mut families, mut failed) = (Families::default(), None);
    for name in names {
        let mut of_queue = Families::default();
        let added = Subject::open(&name).and_then(|queue| of_queue.add_queue(&name, &queue));
        match added {
            Ok(()) => families.append(of_queue),
            Err(error) => {
                failed = failed.or(Some(error.context(format!("asking {name}"))));
                families.add("gauge", "up", UP, &name, 0.0);
            }
        }
    }
    Ok((families.text(format), failed))
}

const UP: &str = "1 if the queue answered.";

/// Samples of all queues, grouped by figure, as scrapers require.
#[derive(Default)]
struct Families(Vec<Family>);

struct Family {
    kind: &'static str,
    name: &'static str,
    help: &'static str,
    samples: Vec<(String, f64)>,
}

impl Families {
    fn add_queue(&mut self, queue: &str, subject: &Subject) -> Result<()> {
        let stats = subject.stats()?;
        self.add("gauge", "up", UP, queue, 1.0);
        // Counters of this process would be zeroes.
        let is_known = !stats.only_this_process;
        for (name, help, value) in COUNTERS.into_iter().filter(|_| is_known) {
            self.add("counter", name, help, queue, value(&stats) as f64);
        }
        let known = |name| is_known || name != "participants";
        for (name, help, value) in GAUGES.into_iter().filter(|(name, ..)| known(*name)) {
            self.add("gauge", name, help, queue, value(&stats) as f64);
        }
        let (capacity, places) = (subject.capacity() as f64, stats.in_use() as f64);
        let used = "Places taken, including those of dead letters.";
        self.add("gauge", "places_used", used, queue, places);
        self.add("gauge", "capacity", "Messages that fit.", queue, capacity);
        if let Subject::Mapped(inspector) = subject {
            self.add_mapped(queue, subject, inspector)?;
        }
        Ok(())
    }

    /// Adds the figures that only a queue in shared memory has.
    fn add_mapped(&mut self, queue: &str, subject: &Subject, inspector: &Inspector) -> Result<()> {
        let oldest = subject
            .oldest()
            .map_or(0.0, |at| format::age(at).as_secs_f64());
        let (pool, blocked) = (inspector.pool(), inspector.blocked());
        for (name, help, value) in [
            (
                "memory_bytes",
                "Size of the segment.",
                inspector.bytes() as f64,
            ),
            (
                "oldest_seconds",
                "Age of the oldest waiting message.",
                oldest,
            ),
            (
                "pool_used_bytes",
                "Payload memory in use.",
                pool.used_bytes as f64,
            ),
            ("pool_bytes", "Payload memory.", pool.total_bytes as f64),
            (
                "pool_largest_fit_bytes",
                "Largest payload that fits into payload memory now.",
                pool.largest_fit_bytes as f64,
            ),
            (
                "blocked_senders",
                "Senders that wait for room.",
                blocked.senders as f64,
            ),
            (
                "blocked_receivers",
                "Receivers that wait for a message.",
                blocked.receivers as f64,
            ),
        ] {
            self.add("gauge", name, help, queue, value);
        }
        self.add_holders(queue, subject)
    }

    /// Adds the figures about the processes that hold messages.
    fn add_holders(&mut self, queue: &str, subject: &Subject) -> Result<()> {
        let held = held::all(subject)?.unwrap_or_default();
        let of = |health| {
            let is_it = |held: &&Held| held.seen.as_ref().is_some_and(|seen| seen.health == health);
            held.iter().filter(is_it).count() as f64
        };
        let seen = held.iter().filter_map(|held| held.seen.as_ref());
        let longest = seen.map(|seen| seen.at_least).max().unwrap_or_default();
        for (name, help, value) in [
            (
                "longest_held_seconds",
                "Time for which a receiver has held a message, at least.",
                longest.as_secs_f64(),
            ),
            (
                "leased_by_stopped",
                "Messages that a stopped process holds.",
                of(Health::Stopped),
            ),
            (
                "leased_by_dead",
                "Messages that a dead process holds.",
                of(Health::Dead),
            ),
        ] {
            self.add("gauge", name, help, queue, value);
        }
        Ok(())
    }

    fn add(
        &mut self,
        kind: &'static str,
        name: &'static str,
        help: &'static str,
        queue: &str,
        value: f64,
    ) {
        let sample = (queue.to_owned(), value);
        match self.0.iter_mut().find(|family| family.name == name) {
            Some(family) => family.samples.push(sample),
            None => self.0.push(Family {
                kind,
                name,
                help,
                samples: vec![sample],
            }),
        }
    }

    fn append(&mut self, other: Self) {
        for family in other.0 {
            for (queue, value) in family.samples {
                self.add(family.kind, family.name, family.help, &queue, value);
            }
        }
    }

    fn text(&self, format: Format) -> String {
        let mut text = String::new();
        for family in &self.0 {
            let Family {
                kind,
                name,
                help,
                samples,
            } = family;
            // OpenMetrics names a counter without the suffix of its samples.
            let title = match format {
                Format::OpenMetrics => name.trim_end_matches("_total"),
                Format::Prometheus => name,
            };
            let _ = writeln!(text, "# HELP ipc_queue_{title} {help}");
            let _ = writeln!(text, "# TYPE ipc_queue_{title} {kind}");
            for (queue, value) in samples {
                let label = secrets::without_logins(queue);
                let label = label.replace('\\', r"\\").replace('"', "\\\"");
                let label = label.replace('\n', "\\n");
                let _ = writeln!(text, "ipc_queue_{name}{{queue=\"{label}\"}} {value}");
            }
        }
        if format == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_all_queues_follow_one_head() {
        let mut families = Families::default();
        for queue in ["a", "b\"c"] {
            families.add("counter", "sent_total", "Sent.", queue, 2.0);
            families.add("gauge", "ready", "Ready.", queue, 1.0);
        }
        let text = families.text(Format::Prometheus);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..4],
            [
                "# HELP ipc_queue_sent_total Sent.",
                "# TYPE ipc_queue_sent_total counter",
                "ipc_queue_sent_total{queue=\"a\"} 2",
                "ipc_queue_sent_total{queue=\"b\\\"c\"} 2",
            ]
        );
        let open = families.text(Format::OpenMetrics);
        assert!(
            open.contains("# TYPE ipc_queue_sent counter\nipc_queue_sent_total{"),
            "{open}"
        );
        assert!(open.ends_with("# EOF\n"), "{open}");
    }
}
