//! The project's targets, as ratios to references that were measured at the same distance.

use crate::own::sockets;
use crate::probe::Distance;
use crate::schedule::Summary;
use crate::work::Unit;

/// A target ratio.
#[derive(Debug)]
struct Target {
    work: &'static str,
    subject: &'static str,
    /// The references, of which the best counts; at another work, if one is given. Without any,
    /// the figure is a ratio itself.
    against: &'static [&'static str],
    at: Option<&'static str>,
    wanted: Wanted,
}

/// The kind of ratio to the reference's figure.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// A ratio of rates.
    AtLeast(f64),
    /// A ratio of times.
    AtMost(f64),
}

/// The result of a target.
#[derive(Debug)]
pub struct Verdict {
    pub work: String,
    pub against: String,
    pub wanted: Wanted,
    /// The distance and the ratio; `None` if one of the two was not measured.
    pub got: Option<(Distance, f64)>,
}

const SMALL: &str = "1→1 64 B";
const UNPINNED: &str = "1→1 64 B, unpinned";
const ONE_CORE: &str = "round trip 64 B blocking, one core";
const ALONE: &str = "alone 64 B";
const SPINNING: &str = "round trip 64 B spinning";
const BLOCKING: &str = "round trip 64 B blocking";
const ASLEEP: &str = "round trip 64 B asleep";
const VISIT: &str = "open send receive close";
const OPEN: &str = "open one end and close";
const VYUKOV: &[&str] = &["vyukov polling", "vyukov adaptive"];

const fn at_least(
    ratio: f64,
    (work, subject): (&'static str, &'static str),
    against: &'static [&'static str],
) -> Target {
    let wanted = Wanted::AtLeast(ratio);
    Target {
        work,
        subject,
        against,
        at: None,
        wanted,
    }
}

const fn at_most(
    ratio: f64,
    (work, subject): (&'static str, &'static str),
    against: &'static [&'static str],
) -> Target {
    let wanted = Wanted::AtMost(ratio);
    Target {
        work,
        subject,
        against,
        at: None,
        wanted,
    }
}

const fn than_at(mut target: Target, work: &'static str) -> Target {
    target.at = Some(work);
    target
}

const LAMPORT: &[&str] = &["lamport polling", "lamport adaptive"];
const SINGLE: &[&str] = &["shm", "shm loaned"];
const BATCHES: &str = "shm batches of 32";
/// In place of references: the figure itself is a ratio, and the worst repetition counts.
const FAIR: &[&str] = &[];

const MANY: &str = "many senders and receivers, 16→16 64 B";
const SERVERS_CPU: &str = "CPU time of a message, 1→1 64 B";
const NATS: &str = "nats jetstream, acks confirmed";
const NATS_IN_FLIGHT: &str = "nats jetstream, 32 in flight";

const TARGETS: [Target; 52] = [
    // Default settings, typed and unpinned.
    at_least(0.5, (UNPINNED, "shm as opened"), SINGLE),
    at_least(0.3, (UNPINNED, "shm MessagePack"), SINGLE),
    at_least(0.3, (UNPINNED, "shm JSON"), SINGLE),
    at_least(0.5, (UNPINNED, "shm postcard"), SINGLE),
    at_most(1.5, (ONE_CORE, "shm"), &["pipe"]),
    at_least(0.9, ("1→4 64 B", "shm"), &["vyukov adaptive"]),
    at_least(0.9, ("4→4 64 B", "shm"), &["vyukov adaptive"]),
    at_least(0.5, ("smallest share of a receiver, 1→4", "shm"), FAIR),
    at_least(0.5, ("smallest share of a receiver, 4→4", "shm"), FAIR),
    // Single messages.
    at_least(0.9, (SMALL, "shm"), &["bare protocol adaptive"]),
    at_most(1.2, (ALONE, "shm"), &["bare protocol adaptive"]),
    at_least(0.9, (SMALL, "shm"), &["vyukov prefetching adaptive"]),
    at_most(1.25, (ALONE, "shm"), &["vyukov polling", "vyukov adaptive"]),
    at_least(1.5, (SMALL, "shm"), &["vyukov polling"]),
    at_least(0.75, (SMALL, "shm"), &["vyukov adaptive"]),
    at_least(0.75, (SMALL, "shm lease"), &["shm"]),
    at_least(15.0, (SMALL, "shm"), &["iceoryx2"]),
    at_least(6.0, (SMALL, "shm"), &["cloudtoid-interprocess"]),
    at_least(3.0, (SMALL, "shm"), &["shaq mpmc"]),
    at_least(2.0, (SMALL, "shm"), &["crossbeam threads"]),
    at_least(5.0, (SMALL, "shm"), &["flume threads"]),
    at_least(80.0, (SMALL, "shm"), &["ipc-channel"]),
    at_least(400.0, (SMALL, "shm"), &["python multiprocessing.Queue"]),
    at_least(4000.0, (SMALL, "shm"), &["redis list"]),
    at_least(0.8, ("2→2 64 B", "shm"), VYUKOV),
    // Batches.
    at_least(2.0, (SMALL, BATCHES), LAMPORT),
    at_least(0.7, (SMALL, BATCHES), &["shaq mpmc slices of 32"]),
    at_least(1.6, (SMALL, BATCHES), &["shm"]),
    at_least(1.0, ("1→1 1 KiB", BATCHES), &["shm"]),
    at_least(1.0, ("1→1 64 KiB", BATCHES), &["shm"]),
    at_least(1.0, ("1→1 64 KiB", BATCHES), &["shm, 32 buffers"]),
    at_least(1.0, ("1→1 1 MiB", BATCHES), &["shm"]),
    at_least(1.0, ("1→1 1 MiB", BATCHES), &["shm, 32 buffers"]),
    // Larger messages.
    at_least(
        1.0,
        ("1→1 1 KiB", "shm loaned"),
        &["vyukov adaptive copying"],
    ),
    at_least(1.0, ("1→1 64 KiB", "shm loaned"), &["iceoryx2"]),
    at_least(0.95, ("1→1 64 KiB", "shm loaned"), LAMPORT),
    at_least(1.0, ("1→1 1 MiB", "shm loaned"), &["iceoryx2"]),
    at_least(0.95, ("1→1 1 MiB", "shm loaned"), LAMPORT),
    than_at(
        at_least(0.9, ("1→1 64 KiB", "shm loaned"), &["memory"]),
        "alone 64 KiB",
    ),
    than_at(
        at_least(0.9, ("1→1 1 MiB", "shm loaned"), &["memory"]),
        "alone 1 MiB",
    ),
    // Round trips and opening.
    at_most(1.1, (SPINNING, "shm"), VYUKOV),
    than_at(at_most(1.3, (BLOCKING, "shm"), &["shm"]), SPINNING),
    at_most(0.9, (BLOCKING, "shm"), &["shaq mpmc"]),
    at_most(1.15, (ASLEEP, "shm"), &["futex"]),
    than_at(at_most(0.05, (VISIT, "shm"), &["iceoryx2"]), OPEN),
    at_most(
        1.25,
        (sockets::REQUEST, sockets::OWN_REQUEST),
        &[sockets::BARE],
    ),
    at_least(
        0.4,
        (sockets::MESSAGES, sockets::OWN_BATCHES),
        &[sockets::FRAMED],
    ),
    // Over a server, beside a plain client of the same server.
    at_least(0.6, (SMALL, "nats"), &[NATS]),
    at_least(0.5, (SMALL, "nats, acks in flight"), &[NATS_IN_FLIGHT]),
    at_least(0.5, (SMALL, "nats batches of 32"), &[NATS_IN_FLIGHT]),
    at_least(0.5, (MANY, "nats"), &[NATS]),
    at_most(
        3.0,
        (SERVERS_CPU, "nats, servers"),
        &["nats jetstream, acks confirmed, servers"],
    ),
];

/// Compares the rows with the targets. Targets whose subject was not measured are left out.
pub fn judge(rows: &[Summary]) -> Vec<Verdict> {
    let subject_ran = |target: &&Target| rows.iter().any(|row| row.is(target.work, target.subject));
    TARGETS
        .iter()
        .filter(subject_ran)
        .map(|target| target.judge(rows))
        .collect()
}

impl Target {
    fn judge(&self, rows: &[Summary]) -> Verdict {
        let at = self.at.unwrap_or(self.work);
        let ours = rows.iter().filter(|row| row.is(self.work, self.subject));
        let ratios = ours.filter_map(|ours| {
            if self.against.is_empty() {
                return Some((ours.samples, ours.distance, ours.min));
            }
            let reference = self.reference(rows, at, ours.distance)?;
            let samples = ours.samples.min(reference.samples);
            let ratio = ours.median / reference.median;
            let ratio = match (self.wanted, ours.unit) {
                // The time of a message.
                (Wanted::AtMost(_), Unit::MessagesPerSecond) => 1.0 / ratio,
                _ => ratio,
            };
            Some((samples, ours.distance, ratio))
        });
        // "Near" comes first, and stays unless "far" has more samples.
        let best = ratios.reduce(|best, next| if next.0 > best.0 { next } else { best });
        let elsewhere = self.at.map_or(String::new(), |at| format!(", {at}"));
        let against = match self.against {
            [] => "its fair share in a second".to_owned(),
            references => references.join(" or ") + &elsewhere,
        };
        Verdict {
            work: format!("{}, {}", self.work, self.subject),
            against,
            wanted: self.wanted,
            got: best.map(|(_, distance, ratio)| (distance, ratio)),
        }
    }

    /// Returns the best reference at that distance, or at none.
    fn reference<'a>(
        &self,
        rows: &'a [Summary],
        work: &str,
        distance: Distance,
    ) -> Option<&'a Summary> {
        let like = |row: &&Summary| {
            let is_one = self.against.iter().any(|subject| row.is(work, subject));
            is_one && (row.distance == distance || row.distance == Distance::None)
        };
        let mut found = rows.iter().filter(like).peekable();
        let is_rate = found
            .peek()
            .is_some_and(|row| row.unit == Unit::MessagesPerSecond);
        match self.wanted {
            Wanted::AtLeast(_) => found.max_by(|a, b| a.median.total_cmp(&b.median)),
            Wanted::AtMost(_) if is_rate => found.max_by(|a, b| a.median.total_cmp(&b.median)),
            Wanted::AtMost(_) => found.min_by(|a, b| a.median.total_cmp(&b.median)),
        }
    }
}

impl Summary {
    fn is(&self, work: &str, subject: &str) -> bool {
        self.work == work && self.subject == subject
    }
}

impl Verdict {
    pub fn is_ok(&self) -> bool {
        self.got.is_some_and(|(_, got)| match self.wanted {
            Wanted::AtLeast(ratio) => got >= ratio,
            Wanted::AtMost(ratio) => got <= ratio,
        })
    }
}

impl Wanted {
    pub fn ratio(self) -> f64 {
        match self {
            Self::AtLeast(ratio) | Self::AtMost(ratio) => ratio,
        }
    }

    /// Returns the readable form.
    pub fn describe(self) -> String {
        match self {
            Self::AtLeast(ratio) => format!("≥ {ratio}×"),
            Self::AtMost(ratio) => format!("≤ {ratio}× the time"),
        }
    }
}
