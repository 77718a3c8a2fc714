//! Memory shared by two processes: the only `unsafe` of the references.
//!
//! Invariants:
//! 1. The mapping covers `bytes` bytes for as long as the `Shared` exists. Its file is never
//!    truncated: it is in the run's own folder, which only the bench writes to.
//! 2. Words are only accessed as `AtomicU64`, and never overlap a payload. Every ring's layout
//!    ensures that.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use anyhow::{Context, Result};
use memmap2::{MmapOptions, MmapRaw};

/// A file that every process of a repetition maps.
#[derive(Debug)]
pub struct Shared {
    map: MmapRaw,
    bytes: usize,
}

/// The time at which the system provides memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pages {
    Now,
    WhenTouched,
}

/// The distance between words of different cache lines, with the neighbour that is fetched along.
pub const LINE: usize = 128;

impl Shared {
    /// Creates the file, filled with zeroes, and touches its pages.
    pub fn create(path: &Path, bytes: usize) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path);
        let file = file.with_context(|| format!("creating {}", path.display()))?;
        file.set_len(bytes as u64)?;
        Self::map(&file, bytes, Pages::Now)
    }

    /// Maps a file that another process has created.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        let bytes = usize::try_from(file.metadata()?.len())?;
        Self::map(&file, bytes, Pages::Now)
    }

    /// Maps a large file that another process has created, of which little may be used.
    pub fn open_sparse(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let bytes = usize::try_from(file.metadata()?.len())?;
        Self::map(&file, bytes, Pages::WhenTouched)
    }

    fn map(file: &std::fs::File, bytes: usize, pages: Pages) -> Result<Self> {
        let mut options = MmapOptions::new();
        options.len(bytes);
        if pages == Pages::Now {
            options.populate();
        }
        let map = options.map_raw(file).context("mapping")?;
        Ok(Self { map, bytes })
    }

    /// Returns the word at `offset`.
    #[inline]
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.bytes);
        // SAFETY: inside the mapping (1, checked above), so the sum stays in one allocation.
        let pointer = unsafe { self.map.as_mut_ptr().add(offset) };
        // SAFETY: valid for as long as `self` (1), aligned (checked above; mappings are
        // page-aligned), and only ever accessed as an atomic (2), for which every bit pattern is
        // valid.
        unsafe { AtomicU64::from_ptr(pointer.cast()) }
    }

    /// Returns the half word at `offset`, for futexes.
    #[inline]
    pub fn half(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.bytes);
        // SAFETY: as in `word`.
        let pointer = unsafe { self.map.as_mut_ptr().add(offset) };
        // SAFETY: as in `word`. A user of one half does not use the whole word in any other way.
        unsafe { AtomicU32::from_ptr(pointer.cast()) }
    }

    /// Returns the byte at `offset`, which no payload overlaps.
    #[inline]
    pub fn byte(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < self.bytes);
        // SAFETY: inside the mapping (1, checked above).
        let pointer = unsafe { self.map.as_mut_ptr().add(offset) };
        // SAFETY: valid for as long as `self` (1), and only ever accessed as an atomic (2).
        unsafe { AtomicU8::from_ptr(pointer) }
    }

    /// Returns the payload of `len` bytes at `offset`, to be written.
    ///
    /// # Safety
    /// Until the result is dropped, no other thread or process may access these bytes: the caller's
    /// ring has given this cell to this caller only.
    #[inline]
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller's ring grants exclusive access"
    )]
    pub unsafe fn payload_mut(&self, offset: usize, len: usize) -> &mut [u8] {
        assert!(offset + len <= self.bytes);
        // SAFETY: inside the mapping (1, checked above).
        let pointer = unsafe { self.map.as_mut_ptr().add(offset) };
        // SAFETY: valid (1), bytes of any value, and exclusively the caller's (its promise).
        unsafe { std::slice::from_raw_parts_mut(pointer, len) }
    }

    /// Returns the payload of `len` bytes at `offset`, to be read.
    ///
    /// # Safety
    /// Until the result is dropped, no thread or process may write to these bytes.
    #[inline]
    pub unsafe fn payload(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset + len <= self.bytes);
        // SAFETY: inside the mapping (1, checked above).
        let pointer = unsafe { self.map.as_mut_ptr().add(offset) };
        // SAFETY: valid (1), bytes of any value, and not written during that time (the caller's
        // promise).
        unsafe { std::slice::from_raw_parts(pointer, len) }
    }
}
