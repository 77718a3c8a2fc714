//! A child process (code: `Puppet`) as the scenario sees it: it takes orders, sends replies, and
//! may be killed or stopped in between.

use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use ipc_queue::QueueStats;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::order::{Order, Reply};
use super::stage::{JOBS, Stage, expect, until};

/// A process that obeys orders. Killed when dropped.
pub struct Puppet {
    child: Child,
    /// `None` when no more orders will come.
    orders: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    /// Its number in its own PID namespace.
    pub own_pid: u32,
}

/// The child processes of a scenario.
impl Stage {
    /// A child that is attached to the queue.
    pub fn puppet(&self) -> Result<Puppet> {
        let mut puppet = self.stranger()?;
        puppet.attach()?;
        Ok(puppet)
    }

    /// A child that is not attached to anything.
    pub fn stranger(&self) -> Result<Puppet> {
        Puppet::start(&[])
    }

    /// A child in the PID namespace that [`isolation`](super::isolation) took, with a `/proc` of
    /// its own.
    pub fn inmate(&self) -> Result<Puppet> {
        Puppet::start(&["--own-proc"])
    }
}

impl Puppet {
    /// Starts a child with these further arguments.
    pub fn start(args: &[&str]) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg("scenario-puppet")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a puppet")?;
        let mut puppet = Self {
            orders: child.stdin.take(),
            replies: BufReader::new(child.stdout.take().expect("piped")),
            child,
            own_pid: 0,
        };
        puppet.await_ready()?;
        Ok(puppet)
    }

    /// Its number in this process's PID namespace.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process numbers fit"))
    }

    /// Attaches to the queue.
    pub fn attach(&mut self) -> Result<()> {
        let queue = JOBS.to_owned();
        self.perform(Order::Attach { queue })
    }

    /// Gives an order without waiting for the reply.
    pub fn tell(&mut self, order: &Order) -> Result<()> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        let orders = self.orders.as_mut().context("a dismissed puppet")?;
        orders
            .write_all(&line)
            .with_context(|| format!("telling {order:?}"))
    }

    /// Waits for the next reply.
    pub fn hear(&mut self) -> Result<Reply> {
        self.hear_outcome()?
            .map_err(|error| anyhow!("a puppet failed: {error}"))
    }

    /// Gives an order and waits for the reply.
    pub fn ask(&mut self, order: &Order) -> Result<Reply> {
        self.tell(order)?;
        self.hear().with_context(|| format!("{order:?}"))
    }

    /// Gives an order whose reply must be [`Reply::Done`].
    pub fn perform(&mut self, order: Order) -> Result<()> {
        self.ask(&order).map(drop)
    }

    /// Gives an order that must fail, and returns the error.
    pub fn refused(&mut self, order: &Order) -> Result<String> {
        self.tell(order)?;
        self.hear_refusal()
            .with_context(|| format!("refusing {order:?}"))
    }

    /// Waits for the next reply, which must be a failure.
    pub fn hear_refusal(&mut self) -> Result<String> {
        match self.hear_outcome()? {
            Err(error) => Ok(error),
            Ok(other) => bail!("a puppet did not fail, but said {other:?}"),
        }
    }

    /// Waits for the next reply, success or failure.
    pub fn hear_outcome(&mut self) -> Result<Result<Reply, String>> {
        match self.next_reply()? {
            Some(Reply::Failed(error)) => Ok(Err(error)),
            Some(reply) => Ok(Ok(reply)),
            None => bail!("a puppet ended: {}", self.child.wait()?),
        }
    }

    /// Gives an order that blocks the child, and waits until the child is blocked.
    pub fn tell_and_block(&mut self, order: &Order) -> Result<()> {
        self.tell(order)?;
        self.wait_until_blocked()
    }

    /// Waits until it sleeps in a queue.
    pub fn wait_until_blocked(&self) -> Result<()> {
        let call = format!("/proc/{}/syscall", self.child.id());
        let asleep = format!("{} ", nix::libc::SYS_futex);
        until("the puppet sleeps", || {
            Ok(std::fs::read_to_string(&call)?.starts_with(&asleep))
        })
        .map(drop)
    }

    /// Lets it receive and hold a message, which must be this one, at this attempt.
    pub fn hold(&mut self, number: u64, attempt: u8) -> Result<()> {
        self.tell(&Order::Receive { wait_ms: None })?;
        self.hear_delivery(number, attempt)
    }

    /// Waits for the next reply, which must be that it holds this message, at this attempt.
    pub fn hear_delivery(&mut self, number: u64, attempt: u8) -> Result<()> {
        expect("a delivery", self.hear()?, Reply::Got { number, attempt })
    }

    /// Lets it receive and ack this many messages, which must be these, in any order.
    pub fn consume(&mut self, numbers: Range<u64>) -> Result<()> {
        let count = usize::try_from(numbers.end - numbers.start)?;
        self.tell(&Order::Consume { count })?;
        self.hear_consumed(numbers)
    }

    /// Waits for the next reply, which must be that it has acked these messages, in any order.
    pub fn hear_consumed(&mut self, numbers: Range<u64>) -> Result<()> {
        let Reply::Consumed(mut found) = self.hear()? else {
            bail!("it consumed nothing");
        };
        found.sort_unstable();
        expect("consumed", found, numbers.collect())
    }

    /// Lets it send these messages, for which there must be room.
    pub fn send(&mut self, numbers: Range<u64>, bytes: usize) -> Result<()> {
        self.perform(Order::send(numbers, bytes))
    }

    /// Lets it take a loan and keep it.
    pub fn lend(&mut self, number: u64, bytes: usize) -> Result<()> {
        self.perform(Order::Lend { number, bytes })
    }

    pub fn ack(&mut self) -> Result<()> {
        self.perform(Order::Ack)
    }

    pub fn stats(&mut self) -> Result<QueueStats> {
        match self.ask(&Order::Stats)? {
            Reply::Stats(stats) => Ok(stats),
            other => bail!("no counts: {other:?}"),
        }
    }

    /// Waits until it sees nothing in use, except for the slots of this many processes.
    pub fn await_free(&mut self, participants: u64) -> Result<()> {
        until("everything is free", || {
            let stats = self.stats()?;
            let free = stats.in_use() == 0 && stats.chunks_in_use == 0;
            Ok(free && stats.participants == participants)
        })
        .map(drop)
    }

    /// The number in its reply.
    pub fn count(&mut self, order: &Order) -> Result<u64> {
        match self.ask(order)? {
            Reply::Count(count) => Ok(count),
            other => bail!("no count: {other:?}"),
        }
    }

    /// Waits until it is ready again after it became another program.
    pub fn await_ready(&mut self) -> Result<()> {
        match self.hear()? {
            Reply::Ready { pid } => self.own_pid = pid,
            other => bail!("not ready: {other:?}"),
        }
        Ok(())
    }

    /// Kills it at once and reaps it. Returns its last replies.
    pub fn kill(&mut self) -> Result<Vec<Reply>> {
        self.strike()?;
        self.bury()
    }

    /// Kills it at once.
    pub fn strike(&mut self) -> Result<()> {
        Ok(self.child.kill()?)
    }

    /// Reaps it after it was killed. Returns its last replies.
    pub fn bury(&mut self) -> Result<Vec<Reply>> {
        self.reap()?;
        let mut said = Vec::new();
        while let Some(reply) = self.next_reply()? {
            said.push(reply);
        }
        Ok(said)
    }

    /// Reaps it after it was killed, when it left a child that may still reply.
    pub fn reap(&mut self) -> Result<()> {
        self.child.wait()?;
        Ok(())
    }

    /// Lets it end by itself, by giving no more orders.
    pub fn dismiss(&mut self) -> Result<ExitStatus> {
        self.orders = None;
        Ok(self.child.wait()?)
    }

    /// Stops it at once; it has stopped when this returns.
    pub fn freeze(&mut self) -> Result<()> {
        kill(self.pid(), Signal::SIGSTOP)?;
        match waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED))? {
            WaitStatus::Stopped(..) => Ok(()),
            other => bail!("not stopped: {other:?}"),
        }
    }

    /// Lets it continue.
    pub fn thaw(&mut self) -> Result<()> {
        Ok(kill(self.pid(), Signal::SIGCONT)?)
    }

    /// `None` when it has ended.
    fn next_reply(&mut self) -> Result<Option<Reply>> {
        let mut line = String::new();
        if self.replies.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line)
            .map(Some)
            .with_context(|| format!("the reply {line}"))
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
