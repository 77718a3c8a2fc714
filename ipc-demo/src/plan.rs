//! The plan of a run, its audience, and its result.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use ipc_node::NodeInfo;

use crate::premises::Transport;
use crate::report::Report;
use crate::source::Job;
use crate::timeline::Timeline;

/// The plan of a run.
#[derive(Debug)]
pub struct Plan {
    /// The jobs to do.
    pub jobs: Vec<Job>,
    /// The number of workers.
    pub workers: usize,
    /// The number of workers that are killed in the middle of a task.
    pub kills: usize,
    /// The transport of the messages.
    pub transport: Transport,
    /// The addresses of the NATS servers; `None`: one of the run's own.
    pub at: Option<String>,
    /// The way in which workers learn of the end.
    pub ending: Ending,
}

/// The way in which workers learn of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The queue is closed: each worker ends when it is drained.
    Close,
    /// One `Shutdown` message for each worker.
    Shutdown,
}

/// A listener that follows the progress of a run.
pub trait Audience {
    /// A job was done.
    fn progress(&mut self, done: usize, all: usize);
    /// Something else happened.
    fn note(&mut self, text: &str);
}

/// The result of a run.
#[derive(Debug)]
pub struct Finished {
    /// The figures.
    pub report: Report,
    /// Which worker did what when.
    pub timeline: Timeline,
    /// The jobs with their results.
    pub jobs: Vec<Job>,
    /// Every node's statistics.
    pub nodes: Vec<NodeInfo>,
    /// Set if the run was interrupted: jobs are missing.
    pub interrupted: bool,
}

/// The number of times that the user asked to stop. After one, tasks that have begun are finished;
/// after two, they are not.
pub type Interrupts = Arc<AtomicUsize>;
