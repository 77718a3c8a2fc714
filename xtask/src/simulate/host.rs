//! A host and its processes: what each knows, and what is gone when it ends.

use super::agenda::Time;
use super::bridge::Held;
use super::event::Who;
use super::local_queue::LocalQueue;
use super::senders::UnderWay;
use super::worker::Job;

#[derive(Debug)]
pub struct Host {
    pub is_up: bool,
    /// Frozen until then.
    pub paused_until: Time,
    /// How far its wall clock was set off.
    pub clock_offset: i64,
    /// The server that its processes are connected to.
    pub server: u8,
    pub queue: LocalQueue,
    pub processes: [Process; SLOTS],
}

#[derive(Debug)]
pub struct Process {
    pub life: u32,
    pub is_alive: bool,
    pub paused_until: Time,
    /// Ends at its next step, instead of it.
    pub is_doomed: bool,
    calls: u32,
    pub state: State,
}

/// What a process has in its memory.
#[derive(Debug)]
pub enum State {
    Bridge(Vec<Held>),
    /// Sends into the host's queue.
    Sender,
    /// Sends to the cluster.
    DirectSender(Option<UnderWay>),
    Worker(Job),
}

pub const SLOTS: usize = 6;
pub const BRIDGE: u8 = 0;
/// Of the slots, those with senders.
pub const SENDERS: std::ops::Range<u8> = 1..4;

impl State {
    /// Of a process that has just begun.
    fn new(slot: usize) -> Self {
        match slot {
            0 => Self::Bridge(Vec::new()),
            1 | 2 => Self::Sender,
            3 => Self::DirectSender(None),
            _ => Self::Worker(Job::None),
        }
    }
}

impl Host {
    pub fn new(server: u8) -> Self {
        let process = |slot| Process {
            life: 0,
            is_alive: false,
            paused_until: 0,
            is_doomed: false,
            calls: 0,
            state: State::new(slot),
        };
        Self {
            is_up: true,
            paused_until: 0,
            clock_offset: 0,
            server,
            queue: LocalQueue::new(),
            processes: std::array::from_fn(process),
        }
    }

    pub fn process(&mut self, slot: u8) -> &mut Process {
        &mut self.processes[usize::from(slot)]
    }

    /// Begins a process's next life.
    pub fn start(&mut self, slot: u8) {
        let process = self.process(slot);
        process.is_alive = true;
        process.is_doomed = false;
        process.state = State::new(slot.into());
    }

    /// Ends a process, with all that it knew.
    pub fn end(&mut self, slot: u8) {
        let process = self.process(slot);
        process.is_alive = false;
        process.life += 1;
        process.paused_until = 0;
        process.state = State::new(slot.into());
    }

    pub fn bridge(&mut self) -> &mut Vec<Held> {
        match &mut self.process(BRIDGE).state {
            State::Bridge(held) => held,
            _ => unreachable!("the first slot is the bridge's"),
        }
    }

    pub fn job(&mut self, slot: u8) -> &mut Job {
        match &mut self.process(slot).state {
            State::Worker(job) => job,
            _ => unreachable!("only workers have jobs"),
        }
    }

    pub fn under_way(&mut self, slot: u8) -> &mut Option<UnderWay> {
        match &mut self.process(slot).state {
            State::DirectSender(under_way) => under_way,
            _ => unreachable!("only direct senders have something under way"),
        }
    }

    /// Whether nothing that was accepted here is still here.
    pub fn is_quiet(&self) -> bool {
        let is_done = |process: &Process| match &process.state {
            State::Bridge(held) => held.is_empty(),
            State::DirectSender(under_way) => under_way.is_none(),
            State::Sender | State::Worker(_) => true,
        };
        self.is_up && self.queue.is_empty() && self.processes.iter().all(is_done)
    }
}

impl Process {
    /// A number for a question.
    pub fn call(&mut self) -> u32 {
        self.calls += 1;
        self.calls
    }
}

impl Who {
    pub fn of(host: u32, slot: u8, life: u32) -> Self {
        Self { host, slot, life }
    }
}
