//! The lock on a buffer, held: the only way to its bytes, and the only place here with `unsafe`.
//!
//! Its process may die while it holds the lock: what it was writing is then torn, see `tear`.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{AccessError, SharedBuffer};
use crate::lock::{Inherited, LockError, LockGuard};

/// The lock on a buffer, and the way to its bytes meanwhile.
///
/// The other processes that use the buffer wait until it is dropped.
#[derive(Debug)]
#[must_use = "the lock is free again as soon as this is dropped"]
pub struct BufferGuard<'a> {
    pub(super) buffer: &'a SharedBuffer,
    pub(super) lock: LockGuard<'a>,
    /// The notice that this guard found, and takes away.
    pub(super) inherited: Inherited,
}

impl BufferGuard<'_> {
    /// Whether the lock was left by a process that died, perhaps between two writes that belong together.
    ///
    /// Said until a guard that says so is dropped: calls that lock for themselves do not use it up.
    #[must_use]
    pub fn inherited(&self) -> Inherited {
        self.inherited
    }

    /// The bytes that can't be read because their writer was killed half-way: at least those.
    #[must_use]
    pub fn torn(&self) -> Option<Range<usize>> {
        self.buffer.tears().torn()
    }

    /// Declares the torn bytes good as they are; which they were.
    ///
    /// # Errors
    /// [`LockError::ForkedChild`] in a forked child of the process that has the lock.
    pub fn accept_torn(&mut self) -> Result<Option<Range<usize>>, LockError> {
        self.lock.check_ours()?;
        let accepted = self.buffer.tears().accept();
        self.lock.check_whole()?;
        Ok(accepted)
    }

    /// Copies `bytes` to `offset`. Torn bytes at an end of the torn range are whole again where this covers them.
    ///
    /// # Errors
    /// [`AccessError::OutOfRange`]; [`AccessError::Lock`] in a forked child of the process that has the lock.
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) -> Result<(), AccessError> {
        let range = self.buffer.range(offset, bytes.len())?;
        self.lock.check_ours()?;
        if range.is_empty() {
            return Ok(());
        }
        let tears = self.buffer.tears();
        tears.begin(&range);
        let at = self.buffer.offset_of(&range);
        // SAFETY: we hold the lock, so no other process touches these bytes; `&mut self`, so no other thread
        // of ours does. Words end before `BYTES`.
        let to = unsafe { self.buffer.mapping().bytes_mut(at, range.len()) };
        to.expect("checked by `range`").copy_from_slice(bytes);
        tears.finish(&range);
        Ok(self.lock.check_whole()?)
    }

    /// Copies the bytes at `offset` into `to`.
    ///
    /// # Errors
    /// [`AccessError::OutOfRange`]; [`AccessError::Torn`] if the writer of any of them was killed half-way;
    /// [`AccessError::Lock`] in a forked child of the process that has the lock. `to` is untouched then. Also
    /// [`LockError::Truncated`]; what `to` holds then is worth nothing.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> Result<(), AccessError> {
        let range = self.readable(offset, to.len())?;
        to.copy_from_slice(self.bytes(&range));
        Ok(self.lock.check_whole()?)
    }

    /// The `len` bytes at `offset`.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn read_to_vec(&self, offset: usize, len: usize) -> Result<Vec<u8>, AccessError> {
        let range = self.readable(offset, len)?;
        let bytes = self.bytes(&range).to_vec();
        self.lock.check_whole()?;
        Ok(bytes)
    }

    fn readable(&self, offset: usize, len: usize) -> Result<Range<usize>, AccessError> {
        let range = self.buffer.range(offset, len)?;
        self.lock.check_ours()?;
        match self.torn() {
            Some(torn) if overlap(&torn, &range) => Err(AccessError::Torn {
                name: self.buffer.name().to_string(),
                from: torn.start,
                to: torn.end,
            }),
            _ => Ok(range),
        }
    }

    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        let at = self.buffer.offset_of(range);
        // SAFETY: we hold the lock, so no other process writes these bytes; writing takes the guard by `&mut`,
        // so no thread of ours does while the slice lives. Words end before `BYTES`.
        let bytes = unsafe { self.buffer.mapping().bytes(at, range.len()) };
        bytes.expect("checked by `range`")
    }
}

impl Drop for BufferGuard<'_> {
    fn drop(&mut self) {
        if self.inherited != Inherited::No && self.lock.check_ours().is_ok() {
            // Before the lock is given back: killed in between, we leave a notice of our own.
            self.buffer.notice().store(0, Ordering::SeqCst);
        }
    }
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start.max(other.start) < one.end.min(other.end)
}
