//! SIGTERM to the pool's process, as something to poll.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Caught while it is there; readable when one came.
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

    /// How many came since it was asked last.
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

/// SIGTERM does what it did.
impl Drop for Sigterm {
    fn drop(&mut self) {
        signal_hook::low_level::unregister(self.id);
    }
}
