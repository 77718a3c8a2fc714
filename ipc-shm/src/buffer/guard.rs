//! A held lock on a buffer: the only way to its bytes, and the only `unsafe` code of `buffer`.
//!
//! If its process dies while it holds the lock, the range that it was writing is torn, see `tear`.

use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use super::{AccessError, SharedBuffer};
use crate::lock::{Inherited, LockError, LockGuard};

/// A held lock on a buffer, with access to its bytes.
///
/// Other processes that use the buffer wait until the guard is dropped.
#[derive(Debug)]
#[must_use = "dropping the guard unlocks the buffer"]
pub struct BufferGuard<'a> {
    pub(super) buffer: &'a SharedBuffer,
    pub(super) lock: LockGuard<'a>,
    /// The notice that this guard found, and clears when dropped.
    pub(super) inherited: Inherited,
}

impl BufferGuard<'_> {
    /// Returns the dead holder that left the lock, if any. It may have died between two writes that
    /// belong together.
    ///
    /// Reported until a guard that reports it is dropped. Calls that take the lock themselves do
    /// not clear it.
    #[must_use]
    pub fn inherited(&self) -> Inherited {
        self.inherited
    }

    /// Returns the bytes that cannot be read because their writer was killed. May include intact
    /// bytes.
    #[must_use]
    pub fn torn(&self) -> Option<Range<usize>> {
        self.buffer.tears().torn()
    }

    /// Accepts the torn bytes as they are. Returns their range.
    ///
    /// # Errors
    /// [`LockError::ForkedChild`] in a forked child of the process that holds the lock.
    pub fn accept_torn(&mut self) -> Result<Option<Range<usize>>, LockError> {
        self.lock.check_ours()?;
        let accepted = self.buffer.tears().accept();
        self.lock.check_whole()?;
        Ok(accepted)
    }

    /// Writes `bytes` at `offset`. If this covers an end of the torn range, the range shrinks.
    ///
    /// # Errors
    /// [`AccessError::OutOfRange`]; [`AccessError::Lock`] in a forked child of the process that
    /// holds the lock.
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) -> Result<(), AccessError> {
        let range = self.buffer.range(offset, bytes.len())?;
        self.lock.check_ours()?;
        if range.is_empty() {
            return Ok(());
        }
        let tears = self.buffer.tears();
        tears.begin(&range);
        let to = self.bytes(&range);
        // SAFETY: `bytes` found the whole range inside the mapping, and the words end before it.
        // Processes that use the lock wait for us. Those that use `SharedBuffer::as_ptr` may access
        // the bytes at the same time; its documentation says that they see mixed bytes then. No
        // reference to the bytes exists.
        unsafe { ptr::copy(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        tears.finish(&range);
        Ok(self.lock.check_whole()?)
    }

    /// Copies the bytes at `offset` into `to`.
    ///
    /// # Errors
    /// - [`AccessError::OutOfRange`].
    /// - [`AccessError::Torn`] if a writer of these bytes was killed during the write.
    /// - [`AccessError::Lock`] in a forked child of the process that holds the lock.
    ///
    /// `to` is then unchanged. After [`LockError::Truncated`] the contents of `to` are meaningless.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> Result<(), AccessError> {
        let range = self.readable(offset, to.len())?;
        self.copy(&range, to);
        Ok(self.lock.check_whole()?)
    }

    /// Returns the `len` bytes at `offset`.
    ///
    /// # Errors
    /// Those of [`read_at`](Self::read_at).
    pub fn read_to_vec(&self, offset: usize, len: usize) -> Result<Vec<u8>, AccessError> {
        let range = self.readable(offset, len)?;
        let mut bytes = vec![0; len];
        self.copy(&range, &mut bytes);
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

    /// Copies all bytes of a range, which is as long as `to`.
    fn copy(&self, range: &Range<usize>, to: &mut [u8]) {
        debug_assert_eq!(range.len(), to.len());
        let from = self.bytes(range);
        // SAFETY: as in `write_at`; `to` has room for `to.len()` bytes.
        unsafe { ptr::copy(from.as_ptr(), to.as_mut_ptr(), to.len()) };
    }

    /// Returns the address of the bytes of a range.
    fn bytes(&self, range: &Range<usize>) -> NonNull<u8> {
        let at = self.buffer.offset_of(range);
        let bytes = self.buffer.mapping().pointer(at, range.len());
        bytes.expect("checked by `range`")
    }
}

impl Drop for BufferGuard<'_> {
    fn drop(&mut self) {
        if self.inherited != Inherited::No && self.lock.check_ours().is_ok() {
            // Done before the lock is released. If this process is killed in between, the next
            // holder stores a new notice.
            self.buffer.notice().store(0, Ordering::SeqCst);
        }
    }
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start.max(other.start) < one.end.min(other.end)
}
