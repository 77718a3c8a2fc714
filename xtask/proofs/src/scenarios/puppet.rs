//! A child process (code: puppet) that obeys orders from stdin, one per line, until it is killed or
//! stdin ends.
//!
//! All processes in scenarios are such children, so a scenario reads as a story. A child may be
//! killed or stopped at any time. It dies with the process that started it.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Lines, StdinLock, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use fork::Fork;
use ipc_proto::QueueSettings;
use ipc_queue::transport::{OpenMode, Wait};
use ipc_queue::{ByteDelivery, ByteQueue, ByteReceiver, ByteSender, Loan, QueueError, SendOptions};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, pause, setresgid, setresuid};

use super::order::{Order, Reply};
use super::{isolation, numbered, stage};

/// The arguments of a child.
#[derive(Debug, Args)]
pub struct Options {
    /// Mount a `/proc` of its own, for a child in its own PID namespace
    #[arg(long)]
    own_proc: bool,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    // A fixture starts children from its main thread, which lives as long as the process.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if options.own_proc
        && let Err(error) = isolation::mount_own_proc()
    {
        say(&Reply::Failed(format!("{error:#}")))?;
        return Ok(ExitCode::FAILURE);
    }
    let mut orders = Orders(io::stdin().lines());
    say(&ready())?;
    while let Some(order) = orders.next()? {
        if let Order::Attach { queue } = order {
            match stage::options(OpenMode::Open).open_bytes(stage::address(&queue)) {
                Ok(queue) => {
                    attached(&queue, &mut orders)?;
                    drop(queue);
                    say(&Reply::Done)?;
                }
                Err(error) => say(&Reply::Failed(shown(error)))?,
            }
        } else {
            say(&or_failed(alone(order)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The orders, one by one.
struct Orders(Lines<StdinLock<'static>>);

impl Orders {
    fn next(&mut self) -> Result<Option<Order>> {
        let Some(line) = self.0.next() else {
            return Ok(None);
        };
        let line = line.context("reading orders")?;
        serde_json::from_str(&line)
            .map(Some)
            .with_context(|| format!("the order {line}"))
    }
}

/// One write, so that the reply is written wholly or not at all.
fn say(reply: &Reply) -> Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    Ok(stdout.flush()?)
}

fn ready() -> Reply {
    Reply::Ready {
        pid: std::process::id(),
    }
}

fn or_failed(outcome: Result<Reply, String>) -> Reply {
    outcome.unwrap_or_else(Reply::Failed)
}

fn shown(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

fn wait(millis: Option<u64>) -> Wait {
    millis.map_or(Wait::Forever, |millis| {
        Wait::at_most(Duration::from_millis(millis))
    })
}

/// Obeys an order that needs no queue.
fn alone(order: Order) -> Result<Reply, String> {
    match order {
        Order::Create { queue, settings } => stage::options(OpenMode::Create)
            .settings(settings)
            .open_bytes(stage::address(&queue))
            .map(drop)
            .map_err(shown)?,
        Order::ComeAndGo { queue, settings } => come_and_go(&queue, &settings)?,
        Order::Open { queue } => stage::options(OpenMode::OpenOrCreate)
            .open_bytes(stage::address(&queue))
            .map(drop)
            .map_err(shown)?,
        Order::Remove { queue } => ipc_queue::remove(stage::address(&queue))
            .map(drop)
            .map_err(shown)?,
        Order::Exec => {
            let mut program = Command::new("/proc/self/exe");
            return Err(shown(program.arg("scenario-puppet").exec()));
        }
        Order::CatchSignals => {
            signal_hook::flag::register(Signal::SIGUSR1 as i32, Arc::new(AtomicBool::new(false)))
                .map(drop)
                .map_err(shown)?;
        }
        Order::LimitFileSize { bytes } => limit(Resource::RLIMIT_FSIZE, bytes)?,
        Order::LimitOpenFiles { more } => {
            limit(Resource::RLIMIT_NOFILE, limit_for(&open_files()?, more))?;
        }
        Order::LimitMemory { more } => limit(Resource::RLIMIT_AS, address_space()? + more)?,
        Order::LiftLimits => limit(Resource::RLIMIT_NOFILE, u64::MAX)?,
        Order::CountOpenFiles => return Ok(Reply::Count(open_files()?.len() as u64)),
        Order::BecomeUser { uid } => {
            let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
            setresgid(group, group, group).map_err(shown)?;
            setresuid(user, user, user).map_err(shown)?;
        }
        Order::SetLastPid { pid } => {
            std::fs::write("/proc/sys/kernel/ns_last_pid", pid.to_string()).map_err(shown)?;
        }
        // In this process's time namespace, unlike the times in queues.
        Order::Clock => {
            let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
            let seconds = now.map_err(shown)?.tv_sec();
            return Ok(Reply::Count(u64::try_from(seconds).map_err(shown)?));
        }
        needs_queue => return Err(format!("not attached: {needs_queue:?}")),
    }
    Ok(Reply::Done)
}

fn come_and_go(queue: &str, settings: &QueueSettings) -> Result<(), String> {
    let address = stage::address(queue);
    let options = stage::options(OpenMode::Create).settings(settings.clone());
    let mut is_known = false;
    loop {
        match options.open_bytes(&address) {
            Ok(_) if is_known => {}
            Ok(_) => {
                is_known = true;
                say(&Reply::Done).map_err(shown)?;
            }
            Err(QueueError::Exists { .. }) => {}
            Err(error) => return Err(shown(error)),
        }
        ipc_queue::remove(&address).map_err(shown)?;
    }
}

/// Lowers a limit, or raises it as far as possible.
fn limit(resource: Resource, to: u64) -> Result<(), String> {
    let (_, most) = getrlimit(resource).map_err(shown)?;
    setrlimit(resource, to.min(most), most).map_err(shown)
}

/// The size of this process's address space, in bytes.
fn address_space() -> Result<u64, String> {
    let sizes = std::fs::read_to_string("/proc/self/statm").map_err(shown)?;
    let pages = sizes.split(' ').next().and_then(|pages| pages.parse().ok());
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).map_err(shown)?;
    let bytes = |(pages, page): (u64, i64)| Some(pages * u64::try_from(page).ok()?);
    pages
        .zip(page)
        .and_then(bytes)
        .ok_or_else(|| format!("no sizes: {sizes}"))
}

/// The numbers of this process's open files.
fn open_files() -> Result<BTreeSet<u64>, String> {
    let folder = Path::new("/proc/self/fd");
    let names: Vec<_> = std::fs::read_dir(folder)
        .map_err(shown)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    // Without the one that read the folder, which is closed by now.
    let still_open = names.iter().filter(|name| folder.join(name).is_symlink());
    Ok(still_open.filter_map(|name| name.parse().ok()).collect())
}

/// The limit that allows this many more open files. The limit is on their numbers.
fn limit_for(open: &BTreeSet<u64>, more: u64) -> u64 {
    let mut free = (0..).filter(|number| !open.contains(number));
    (0..=more).fold(0, |_, _| free.next().unwrap_or(0))
}

/// Obeys while attached to `queue`.
fn attached(queue: &ByteQueue, orders: &mut Orders) -> Result<()> {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let mut hands = Hands {
        queue,
        sender: &sender,
        receiver: &receiver,
        loans: VecDeque::new(),
        held: VecDeque::new(),
    };
    say(&Reply::Done)?;
    while let Some(order) = orders.next()? {
        if let Order::Detach = order {
            return Ok(());
        }
        if let Some(outcome) = hands.obey(order).transpose() {
            say(&or_failed(outcome))?;
        }
    }
    Ok(())
}

/// The state of an attached child.
struct Hands<'a> {
    queue: &'a ByteQueue,
    sender: &'a ByteSender,
    receiver: &'a ByteReceiver,
    loans: VecDeque<Loan<'a>>,
    held: VecDeque<ByteDelivery<'a>>,
}

impl Hands<'_> {
    /// `None`: there is no reply to send.
    fn obey(&mut self, order: Order) -> Result<Option<Reply>, String> {
        match order {
            Order::Send {
                numbers,
                bytes,
                wait_ms,
            } => self.send(numbers, bytes, wait_ms)?,
            Order::SendForever { first, sizes } => self.send_forever(first, &sizes)?,
            Order::Lend { number, bytes } => self.lend(number, bytes)?,
            Order::Publish => {
                let loan = self.loans.pop_front().ok_or("no loan")?;
                loan.publish().map(drop).map_err(shown)?;
            }
            Order::Receive { wait_ms } => return self.receive(wait(wait_ms)).map(Some),
            Order::Hoard { count } => {
                for _ in 0..count {
                    self.receive(Wait::Forever)?;
                }
            }
            Order::Consume { count } => return self.consume(count).map(Some),
            Order::WorkForever => self.work_forever()?,
            Order::Check => {
                let held = self.held.front().ok_or("nothing held")?;
                number_in(held)?;
            }
            Order::Ack => self.next_held()?.ack().map_err(shown)?,
            Order::NackAfter { delay_ms } => {
                let delay = Duration::from_millis(delay_ms);
                self.next_held()?.nack_after(delay).map_err(shown)?;
            }
            Order::Stats => {
                let stats = self.queue.transport().stats().map_err(shown)?;
                return Ok(Some(Reply::Stats(stats)));
            }
            Order::Fork => {
                if let Fork::Child = fork::fork().map_err(shown)? {
                    self.be_a_child()?;
                }
                return Ok(None);
            }
            Order::Attach { .. } => return Err("attached already".to_owned()),
            other => return alone(other).map(Some),
        }
        Ok(Some(Reply::Done))
    }

    fn send(
        &self,
        numbers: std::ops::Range<u64>,
        bytes: usize,
        wait_ms: Option<u64>,
    ) -> Result<(), String> {
        for number in numbers {
            let mut loan = self
                .sender
                .loan_with(bytes, &SendOptions::new().wait(wait(wait_ms)))
                .map_err(shown)?;
            numbered::write(&mut loan, number);
            loan.publish().map_err(shown)?;
        }
        Ok(())
    }

    fn send_forever(&self, first: u64, sizes: &[usize]) -> Result<(), String> {
        for (number, bytes) in (first..).zip(sizes.iter().cycle()) {
            self.send(number..number + 1, *bytes, None)?;
            say(&Reply::Sent(number)).map_err(shown)?;
        }
        Ok(())
    }

    fn lend(&mut self, number: u64, bytes: usize) -> Result<(), String> {
        let mut loan = self.sender.loan(bytes).map_err(shown)?;
        numbered::write(&mut loan, number);
        self.loans.push_back(loan);
        Ok(())
    }

    fn receive(&mut self, wait: Wait) -> Result<Reply, String> {
        let delivery = self.receiver.recv_within(wait).map_err(shown)?;
        let (number, attempt) = (number_in(&delivery)?, delivery.attempt());
        self.held.push_back(delivery);
        Ok(Reply::Got { number, attempt })
    }

    fn next_held(&mut self) -> Result<ByteDelivery<'_>, String> {
        self.held
            .pop_front()
            .ok_or_else(|| "nothing held".to_owned())
    }

    fn consume(&self, count: usize) -> Result<Reply, String> {
        let mut numbers = Vec::new();
        for _ in 0..count {
            let delivery = self.receiver.recv().map_err(shown)?;
            numbers.push(number_in(&delivery)?);
            delivery.ack().map_err(shown)?;
        }
        Ok(Reply::Consumed(numbers))
    }

    fn work_forever(&self) -> Result<(), String> {
        loop {
            let delivery = self.receiver.recv().map_err(shown)?;
            let number = number_in(&delivery)?;
            say(&Reply::Settling(number)).map_err(shown)?;
            delivery.ack().map_err(shown)?;
            say(&Reply::Acked(number)).map_err(shown)?;
        }
    }

    /// Tries everything with what was inherited, then opens the queue as a process of its own, and
    /// stays.
    fn be_a_child(&mut self) -> Result<(), String> {
        let mut answers = vec![
            ("send", shown(self.sender.try_send(&[0; 8]))),
            ("loan", shown(self.sender.try_loan(8).map(drop))),
            ("receive", shown(self.receiver.try_recv().map(drop))),
        ];
        if let Some(loan) = self.loans.pop_front() {
            answers.push(("publish", shown(loan.publish())));
        }
        if let Some(held) = self.held.front() {
            answers.push(("extend", shown(held.extend(Duration::from_secs(1)))));
        }
        if let Some(held) = self.held.pop_front() {
            answers.push(("ack", shown(held.ack())));
        }
        self.loans.clear();
        self.held.clear();
        let own = stage::open().map_err(shown)?;
        let sent = own.sender().try_send(&numbered::message(CHILDS, 8));
        answers.push(("own", shown(sent.map(drop))));
        drop(own);
        let answers = answers
            .into_iter()
            .map(|(tried, answer)| (tried.to_owned(), answer));
        say(&Reply::Child {
            pid: nix::unistd::getpid().as_raw(),
            answers: answers.collect(),
        })
        .map_err(shown)?;
        loop {
            pause();
        }
    }
}

/// The number of a message. Or the error that its file was truncated while it was read, which
/// explains any damage.
fn number_in(delivery: &ByteDelivery<'_>) -> Result<u64, String> {
    let number = numbered::read(delivery.payload());
    delivery.check_whole().map_err(shown)?;
    number
}

/// The number of the message that a forked child sends.
pub const CHILDS: u64 = 999_999;
