//! What `top` sees: two looks make a view.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use ipc_node::{Health, Registry};
use ipc_queue::QueueStats;
use ipc_queue::shm::Inspector;
use serde::Serialize;

use crate::address;
use crate::show;

/// All that is shown.
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
    pub capacity: u64,
    pub held: u64,
    pub delayed: u64,
    pub dead: u64,
    pub processes: u64,
    pub sent_per_second: f64,
    pub acked_per_second: f64,
    pub redelivered: u64,
    /// How many receivers died over a message, or processes were seen to go without leaving, whichever is more.
    pub deaths: u64,
    pub oldest_seconds: Option<f64>,
    pub state: &'static str,
}

/// One message in somebody's hands.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    pub queue: String,
    pub message: String,
    pub holder: String,
    pub pid: u32,
    pub attempt: u8,
    /// Since it was first seen there.
    pub seconds: f64,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeLine {
    pub node: String,
    pub pid: u32,
    pub health: &'static str,
    pub beat_seconds: f64,
}

/// Looks again and again.
pub struct Watch {
    namespace: Option<String>,
    known: HashMap<String, Known>,
    view: View,
}

struct Known {
    inspector: Inspector,
    last: Option<(Instant, QueueStats)>,
    /// Which message at which attempt, since when.
    held: HashMap<(String, u8), Instant>,
    /// Those that were seen dead: process numbers.
    died: HashSet<u32>,
}

impl Watch {
    pub fn new(namespace: Option<&str>) -> Self {
        Self {
            namespace: namespace.map(str::to_owned),
            known: HashMap::new(),
            view: View::default(),
        }
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// Looks at everything once more.
    pub fn look(&mut self) -> Result<()> {
        let mut view = View::default();
        let queues = address::queues(self.namespace.as_deref())?;
        let names: HashSet<_> = queues
            .iter()
            .map(|(space, name)| address::short(space, name))
            .collect();
        self.known
            .retain(|queue, known| names.contains(queue) && !known.inspector.is_removed());
        for (namespace, name) in queues {
            let queue = address::short(&namespace, &name);
            if !self.known.contains_key(&queue) {
                // One that can't be opened is for `ls` and `doctor` to explain.
                let Ok(inspector) = Inspector::open(&namespace, &name) else {
                    continue;
                };
                self.known.insert(queue.clone(), Known::new(inspector));
            }
            if let Some(known) = self.known.get_mut(&queue) {
                known.look(&queue, &mut view);
            }
        }
        for namespace in address::namespaces(self.namespace.as_deref())? {
            if let Ok(Some(registry)) = Registry::look(&namespace) {
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
                    beat_seconds: node.last_beat_ago.as_secs_f64(),
                }));
            }
        }
        view.held
            .sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
        self.view = view;
        Ok(())
    }
}

impl Known {
    fn new(inspector: Inspector) -> Self {
        Self {
            inspector,
            last: None,
            held: HashMap::new(),
            died: HashSet::new(),
        }
    }

    fn look(&mut self, queue: &str, view: &mut View) {
        let (now, stats) = (Instant::now(), self.inspector.stats());
        let rate = |counter: fn(&QueueStats) -> u64| {
            self.last.map_or(0.0, |(then, before)| {
                let more = counter(&stats).saturating_sub(counter(&before));
                more as f64 / now.duration_since(then).as_secs_f64().max(1e-6)
            })
        };
        let (sent_per_second, acked_per_second) =
            (rate(|stats| stats.sent), rate(|stats| stats.acked));
        let gone = self
            .inspector
            .participants()
            .into_iter()
            .filter(|(_, gone)| *gone);
        self.died.extend(gone.map(|(slot, _)| slot.process.pid));
        view.queues.push(Line {
            queue: queue.to_owned(),
            ready: stats.ready,
            capacity: self.inspector.settings().capacity.into(),
            held: stats.leased,
            delayed: stats.delayed,
            dead: stats.dead,
            processes: stats.participants,
            sent_per_second,
            acked_per_second,
            redelivered: stats.redelivered,
            deaths: stats.crashes.max(self.died.len() as u64),
            oldest_seconds: self
                .inspector
                .oldest()
                .map(|at| show::age(at).as_secs_f64()),
            state: match (stats.closed, stats.paused) {
                (true, _) => "closed",
                (false, true) => "paused",
                _ => "open",
            },
        });
        self.last = Some((now, stats));
        let mut held = HashMap::new();
        for holding in self.inspector.holdings() {
            let key = (holding.message.to_string(), holding.attempt);
            let since = self.held.get(&key).copied().unwrap_or(now);
            view.held.push(Held {
                queue: queue.to_owned(),
                message: key.0.clone(),
                holder: holding.holder,
                pid: holding.pid,
                attempt: holding.attempt,
                seconds: now.duration_since(since).as_secs_f64(),
            });
            held.insert(key, since);
        }
        self.held = held;
    }
}
