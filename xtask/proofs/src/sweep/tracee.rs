//! An actor under ptrace: it runs to the beginning of its operation, then one instruction at a
//! time.
//!
//! Its threads are traced from their first instruction. All except the stepped one stay stopped, so
//! each change is the stepped thread's. The actor dies with its tracer, and is killed when the
//! `Tracee` is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity, sched_yield};
use nix::sys::personality::{self, Persona};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::actor::{self, BEGIN, END, LOOK, SEGMENTS};
use super::outcome::{Expectation, Stepped};

/// A traced actor.
pub struct Tracee {
    child: Child,
    main: Pid,
    watcher: Option<Watcher>,
    stepped: Stepped,
    /// The folder of the segments, while no segment is mapped: then only system calls can change
    /// one.
    unmapped: Option<PathBuf>,
    /// The folder of the segments.
    segments: PathBuf,
    /// Set if words of the segment are watched.
    is_watching: bool,
    instructions: u64,
}

/// The actor's `ipc-watch` thread.
#[derive(Clone, Copy)]
struct Watcher {
    thread: Pid,
    /// Set if the tracer stopped it. Otherwise it was told to step, is asleep in a system call, and
    /// stops after that.
    stopped: bool,
}

/// The result of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One more instruction, or, while no segment is mapped, one more system call.
    Done,
    /// The operation is over.
    End,
}

/// The size of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Instruction,
    SystemCall,
}

impl Pace {
    fn resume(self, thread: Pid, signal: Option<Signal>) -> Result<()> {
        match self {
            Self::Instruction => ptrace::step(thread, signal)?,
            Self::SystemCall => ptrace::syscall(thread, signal)?,
        }
        Ok(())
    }
}

/// A system call that takes longer than this counts as hung.
const PATIENCE: Duration = Duration::from_secs(10);

impl Tracee {
    /// Starts an actor and runs it to the beginning of its operation.
    ///
    /// Only the calling thread may step it.
    pub fn start(operation: &str, state: &str, folder: &Path) -> Result<(Self, Expectation)> {
        Self::start_with(operation, state, folder, &[])
    }

    /// Like `start`, with more arguments.
    pub fn start_with(
        operation: &str,
        state: &str,
        folder: &Path,
        more: &[&str],
    ) -> Result<(Self, Expectation)> {
        let child = Command::new("/proc/self/exe")
            .args(["sweep-actor", operation, state, "--folder"])
            .arg(folder)
            .args(more)
            .stdin(Stdio::null())
            .spawn()
            .context("starting an actor")?;
        let main = Pid::from_raw(i32::try_from(child.id()).expect("process numbers fit"));
        let mut tracee = Self {
            child,
            main,
            watcher: None,
            stepped: Stepped::Main,
            unmapped: Some(folder.join(SEGMENTS)),
            segments: folder.join(SEGMENTS),
            is_watching: false,
            instructions: 0,
        };
        match wait_for(main)? {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
            other => bail!(
                "no process can be traced here ({other:?}): does seccomp, another tracer or \
                 kernel.yama.ptrace_scope forbid ptrace? In a container, add CAP_SYS_PTRACE"
            ),
        }
        ptrace::setoptions(
            main,
            Options::PTRACE_O_TRACECLONE
                | Options::PTRACE_O_TRACESYSGOOD
                | Options::PTRACE_O_EXITKILL,
        )?;
        tracee.run_to_begin()?;
        let expectation = actor::read_expectation(folder)?;
        tracee.stepped = expectation.stepped;
        tracee.look_for_mapping()?;
        Ok((tracee, expectation))
    }

    /// The number of instructions of the operation that were stepped so far.
    pub fn instructions(&self) -> u64 {
        self.instructions
    }

    /// Steps one instruction; while no segment is mapped, runs to the next system call.
    pub fn step(&mut self) -> Result<Step> {
        if self.unmapped.is_some() && self.stepped == Stepped::Main {
            let step = self.step_main(Pace::SystemCall)?;
            self.look_for_mapping()?;
            return Ok(step);
        }
        self.instructions += 1;
        match self.stepped {
            Stepped::Main => self.step_main(Pace::Instruction),
            Stepped::Watcher => self.step_watcher(Pace::Instruction),
        }
    }

    /// Runs to the end of the operation, without stepping.
    pub fn run_on(&mut self) -> Result<()> {
        let pace = Pace::SystemCall;
        loop {
            let step = match self.stepped {
                Stepped::Main => self.step_main(pace)?,
                Stepped::Watcher => self.step_watcher(pace)?,
            };
            if step == Step::End {
                return Ok(());
            }
        }
    }

    /// Kills the actor where it is, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("killing the actor")?;
        // The tracer of a process must reap its threads, the main one last.
        if let Some(watcher) = self.watcher.take() {
            while !matches!(
                wait_for(watcher.thread),
                Err(_) | Ok(WaitStatus::Signaled(..) | WaitStatus::Exited(..))
            ) {}
        }
        self.child.wait().context("waiting for the actor's end")?;
        Ok(())
    }

    /// From now on watches these words of the segment, at most two, for
    /// [`accessed`](Self::accessed). It does so only if this processor can.
    pub fn watch(&mut self, words: &[u64]) -> Result<()> {
        let Some(segments) = self.segments.to_str().map(str::to_owned) else {
            return Ok(());
        };
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.main))?;
        let mappings = maps.lines().filter(|line| line.contains(&segments));
        // There is one mapping for each attachment; those of its own queue and its peer come last.
        let mut starts: Vec<u64> = mappings
            .filter_map(|line| u64::from_str_radix(line.split_once('-')?.0, 16).ok())
            .collect();
        starts.reverse();
        let addresses = starts
            .iter()
            .take(watchpoints::COUNT / words.len().max(1))
            .flat_map(|start| words.iter().map(move |word| start + word));
        self.is_watching = watchpoints::set(self.thread(), addresses).is_ok();
        Ok(())
    }

    /// Returns whether the last instruction accessed a watched word. Must not be used after the
    /// operation's end.
    pub fn accessed(&self) -> Result<bool> {
        if !self.is_watching {
            return Ok(false);
        }
        watchpoints::take_hits(self.thread())
    }

    fn thread(&self) -> Pid {
        match (self.stepped, self.watcher) {
            (Stepped::Watcher, Some(watcher)) => watcher.thread,
            _ => self.main,
        }
    }

    fn run_to_begin(&mut self) -> Result<()> {
        let mut signal = None;
        loop {
            ptrace::cont(self.main, signal.take())?;
            match wait_for(self.main)? {
                WaitStatus::Stopped(_, BEGIN) => return Ok(()),
                WaitStatus::Stopped(_, LOOK) => {
                    while self.step_watcher(Pace::SystemCall)? == Step::Done {}
                }
                WaitStatus::PtraceEvent(..) => self.adopt_thread()?,
                WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
                WaitStatus::Stopped(_, other) => signal = Some(other),
                other => bail!("the actor ended before its operation: {other:?}"),
            }
        }
    }

    fn adopt_thread(&mut self) -> Result<()> {
        let number = ptrace::getevent(self.main)?;
        let thread = Pid::from_raw(i32::try_from(number)?);
        ensure!(
            self.watcher.is_none(),
            "the actor has a thread that it should not have"
        );
        let status = wait_for(thread)?;
        ensure!(
            matches!(status, WaitStatus::Stopped(..)),
            "the actor's watcher ended: {status:?}"
        );
        self.watcher = Some(Watcher {
            thread,
            stopped: true,
        });
        Ok(())
    }

    fn look_for_mapping(&mut self) -> Result<()> {
        if let Some(segments) = &self.unmapped {
            let maps = fs::read_to_string(format!("/proc/{}/maps", self.main))?;
            if maps.contains(&*segments.to_string_lossy()) {
                self.unmapped = None;
            }
        }
        Ok(())
    }

    fn step_main(&mut self, pace: Pace) -> Result<Step> {
        let mut signal = None;
        loop {
            pace.resume(self.main, signal.take())?;
            match wait_for(self.main)? {
                WaitStatus::Stopped(_, Signal::SIGTRAP) | WaitStatus::PtraceSyscall(_) => {
                    return Ok(Step::Done);
                }
                WaitStatus::Stopped(_, END) => return Ok(Step::End),
                WaitStatus::Stopped(_, Signal::SIGALRM) => bail!("the operation hangs"),
                WaitStatus::PtraceEvent(..) => self.adopt_thread()?,
                WaitStatus::Stopped(_, other) => signal = Some(other),
                other => bail!("the actor ended in its operation: {other:?}"),
            }
        }
    }

    /// The end is the point at which it falls asleep.
    fn step_watcher(&mut self, pace: Pace) -> Result<Step> {
        let watcher = self.watcher.as_mut().context("the actor has no watcher")?;
        if watcher.stopped {
            pace.resume(watcher.thread, None)?;
        }
        let was_stopped = std::mem::replace(&mut watcher.stopped, false);
        let deadline = Instant::now() + PATIENCE;
        loop {
            for _ in 0..256 {
                match waitpid(
                    watcher.thread,
                    Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG),
                ) {
                    Ok(WaitStatus::StillAlive) => sched_yield()?,
                    Ok(WaitStatus::Stopped(..) | WaitStatus::PtraceSyscall(_)) => {
                        watcher.stopped = true;
                        return Ok(Step::Done);
                    }
                    other => bail!("the actor's watcher ended: {other:?}"),
                };
            }
            // A thread that was asleep before must first wake.
            if was_stopped && is_asleep(self.main, watcher.thread)? {
                return Ok(Step::End);
            }
            ensure!(Instant::now() < deadline, "the watcher hangs");
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // It is already gone if it was killed.
        let _ = self.kill();
    }
}

fn wait_for(thread: Pid) -> Result<WaitStatus> {
    loop {
        match waitpid(thread, Some(WaitPidFlag::__WALL)) {
            Err(Errno::EINTR) => {}
            status => return Ok(status?),
        }
    }
}

fn is_asleep(process: Pid, thread: Pid) -> Result<bool> {
    let stat = fs::read_to_string(format!("/proc/{process}/task/{thread}/stat"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(after_name.trim_start().starts_with('S'))
}

/// Prepares the calling thread, number `number` of several, for stepping.
pub fn prepare_thread(number: usize) -> Result<()> {
    // On one processor with its actor: handing over to another processor takes several times as
    // long.
    let permitted = sched_getaffinity(Pid::from_raw(0))?;
    let processors =
        (0..CpuSet::count()).filter(|processor| permitted.is_set(*processor) == Ok(true));
    let processors: Vec<_> = processors.collect();
    let mut ours = CpuSet::new();
    ours.set(processors[number % processors.len()])?;
    sched_setaffinity(Pid::from_raw(0), &ours)?;
    // Addresses that are the same in each run, so that a step's number means the same. Where this
    // is refused, it may differ by a few.
    if let Ok(persona) = personality::get() {
        let _ = personality::set(persona | Persona::ADDR_NO_RANDOMIZE);
    }
    Ok(())
}

/// The processor's own breakpoints for data, in the debug registers of a stopped thread.
#[cfg(target_arch = "x86_64")]
mod watchpoints {
    use std::mem::offset_of;
    use std::ptr::without_provenance_mut;

    use anyhow::Result;
    use nix::libc::{c_long, user};
    use nix::sys::ptrace;
    use nix::unistd::Pid;

    pub const COUNT: usize = 4;
    const STATUS: usize = 6;
    const CONTROL: usize = 7;
    /// Read or written, eight bytes.
    const ACCESS: c_long = 0b1011;

    pub fn set(thread: Pid, addresses: impl Iterator<Item = u64>) -> Result<()> {
        let mut control = 0;
        for (index, address) in addresses.enumerate().take(COUNT) {
            ptrace::write_user(thread, register(index), address.cast_signed())?;
            control |= 1 << (2 * index) | ACCESS << (16 + 4 * index);
        }
        Ok(ptrace::write_user(thread, register(CONTROL), control)?)
    }

    pub fn take_hits(thread: Pid) -> Result<bool> {
        let status = ptrace::read_user(thread, register(STATUS))?;
        if status & 0b1111 == 0 {
            return Ok(false);
        }
        ptrace::write_user(thread, register(STATUS), 0)?;
        Ok(true)
    }

    fn register(number: usize) -> ptrace::AddressType {
        without_provenance_mut(offset_of!(user, u_debugreg) + 8 * number)
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod watchpoints {
    use anyhow::{Result, bail};
    use nix::unistd::Pid;

    pub const COUNT: usize = 4;

    pub fn set(_: Pid, _: impl Iterator<Item = u64>) -> Result<()> {
        bail!("unknown on this processor")
    }

    pub fn take_hits(_: Pid) -> Result<bool> {
        Ok(false)
    }
}
