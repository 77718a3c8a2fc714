//! Large payloads: a file in memory that nobody can change any more, handed over by its descriptor.
//!
//! Whoever gets one believes nothing that was said about it: it must be sealed against writing and shrinking, and be as
//! large as announced. It is read with `pread`, never mapped, so whatever a peer does ends in an error and not in SIGBUS.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;

use super::frame::WireError;

/// A payload that can't change.
#[derive(Debug)]
pub(super) struct Sealed {
    file: File,
    bytes: u64,
}

/// Without these the sender could change the payload, or cut it short, while it is read.
const NEEDED: SealFlags = SealFlags::SHRINK.union(SealFlags::WRITE);

impl Sealed {
    /// A copy of `payload`.
    pub(super) fn copy_of(payload: &[u8]) -> io::Result<Self> {
        let mut file = File::from(create()?);
        file.write_all(payload)?;
        fcntl_add_seals(&file, NEEDED | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self {
            file,
            bytes: payload.len() as u64,
        })
    }

    /// What a peer handed over, said to be of so many bytes.
    pub(super) fn accept(descriptor: OwnedFd, bytes: u64) -> Result<Self, WireError> {
        let file = File::from(descriptor);
        // Anything but a file in memory has no seals at all.
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

    /// Reads the whole of it; `into` is as long as it is.
    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, 0)
    }
}

#[cfg(test)]
impl Sealed {
    /// A lie.
    pub(super) fn said_to_have(self, bytes: u64) -> Self {
        Self { bytes, ..self }
    }

    /// One that its sender can still change.
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
        // Before Linux 6.3.
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
    fn a_payload_comes_out_as_it_went_in() {
        let payload: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let sealed = Sealed::copy_of(&payload).unwrap();
        let accepted = Sealed::accept(handed_over(&sealed.file), 100_000).unwrap();
        let mut read = vec![0; payload.len()];
        accepted.read(&mut read).unwrap();
        assert!(read == payload);
        // Whoever has it can't change it.
        assert!(sealed.file.write_at(b"x", 0).is_err());
        assert!(sealed.file.set_len(10).is_err());
    }

    #[test]
    fn what_could_still_change_is_refused() {
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
    fn a_size_that_was_made_up_is_refused() {
        let sealed = Sealed::copy_of(b"abc").unwrap();
        for bytes in [0, 2, 4, u64::MAX] {
            let refused = Sealed::accept(handed_over(&sealed.file), bytes);
            let wrong = matches!(refused, Err(WireError::WrongSize { found: 3, .. }));
            assert!(wrong, "{refused:?}");
        }
    }
}
