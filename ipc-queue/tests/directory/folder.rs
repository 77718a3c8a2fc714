//! The contents of a queue's folder: a file for each message, and these:
//!
//! - `settings`: the settings of the queue. Written before the folder has its name, then never
//!   again.
//! - `counts`: the counters. A crash may cost the last change of one.
//! - `gate`: a process that wants the lock waits here, so that the fastest one does not always win.
//! - `lock`: the holder of the kernel's lock on it may change the contents. The kernel releases it
//!   when the holder dies. A holder that is stopped stops all others. No process holds it while it
//!   waits.
//!
//! Each handle also has a file, `holder-…`. The handle holds the kernel's lock on it for as long as
//! it, or a delivery of it, exists. So a death is visible: the lock can be taken.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc_proto::codec;
use ipc_queue::transport::{OpenMode, OpenRequest};
use ipc_queue::{DeadReason, QueueError, QueueSettings, QueueStats};
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, State, after, now};

/// A queue's folder, opened.
#[derive(Debug)]
pub struct Folder {
    pub path: PathBuf,
    pub metadata: Metadata,
    /// The kernel distinguishes openings by this file, and the mutex the threads of an opening.
    lock: Mutex<File>,
    gate: File,
    counts: File,
}

/// The parts that never change.
#[derive(Debug, Serialize, Deserialize)]
pub struct Metadata {
    pub id: u64,
    pub payload: String,
    pub settings: QueueSettings,
}

/// The folder while it is locked, with its present contents.
#[derive(Debug)]
pub struct Contents<'f> {
    folder: &'f Folder,
    lock: MutexGuard<'f, File>,
    /// In order.
    pub entries: Vec<Entry>,
    pub counts: QueueStats,
    /// The handles that exist, or existed when they were killed.
    holders: Vec<u64>,
}

/// The file of one handle. Its lock shows that the handle lives.
#[derive(Debug)]
pub struct Presence {
    pub id: u64,
    path: PathBuf,
    _lock: File,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The reason why a queue cannot be used.
#[derive(Debug)]
pub enum FolderError {
    Removed,
    Io(io::Error),
}

impl From<io::Error> for FolderError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Folder {
    /// Opens or creates the queue.
    pub fn open(path: &Path, request: &OpenRequest) -> Result<Self, QueueError> {
        let name = path.display().to_string();
        loop {
            let found = Self::find(path).map_err(|error| trouble(path, &error))?;
            match (found, request.mode) {
                (Some(_), OpenMode::Create) => return Err(QueueError::Exists { name }),
                (Some(folder), _) => return folder.checked(request),
                (None, OpenMode::Open) => return Err(QueueError::NotFound { name }),
                (None, _) => {}
            }
            // If another process is faster, the next `find` returns its folder.
            let created = Self::create(path, request).map_err(|error| trouble(path, &error))?;
            if let (true, Ok(Some(folder))) = (created, Self::find(path)) {
                return Ok(folder);
            }
        }
    }

    fn find(path: &Path) -> io::Result<Option<Self>> {
        let open = |file| File::options().read(true).write(true).open(path.join(file));
        let read = || -> io::Result<Self> {
            let metadata = codec::decode(&fs::read(path.join("settings"))?);
            Ok(Self {
                path: path.to_owned(),
                metadata: metadata.map_err(io::Error::other)?,
                lock: Mutex::new(open("lock")?),
                gate: open("gate")?,
                counts: open("counts")?,
            })
        };
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            folder => folder.map(Some),
        }
    }

    fn checked(self, request: &OpenRequest) -> Result<Self, QueueError> {
        let name = self.path.display().to_string();
        request.check_payload(&name, &self.metadata.payload)?;
        request.check(&name, &self.metadata.settings)?;
        Ok(self)
    }

    /// Creates the folder under another name first, so that no process sees half a queue. `false`:
    /// there is one already.
    fn create(path: &Path, request: &OpenRequest) -> io::Result<bool> {
        let metadata = Metadata {
            id: fastrand::u64(1..),
            payload: request.payload.clone(),
            settings: request.settings.clone(),
        };
        let new = aside(path);
        fs::create_dir_all(&new)?;
        fs::write(
            new.join("settings"),
            codec::encode(&metadata).map_err(io::Error::other)?,
        )?;
        File::create(new.join("counts"))?;
        File::create(new.join("lock"))?;
        File::create(new.join("gate"))?;
        match fs::rename(&new, path) {
            Err(_) if path.exists() => fs::remove_dir_all(&new).map(|()| false),
            named => named.map(|()| true),
        }
    }

    /// Removes the queue. `false`: there was none.
    pub fn remove(path: &Path) -> io::Result<bool> {
        let Some(folder) = Self::find(path)? else {
            return Ok(false);
        };
        let gone = aside(path);
        match folder.contents() {
            Ok(_locked) => fs::rename(path, &gone)?,
            Err(FolderError::Removed) => return Ok(false),
            Err(FolderError::Io(error)) => return Err(error),
        }
        fs::remove_dir_all(&gone)?;
        Ok(true)
    }

    /// Locks the folder, and ends leases and delays that are over.
    pub fn contents(&self) -> Result<Contents<'_>, FolderError> {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.gate.lock()?;
        lock.lock()?;
        self.gate.unlock()?;
        let mut contents = Contents {
            folder: self,
            lock,
            entries: Vec::new(),
            counts: QueueStats::default(),
            holders: Vec::new(),
        };
        let named = fs::metadata(self.path.join("lock"));
        if !named.is_ok_and(|named| same_file(&named, &contents.lock)) {
            return Err(FolderError::Removed);
        }
        contents.read()?;
        contents.look_at_clock()?;
        Ok(contents)
    }

    /// Creates the file of a new handle.
    pub fn join(&self) -> Result<Presence, FolderError> {
        let _locked = self.contents()?;
        let id = fastrand::u64(1..);
        let path = self.path.join(holder(id));
        let lock = File::create_new(&path)?;
        lock.lock()?;
        Ok(Presence {
            id,
            path,
            _lock: lock,
        })
    }

    pub fn address(&self) -> String {
        address(&self.path)
    }

    pub fn file(&self, entry: &Entry) -> PathBuf {
        self.path.join(entry.name())
    }
}

impl Drop for Contents<'_> {
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

impl Contents<'_> {
    fn read(&mut self) -> io::Result<()> {
        let mut counts = [0; 1024];
        let len = self.folder.counts.read_at(&mut counts, 0)?;
        self.counts = codec::decode(&counts[..len]).unwrap_or_default();
        for file in fs::read_dir(&self.folder.path)? {
            let name = file?.file_name();
            let name = name.to_str().unwrap_or_default();
            self.entries.extend(Entry::of(name));
            let id = name
                .strip_prefix(HOLDER)
                .map(|id| u64::from_str_radix(id, 16));
            self.holders.extend(id.and_then(Result::ok));
        }
        self.entries.sort_unstable_by_key(|entry| entry.order);
        Ok(())
    }

    /// Changes the counters. They only grow, and so does their text.
    pub fn count(&mut self, change: impl FnOnce(&mut QueueStats)) -> io::Result<()> {
        change(&mut self.counts);
        let bytes = codec::encode(&self.counts).map_err(io::Error::other)?;
        self.folder.counts.write_all_at(&bytes, 0)
    }

    /// Ends leases and delays that are over.
    fn look_at_clock(&mut self) -> io::Result<()> {
        let now = now().as_nanos();
        for entry in self.entries.clone() {
            match entry.state {
                State::Leased | State::Delayed if entry.due == 0 || now < entry.due => {}
                State::Leased => self.give_back(entry, Duration::ZERO, DeadReason::Expired)?,
                State::Delayed => self.change(entry, |entry| entry.state = State::Ready)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the messages of dead handles, whose locks can be taken. Returns whether there were
    /// any.
    pub fn look_for_dead(&mut self) -> io::Result<bool> {
        let mut found = false;
        for id in std::mem::take(&mut self.holders) {
            let path = self.folder.path.join(holder(id));
            // If the file is missing, the handle has just left, after settling everything.
            if !File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
                continue;
            }
            found = true;
            for entry in self.entries.clone() {
                match entry.state {
                    State::Writing if entry.holder == id => self.delete(entry)?,
                    State::Leased if entry.holder == id => {
                        self.give_back(entry, Duration::ZERO, DeadReason::Crashed)?;
                    }
                    _ => {}
                }
            }
            let _ = fs::remove_file(path);
        }
        Ok(found)
    }

    /// Ends a delivery for the reason `why`. The message is delivered again after `delay`, or is a
    /// dead letter.
    pub fn give_back(&mut self, entry: Entry, delay: Duration, why: DeadReason) -> io::Result<()> {
        let settings = &self.folder.metadata.settings;
        let is_last = entry.attempt >= settings.attempt_limit
            || (why == DeadReason::Expired && entry.expiries + 1 >= settings.expiry_limit)
            || (why == DeadReason::Crashed && entry.crashes + 1 >= settings.crash_limit);
        self.change(entry, |entry| {
            match why {
                DeadReason::Crashed => entry.crashes += 1,
                DeadReason::Expired => entry.expiries += 1,
                _ => entry.nacks += 1,
            }
            (entry.state, entry.due) = match delay {
                _ if is_last => (State::Dead(why), 0),
                Duration::ZERO => (State::Ready, 0),
                delay => (State::Delayed, after(delay)),
            };
        })?;
        match why {
            DeadReason::Expired => self.count(|counts| counts.expiries += 1),
            DeadReason::Crashed => self.count(|counts| counts.crashes += 1),
            _ => Ok(()),
        }
    }

    /// Changes a message. There is no other way to change one.
    pub fn change(&mut self, entry: Entry, change: impl FnOnce(&mut Entry)) -> io::Result<()> {
        let mut changed = entry;
        change(&mut changed);
        fs::rename(self.folder.file(&entry), self.folder.file(&changed))?;
        self.entries.retain(|other| *other != entry);
        self.entries.push(changed);
        self.entries.sort_unstable_by_key(|entry| entry.order);
        Ok(())
    }

    pub fn delete(&mut self, entry: Entry) -> io::Result<()> {
        fs::remove_file(self.folder.file(&entry))?;
        self.entries.retain(|other| *other != entry);
        Ok(())
    }

    /// Returns the message of the loan or the delivery with this token.
    pub fn by_token(&self, state: State, token: u64) -> Option<Entry> {
        let mut entries = self.entries.iter().copied();
        entries.find(|entry| entry.state == state && entry.token == token)
    }

    pub fn is_closed(&self) -> bool {
        self.counts.closed
    }
}

const HOLDER: &str = "holder-";

fn holder(id: u64) -> String {
    format!("{HOLDER}{id:x}")
}

/// Returns a unique path beside `path` that is not a queue's.
fn aside(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{:016x}", fastrand::u64(..)))
}

fn same_file(named: &fs::Metadata, open: &File) -> bool {
    open.metadata()
        .is_ok_and(|open| open.ino() == named.ino() && open.dev() == named.dev())
}

pub fn address(path: &Path) -> String {
    format!("directory:{}", path.display())
}

pub fn trouble(path: &Path, error: &io::Error) -> QueueError {
    QueueError::Transport(format!("{}: {error}", path.display()))
}
