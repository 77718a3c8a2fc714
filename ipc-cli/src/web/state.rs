//! The samples that threads take, and from which the server answers.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::history::{Histories, seconds};
use crate::exit;
use crate::secrets;
use crate::top::watch::{Line, NodeLine, Watch};

/// After this long without a sample, a served queue counts as unreadable.
const ANSWERS_WITHIN_MS: u64 = 10_000;

pub struct State(Mutex<Inner>);

struct Inner {
    /// Samples by the number of the thread.
    samples: Vec<Sample>,
    histories: Histories,
    /// Served queues that are being asked, by their addresses.
    asked: HashSet<String>,
}

/// The last sample of one thread.
#[derive(Default)]
struct Sample {
    /// The address, if the thread has only one.
    address: Option<String>,
    /// The times at which the thread began its last read, and at which it stored a sample. 0: not
    /// yet.
    began_ms: u64,
    at_ms: u64,
    queues: Vec<Line>,
    nodes: Vec<NodeLine>,
    /// Names of queues or namespaces, each with the reason.
    unreadable: Vec<(String, String)>,
}

/// The right to ask a served queue, given to one request at a time: a server that does not answer
/// must not occupy every thread.
pub struct Asking<'s> {
    state: &'s State,
    address: String,
}

impl State {
    /// Creates the state with one sample for each thread. An item is the address that the thread
    /// reads, if it reads only one.
    pub fn new(threads: impl Iterator<Item = Option<String>>) -> Self {
        let samples = threads.map(|address| Sample {
            address,
            ..Sample::default()
        });
        Self(Mutex::new(Inner {
            samples: samples.collect(),
            histories: Histories::default(),
            asked: HashSet::new(),
        }))
    }

    /// Ignores poisoning: each field is valid by itself, even after a panic.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the queues, which may take long, and then stores a sample.
    pub fn take_sample(&self, thread: usize, watch: &mut Watch, clock: impl Fn() -> u64) {
        self.lock().samples[thread].began_ms = clock();
        watch.forget_removed();
        let looked = watch.look_at_each();
        let now_ms = clock();
        let mut inner = self.lock();
        let Inner {
            samples, histories, ..
        } = &mut *inner;
        let sample = &mut samples[thread];
        sample.at_ms = now_ms;
        match looked {
            Ok(unreadable) => {
                let view = watch.view().clone();
                for line in &view.queues {
                    if let Some((id, stats)) = watch.figures(&line.queue) {
                        histories.add(&line.queue, now_ms, id, &stats);
                    }
                }
                (sample.queues, sample.nodes) = (view.queues, view.nodes);
                let unreadable = unreadable.into_iter();
                let unreadable = unreadable.map(|(queue, why)| (queue, exit::in_one_line(&why)));
                sample.unreadable = unreadable.collect();
            }
            Err(error) => {
                (sample.queues, sample.nodes) = (Vec::new(), Vec::new());
                sample.unreadable = vec![("all queues".to_owned(), exit::in_one_line(&error))];
            }
        }
        histories.forget_old(now_ms);
    }

    /// Returns queues and nodes as `top --json` prints them, and the unreadable queues.
    pub fn queues(&self, now_ms: u64) -> Value {
        let inner = self.lock();
        let (silent, fresh): (Vec<_>, Vec<_>) =
            inner.samples.iter().partition(|one| one.is_silent(now_ms));
        let mut queues: Vec<_> = fresh.iter().flat_map(|one| &one.queues).collect();
        queues.sort_by(|one, other| one.queue.cmp(&other.queue));
        let nodes: Vec<_> = fresh.iter().flat_map(|one| &one.nodes).collect();
        let unreadable = fresh.iter().flat_map(|one| one.unreadable.iter().cloned());
        let silent = silent.iter().filter_map(|one| one.silence(now_ms));
        let unreadable = unreadable.chain(silent);
        let unreadable = unreadable.map(|(queue, error)| json!({ "queue": queue, "error": error }));
        let oldest = fresh.iter().map(|one| one.at_ms).filter(|at| *at > 0).min();
        let ago = oldest.map(|at_ms| seconds(now_ms.saturating_sub(at_ms)));
        json!({
            // The age of the oldest sample; `null` before the first one.
            "sampled_ago_seconds": ago,
            "queues": queues,
            "nodes": nodes,
            "unreadable": unreadable.collect::<Vec<_>>(),
        })
    }

    /// Returns the address of a watched queue by the name that is shown. Only watched queues can be
    /// requested, so that a page can't make this program connect to arbitrary addresses.
    pub fn address(&self, shown: &str) -> Option<String> {
        let inner = self.lock();
        let mut known = inner.samples.iter().flat_map(|one| {
            let lines = one.queues.iter().map(|line| &line.queue);
            let unreadable = one.unreadable.iter().map(|(queue, _)| queue);
            lines.chain(unreadable).chain(&one.address)
        });
        known
            .find(|address| secrets::without_logins(address) == shown)
            .cloned()
    }

    pub fn history(&self, address: &str, now_ms: u64) -> Option<Value> {
        let inner = self.lock();
        let history = inner.histories.get(address)?;
        Some(history.json(address, now_ms))
    }

    /// Returns `None` if another request still waits for the answer of this server.
    pub fn asking(&self, address: &str) -> Option<Asking<'_>> {
        let is_first = self.lock().asked.insert(address.to_owned());
        is_first.then(|| Asking {
            state: self,
            address: address.to_owned(),
        })
    }
}

impl Sample {
    /// Returns `true` if a server has not answered for too long.
    fn is_silent(&self, now_ms: u64) -> bool {
        let is_asked = self.began_ms > self.at_ms;
        let waits_ms = now_ms.saturating_sub(self.began_ms);
        self.address.is_some() && is_asked && waits_ms > ANSWERS_WITHIN_MS
    }

    fn silence(&self, now_ms: u64) -> Option<(String, String)> {
        let seconds = now_ms.saturating_sub(self.began_ms) / 1000;
        let address = self.address.clone()?;
        Some((address, format!("no answer for {seconds} s")))
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.state.lock().asked.remove(&self.address);
    }
}
