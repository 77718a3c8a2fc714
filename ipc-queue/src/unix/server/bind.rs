//! The socket's file: creation, protection, replacement after a crash, removal.
//!
//! Only its user may connect to it, and only that user may replace it. The file has mode 0600 from
//! its first moment, in a folder that belongs to the user and that no other user can write to. A
//! socket without a listener was left by a server that died. If two servers find it at the same
//! time, the folder's lock makes them take turns.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_socket, connect, listen,
    socket_with,
};

use super::ServeError;

/// A socket's file. Dropping this removes the file, if it is still the same one.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// Held open, so that a file that replaces it cannot get its inode number.
    file: File,
}

/// The maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// The maximum number of bytes of a socket's path.
const LONGEST_PATH: usize = 108;

/// Returns a listening socket at `path`.
pub(super) fn bind(path: &Path) -> Result<(UnixListener, Place), ServeError> {
    let bad = |reason: &str| ServeError::Path {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let system = |source: io::Error| ServeError::System {
        path: path.to_owned(),
        source,
    };
    if !path.is_absolute() {
        return Err(bad("it must be absolute, to be the same for every process"));
    }
    let address = SocketAddrUnix::new(path).map_err(|error| match error {
        Errno::NAMETOOLONG => bad(&format!(
            "it has {} bytes, and the path of a socket has at most {LONGEST_PATH}",
            path.as_os_str().len()
        )),
        other => bad(&io::Error::from(other).to_string()),
    })?;
    let folder = path.parent().ok_or_else(|| bad("it has no file name"))?;
    check_folder(folder)?;
    let lock = File::open(folder).map_err(system)?;
    let lock = Flock::lock(lock, FlockArg::LockExclusive);
    let _lock = lock.map_err(|(_, error)| system(error.into()))?;
    make_room(path)?;
    let socket = listening(path, &address).map_err(system)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty());
    let file = File::from(file.map_err(|error| system(error.into()))?);
    let path = path.to_owned();
    Ok((UnixListener::from(socket), Place { path, file }))
}

/// Checks the folder: another user with write access could replace the socket.
fn check_folder(folder: &Path) -> Result<(), ServeError> {
    let bad = |reason: String| ServeError::Folder {
        folder: folder.to_owned(),
        reason,
    };
    let found = fs::metadata(folder).map_err(|error| bad(format!("cannot be used ({error})")))?;
    let us = nix::unistd::geteuid().as_raw();
    if ipc_shm::is_nobody(us) {
        let why = "cannot be distinguished from other users' folders: this process's user has no \
                   mapping in its user namespace";
        return Err(bad(format!(
            "{why} (shown as {us}); map it, or run as one that is mapped"
        )));
    }
    if found.uid() != us {
        return Err(bad(format!("belongs to user {}, not {us}", found.uid())));
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(bad(format!("is writable by other users (mode {mode:o})")));
    }
    Ok(())
}

/// Removes the socket's file of a dead server.
fn make_room(path: &Path) -> Result<(), ServeError> {
    let system = |source: io::Error| ServeError::System {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServeError::NoSocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match try_to_connect(path) {
        // No process listens there, and none will again: a socket cannot be revived.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(system)
        }
        // This also applies if the server is too busy to accept a connection.
        _ => Err(ServeError::InUse {
            path: path.to_owned(),
        }),
    }
}

/// Connects without a wait: a server that is stopped or too busy is an error (`WouldBlock`).
fn try_to_connect(path: &Path) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(connect(&socket, &SocketAddrUnix::new(path)?)?)
}

fn listening(path: &Path, address: &SocketAddrUnix) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Set before the bind: Linux creates the file with the socket's own mode.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind_socket(&socket, address)?;
    // In case a kernel ignores the socket's mode.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listen(socket.as_fd(), BACKLOG)?;
    Ok(socket)
}

/// Returns device and inode number.
fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

impl Drop for Place {
    fn drop(&mut self) {
        let (ours, there) = (self.file.metadata(), fs::symlink_metadata(&self.path));
        if matches!((ours, there), (Ok(ours), Ok(there)) if identity(&ours) == identity(&there)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn the_socket_is_its_users_alone_and_goes_with_its_server() {
        let folder = folder();
        let path = folder.path().join("x.sock");
        let (listener, place) = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(place);
        assert!(!path.exists());
        drop(listener);
    }

    #[test]
    fn a_live_server_is_not_replaced_but_a_dead_servers_socket_is() {
        let folder = folder();
        let path = folder.path().join("x.sock");
        let (listener, old) = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(ServeError::InUse { .. })));
        drop(listener); // Simulates a crash: the file stays.
        let (_listener, new) = bind(&path).unwrap();
        // Dropping the old one leaves the new file alone.
        drop(old);
        assert!(path.exists());
        drop(new);
    }

    /// A stopped server accepts nothing.
    #[test]
    fn a_server_that_is_too_busy_to_accept_is_neither_waited_for_nor_replaced() {
        let folder = folder();
        let path = folder.path().join("x.sock");
        let (listener, _place) = bind(&path).unwrap();
        listen(&listener, 0).unwrap();
        let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(matches!(bind(&path), Err(ServeError::InUse { .. })));
        assert!(path.exists());
    }

    #[test]
    fn invalid_socket_paths_are_refused() {
        let folder = folder();
        let path = folder.path().join("x.sock");
        fs::write(&path, "a file").unwrap();
        assert!(matches!(bind(&path), Err(ServeError::NoSocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"a file");
        let relative = bind(Path::new("x.sock"));
        assert!(matches!(relative, Err(ServeError::Path { .. })));
        let long = folder.path().join("x".repeat(120));
        assert!(matches!(bind(&long), Err(ServeError::Path { .. })));
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        let refused = bind(&open.join("x.sock"));
        assert!(matches!(refused, Err(ServeError::Folder { .. })));
    }
}
