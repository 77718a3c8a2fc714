//! What a death at this instruction leaves to others: the folder, and the segment in it, byte for
//! byte.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::mem;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::actor;

/// The content of a folder of segments.
#[derive(Clone, Debug, Default, Hash)]
pub struct Snapshot {
    /// The number of folders that exist: none, the root, and in it the namespace's.
    folders: u8,
    /// The content of the queue's file.
    file: Option<Vec<u8>>,
}

/// Reads a folder of segments again and again.
#[derive(Debug)]
pub struct Observer {
    segments: PathBuf,
    path: PathBuf,
    /// The open file, and its inode.
    file: Option<(File, u64)>,
    seen: Snapshot,
    buffer: Vec<u8>,
}

impl Observer {
    pub fn new(segments: &Path) -> io::Result<Self> {
        let mut observer = Self {
            segments: segments.to_owned(),
            path: actor::file_in(segments),
            file: None,
            seen: Snapshot::default(),
            buffer: Vec::new(),
        };
        observer.look()?;
        Ok(observer)
    }

    /// The last snapshot.
    pub fn seen(&self) -> &Snapshot {
        &self.seen
    }

    /// Takes a new snapshot, and returns whether anything changed.
    pub fn look(&mut self) -> io::Result<bool> {
        let folders_changed = self.look_at_folders()?;
        let Some((file, _)) = &self.file else {
            return Ok(self.seen.file.take().is_some() || folders_changed);
        };
        // Segments keep their size.
        file.read_exact_at(&mut self.buffer, 0)?;
        if self.seen.file.as_ref() == Some(&self.buffer) {
            return Ok(folders_changed);
        }
        self.seen.file = Some(self.buffer.clone());
        Ok(true)
    }

    fn look_at_folders(&mut self) -> io::Result<bool> {
        let inode = fs::metadata(&self.path).ok().map(|data| data.ino());
        if inode.is_some() && inode == self.file.as_ref().map(|(_, inode)| *inode) {
            return Ok(false);
        }
        self.file = None;
        if let Ok(file) = File::open(&self.path) {
            let data = file.metadata()?;
            self.buffer = vec![0; usize::try_from(data.len()).map_err(io::Error::other)?];
            self.file = Some((file, data.ino()));
        }
        let folder = self.path.parent().unwrap_or(&self.segments);
        let folders = match self.file {
            Some(_) => 2,
            None => u8::from(self.segments.exists()) + u8::from(folder.exists()),
        };
        Ok(mem::replace(&mut self.seen.folders, folders) != folders)
    }
}

impl Snapshot {
    /// Makes `segments` like this snapshot. No process has the file open, so all participants in it
    /// are dead.
    pub fn restore(&self, segments: &Path) -> io::Result<()> {
        if segments.exists() {
            fs::remove_dir_all(segments)?;
        }
        let path = actor::file_in(segments);
        let folder = path.parent().unwrap_or(segments);
        for folder in [segments, folder].iter().take(self.folders.into()) {
            DirBuilder::new().mode(0o700).create(folder)?;
        }
        if let Some(bytes) = &self.file {
            let mut options = File::options();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(bytes)?;
        }
        Ok(())
    }

    /// Describes for people where and how the segment differs from an earlier one.
    pub fn difference(&self, earlier: &Self) -> String {
        let (Some(new), Some(old)) = (&self.file, &earlier.file) else {
            let describe = |snapshot: &Self| match (&snapshot.file, snapshot.folders) {
                (Some(_), _) => "a queue".to_owned(),
                (None, folders) => format!("{folders} folders"),
            };
            return format!("{} -> {}", describe(earlier), describe(self));
        };
        let words = new.chunks(8).zip(old.chunks(8)).enumerate();
        let changed = words.filter(|(_, (new, old))| new != old);
        let shown = changed.take(4).map(|(index, (new, old))| {
            format!("at {:#x}: {} -> {}", 8 * index, hex(old), hex(new))
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}

fn hex(word: &[u8]) -> String {
    let digits: String = word
        .iter()
        .rev()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("0x{digits}")
}
