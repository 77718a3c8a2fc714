//! The workers: started, watched, killed on request, and replaced when they die.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipc_node::{Node, NodeOptions, Registry};
use ipc_queue::transport::Holding;
use ipc_shm::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wiring::{Premises, Transport, Wiring};
use crate::worker::{self, Switches};

/// All workers of a run.
#[derive(Debug)]
pub struct Crew {
    transport: Transport,
    namespace: Namespace,
    nodes: Registry,
    workers: Vec<Worker>,
    /// Whether a worker that ends is to be replaced.
    replacing: bool,
}

/// One place in the crew, whoever fills it now.
#[derive(Debug, Default)]
pub struct Worker {
    /// What it is called; its replacements, too.
    pub name: String,
    /// The process that fills it now, or did last.
    pub pid: u32,
    /// How often it was replaced.
    pub restarts: u64,
    running: Option<Running>,
    /// Whether the one that fills it now was killed on request.
    is_condemned: bool,
    /// When it was filled last.
    filled_at: Option<Instant>,
    /// How many in a row were lost before they got anything to do.
    false_starts: u32,
}

#[derive(Debug)]
enum Running {
    Process(Child),
    Thread {
        handle: JoinHandle<Result<()>>,
        switches: Arc<Switches>,
    },
}

/// A worker that ended other than by being told to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Which.
    pub worker: String,
    /// The process that it was.
    pub pid: u32,
    /// How it ended, for people.
    pub how: String,
    /// Whether it was killed on request.
    pub was_ordered: bool,
}

/// What the coordinator is called among the nodes.
pub const COORDINATOR: &str = "coordinator";

/// More false starts than this in one place mean that workers can't work here.
const MOST_FALSE_STARTS: u32 = 20;

impl Crew {
    /// Starts `count` workers.
    ///
    /// # Errors
    /// When one can't be started; those that were are stopped again.
    pub fn start(premises: &Premises, count: usize) -> Result<Self> {
        let mut crew = Self {
            transport: premises.transport(),
            namespace: premises.namespace().clone(),
            nodes: Registry::open(premises.namespace())?,
            workers: Vec::new(),
            replacing: true,
        };
        for number in 1..=count {
            crew.workers.push(Worker {
                name: format!("worker-{number}"),
                ..Worker::default()
            });
            crew.fill(number - 1)?;
        }
        Ok(crew)
    }

    /// The workers, in order.
    #[must_use]
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// Notices workers that ended, and replaces them unless the run is ending.
    ///
    /// # Errors
    /// When a replacement can't be started, or one after the other dies before it gets anything to do.
    pub fn tend(&mut self) -> Result<Vec<Loss>> {
        let mut losses = Vec::new();
        for index in 0..self.workers.len() {
            let worker = &mut self.workers[index];
            let Some(how) = worker.ended() else {
                continue;
            };
            if !self.replacing {
                continue;
            }
            let loss = worker.lose(how, &self.nodes);
            if worker.false_starts > MOST_FALSE_STARTS {
                bail!(
                    "{} was lost {MOST_FALSE_STARTS} times in a row before it got anything to do, the last time so: {}; workers can't work here",
                    loss.worker,
                    loss.how
                );
            }
            losses.push(loss);
            self.fill(index)?;
        }
        Ok(losses)
    }

    /// Kills the worker that holds a message: a process by SIGKILL, a thread by its switch. Its name; `None`
    /// if it is none of this crew.
    #[must_use]
    pub fn kill(&mut self, holding: &Holding) -> Option<String> {
        let holds = |worker: &&mut Worker| match self.transport {
            Transport::Shm => worker.pid == holding.pid,
            Transport::Local => worker.name == holding.holder,
        };
        let worker = self.workers.iter_mut().find(holds)?;
        worker.is_condemned = true;
        worker.kill();
        Some(worker.name.clone())
    }

    /// From now on workers that end are not replaced.
    pub fn stop_replacing(&mut self) {
        self.replacing = false;
    }

    /// Waits until every worker has ended by itself; kills those that have not after `patience`, or as soon as
    /// `hurry` says so.
    pub fn wait(&mut self, patience: Duration, hurry: impl Fn() -> bool) {
        self.replacing = false;
        let deadline = Instant::now() + patience;
        while self.workers.iter_mut().any(Worker::is_running) {
            if Instant::now() >= deadline || hurry() {
                self.workers.iter().for_each(Worker::kill);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn fill(&mut self, index: usize) -> Result<()> {
        let name = &self.workers[index].name;
        // Before it can join: by this it is told from those that were here before.
        let filled_at = Some(Instant::now());
        let running = match self.transport {
            Transport::Shm => Running::Process(self.spawn_process(name)?),
            Transport::Local => self.spawn_thread(name)?,
        };
        let worker = &mut self.workers[index];
        worker.pid = match &running {
            Running::Process(child) => child.id(),
            Running::Thread { .. } => std::process::id(),
        };
        worker.filled_at = filled_at;
        worker.running = Some(running);
        Ok(())
    }

    /// This program again, told nothing but names. In a process group of its own: a Ctrl-C at the terminal
    /// is for the coordinator, who lets the workers finish.
    fn spawn_process(&self, name: &str) -> Result<Child> {
        // Not `current_exe`: after a rebuild its path says "(deleted)".
        Command::new("/proc/self/exe")
            .arg0("ipc-demo")
            .args([
                "worker",
                "--namespace",
                self.namespace.name().as_str(),
                "--name",
                name,
            ])
            .args(["--parent", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}"))
    }

    fn spawn_thread(&self, name: &str) -> Result<Running> {
        let switches = Arc::new(Switches::default());
        let (namespace, node_name) = (self.namespace.clone(), name.to_owned());
        let thread_switches = Arc::clone(&switches);
        let body = move || {
            let wiring = Wiring::open(Transport::Local, namespace)?;
            let node = join(wiring.namespace(), &node_name)?;
            worker::run(&wiring, &node, &thread_switches)
        };
        let handle = thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .with_context(|| format!("starting {name}"))?;
        Ok(Running::Thread { handle, switches })
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.workers.iter().for_each(Worker::kill);
        self.workers.iter_mut().for_each(Worker::reap);
    }
}

impl Worker {
    fn is_running(&mut self) -> bool {
        self.running.is_some() && self.ended().is_none()
    }

    /// How it ended, if it just did; its place is empty then.
    fn ended(&mut self) -> Option<String> {
        match self.running.take()? {
            Running::Process(mut child) => match child.try_wait() {
                Ok(None) => {
                    self.running = Some(Running::Process(child));
                    None
                }
                Ok(Some(status)) => Some(in_words(status)),
                // Whoever started us ignores the ends of children, and we inherited that.
                Err(error) => Some(format!("nobody knows how: {error}")),
            },
            Running::Thread { handle, switches } if !handle.is_finished() => {
                self.running = Some(Running::Thread { handle, switches });
                None
            }
            Running::Thread { handle, .. } => Some(match handle.join() {
                Ok(Ok(())) => "it stopped".to_owned(),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) if self.is_condemned => "killed".to_owned(),
                Err(_) => "it panicked".to_owned(),
            }),
        }
    }

    fn lose(&mut self, how: String, nodes: &Registry) -> Loss {
        self.restarts += 1;
        self.false_starts = if self.had_work(nodes) {
            0
        } else {
            self.false_starts + 1
        };
        Loss {
            worker: self.name.clone(),
            pid: self.pid,
            how,
            was_ordered: std::mem::take(&mut self.is_condemned),
        }
    }

    /// Whether the one that filled this place last got a message. What a node did is known after its death.
    fn had_work(&self, nodes: &Registry) -> bool {
        let node = nodes.node(&self.name, Duration::MAX);
        node.zip(self.filled_at).is_some_and(|(node, filled_at)| {
            let is_last = node.joined_ago < filled_at.elapsed();
            is_last && node.stats.messages_received > 0
        })
    }

    fn kill(&self) {
        match &self.running {
            Some(Running::Process(child)) => {
                let pid = i32::try_from(child.id()).expect("process numbers fit");
                // Not reaped yet, so the number is still its own.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            Some(Running::Thread { switches, .. }) => {
                switches.kill.store(true, Ordering::Relaxed);
                switches.stop.store(true, Ordering::Relaxed);
            }
            None => {}
        }
    }

    fn reap(&mut self) {
        match self.running.take() {
            Some(Running::Process(mut child)) => drop(child.wait()),
            Some(Running::Thread { handle, .. }) => drop(handle.join()),
            None => {}
        }
    }
}

fn in_words(status: ExitStatus) -> String {
    let signal = status
        .signal()
        .and_then(|number| Signal::try_from(number).ok());
    signal.map_or_else(
        || status.to_string(),
        |signal| format!("killed by {signal}"),
    )
}

/// Joins a run's namespace.
///
/// # Errors
/// When a live process has the name.
pub fn join(namespace: &Namespace, name: &str) -> Result<Node> {
    Ok(NodeOptions::new().join(namespace, name)?)
}
