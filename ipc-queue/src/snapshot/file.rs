//! The file format of a snapshot.
//!
//! ```text
//! "ipcsaved" | version: u32 | frame … frame
//! frame: length: u32 | check: u64 | kind: u8, content
//! ```
//!
//! Numbers are little-endian. The kinds are `H`, the [`Head`], which comes first; `M`, a message
//! (its record, then its payload); `K`, a key; and `E`, the [`End`], which comes last. Records are
//! encoded in postcard, after a byte with the encoding's version. A check is SipHash-2-4 of kind
//! and content, keyed with the version and the frame's number. So a damaged, missing or misplaced
//! frame is noticed. A file without an end frame was truncated.
//!
//! A file gets its name only when it is complete: it is written under another name, synced and
//! renamed; then its folder is synced. So a kill leaves either the earlier file or the new one.

use std::fs::{self, File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipc_proto::{QueueSettings, Timestamp, codec};
use ipc_shm::clock;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::error::SnapshotError;
use super::record::{StoredKey, StoredMessage};

const MAGIC: [u8; 8] = *b"ipcsaved";
/// The format's version. It changes with every change of a record.
const VERSION: u32 = 1;
/// Larger than the largest payload with headers.
const MAX_FRAME_BYTES: u32 = (1 << 30) + (1 << 20);

/// The description of the saved queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The number of the snapshot itself.
    pub(super) id: u64,
    /// The number of the queue.
    pub(super) queue: u64,
    pub(super) address: String,
    /// The text of its payload name.
    pub(super) payload: String,
    pub(super) settings: QueueSettings,
    pub(super) paused: bool,
    /// By the wall clock. The remaining times are counted from here.
    pub(super) saved_at: Timestamp,
}

impl Head {
    /// Returns the time since the snapshot was taken, by the wall clock.
    pub(super) fn age(&self) -> Duration {
        let now = clock::wall().as_nanos();
        Duration::from_nanos(now.saturating_sub(self.saved_at.as_nanos()))
    }
}

/// The counts of a complete snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) messages: u64,
    pub(super) keys: u64,
}

/// A frame's content.
#[derive(Debug)]
pub(super) enum Frame {
    Message(Box<StoredMessage>),
    Key(StoredKey),
    End,
}

/// Writes a snapshot.
#[derive(Debug)]
pub(super) struct Writer {
    file: BufWriter<File>,
    path: PathBuf,
    part: PathBuf,
    frames: u64,
    end: End,
}

impl Writer {
    /// Starts a file that gets its name when it is finished.
    pub(super) fn create(path: &Path, head: &Head) -> Result<Self, SnapshotError> {
        let part = part_of(path);
        let create = || {
            match fs::remove_file(&part) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut options = OpenOptions::new();
            let options = options.write(true).create_new(true).mode(0o600);
            let mut file = BufWriter::new(options.open(&part)?);
            file.write_all(&MAGIC)?;
            file.write_all(&VERSION.to_le_bytes())?;
            Ok(file)
        };
        let file = create().map_err(|error| SnapshotError::io(&part, error))?;
        let mut writer = Self {
            file,
            path: path.to_owned(),
            part,
            frames: 0,
            end: End::default(),
        };
        writer.frame(b'H', head, &[])?;
        Ok(writer)
    }

    pub(super) fn message(&mut self, message: &StoredMessage) -> Result<(), SnapshotError> {
        self.end.messages += 1;
        self.frame(b'M', message, &message.payload)
    }

    pub(super) fn key(&mut self, key: &StoredKey) -> Result<(), SnapshotError> {
        self.end.keys += 1;
        self.frame(b'K', key, &[])
    }

    /// Completes the file and gives it its name.
    pub(super) fn finish(mut self) -> Result<End, SnapshotError> {
        let end = self.end;
        self.frame(b'E', &end, &[])?;
        let sync = |file: BufWriter<File>| -> io::Result<()> {
            let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            fs::rename(&self.part, &self.path)?;
            sync_folder(&self.path)
        };
        sync(self.file).map_err(|error| SnapshotError::io(&self.path, error))?;
        Ok(end)
    }

    fn frame<T: Serialize>(
        &mut self,
        kind: u8,
        content: &T,
        behind: &[u8],
    ) -> Result<(), SnapshotError> {
        let mut bytes = vec![kind];
        bytes.extend(codec::encode(content)?);
        bytes.extend(behind);
        let check = check(self.frames, &bytes);
        self.frames += 1;
        // Does not truncate: a payload has at most 1 GiB, its headers a few thousand bytes.
        let length = bytes.len() as u32;
        let write = |file: &mut BufWriter<File>| {
            file.write_all(&length.to_le_bytes())?;
            file.write_all(&check.to_le_bytes())?;
            file.write_all(&bytes)
        };
        write(&mut self.file).map_err(|error| SnapshotError::io(&self.part, error))
    }
}

/// Reads a snapshot, one frame at a time.
#[derive(Debug)]
pub(super) struct Reader {
    file: BufReader<File>,
    path: PathBuf,
    pub(super) head: Head,
    frames: u64,
    at: u64,
    seen: End,
    is_over: bool,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, SnapshotError> {
        let file = open_file(path)?;
        let is_file = file.metadata().is_ok_and(|found| found.is_file());
        let mut start = [0; 12];
        let mut file = BufReader::new(file);
        let damaged = |reason: &str| SnapshotError::Damaged {
            file: path.to_owned(),
            at: 0,
            reason: reason.to_owned(),
        };
        if !is_file {
            return Err(damaged("it is not an ordinary file"));
        }
        match file.read_exact(&mut start) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(damaged("it is too short to be a snapshot"));
            }
            read => read.map_err(|error| SnapshotError::io(path, error))?,
        }
        let (magic, version) = start.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(damaged("it does not begin like a snapshot"));
        }
        let found = u32::from_le_bytes(version.try_into().unwrap_or_default());
        if found > VERSION {
            return Err(SnapshotError::LaterVersion {
                file: path.to_owned(),
                found,
                known: VERSION,
            });
        }
        let mut reader = Self {
            file,
            path: path.to_owned(),
            head: Head {
                id: 0,
                queue: 0,
                address: String::new(),
                payload: String::new(),
                settings: QueueSettings::default(),
                paused: false,
                saved_at: Timestamp::from_nanos(0),
            },
            frames: 0,
            at: start.len() as u64,
            seen: End::default(),
            is_over: false,
        };
        let bytes = reader.bytes()?;
        reader.head = match bytes.split_first() {
            Some((b'H', content)) if found == VERSION => reader.decode(content)?.0,
            _ => return Err(reader.damaged("its first frame is not a head")),
        };
        Ok(reader)
    }

    /// Returns the next frame. `None` after the end.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, SnapshotError> {
        if self.is_over {
            return Ok(None);
        }
        let bytes = self.bytes()?;
        let Some((kind, content)) = bytes.split_first() else {
            return Err(self.damaged("a frame is empty"));
        };
        Ok(Some(match kind {
            b'M' => {
                let (mut message, payload): (StoredMessage, _) = self.decode(content)?;
                message.payload = payload.to_vec();
                self.seen.messages += 1;
                Frame::Message(Box::new(message))
            }
            b'K' => {
                self.seen.keys += 1;
                Frame::Key(self.decode(content)?.0)
            }
            b'E' => {
                let (end, _): (End, _) = self.decode(content)?;
                if end != self.seen {
                    return Err(self.damaged("its end has other counts than the frames before it"));
                }
                let behind = self.file.read(&mut [0]);
                if behind.map_err(|error| SnapshotError::io(&self.path, error))? > 0 {
                    return Err(self.damaged("there is data after its end"));
                }
                self.is_over = true;
                Frame::End
            }
            _ => return Err(self.damaged("a frame is of an unknown kind")),
        }))
    }

    fn bytes(&mut self) -> Result<Vec<u8>, SnapshotError> {
        let mut start = [0; 12];
        self.read(&mut start)?;
        let (length, wanted) = start.split_at(4);
        let length = u32::from_le_bytes(length.try_into().unwrap_or_default());
        if length > MAX_FRAME_BYTES {
            return Err(self.damaged("a frame is longer than the maximum"));
        }
        let mut bytes = Vec::new();
        let read = (&mut self.file).take(length.into()).read_to_end(&mut bytes);
        read.map_err(|error| SnapshotError::io(&self.path, error))?;
        if bytes.len() < length as usize {
            return Err(self.damaged("it is truncated"));
        }
        if wanted != check(self.frames, &bytes).to_le_bytes() {
            return Err(self.damaged("a frame's check does not match"));
        }
        self.frames += 1;
        self.at += start.len() as u64 + u64::from(length);
        Ok(bytes)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        match self.file.read_exact(bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it is truncated"))
            }
            read => read.map_err(|error| SnapshotError::io(&self.path, error)),
        }
    }

    fn decode<'b, T: Deserialize<'b>>(
        &self,
        content: &'b [u8],
    ) -> Result<(T, &'b [u8]), SnapshotError> {
        let decoded = codec::decode_prefix(content);
        decoded.map_err(|error| self.damaged(&error.to_string()))
    }

    fn damaged(&self, reason: &str) -> SnapshotError {
        SnapshotError::Damaged {
            file: self.path.clone(),
            at: self.at,
            reason: reason.to_owned(),
        }
    }
}

/// Removes a file and syncs the removal. A missing file counts as removed.
pub(super) fn remove(path: &Path) -> Result<(), SnapshotError> {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder(path),
    };
    removed.map_err(|error| SnapshotError::io(path, error))
}

/// Removes the partial file of a failed save.
pub(super) fn remove_part(path: &Path) {
    let _ = fs::remove_file(part_of(path));
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Returns the file's name while it is written.
fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn check(frame: u64, bytes: &[u8]) -> u64 {
    let mut hasher = siphasher::sip::SipHasher24::new_with_keys(VERSION.into(), frame);
    hasher.write(bytes);
    hasher.finish()
}

/// Opens a file for reading. A pipe is not waited for: it would block until a process writes to it.
fn open_file(path: &Path) -> Result<File, SnapshotError> {
    let mut options = OpenOptions::new();
    let options = options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32);
    options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => SnapshotError::NoFile {
            file: path.to_owned(),
        },
        _ => SnapshotError::io(path, error),
    })
}
