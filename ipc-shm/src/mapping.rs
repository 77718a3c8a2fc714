//! A file mapped into memory, and bounds-checked views of it.
//!
//! Other processes that share the mapping may write, or die, at any moment. So everything that two
//! processes access at once is an atomic word. Plain bytes are reached only through functions whose
//! caller promises that no other code uses the bytes meanwhile.
//!
//! This module does not know what the bytes mean.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use thiserror::Error;

use crate::fault::{self, Mark, Protection};

/// The size of a cache line, which is also the unit of all layouts.
pub const CACHE_LINE_BYTES: usize = 64;

/// A requested view does not lie inside the mapping, or is not aligned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "a view of {bytes} bytes at offset {offset}, aligned to {align}, is outside the mapping of \
     {mapped} bytes, or misaligned"
)]
#[non_exhaustive]
pub struct OutOfBounds {
    /// The offset of the view.
    pub offset: usize,
    /// The length of the view.
    pub bytes: usize,
    /// The required alignment of the offset.
    pub align: usize,
    /// The length of the mapping.
    pub mapped: usize,
}

/// A shared mapping of a whole file, writable unless it was created read-only.
///
/// If the file is truncated meanwhile, the first access to a missing page replaces the mapping by
/// private zeroes, see `fault`.
///
/// Invariants, cited by every unsafe block below:
/// 1. `raw` stays mapped at the same address, with the same length, until the `Mapping` is dropped;
///    every view holds an `Arc` of it or borrows it.
/// 2. `raw` begins on a page boundary, so an address has the same alignment as its offset.
/// 3. Every process uses a word that is handed out as an atomic only as an atomic of that size. The
///    layouts keep words and payload bytes apart.
#[derive(Debug)]
pub struct Mapping {
    /// Dropped before the mapping that it protects.
    _protection: Option<Protection>,
    raw: MmapRaw,
}

impl Mapping {
    /// Maps the first `bytes` bytes of `file`, shared with every other process that maps it.
    ///
    /// # Errors
    /// The error of `mmap`, usually a lack of address space or memory.
    pub fn new(file: &File, bytes: usize) -> io::Result<Arc<Self>> {
        Self::protected(file, bytes, None)
    }

    /// Maps the file read-only. A write through this mapping would end the process.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub(crate) fn read_only(file: &File, bytes: usize) -> io::Result<Arc<Self>> {
        let raw = MmapOptions::new().len(bytes).map_raw_read_only(file)?;
        Ok(Self::protect(raw, bytes, None))
    }

    /// Like [`new`](Self::new), with a mark that shows if zeroes replaced the mapping, see `fault`.
    pub(crate) fn marked(file: &File, bytes: usize, mark: Mark) -> io::Result<Arc<Self>> {
        let inside = mark.offset.checked_add(8).is_some_and(|end| end <= bytes);
        if !inside || !mark.offset.is_multiple_of(8) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Self::protected(file, bytes, Some(mark))
    }

    fn protected(file: &File, bytes: usize, mark: Option<Mark>) -> io::Result<Arc<Self>> {
        let raw = MmapOptions::new().len(bytes).map_raw(file)?;
        Ok(Self::protect(raw, bytes, mark))
    }

    fn protect(raw: MmapRaw, bytes: usize, mark: Option<Mark>) -> Arc<Self> {
        let protect = |start: NonNull<u8>| {
            start.expose_provenance();
            // SAFETY: mapped until `raw` is dropped, which is after its protection (1). Other
            // processes may write any word at any moment, so nothing relies on its value. A slice
            // of payload bytes may turn into zeroes, which are as valid as any bytes.
            unsafe { fault::protect(start, bytes, mark) }
        };
        Arc::new(Self {
            _protection: NonNull::new(raw.as_mut_ptr()).map(protect),
            raw,
        })
    }

    /// Returns the number of mapped bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Returns `true` if nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raw.len() == 0
    }

    /// Returns the 64-bit word at `offset`.
    ///
    /// # Errors
    /// [`OutOfBounds`], also if `offset` is not a multiple of 8.
    pub fn word(&self, offset: usize) -> Result<&AtomicU64, OutOfBounds> {
        let address = self.address(offset, 8, 8)?;
        // SAFETY: eight bytes inside the mapping (1), 8-aligned (2, checked by `address`), and used
        // as an atomic by every process (3). Every bit pattern is a valid `AtomicU64`.
        Ok(unsafe { address.cast::<AtomicU64>().as_ref() })
    }

    /// Returns the 32-bit word at `offset`, for a futex.
    ///
    /// # Errors
    /// [`OutOfBounds`], also if `offset` is not a multiple of 4.
    pub fn word32(&self, offset: usize) -> Result<&AtomicU32, OutOfBounds> {
        let address = self.address(offset, 4, 4)?;
        // SAFETY: four bytes inside the mapping (1), 4-aligned (2, checked by `address`), and used
        // as an atomic by every process (3). Every bit pattern is a valid `AtomicU32`.
        Ok(unsafe { address.cast::<AtomicU32>().as_ref() })
    }

    /// Returns `count` groups of `N` words. The first is at `offset`; the distance between groups
    /// is `stride` bytes.
    ///
    /// # Errors
    /// [`OutOfBounds`] if a group is outside the mapping or not 8-aligned.
    pub fn words<const N: usize>(
        self: &Arc<Self>,
        offset: usize,
        stride: usize,
        count: usize,
    ) -> Result<Words<N>, OutOfBounds> {
        let span = match count {
            0 => Some(0),
            _ => stride
                .checked_mul(count - 1)
                .and_then(|all| all.checked_add(8 * N)),
        };
        let aligned = stride.is_multiple_of(8);
        let span = span.filter(|_| aligned).unwrap_or(usize::MAX);
        let base = self.address(offset, span, 8)?;
        Ok(Words {
            base: base.cast(),
            stride,
            count,
            mapping: Arc::clone(self),
        })
    }

    /// Returns the `N` words at `offset`. The bounds are checked now, not at each use.
    ///
    /// # Errors
    /// [`OutOfBounds`], also if `offset` is not a multiple of 8.
    pub fn words_at<const N: usize>(
        self: &Arc<Self>,
        offset: usize,
    ) -> Result<View<[AtomicU64; N]>, OutOfBounds> {
        Ok(View {
            at: self.address(offset, 8 * N, 8)?.cast(),
            mapping: Arc::clone(self),
        })
    }

    /// Returns the 32-bit word at `offset`. The bounds are checked now, not at each use.
    ///
    /// # Errors
    /// [`OutOfBounds`], also if `offset` is not a multiple of 4.
    pub fn word32_at(self: &Arc<Self>, offset: usize) -> Result<View<AtomicU32>, OutOfBounds> {
        Ok(View {
            at: self.address(offset, 4, 4)?.cast(),
            mapping: Arc::clone(self),
        })
    }

    /// Returns the address of the `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`OutOfBounds`].
    #[inline]
    pub fn pointer(&self, offset: usize, len: usize) -> Result<NonNull<u8>, OutOfBounds> {
        self.address(offset, len, 1)
    }

    /// Copies the bytes at `offset` into `to`, even while another process writes them.
    ///
    /// The result may mix several writes. The caller detects that by a word that it reads before
    /// and after.
    ///
    /// # Errors
    /// [`OutOfBounds`].
    pub fn copy_racy(&self, offset: usize, to: &mut [u8]) -> Result<(), OutOfBounds> {
        let from = self.address(offset, to.len(), 1)?;
        for (index, byte) in to.iter_mut().enumerate() {
            // SAFETY: `index < to.len()`, which `address` found to lie inside the mapping (1).
            let at = unsafe { from.add(index) };
            // SAFETY: volatile, because another process may write the byte now. Every value is a
            // valid `u8`, and the compiler may not assume that a second read gives the same value.
            *byte = unsafe { at.as_ptr().read_volatile() };
        }
        std::sync::atomic::fence(Ordering::Acquire);
        Ok(())
    }

    /// Returns the payload bytes at `offset`.
    ///
    /// # Errors
    /// [`OutOfBounds`].
    ///
    /// # Safety
    /// While the slice lives, no process writes these bytes, and none of them is handed out as an
    /// atomic word.
    pub unsafe fn bytes(&self, offset: usize, len: usize) -> Result<&[u8], OutOfBounds> {
        let start = self.address(offset, len, 1)?;
        // SAFETY: inside the mapping for its lifetime (1); not written meanwhile, as the caller
        // promises.
        Ok(unsafe { std::slice::from_raw_parts(start.as_ptr(), len) })
    }

    /// Returns the payload bytes at `offset`, for writing.
    ///
    /// # Errors
    /// [`OutOfBounds`].
    ///
    /// # Safety
    /// While the slice lives, no other code, in this process or another, reads or writes these
    /// bytes. None of them is handed out as an atomic word.
    #[expect(
        clippy::mut_from_ref,
        reason = "exclusive by the caller's promise, not by this borrow"
    )]
    pub unsafe fn bytes_mut(&self, offset: usize, len: usize) -> Result<&mut [u8], OutOfBounds> {
        let start = self.address(offset, len, 1)?;
        // SAFETY: inside the mapping for its lifetime (1); exclusive meanwhile, as the caller
        // promises.
        Ok(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) })
    }

    /// Asks the kernel to map `len` bytes at `offset` now, which saves a page fault at each first
    /// access. Only an optimization: it is not an error if the kernel does not support it.
    pub fn prefault(&self, offset: usize, len: usize) {
        let page = 4096;
        let start = offset / page * page;
        let len = (offset - start).saturating_add(len);
        let len = len.min(self.len().saturating_sub(start));
        let Ok(address) = self.address(start, len, 1) else {
            return;
        };
        // SAFETY: a page-aligned range inside the mapping (1, 2). Populating it changes no content.
        let _ = unsafe { libc::madvise(address.as_ptr().cast(), len, libc::MADV_POPULATE_WRITE) };
    }

    #[inline]
    fn address(
        &self,
        offset: usize,
        bytes: usize,
        align: usize,
    ) -> Result<NonNull<u8>, OutOfBounds> {
        let fits = offset
            .checked_add(bytes)
            .is_some_and(|end| end <= self.len());
        let base = NonNull::new(self.raw.as_mut_ptr());
        match base {
            Some(base) if fits && offset.is_multiple_of(align) => {
                // SAFETY: `offset + bytes` was just found to be at most the mapping's length (1).
                Ok(unsafe { base.add(offset) })
            }
            _ => Err(OutOfBounds {
                offset,
                bytes,
                align,
                mapped: self.len(),
            }),
        }
    }
}

/// Equally spaced groups of `N` atomic words in a mapping, such as the slots of a table.
///
/// Invariants: the range from `base` to the end of the last group lies in the mapping, which lives
/// as long as this value. `base` and `stride` are multiples of 8. [`Mapping::words`] checks both.
#[derive(Debug)]
pub struct Words<const N: usize> {
    base: NonNull<[AtomicU64; N]>,
    stride: usize,
    count: usize,
    mapping: Arc<Mapping>,
}

// SAFETY: it only hands out `&[AtomicU64; N]`, which is `Sync`, from memory that no thread owns.
unsafe impl<const N: usize> Send for Words<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for Words<N> {}

impl<const N: usize> Words<N> {
    /// Returns the number of groups.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns group number `index`.
    ///
    /// # Panics
    /// If there is no such group. An index is checked where it comes from, so this is a bug.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> &[AtomicU64; N] {
        if index >= self.count {
            no_such_group(index, self.count);
        }
        // SAFETY: `index < count`, so the group lies in the range of the invariant.
        let group = unsafe { self.base.byte_add(index * self.stride) };
        // SAFETY: as above; 8-aligned by the invariant; only ever used as atomics (3).
        unsafe { group.as_ref() }
    }

    /// Returns the address of group number `index`, for a [hint](crate::fetch). It may lie outside
    /// the mapping.
    #[inline(always)]
    #[must_use]
    pub fn address(&self, index: usize) -> *const [AtomicU64; N] {
        self.base.as_ptr().wrapping_byte_add(index * self.stride)
    }

    /// Returns group number `index` as a view.
    ///
    /// # Panics
    /// If there is no such group.
    #[must_use]
    pub fn view(&self, index: usize) -> View<[AtomicU64; N]> {
        View {
            at: NonNull::from(self.get(index)),
            mapping: Arc::clone(&self.mapping),
        }
    }
}

/// By value: a message with a reference to the index would keep the index in memory.
#[cold]
#[inline(never)]
fn no_such_group(index: usize, count: usize) -> ! {
    panic!("group {index} of {count}")
}

/// Atomic words in a mapping, which lives as long as this view.
///
/// Invariant: `at` is the aligned address of a `T`, made of atomics only, inside `mapping`. The
/// code that creates a view checks this.
#[derive(Debug)]
pub struct View<T> {
    at: NonNull<T>,
    mapping: Arc<Mapping>,
}

// SAFETY: it only hands out `&T`, and `T` is made of atomics, which are `Sync`, in memory that no
// thread owns.
unsafe impl<T: Sync> Send for View<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for View<T> {}

impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        Self {
            at: self.at,
            mapping: Arc::clone(&self.mapping),
        }
    }
}

impl<T> Deref for View<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: inside the mapping, aligned, and only ever used as atomics (the invariant, and
        // 3).
        unsafe { self.at.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(bytes: usize) -> Arc<Mapping> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes as u64).unwrap();
        Mapping::new(&file, bytes).unwrap()
    }

    #[test]
    fn views_outside_the_mapping_or_misaligned_are_refused() {
        let mapping = mapping(4096);
        assert!(mapping.word(4088).is_ok());
        for offset in [4089, 4092, 4096, usize::MAX, usize::MAX - 7, 4] {
            assert!(mapping.word(offset).is_err(), "{offset}");
        }
        assert!(mapping.word32(4).is_ok());
        assert!(mapping.words::<8>(0, 64, 64).is_ok());
        assert!(mapping.words::<8>(0, 64, 65).is_err());
        assert!(mapping.words::<8>(0, 60, 2).is_err());
        assert!(mapping.words::<8>(8, usize::MAX - 7, 3).is_err());
        assert!(mapping.copy_racy(4095, &mut [0; 2]).is_err());
        // Prefaulting only asks the kernel: bytes outside the mapping are not touched.
        mapping.prefault(4095, usize::MAX);
        mapping.prefault(usize::MAX, usize::MAX);
    }

    #[test]
    fn a_view_outlives_the_handle_that_created_it() {
        let mapping = mapping(4096);
        let (view, short) = (mapping.words_at::<2>(4080), mapping.word32_at(4092));
        assert!(mapping.words_at::<2>(4088).is_err() && mapping.words_at::<2>(4).is_err());
        assert!(mapping.word32_at(4093).is_err() && mapping.word32_at(4096).is_err());
        drop(mapping);
        view.unwrap()[1].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(short.unwrap().load(Ordering::Relaxed), u32::MAX);
    }

    #[test]
    fn two_mappings_of_one_file_share_their_words() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let (one, other) = (
            Mapping::new(&file, 4096).unwrap(),
            Mapping::new(&file, 4096).unwrap(),
        );
        one.words::<2>(64, 16, 3).unwrap().get(2)[1].store(7, Ordering::Relaxed);
        assert_eq!(
            other.word(64 + 2 * 16 + 8).unwrap().load(Ordering::Relaxed),
            7
        );
    }

    #[test]
    #[should_panic(expected = "group 3 of 3")]
    fn a_missing_group_panics_instead_of_reading_outside() {
        let _ = mapping(4096).words::<2>(0, 16, 3).unwrap().get(3);
    }
}
