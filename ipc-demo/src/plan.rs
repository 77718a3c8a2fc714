//! What a run is to be, who wants to know how it goes, and what it came to.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use ipc_node::NodeInfo;

use crate::premises::Transport;
use crate::report::Report;
use crate::source::Job;
use crate::timeline::Timeline;

/// What a run is to be.
#[derive(Debug)]
pub struct Plan {
    /// What is to be done.
    pub jobs: Vec<Job>,
    /// How many workers do it.
    pub workers: usize,
    /// How many of them are killed in the middle of a task.
    pub kills: usize,
    /// What the messages travel over.
    pub transport: Transport,
    /// Where the NATS servers are; `None`: one of the run's own.
    pub at: Option<String>,
    /// Whether workers get a `Shutdown` message each at the end, or find the queue closed.
    pub ending: Ending,
}

/// How the workers learn that it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The queue is closed: each goes when it is drained.
    Close,
    /// One `Shutdown` message for each.
    Shutdown,
}

/// Somebody who wants to know how it goes.
pub trait Audience {
    /// A job was done.
    fn progress(&mut self, done: usize, all: usize);
    /// Something else happened.
    fn note(&mut self, text: &str);
}

/// What a run came to.
#[derive(Debug)]
pub struct Finished {
    /// The figures.
    pub report: Report,
    /// Who did what when.
    pub timeline: Timeline,
    /// The jobs with their results.
    pub jobs: Vec<Job>,
    /// Every node's statistics.
    pub nodes: Vec<NodeInfo>,
    /// Whether it was interrupted: jobs are missing.
    pub interrupted: bool,
}

/// How often the user asked to stop: once, and what was begun is finished; twice, and it is not.
pub type Interrupts = Arc<AtomicUsize>;
