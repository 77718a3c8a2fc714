//! Decides whether a process is gone, from facts of the kernel only, never by a time-out.
//!
//! Either of two facts is enough:
//!
//! - The open-file-description lock on the byte of its membership is free. The kernel frees the
//!   lock when the last copy of the descriptor is closed, so at exit and at `exec`, in any PID
//!   namespace. A forked child that outlives its parent keeps the lock.
//! - From the same PID namespace: its pidfd is readable (it ended, reaped or not), or no process
//!   has its number. The same holds if another process has the number, as its start time shows.
//!
//! In all other cases the process counts as alive, even if it is stopped or its state is unknown.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::clock;
use crate::descriptor::Kept;
use crate::fork::Generation;

/// The permanent identity of one process, as far as the kernel provides one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessIdentity {
    /// Its process number, in its own PID namespace.
    pub pid: u32,
    /// Its start time in clock ticks since boot, the same in every time namespace; 0 if unknown.
    pub start_ticks: u64,
    /// The inode of its PID namespace; 0 if `/proc` is missing or belongs to another one.
    pub pid_namespace: u64,
}

impl ProcessIdentity {
    /// Returns this process's identity. Each process reads `/proc` only once, because that takes a
    /// fifth of the time of opening a queue.
    #[must_use]
    pub fn current() -> Self {
        static KNOWN: Mutex<Option<(Generation, ProcessIdentity)>> = Mutex::new(None);
        // Never waits, because the mutex may have been locked when this process was forked.
        let Ok(mut known) = KNOWN.try_lock() else {
            return Self::ask();
        };
        match *known {
            Some((generation, identity)) if generation.is_current() => identity,
            _ => {
                let (generation, identity) = (Generation::current(), Self::ask());
                *known = Some((generation, identity));
                identity
            }
        }
    }

    fn ask() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start_ticks: start_ticks(pid).unwrap_or(0),
            pid_namespace: our_pid_namespace(),
        }
    }

    /// Returns a descriptor that becomes readable when the process ends.
    ///
    /// # Errors
    /// [`NoPidfd`] distinguishes a process that is gone from one that cannot be watched from here.
    pub fn pidfd(&self) -> Result<OwnedFd, NoPidfd> {
        if self.pid_namespace != our_pid_namespace() || self.pid_namespace == 0 {
            return Err(NoPidfd::Unwatchable);
        }
        let fd = match pidfd_open(self.pid) {
            Ok(fd) => fd,
            Err(Errno::ESRCH) => return Err(NoPidfd::Gone),
            Err(_) => return Err(NoPidfd::Unwatchable),
        };
        // Read only now: the descriptor keeps the number from being reused, so the start time
        // belongs to its process.
        match start_ticks(self.pid) {
            Some(ticks) if self.start_ticks != 0 && ticks != self.start_ticks => Err(NoPidfd::Gone),
            _ => Ok(fd),
        }
    }
}

/// The reason why there is no descriptor for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPidfd {
    /// It ended.
    Gone,
    /// It lives in another PID namespace, or the kernel provides no more descriptors.
    Unwatchable,
}

/// The peers that had not ended when the watcher woke up.
#[derive(Debug, Default)]
pub struct Running {
    pidfds: HashMap<ProcessIdentity, Kept>,
}

impl Running {
    /// Returns `true` if the process is one of them. `false` says nothing about the process.
    #[must_use]
    pub fn contains(&self, process: &ProcessIdentity) -> bool {
        self.pidfds.contains_key(process)
    }
}

impl Running {
    /// Opens pidfds for new peers and closes those of former peers.
    pub(crate) fn update(&mut self, peers: &[ProcessIdentity]) -> Coverage {
        self.pidfds.retain(|peer, _| peers.contains(peer));
        let mut coverage = Coverage::Full;
        for peer in peers {
            if self.contains(peer) {
                continue;
            }
            match peer.pidfd() {
                Ok(fd) if !has_ended(&fd) => match Kept::anonymous(fd) {
                    Ok(fd) => drop(self.pidfds.insert(*peer, fd)),
                    Err(_) => coverage = Coverage::Partial,
                },
                // The peer ended after `maintain` checked it, or it cannot be watched: check again
                // soon. A pidfd that is already readable is not kept, because `poll` would return
                // at once until the peer's slot is freed.
                Ok(_) | Err(NoPidfd::Gone | NoPidfd::Unwatchable) => coverage = Coverage::Partial,
            }
        }
        coverage
    }

    /// The pidfds of the peers. Each becomes readable when its peer ends.
    pub(crate) fn pidfds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pidfds.values().map(AsFd::as_fd)
    }

    /// Closes the pidfds of peers that ended, and those that other code closed.
    pub(crate) fn forget_ended(&mut self) {
        self.pidfds
            .retain(|_, pidfd| pidfd.is_intact() && !has_ended(pidfd));
    }
}

/// The part of the peers that has a pidfd.
pub(crate) enum Coverage {
    Full,
    Partial,
}

/// Returns `true` if the process that locked `byte` of `file`, through a descriptor other than
/// ours, is certainly gone.
///
/// Reading `/proc` and opening a pidfd costs about fifty times as much as checking the lock. That
/// is not needed for processes in `running`.
pub(crate) fn is_gone(
    file: &Kept,
    byte: usize,
    process: &ProcessIdentity,
    running: &Running,
) -> bool {
    if is_unlocked(file, byte) {
        return true;
    }
    if running.contains(process) {
        return false;
    }
    match process.pidfd() {
        Ok(fd) => has_ended(&fd),
        Err(NoPidfd::Gone) => true,
        Err(NoPidfd::Unwatchable) => false,
    }
}

/// Locks `byte` until this open file is closed. Returns `false` if another open file holds the
/// lock.
pub(crate) fn try_lock(file: &Kept, byte: usize) -> Result<bool, Errno> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&byte_lock(byte, libc::F_WRLCK))) {
        // A lock on another file that took the number does not count.
        Ok(_) if !file.is_intact() => Err(Errno::EBADF),
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno),
    }
}

pub(crate) fn unlock(file: &Kept, byte: usize) {
    // Fails only for a closed descriptor. A file that took its number contains no lock of ours.
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&byte_lock(byte, libc::F_UNLCK)));
}

/// Returns `true` if the process of a pidfd has ended.
pub(crate) fn has_ended(pidfd: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
}

/// Checks the descriptor last, because in a file that took its number every byte is unlocked.
fn is_unlocked(file: &Kept, byte: usize) -> bool {
    let mut lock = byte_lock(byte, libc::F_WRLCK);
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => i32::from(lock.l_type) == libc::F_UNLCK && file.is_intact(),
        Err(_) => false,
    }
}

fn byte_lock(byte: usize, kind: i32) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).expect("lock kinds are 0, 1 and 2"),
        l_whence: 0, // SEEK_SET
        l_start: i64::try_from(byte).expect("offsets in a file are positive"),
        l_len: 1,
        l_pid: 0,
    }
}

fn pidfd_open(pid: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: takes two numbers and accesses none of our memory.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(result)?;
    let fd = i32::try_from(fd).expect("descriptors are small");
    // SAFETY: the system call just created this descriptor, and no other code knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns field 22 of `/proc/<pid>/stat`. The second field may contain anything, so fields are
/// counted from its end.
///
/// Returns `None` in a time namespace that shifts the time since boot. Some kernels also shift this
/// field. The same process would then have different start times in different namespaces, and would
/// seem to be two processes.
fn start_ticks(pid: u32) -> Option<u64> {
    if clock::is_boottime_shifted() {
        return None;
    }
    // 1,024 bytes contain far more than the needed fields. Read in one call, because the kernel
    // formats the file again for each read.
    let mut stat = [0; 1024];
    let mut file = File::open(format!("/proc/{pid}/stat")).ok()?;
    let len = file.read(&mut stat).ok()?;
    let stat = &stat[..len];
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Reads it on each call, because a forked child may be in another namespace.
fn our_pid_namespace() -> u64 {
    // A `/proc` mounted in another PID namespace uses other numbers for our processes.
    let known_as = fs::read_link("/proc/self").ok();
    let known_as = known_as.and_then(|link| link.to_str()?.parse().ok());
    if known_as != Some(std::process::id()) {
        return 0;
    }
    fs::metadata("/proc/self/ns/pid").map_or(0, |data| data.ino())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn identity_of(pid: u32) -> ProcessIdentity {
        ProcessIdentity {
            pid,
            start_ticks: start_ticks(pid).unwrap(),
            ..ProcessIdentity::current()
        }
    }

    #[test]
    fn a_zombie_counts_as_gone_although_its_number_still_exists() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let identity = identity_of(child.id());
        let pidfd = identity.pidfd().unwrap();
        assert!(!has_ended(&pidfd));
        child.kill().unwrap();
        // Waits for the end without reaping the process.
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE).unwrap();
        assert!(fs::exists(format!("/proc/{}", child.id())).unwrap());
        assert!(has_ended(&identity.pidfd().unwrap()));
        child.wait().unwrap();
        assert_eq!(identity.pidfd().unwrap_err(), NoPidfd::Gone);
    }

    #[test]
    fn a_process_with_a_reused_number_is_not_the_old_process() {
        let ours = ProcessIdentity::current();
        let earlier = ProcessIdentity {
            start_ticks: ours.start_ticks - 1,
            ..ours
        };
        assert!(ours.pidfd().is_ok());
        assert_eq!(earlier.pidfd().unwrap_err(), NoPidfd::Gone);
    }

    #[test]
    fn a_process_in_another_pid_namespace_does_not_count_as_dead() {
        let elsewhere = ProcessIdentity {
            pid_namespace: 1,
            ..ProcessIdentity::current()
        };
        assert_eq!(elsewhere.pidfd().unwrap_err(), NoPidfd::Unwatchable);
    }

    #[test]
    fn a_lock_is_visible_to_others_and_ends_with_its_open_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || Kept::regular(file.reopen().unwrap().into()).unwrap();
        let (ours, theirs) = (open(), open());
        assert!(is_unlocked(&ours, 5));
        assert_eq!(try_lock(&theirs, 5), Ok(true));
        assert!(!is_unlocked(&ours, 5));
        assert_eq!(try_lock(&ours, 5), Ok(false));
        // Unlike a classic POSIX lock, it survives the closing of another descriptor of the same
        // file.
        drop(file.reopen().unwrap());
        assert!(!is_unlocked(&ours, 5));
        drop(theirs);
        assert!(is_unlocked(&ours, 5));
    }
}
