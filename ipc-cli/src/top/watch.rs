//! The data that `top` shows: two samples make a view.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use ipc_node::{Health, Registry};
use ipc_queue::shm::Inspector;
use ipc_queue::{QueueError, QueueStats};
use serde::Serialize;

use crate::address::{self, Subject};
use crate::control;
use crate::dlq;
use crate::exit::Exit;
use crate::format;
use crate::held;
use crate::stat;

/// The maximum number of dead letters in the picture of one queue.
const LETTERS: usize = 50;

/// The complete view.
#[derive(Clone, Debug, Default, Serialize)]
pub struct View {
    pub queues: Vec<Line>,
    pub held: Vec<Held>,
    pub nodes: Vec<NodeLine>,
}

/// One queue.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub queue: String,
    pub ready: u64,
    /// The number of places taken by messages that wait, are held, are delayed, or are dead.
    pub in_use: u64,
    pub capacity: u64,
    pub held: u64,
    pub delayed: u64,
    pub dead: u64,
    /// `None`, like the next three, over a transport where each process knows only its own.
    pub processes: Option<u64>,
    pub sent_per_second: Option<f64>,
    pub acked_per_second: Option<f64>,
    pub redelivered: Option<u64>,
    /// The larger of two numbers: receivers that died over a message, and processes that vanished
    /// without leaving.
    pub deaths: u64,
    pub oldest_seconds: Option<f64>,
    /// The time until nothing is ready, if the rates do not change. `None`: never, or nothing is
    /// ready now.
    pub empty_in_seconds: Option<f64>,
    pub state: &'static str,
    /// The number of handles that sleep: for room, or for a message. `None` if only the transport
    /// knows it.
    pub blocked_senders: Option<u64>,
    pub blocked_receivers: Option<u64>,
}

/// One message that a receiver holds.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    pub queue: String,
    pub message: String,
    pub holder: String,
    pub pid: u32,
    pub attempt: u8,
    /// The minimum time for which it has been held: since it was first seen there, since its holder
    /// took a message for the last time, or since its lease began or was extended.
    pub held_at_least_seconds: f64,
    /// The state of the holder: alive, stopped or dead. `None` if only the transport knows it.
    pub health: Option<&'static str>,
    /// The time until the lease ends.
    pub lease_left_seconds: Option<f64>,
    /// The maximum time for which it has been held: since it was sent, and since its holder
    /// attached.
    pub held_at_most_seconds: Option<f64>,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeLine {
    pub node: String,
    pub pid: u32,
    pub health: &'static str,
    pub last_beat_ago_seconds: f64,
}

/// The queues to watch.
pub enum Scope {
    /// Every queue of every namespace.
    All,
    Namespace(String),
    /// Queues by their addresses, including served ones.
    Queues(Vec<String>),
}

impl Scope {
    /// Parses what was typed: a namespace, or addresses with their schemes.
    pub fn of(typed: &[String]) -> Result<Self> {
        match typed {
            [] => Ok(Self::All),
            [namespace] if !namespace.contains(':') => Ok(Self::Namespace(namespace.clone())),
            addresses if addresses.iter().all(|address| address.contains(':')) => {
                Ok(Self::Queues(addresses.to_vec()))
            }
            _ => Err(Exit::Usage
                .error("give one namespace, or queues by their addresses (shm:NAME, unix:/PATH)")),
        }
    }

    fn namespace(&self) -> Option<&str> {
        match self {
            Self::Namespace(namespace) => Some(namespace),
            Self::All | Self::Queues(_) => None,
        }
    }
}

/// Takes samples repeatedly.
pub struct Watch {
    scope: Scope,
    known: HashMap<String, Known>,
    view: View,
    unreadable: usize,
}

struct Known {
    subject: Subject,
    last: Option<(Instant, QueueStats)>,
    /// When each held message was first seen held, by message and attempt.
    held: HashMap<(String, u8), Instant>,
    /// The process numbers of processes that were seen dead.
    died: HashSet<u32>,
    /// The dead letters, and the figures with which they were read.
    letters: (Option<QueueStats>, Vec<dlq::Row>),
}

impl Watch {
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            known: HashMap::new(),
            view: View::default(),
            unreadable: 0,
        }
    }

    /// Returns the facts about a watched queue.
    pub fn facts(&self, queue: &str) -> Vec<(&'static str, String)> {
        let known = self.known.get(queue);
        known.map_or_else(Vec::new, |known| {
            let stats = known.last.map(|(_, stats)| stats).unwrap_or_default();
            let mut facts = stat::in_words(queue, &known.subject, &stats);
            if let Subject::Mapped(inspector) = &known.subject {
                facts.push(("processes", stat::processes_in_words(inspector)));
            }
            facts
        })
    }

    /// Returns the youngest dead letters of a watched queue. Reads them only if some figure has
    /// changed that changes with them.
    pub fn letters(&mut self, queue: &str) -> Vec<dlq::Row> {
        let Some(known) = self.known.get_mut(queue) else {
            return Vec::new();
        };
        let now = known.last.map(|(_, stats)| stats);
        let figures = |stats: QueueStats| {
            let ends = [stats.buried, stats.nacked, stats.expiries, stats.crashes];
            (stats.dead, ends)
        };
        let (then, letters) = &mut known.letters;
        if now.map(figures) != then.map(figures) {
            *letters = match now {
                // A queue that can't be read now is asked again at the next sample.
                Some(now) if now.dead > 0 => {
                    dlq::youngest(&known.subject, LETTERS).unwrap_or_default()
                }
                _ => Vec::new(),
            };
            *then = now;
        }
        letters.clone()
    }

    /// The number of queues and namespaces that the last sample could not read.
    pub fn unreadable(&self) -> usize {
        self.unreadable
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// Takes another sample.
    ///
    /// # Errors
    /// A queue that is watched by its address can't be read.
    pub fn look(&mut self) -> Result<()> {
        let unreadable = self.look_at_each()?;
        match (&self.scope, unreadable.into_iter().next()) {
            (Scope::Queues(_), Some((_, error))) => Err(error),
            // Left to `ls` and `doctor` to explain.
            _ => Ok(()),
        }
    }

    /// Takes another sample, without the queues that can't be read. Returns their names, or those
    /// of their namespaces, each with the reason.
    pub fn look_at_each(&mut self) -> Result<Vec<(String, Error)>> {
        let (mut view, mut unreadable) = (View::default(), Vec::new());
        if let Scope::Queues(addresses) = &self.scope {
            for address in addresses {
                if let Err(error) = look_at_address(&mut self.known, address, &mut view) {
                    // Opened again at the next sample.
                    self.known.remove(address);
                    unreadable.push((address.clone(), error));
                }
            }
        } else {
            unreadable = self.look_at_queues(&mut view)?;
            look_at_nodes(self.scope.namespace(), &mut view)?;
        }
        view.held.sort_by(|one, other| {
            other
                .held_at_least_seconds
                .total_cmp(&one.held_at_least_seconds)
        });
        self.view = view;
        self.unreadable = unreadable.len();
        Ok(unreadable)
    }

    /// Forgets queues that were removed, so that the next sample opens what is there instead.
    pub fn forget_removed(&mut self) {
        self.known.retain(|_, known| !known.subject.is_removed());
    }

    /// The queue's number and its figures at the last sample.
    pub fn figures(&self, queue: &str) -> Option<(u64, QueueStats)> {
        let known = self.known.get(queue)?;
        known.last.map(|(_, stats)| (known.subject.id(), stats))
    }

    fn look_at_queues(&mut self, view: &mut View) -> Result<Vec<(String, Error)>> {
        let found = address::queues(self.scope.namespace())?;
        let (queues, mut unreadable) = (found.queues, Vec::new());
        for (namespace, error) in found.unreadable {
            unreadable.push((format!("{}/", namespace.name()), error));
        }
        let names: HashSet<_> = queues
            .iter()
            .map(|(space, name)| address::short(space, name))
            .collect();
        self.known
            .retain(|queue, known| names.contains(queue) && !known.subject.is_removed());
        for (namespace, name) in queues {
            let queue = address::short(&namespace, &name);
            let known = match self.known.entry(queue.clone()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => match Inspector::open(&namespace, &name) {
                    Ok(inspector) => place.insert(Known::new(Subject::Mapped(Box::new(inspector)))),
                    Err(QueueError::NotFound { .. }) => continue, // Removed just now.
                    Err(error) => {
                        unreadable.push((queue, error.into()));
                        continue;
                    }
                },
            };
            known.look(&queue, view)?;
        }
        Ok(unreadable)
    }
}

fn look_at_address(
    known: &mut HashMap<String, Known>,
    address: &str,
    view: &mut View,
) -> Result<()> {
    let known = match known.entry(address.to_owned()) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) => place.insert(Known::new(Subject::open(address)?)),
    };
    known.look(address, view)
}

fn look_at_nodes(namespace: Option<&str>, view: &mut View) -> Result<()> {
    for namespace in address::namespaces(namespace)? {
        let Ok(Some(registry)) = Registry::look(&namespace) else {
            continue;
        };
        let nodes = registry.nodes(Duration::from_secs(5)).into_iter();
        let there = nodes.filter(|node| node.health != Health::Left);
        view.nodes.extend(there.map(|node| NodeLine {
            node: format!("{}/{}", namespace.name(), node.name),
            pid: node.pid,
            health: match node.health {
                Health::Alive => "alive",
                Health::Stale => "stale",
                _ => "dead",
            },
            last_beat_ago_seconds: node.last_beat_ago.as_secs_f64(),
        }));
    }
    Ok(())
}

impl Known {
    fn new(subject: Subject) -> Self {
        Self {
            subject,
            last: None,
            held: HashMap::new(),
            died: HashSet::new(),
            letters: (None, Vec::new()),
        }
    }

    fn look(&mut self, queue: &str, view: &mut View) -> Result<()> {
        let (now, stats) = (Instant::now(), self.subject.stats()?);
        if let Subject::Mapped(inspector) = &self.subject {
            let gone = inspector
                .participants()
                .into_iter()
                .filter(|(_, gone)| *gone);
            self.died.extend(gone.map(|(slot, _)| slot.process.pid));
        }
        view.queues.push(self.line(queue, now, &stats));
        self.last = Some((now, stats));
        let mut held = HashMap::new();
        for lease in held::all(&self.subject)?.unwrap_or_default() {
            let key = (lease.message.clone(), lease.attempt);
            let seen = lease.seen.as_ref();
            let at_least = seen.map_or(Duration::ZERO, |seen| seen.at_least);
            let since = self.held.get(&key).copied().unwrap_or(now);
            view.held.push(Held {
                queue: queue.to_owned(),
                message: key.0.clone(),
                holder: lease.holder,
                pid: lease.pid,
                attempt: lease.attempt,
                held_at_least_seconds: now.duration_since(since).max(at_least).as_secs_f64(),
                health: seen.map(|seen| seen.health.name()),
                lease_left_seconds: seen.and_then(|seen| seen.ends_in).map(|t| t.as_secs_f64()),
                held_at_most_seconds: seen.map(|seen| seen.at_most.as_secs_f64()),
            });
            held.insert(key, since);
        }
        self.held = held;
        Ok(())
    }

    fn line(&self, queue: &str, now: Instant, stats: &QueueStats) -> Line {
        let rate = |counter: fn(&QueueStats) -> u64| {
            self.last.map_or(0.0, |(then, before)| {
                let more = counter(stats).saturating_sub(counter(&before));
                more as f64 / now.duration_since(then).as_secs_f64().max(1e-6)
            })
        };
        let (sent, acked) = (rate(|stats| stats.sent), rate(|stats| stats.acked));
        let drains = stats.ready > 0 && acked > sent;
        let is_known = !stats.only_this_process;
        let blocked = match &self.subject {
            Subject::Mapped(inspector) => Some(inspector.blocked()),
            Subject::Asked(_) => None,
        };
        Line {
            queue: queue.to_owned(),
            ready: stats.ready,
            in_use: stats.in_use(),
            capacity: self.subject.capacity(),
            held: stats.leased,
            delayed: stats.delayed,
            dead: stats.dead,
            processes: is_known.then_some(stats.participants),
            sent_per_second: is_known.then_some(sent),
            acked_per_second: is_known.then_some(acked),
            empty_in_seconds: drains.then(|| stats.ready as f64 / (acked - sent)),
            redelivered: is_known.then_some(stats.redelivered),
            deaths: stats.crashes.max(self.died.len() as u64),
            oldest_seconds: self
                .subject
                .oldest()
                .map(|at| format::age(at).as_secs_f64()),
            state: control::state(stats),
            blocked_senders: blocked.map(|blocked| blocked.senders),
            blocked_receivers: blocked.map(|blocked| blocked.receivers),
        }
    }
}
