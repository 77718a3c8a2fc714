//! The identity of this process, as opposed to copies that `fork` makes.

#[cfg(target_os = "linux")]
use ipc_shm::Generation;

/// For transports: the process in which this value was created. If a forked child inherits a
/// connection, the connection still belongs to its parent.
///
/// On Linux a page that the kernel wipes in the child distinguishes the two. Pids would not
/// suffice: they are reused, and two PID namespaces have the same ones. Elsewhere the pid is
/// compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThisProcess {
    #[cfg(target_os = "linux")]
    generation: Generation,
    #[cfg(not(target_os = "linux"))]
    pid: u32,
}

impl ThisProcess {
    /// Returns the current process.
    #[must_use]
    pub fn current() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            generation: Generation::current(),
            #[cfg(not(target_os = "linux"))]
            pid: std::process::id(),
        }
    }

    /// Returns whether the calling process is this one, not a forked copy.
    #[must_use]
    pub fn is_current(self) -> bool {
        #[cfg(target_os = "linux")]
        return self.generation.is_current();
        #[cfg(not(target_os = "linux"))]
        return self.pid == std::process::id();
    }
}
