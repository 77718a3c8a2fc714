//! SIGTERM to the pool's process, as a descriptor to poll.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Catches SIGTERM while it exists. Readable after one arrived.
pub(super) struct Sigterm {
    pipe: UnixStream,
    id: signal_hook::SigId,
}

impl Sigterm {
    pub(super) fn catch() -> io::Result<Self> {
        let (pipe, writes) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let id = signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, writes)?;
        Ok(Self { pipe, id })
    }

    /// Returns how many signals arrived since the last call.
    pub(super) fn count(&mut self) -> usize {
        let mut signals = [0; 16];
        self.pipe.read(&mut signals).unwrap_or(0)
    }
}

impl AsFd for Sigterm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// SIGTERM gets its previous effect again.
impl Drop for Sigterm {
    fn drop(&mut self) {
        signal_hook::low_level::unregister(self.id);
    }
}
