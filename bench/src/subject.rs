//! The subjects: this project's queue, references, and peers. One file each.
//!
//! A subject implements how its two ends are opened, and how a message goes in and comes out.
//! Everything else is the same for all: starting of processes, contents of messages, timing
//! (`work`), verification (`repetition`). They are listed in `subjects`.

pub mod bare;
pub mod cloudtoid;
mod copying;
pub mod futex;
pub mod iceoryx;
pub mod ipc_channel;
pub mod lamport;
pub mod memory;
pub mod mq;
pub mod nats;
pub mod python;
pub mod redis;
pub mod remote;
pub mod ringfire;
mod rings;
pub mod server;
pub mod shaq;
pub mod shm;
pub mod stream;
pub mod threads;
pub mod typed;
pub mod vyukov;
mod waiting;

use std::any::Any;
use std::path::PathBuf;

use anyhow::Result;

use crate::work::Work;

/// The place and the parameters of one queue of a repetition.
#[derive(Clone, Debug)]
pub struct Place {
    /// The repetition's own folder, in memory.
    pub folder: PathBuf,
    /// The name of the queue within the repetition.
    pub queue: &'static str,
    /// The size of each message.
    pub bytes: usize,
    /// The number of messages that the queue should hold.
    pub capacity: usize,
}

impl Place {
    /// Returns a file for this queue.
    pub fn file(&self) -> PathBuf {
        self.folder.join(self.queue)
    }

    /// Returns a unique name, for subjects whose names are global on the machine.
    pub fn global_name(&self) -> String {
        let folder = self.folder.strip_prefix("/dev/shm").unwrap_or(&self.folder);
        let folder = folder.to_string_lossy().replace('/', "-");
        format!("{folder}-{}", self.queue)
    }
}

/// The way in which a receiver waits for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// With calls that do not block, repeated.
    Spin,
    /// In the way that is faster for a stream.
    Stream,
    /// With the subject's blocking call, or as the subject requires if there is none.
    Block,
}

/// The place of a subject's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    Processes,
    /// Threads of one process.
    Threads,
}

/// Keeps a queue alive; dropped at the end of the repetition.
pub type Guard = Box<dyn Any>;

/// Removes a repetition's files from the system's folder of shared memory, by a part of their
/// names.
struct Swept(String);

/// Something that moves messages.
pub trait Subject: Sync {
    type Sender: Sender;
    type Receiver: Receiver;

    /// Returns the subject's name, used everywhere.
    fn name(&self) -> String;

    /// Returns the subject's limitations or differences. Empty if there are none.
    fn note(&self) -> &'static str {
        ""
    }

    fn home(&self) -> Home {
        Home::Processes
    }

    /// Returns whether the subject can do this work.
    fn does(&self, work: Work) -> bool;

    /// Returns whether the subject is measured with many ends, and its processor time is.
    fn does_crowds(&self) -> bool {
        false
    }

    /// Returns why the subject cannot be measured on this machine.
    fn missing(&self) -> Option<String> {
        None
    }

    /// Creates what must exist before the ends are opened.
    fn create(&self, place: &Place) -> Result<Guard> {
        let _ = place;
        Ok(Box::new(()))
    }

    /// Returns whether senders open before receivers.
    fn senders_open_first(&self) -> bool {
        false
    }

    /// Opens the receiving end.
    fn receiver(&self, place: &Place, patience: Patience) -> Result<Self::Receiver>;

    /// Opens the sending end.
    fn sender(&self, place: &Place) -> Result<Self::Sender>;

    /// Removes the queue at a place with a separate folder.
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

    /// Returns whether a process that comes later finds the queue as others left it.
    fn can_be_opened_again(&self) -> bool {
        false
    }

    /// Returns the number of messages of a call, for a queue like this.
    fn batch(&self, place: &Place) -> usize {
        let _ = place;
        1
    }
}

/// Sends.
pub trait Sender {
    /// Sends `count` messages of `len` bytes, waiting for room. Calls `fill` once for each, in
    /// order, with its memory.
    fn send(&mut self, count: usize, len: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()>;
}

/// Receives.
pub trait Receiver {
    /// Receives at least one message, and settles it after `read` has seen it.
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()>;
}

impl Drop for Swept {
    fn drop(&mut self) {
        let Ok(entries) = std::fs::read_dir("/dev/shm") else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().contains(&self.0) {
                // Another process may have removed it.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}
