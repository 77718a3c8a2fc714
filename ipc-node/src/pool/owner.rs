//! The process that has a pool, for errors that name it.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use ipc_queue::transport::LeaseInfo;
use ipc_shm::{Participant, ProcessIdentity};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

/// The process that has a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolOwner {
    /// Its process number in its own PID namespace; 0 if it cannot be seen from here.
    pub pid: u32,
    /// `true` if that is another PID namespace than ours, or another host, or may be. Our process
    /// with this number is then another one.
    pub is_elsewhere: bool,
    /// Its program; empty if unknown.
    pub program: String,
}

impl PoolOwner {
    pub(super) fn of(holder: &Participant) -> Self {
        let ours = ProcessIdentity::current().pid_namespace;
        Self {
            pid: holder.process.pid,
            is_elsewhere: holder.process.pid_namespace != ours,
            program: holder.name.clone(),
        }
    }

    /// Returns the holder of an owner's lease. Its host is not known.
    pub(super) fn elsewhere(holder: Option<LeaseInfo>) -> Self {
        let (pid, program) = holder.map_or((0, String::new()), |lease| (lease.pid, lease.holder));
        Self {
            pid,
            is_elsewhere: true,
            program,
        }
    }

    /// Returns this process.
    pub(super) fn ourselves() -> Self {
        Self {
            pid: std::process::id(),
            is_elsewhere: false,
            program: program(),
        }
    }

    /// Returns the process at the other end of a socket. Does not wait for one that is stopped.
    pub(super) fn serving(path: &Path) -> Self {
        let peer = connected(path).and_then(|peer| Ok(socket_peercred(peer)?));
        let peer = peer.ok();
        let pid = peer.map_or(0, |peer| peer.pid.as_raw_pid().cast_unsigned());
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        Self {
            pid,
            is_elsewhere: pid == 0,
            program: comm.unwrap_or_default().trim().to_owned(),
        }
    }
}

fn connected(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

impl fmt::Display for PoolOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            0 => f.write_str("a process that can't be seen from here")?,
            pid => write!(f, "process {pid}")?,
        }
        if self.is_elsewhere && self.pid != 0 {
            f.write_str(" of another PID namespace or host")?;
        }
        match &self.program[..] {
            "" => Ok(()),
            program => write!(f, " ({program})"),
        }
    }
}

pub(super) fn program() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
