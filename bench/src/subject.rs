//! What is measured: the queue of this project, references, and peers. One file each.
//!
//! A subject says how its two ends are opened and how a message goes in and comes out. All else is the same for all:
//! who starts whom, what is in the messages, when the clock is read (`work`), what is verified (`repetition`).

mod cloudtoid;
mod copying;
mod futex;
mod iceoryx;
mod ipc_channel;
mod lamport;
mod memory;
mod mq;
mod nats;
mod python;
mod redis;
mod ringfire;
mod rings;
mod server;
mod shaq;
mod shm;
mod stream;
mod threads;
mod vyukov;
mod waiting;

use std::any::Any;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::part::{Outcome, Part};
use crate::stage::Stage;
use crate::storm;
use crate::work::Work;

/// Where one queue of a repetition is, and what it is for.
#[derive(Clone, Debug)]
pub struct Place {
    /// This repetition's own folder, in memory.
    pub folder: PathBuf,
    /// Which of the repetition's queues.
    pub queue: &'static str,
    /// Each message's size.
    pub bytes: usize,
    /// How many messages it should hold.
    pub capacity: usize,
}

impl Place {
    /// A file for this queue.
    pub fn file(&self) -> PathBuf {
        self.folder.join(self.queue)
    }

    /// A name for those who share a name space with everybody on the machine.
    pub fn global_name(&self) -> String {
        let folder = self.folder.strip_prefix("/dev/shm").unwrap_or(&self.folder);
        let folder = folder.to_string_lossy().replace('/', "-");
        format!("{folder}-{}", self.queue)
    }
}

/// How a receiver waits for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// With calls that do not block, again and again.
    Spin,
    /// Whichever is faster in a stream.
    Stream,
    /// As the subject's blocking call does; as it must where there is none.
    Block,
}

/// Where a subject's two ends live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    Processes,
    /// Threads of one process.
    Threads,
}

/// Whether somebody cares that a queue stays: dropped when the repetition is over.
pub type Guard = Box<dyn Any>;

/// Removes what a repetition left in the system's folder of shared memory, by a part of its name.
struct Swept(String);

/// Something that moves messages.
pub trait Subject: Sync {
    type Sender: Sender;
    type Receiver: Receiver;

    /// What it is called, everywhere.
    fn name(&self) -> String;

    /// What it offers less than, or differs in. Empty if nothing.
    fn note(&self) -> &'static str {
        ""
    }

    fn home(&self) -> Home {
        Home::Processes
    }

    /// Whether it can do this.
    fn does(&self, work: Work) -> bool;

    /// Why it can't be measured on this machine.
    fn missing(&self) -> Option<String> {
        None
    }

    /// Makes what must be there before anybody opens it.
    fn create(&self, place: &Place) -> Result<Guard> {
        let _ = place;
        Ok(Box::new(()))
    }

    /// Whether senders open before receivers, and not after them.
    fn senders_open_first(&self) -> bool {
        false
    }

    /// Opens the receiving end.
    fn receiver(&self, place: &Place, patience: Patience) -> Result<Self::Receiver>;

    /// Opens the sending end.
    fn sender(&self, place: &Place) -> Result<Self::Sender>;

    /// Removes what was made at a place with a folder of its own.
    fn remove(&self, place: &Place) -> Result<()> {
        Ok(std::fs::remove_dir_all(&place.folder)?)
    }

    /// Opens both ends, sends, receives, and closes.
    fn visit(
        &self,
        place: &Place,
        fill: &mut impl FnMut(&mut [u8]),
        read: &mut impl FnMut(&[u8]),
    ) -> Result<()> {
        let mut receiver = self.receiver(place, Patience::Block)?;
        let mut sender = self.sender(place)?;
        sender.send(1, place.bytes, fill)?;
        receiver.receive(read)
    }

    /// Whether a process that comes later finds the queue as others left it.
    fn can_be_opened_again(&self) -> bool {
        false
    }

    /// How many messages a call takes.
    fn batch(&self) -> usize {
        1
    }
}

/// Sends.
pub trait Sender {
    /// Sends `count` messages of `len` bytes, waiting for room. `fill` is called once for each, in order, with its memory.
    fn send(&mut self, count: usize, len: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()>;
}

/// Receives.
pub trait Receiver {
    /// Receives at least one message, and settles it after `read` has seen it.
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()>;
}

/// A subject whose types are forgotten.
pub trait Player: Sync {
    fn name(&self) -> String;
    fn note(&self) -> &'static str;
    fn home(&self) -> Home;
    fn does(&self, work: Work) -> bool;
    fn missing(&self) -> Option<String>;
    fn create(&self, place: &Place) -> Result<Guard>;
    fn can_be_opened_again(&self) -> bool;
    /// Plays a part in the kill storm.
    fn weather(&self, orders: &storm::Orders) -> Result<()>;
    /// Plays one part to its end.
    fn play(&self, part: &Part, folder: &Path, stage: &Stage) -> Result<Outcome>;
}

impl<S: Subject> Player for S {
    fn name(&self) -> String {
        Subject::name(self)
    }

    fn note(&self) -> &'static str {
        Subject::note(self)
    }

    fn home(&self) -> Home {
        Subject::home(self)
    }

    fn does(&self, work: Work) -> bool {
        Subject::does(self, work)
    }

    fn missing(&self) -> Option<String> {
        Subject::missing(self)
    }

    fn create(&self, place: &Place) -> Result<Guard> {
        Subject::create(self, place)
    }

    fn can_be_opened_again(&self) -> bool {
        Subject::can_be_opened_again(self)
    }

    fn weather(&self, orders: &storm::Orders) -> Result<()> {
        storm::play(self, orders)
    }

    fn play(&self, part: &Part, folder: &Path, stage: &Stage) -> Result<Outcome> {
        crate::part::play(self, part, folder, stage)
    }
}

/// Everything that is measured, in the order of the tables.
pub fn all() -> Vec<Box<dyn Player>> {
    let mut all: Vec<Box<dyn Player>> = Vec::new();
    shm::list(&mut all);
    vyukov::list(&mut all);
    lamport::list(&mut all);
    all.push(Box::new(futex::Futex));
    all.push(Box::new(memory::Memory));
    iceoryx::list(&mut all);
    all.push(Box::new(cloudtoid::Cloudtoid));
    shaq::list(&mut all);
    ringfire::list(&mut all);
    all.push(Box::new(ipc_channel::IpcChannel));
    threads::list(&mut all);
    all.push(Box::new(stream::Pipe));
    all.push(Box::new(stream::Socket));
    all.push(Box::new(mq::MessageQueue));
    all.push(Box::new(python::Python));
    all.push(Box::new(redis::Redis));
    all.push(Box::new(nats::Nats));
    all
}

impl Drop for Swept {
    fn drop(&mut self) {
        let Ok(entries) = std::fs::read_dir("/dev/shm") else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().contains(&self.0) {
                // Somebody else may have removed it.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}
