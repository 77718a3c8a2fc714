//! The workers: started, watched, killed on request, and replaced when they die.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipc_node::{Node, NodeOptions};
use ipc_queue::transport::Holding;
use ipc_shm::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wiring::{Transport, Wiring};
use crate::worker::{self, Switches};

/// All workers of a run.
#[derive(Debug)]
pub struct Crew {
    transport: Transport,
    namespace: Namespace,
    workers: Vec<Worker>,
    /// Whether a worker that ends is to be replaced.
    replacing: bool,
}

/// One place in the crew, whoever fills it now.
#[derive(Debug)]
pub struct Worker {
    /// What it is called; its replacements, too.
    pub name: String,
    /// The process that fills it now, or did last.
    pub pid: u32,
    /// How often it was replaced.
    pub restarts: u64,
    running: Option<Running>,
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
    /// How it ended, for people.
    pub how: String,
}

/// More replacements than this for one place mean that workers can't work here.
const MOST_RESTARTS: u64 = 1000;

impl Crew {
    /// Starts `count` workers.
    ///
    /// # Errors
    /// When one can't be started; those that were are stopped again.
    pub fn start(wiring: &Wiring, transport: Transport, count: usize) -> Result<Self> {
        let mut crew = Self {
            transport,
            namespace: wiring.namespace().clone(),
            workers: Vec::new(),
            replacing: true,
        };
        for number in 1..=count {
            let mut worker = Worker {
                name: format!("worker-{number}"),
                pid: 0,
                restarts: 0,
                running: None,
            };
            crew.fill(&mut worker)?;
            crew.workers.push(worker);
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
    /// When a replacement can't be started, or they die again and again.
    pub fn tend(&mut self) -> Result<Vec<Loss>> {
        let mut losses = Vec::new();
        for index in 0..self.workers.len() {
            let Some(how) = self.workers[index].ended() else {
                continue;
            };
            self.workers[index].running = None;
            if !self.replacing {
                continue;
            }
            losses.push(Loss {
                worker: self.workers[index].name.clone(),
                how,
            });
            self.workers[index].restarts += 1;
            if self.workers[index].restarts > MOST_RESTARTS {
                bail!(
                    "{} died {MOST_RESTARTS} times: workers can't work here",
                    self.workers[index].name
                );
            }
            let mut worker = std::mem::take(&mut self.workers[index]);
            let filled = self.fill(&mut worker);
            self.workers[index] = worker;
            filled?;
        }
        Ok(losses)
    }

    /// Kills the worker that holds a message: a process by SIGKILL, a thread by its switch. Its name.
    #[must_use]
    pub fn kill(&mut self, holding: &Holding) -> Option<String> {
        let holds = |worker: &&Worker| match self.transport {
            Transport::Shm => worker.pid == holding.pid,
            Transport::Local => worker.name == holding.holder,
        };
        let worker = self.workers.iter().find(holds)?;
        worker.kill();
        Some(worker.name.clone())
    }

    /// From now on workers that end are not replaced.
    pub fn stop_replacing(&mut self) {
        self.replacing = false;
    }

    /// Waits until every worker has ended by itself; after `patience`, kills those that have not.
    pub fn wait(&mut self, patience: Duration) {
        self.replacing = false;
        let deadline = std::time::Instant::now() + patience;
        while self
            .workers
            .iter_mut()
            .any(|worker| worker.running.is_some() && worker.ended().is_none())
        {
            if std::time::Instant::now() > deadline {
                self.workers.iter().for_each(Worker::kill);
            }
            thread::sleep(Duration::from_millis(2));
        }
        for worker in &mut self.workers {
            worker.reap();
        }
    }

    fn fill(&self, worker: &mut Worker) -> Result<()> {
        let running = match self.transport {
            Transport::Shm => Running::Process(self.spawn_process(&worker.name)?),
            Transport::Local => self.spawn_thread(&worker.name)?,
        };
        worker.pid = match &running {
            Running::Process(child) => child.id(),
            Running::Thread { .. } => std::process::id(),
        };
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
            let node = join(&wiring, &node_name)?;
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

impl Default for Worker {
    /// An empty place.
    fn default() -> Self {
        Self {
            name: String::new(),
            pid: 0,
            restarts: 0,
            running: None,
        }
    }
}

impl Worker {
    /// How it ended, if it did.
    fn ended(&mut self) -> Option<String> {
        match self.running.as_mut()? {
            Running::Process(child) => {
                let status = child.try_wait().ok()??;
                Some(match status.signal() {
                    Some(signal) => format!("killed by signal {signal}"),
                    None => status.to_string(),
                })
            }
            Running::Thread { handle, .. } => {
                handle.is_finished().then(|| "its thread ended".to_owned())
            }
        }
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

/// Joins the run's namespace.
///
/// # Errors
/// When a live process has the name.
pub fn join(wiring: &Wiring, name: &str) -> Result<Node> {
    Ok(NodeOptions::new().join(wiring.namespace(), name)?)
}
