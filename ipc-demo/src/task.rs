//! The messages between the coordinator and its workers, and the work itself.
//!
//! A file's content travels beside its task, read straight into the memory that the worker reads.

use std::cell::RefCell;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipc_node::Node;
use ipc_node::pool::{Context, Handlers};
use ipc_proto::Encoding;
use ipc_shm::Namespace;
use serde::{Deserialize, Serialize};

use crate::fingerprint::Progress;

/// A worker's task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The work on the content.
    pub work: Work,
    /// The shortest time that it takes.
    pub at_least: Duration,
    /// The number of planned kills. The task takes very long until they have happened.
    pub deaths: u8,
}

/// The work on a task's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Continue the fingerprint of a file, from the state after its earlier parts.
    Fingerprint(Progress),
    /// Answer with `processed_` and the content.
    Echo,
}

/// A worker's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The result.
    pub answer: Answer,
    /// The worker that did it.
    pub worker: String,
    /// The time of its start, since 1970: workers may be on other hosts.
    pub began: Duration,
    /// The time of its end.
    pub ended: Duration,
    /// The number of deliveries of the task.
    pub attempt: u8,
}

impl Outcome {
    /// Its length as a message.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        let mut bytes = Vec::new();
        let encoded = Encoding::default().append(self, &mut bytes);
        encoded.map_or(0, |()| bytes.len())
    }
}

/// The result of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The state of the file's fingerprint so far.
    Fingerprint(Progress),
    /// The requested text.
    Text(String),
}

/// The name of the only handler.
pub const HANDLER: &str = "task";
/// The duration of a task that will be killed: longer than any kill takes to come.
const LONG: Duration = Duration::from_secs(10);

/// The workers' handlers. If a namespace is given, workers join its table of nodes and count what
/// they did.
#[must_use]
pub fn handlers(nodes: Option<Namespace>) -> Handlers {
    let mut handlers = Handlers::new();
    handlers.add(HANDLER, move |task: Task, context: &Context<'_>| {
        as_node(nodes.as_ref(), context, || work(task, context))
    });
    handlers
}

/// The time since 1970.
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

/// Waits for as long as the task should take.
fn linger(at_least: Duration, context: &Context<'_>) -> Result<(), String> {
    const LOOK: Duration = Duration::from_millis(5);
    let until = Instant::now() + at_least;
    loop {
        if context.is_cancelled() {
            return Err("it is no longer wanted".to_owned());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LOOK));
    }
}

/// Lets this worker's node count what it does. A worker without a node also works.
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
