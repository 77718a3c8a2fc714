//! This process, told from the copies of it that `fork` makes.

#[cfg(target_os = "linux")]
use ipc_shm::Generation;

/// For transports: the process that this was made in. A connection that a forked child inherited is
/// its parent's.
///
/// On Linux by a page that the kernel wipes in the child: numbers of processes are used again, and
/// two PID namespaces have the same ones. Elsewhere by the number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThisProcess {
    #[cfg(target_os = "linux")]
    generation: Generation,
    #[cfg(not(target_os = "linux"))]
    pid: u32,
}

impl ThisProcess {
    /// Returns the present process.
    #[must_use]
    pub fn current() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            generation: Generation::current(),
            #[cfg(not(target_os = "linux"))]
            pid: std::process::id(),
        }
    }

    /// Returns whether the calling process is this one, and not a forked copy.
    #[must_use]
    pub fn is_current(self) -> bool {
        #[cfg(target_os = "linux")]
        return self.generation.is_current();
        #[cfg(not(target_os = "linux"))]
        return self.pid == std::process::id();
    }
}
