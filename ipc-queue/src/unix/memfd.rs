//! Large payloads: memory files that can no longer change, passed as descriptors.
//!
//! The receiver of a descriptor trusts nothing about it. The file must be sealed against writing
//! and shrinking, and have the announced size. It is read with `pread`, never mapped, so a
//! misbehaving peer causes an error, not a SIGBUS.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;

use super::wire_error::WireError;

/// A payload that cannot change.
#[derive(Debug)]
pub(super) struct Sealed {
    file: File,
    bytes: u64,
}

/// Without these seals the sender could change or truncate the payload while it is read.
const NEEDED: SealFlags = SealFlags::SHRINK.union(SealFlags::WRITE);

impl Sealed {
    /// Creates a sealed copy of `payload`.
    pub(super) fn copy_of(payload: &[u8]) -> io::Result<Self> {
        let mut file = File::from(create()?);
        file.write_all(payload)?;
        fcntl_add_seals(&file, NEEDED | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self {
            file,
            bytes: payload.len() as u64,
        })
    }

    /// Accepts a descriptor from a peer, which announced `bytes` bytes.
    pub(super) fn accept(descriptor: OwnedFd, bytes: u64) -> Result<Self, WireError> {
        let file = File::from(descriptor);
        // A file that is not a memory file has no seals.
        let seals = fcntl_get_seals(&file).map_err(|_| WireError::NotSealed)?;
        if !seals.contains(NEEDED) {
            return Err(WireError::NotSealed);
        }
        let found = file.metadata().map_err(WireError::io)?.len();
        if found != bytes {
            return Err(WireError::WrongSize { bytes, found });
        }
        Ok(Self { file, bytes })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the whole payload. `into` has the same length.
    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, 0)
    }
}

#[cfg(test)]
impl Sealed {
    /// Changes the announced size.
    pub(super) fn said_to_have(self, bytes: u64) -> Self {
        Self { bytes, ..self }
    }

    /// Creates a payload that its sender can still change.
    pub(super) fn unsealed(payload: &[u8]) -> Self {
        let mut file = File::from(create().unwrap());
        file.write_all(payload).unwrap();
        let bytes = payload.len() as u64;
        Self { file, bytes }
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn create() -> io::Result<OwnedFd> {
    const NAME: &str = "ipc-payload";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL) {
        // Kernels before Linux 6.3 do not know the flag.
        Err(Errno::INVAL) => Ok(memfd_create(NAME, flags)?),
        created => Ok(created?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed_over(file: &File) -> OwnedFd {
        file.try_clone().unwrap().into()
    }

    #[test]
    fn a_payload_arrives_unchanged() {
        let payload: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let sealed = Sealed::copy_of(&payload).unwrap();
        let accepted = Sealed::accept(handed_over(&sealed.file), 100_000).unwrap();
        let mut read = vec![0; payload.len()];
        accepted.read(&mut read).unwrap();
        assert!(read == payload);
        // No holder of the file can change it.
        assert!(sealed.file.write_at(b"x", 0).is_err());
        assert!(sealed.file.set_len(10).is_err());
    }

    #[test]
    fn a_payload_that_could_still_change_is_refused() {
        for seals in [SealFlags::empty(), SealFlags::SHRINK, SealFlags::WRITE] {
            let file = File::from(create().unwrap());
            (&file).write_all(b"abc").unwrap();
            if !seals.is_empty() {
                fcntl_add_seals(&file, seals).unwrap();
            }
            let refused = Sealed::accept(handed_over(&file), 3);
            assert!(matches!(refused, Err(WireError::NotSealed)), "{refused:?}");
        }
        let file = tempfile::tempfile().unwrap();
        let refused = Sealed::accept(handed_over(&file), 0);
        assert!(matches!(refused, Err(WireError::NotSealed)), "{refused:?}");
    }

    #[test]
    fn a_made_up_size_is_refused() {
        let sealed = Sealed::copy_of(b"abc").unwrap();
        for bytes in [0, 2, 4, u64::MAX] {
            let refused = Sealed::accept(handed_over(&sealed.file), bytes);
            let wrong = matches!(refused, Err(WireError::WrongSize { found: 3, .. }));
            assert!(wrong, "{refused:?}");
        }
    }
}
