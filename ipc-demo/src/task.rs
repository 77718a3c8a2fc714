//! What travels between the coordinator and its workers, and what a worker does about it.
//!
//! A file's content travels beside its task, read straight into the memory that the worker reads.

use std::cell::RefCell;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipc_node::Node;
use ipc_node::pool::{Context, Handlers};
use ipc_proto::codec;
use ipc_shm::Namespace;
use serde::{Deserialize, Serialize};

use crate::fingerprint::Progress;

/// What a worker is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What to do with the content.
    pub work: Work,
    /// How long it takes at least.
    pub at_least: Duration,
    /// How often it is to be killed over. It takes very long until it was.
    pub deaths: u8,
}

/// What to do with a task's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Go on with the fingerprint of a file, from what its earlier parts gave.
    Fingerprint(Progress),
    /// Answer with `processed_` and the content.
    Echo,
}

/// A worker's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What came of it.
    pub answer: Answer,
    /// Which worker did it.
    pub worker: String,
    /// When it began, since 1970: workers may be on other hosts.
    pub began: Duration,
    /// When it was done.
    pub ended: Duration,
    /// How often the task had been delivered.
    pub attempt: u8,
}

impl Outcome {
    /// How long it is as a message.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        codec::encode(self).map_or(0, |bytes| bytes.len())
    }
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// What is known of the file up to here.
    Fingerprint(Progress),
    /// The text asked for.
    Text(String),
}

/// The name of the one thing that workers can do.
pub const HANDLER: &str = "task";
/// How long a task takes that is to be killed over: longer than any kill takes to come.
const LONG: Duration = Duration::from_secs(10);

/// What workers can do. In the table of nodes of that namespace, if one is given, they say who they are and count what they did.
#[must_use]
pub fn handlers(nodes: Option<Namespace>) -> Handlers {
    let mut handlers = Handlers::new();
    handlers.add(HANDLER, move |task: Task, context: &Context<'_>| {
        as_node(nodes.as_ref(), context, || work(task, context))
    });
    handlers
}

/// How long since 1970.
#[must_use]
pub fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn work(task: Task, context: &Context<'_>) -> Result<Outcome, String> {
    let began = now();
    let answer = match task.work {
        Work::Echo => {
            let text = String::from_utf8_lossy(context.content());
            Answer::Text(format!("processed_{text}"))
        }
        Work::Fingerprint(mut progress) => {
            progress.update(context.content());
            Answer::Fingerprint(progress)
        }
    };
    let is_doomed = context.attempt() <= task.deaths;
    linger(if is_doomed { LONG } else { task.at_least }, context)?;
    Ok(Outcome {
        answer,
        worker: context.worker().to_owned(),
        began,
        ended: now(),
        attempt: context.attempt(),
    })
}

/// Takes as long as the task is to take.
fn linger(at_least: Duration, context: &Context<'_>) -> Result<(), String> {
    const LOOK: Duration = Duration::from_millis(5);
    let until = Instant::now() + at_least;
    loop {
        if context.is_cancelled() {
            return Err("nobody wants it any more".to_owned());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LOOK));
    }
}

/// Has this worker's node count what it does. A worker without one works, too.
fn as_node(
    nodes: Option<&Namespace>,
    context: &Context<'_>,
    work: impl FnOnce() -> Result<Outcome, String>,
) -> Result<Outcome, String> {
    thread_local! {
        static NODE: RefCell<Option<Node>> = const { RefCell::new(None) };
    }
    NODE.with_borrow_mut(|node| {
        if node.is_none() {
            *node = nodes.and_then(|nodes| Node::join(nodes, context.worker()).ok());
        }
        let counters = node.as_ref().map(Node::counters);
        counters.inspect(|counters| counters.received(context.content().len(), context.attempt()));
        let outcome = work()?;
        counters.inspect(|counters| counters.sent(outcome.encoded_bytes()));
        Ok(outcome)
    })
}
