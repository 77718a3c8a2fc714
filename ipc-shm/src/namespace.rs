//! The location of segments: a folder for each user, in it one for each namespace, in it one file
//! for each segment.
//!
//! The path is `/dev/shm/ipc.<uid>/<namespace>/<name>.<kind>`. Each folder belongs to the user and
//! has mode 0700. Folders are created for the first segment and removed with the last one. All
//! access goes through descriptors of checked folders, so replacing a folder by a link in between
//! has no effect.
//!
//! A process may die at any point: an empty folder that it left is reused, and no other
//! intermediate state of a folder matters.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ipc_proto::{Name, NameError};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmodat, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use thiserror::Error;

use crate::user;

/// A set of segments, nodes and queues that find each other by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace {
    root: PathBuf,
    name: Name,
}

/// The namespaces in a folder, and its other entries.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Siblings {
    /// The namespaces, sorted.
    pub namespaces: Vec<Namespace>,
    /// Entries that are not namespaces or cannot be used, sorted.
    pub skipped: Vec<Skipped>,
}

/// An entry of a folder that is not a usable namespace.
#[derive(Debug)]
#[non_exhaustive]
pub struct Skipped {
    /// Its path.
    pub path: PathBuf,
    /// The problem with it.
    pub reason: SkipReason,
}

/// The reason why an entry of a folder was skipped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SkipReason {
    /// Its name is not a valid namespace name.
    #[error("its name is not a valid namespace name ([a-z0-9][a-z0-9._-]{{0,63}})")]
    Name,
    /// It cannot be used as a namespace's folder.
    #[error(transparent)]
    Folder(#[from] NamespaceError),
}

/// The reason why a namespace's folder cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// The path exists and is not a folder, or is a symbolic link.
    #[error(
        "{} is not a folder (links are refused): remove it, or choose another path",
        path.display()
    )]
    NotAFolder {
        /// Its path.
        path: PathBuf,
    },
    /// The path depends on the working directory, so it names other folders in other processes.
    #[error(
        "{path:?} names another folder in each working directory: set IPC_SHM_DIR to an absolute \
         path"
    )]
    Relative {
        /// The path.
        path: PathBuf,
    },
    /// Another user owns the folder.
    #[error(
        "{} belongs to user {owner}, not to this process's user {us}: have user {owner} or root \
         remove it, or set IPC_SHM_DIR to a folder of user {us} in all programs that work together",
        path.display()
    )]
    ForeignOwner {
        /// Its path.
        path: PathBuf,
        /// The owner of the folder.
        owner: u32,
        /// The user of this process.
        us: u32,
    },
    /// A user without a number in this user namespace owns the folder.
    #[error(
        "{} belongs to a user outside this user namespace (shown as {shown_as}), not to this \
         process's user {us}: run both sides with the same user mapping (for example podman run \
         --userns=keep-id), or set IPC_SHM_DIR to a folder of user {us}",
        path.display()
    )]
    UnmappedOwner {
        /// Its path.
        path: PathBuf,
        /// The overflow user's number.
        shown_as: u32,
        /// The user of this process.
        us: u32,
    },
    /// This process's user has no number in its user namespace, so its folders cannot be told from
    /// those of others.
    #[error(
        "cannot use {}: this process's user has no number in its user namespace (shown as \
         {shown_as}, like all such users), so its files cannot be told from those of others: map \
         the user (/etc/subuid, podman run --userns=keep-id), or run as a user that is mapped",
        path.display()
    )]
    UnmappedUser {
        /// Its path.
        path: PathBuf,
        /// The overflow user's number.
        shown_as: u32,
    },
    /// Other users may access the folder.
    #[error(
        "{} has mode {mode:03o}, so other users can access it: run chmod 700 on it",
        path.display()
    )]
    OpenToOthers {
        /// Its path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process, which may be stopped, holds the folder's lock while it removes a segment.
    #[error(
        "{} was locked for {waited:?}: is a process stopped while it removes a segment?",
        path.display()
    )]
    Busy {
        /// Its path.
        path: PathBuf,
        /// The time spent waiting.
        waited: Duration,
    },
    /// A system call failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The attempted action.
        action: &'static str,
        /// The path concerned.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl Namespace {
    /// Returns this user's namespace `name`. It is in `/dev/shm/ipc.<uid>`, or in the folder given
    /// by the environment variable `IPC_SHM_DIR`, if that is not empty. That must be an absolute
    /// path. Creates nothing yet.
    ///
    /// A privileged program (set-uid, set-gid, file capabilities) ignores the variable, because its
    /// caller controls it.
    ///
    /// # Errors
    /// [`NameError`] if the name is not valid.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let given = std::env::var_os("IPC_SHM_DIR")
            .filter(|root| !root.is_empty() && !user::has_more_rights_than_caller());
        let root = given.map_or_else(
            || PathBuf::from(format!("/dev/shm/ipc.{}", user::ours())),
            PathBuf::from,
        );
        Self::in_folder(root, name)
    }

    /// Returns the namespace `name` in another folder. That should be on a tmpfs: on a disk the
    /// kernel keeps writing shared memory back.
    ///
    /// # Errors
    /// [`NameError`] if the name is not valid.
    pub fn in_folder(root: impl Into<PathBuf>, name: &str) -> Result<Self, NameError> {
        Ok(Self {
            root: root.into(),
            name: Name::new(name)?,
        })
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Returns its folder, which exists only while it contains something.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.root.join(self.name.as_str())
    }

    /// Returns all namespaces in the same folder, sorted, whether they are in use or not. Other
    /// entries of the folder are skipped.
    ///
    /// # Errors
    /// [`NamespaceError`] if the folder is refused or cannot be read.
    pub fn siblings(&self) -> Result<Vec<Self>, NamespaceError> {
        Ok(self.siblings_and_skipped()?.namespaces)
    }

    /// Like [`siblings`](Self::siblings), together with the skipped entries.
    ///
    /// # Errors
    /// [`NamespaceError`] if the folder is refused or cannot be read.
    pub fn siblings_and_skipped(&self) -> Result<Siblings, NamespaceError> {
        let mut found = Siblings::default();
        let Some(root) = open_folder(None, &self.root, &self.root, Missing::IsNone)? else {
            return Ok(found);
        };
        for entry in entries(root, &self.root)? {
            let path = self.root.join(&entry);
            let sibling = entry.to_str().map(|name| Self::in_folder(&self.root, name));
            let reason = match sibling {
                Some(Ok(namespace)) => match namespace.open() {
                    // It was removed after it was listed, so nothing was skipped.
                    Ok(None) => continue,
                    Ok(Some(_)) => {
                        found.namespaces.push(namespace);
                        continue;
                    }
                    Err(error) => error.into(),
                },
                Some(Err(_)) | None => SkipReason::Name,
            };
            found.skipped.push(Skipped { path, reason });
        }
        Ok(found)
    }

    /// Returns the checked folder, or `None` if it does not exist.
    pub(crate) fn open(&self) -> Result<Option<OwnedFd>, NamespaceError> {
        self.folder(Missing::IsNone)
    }

    /// Returns the checked folder, and creates it if necessary.
    pub(crate) fn open_or_create(&self) -> Result<OwnedFd, NamespaceError> {
        // Another process may remove the folders with the last segment between our two steps.
        const TRIES: usize = 100;
        for _ in 0..TRIES {
            if let Some(folder) = self.folder(Missing::IsMade)? {
                return Ok(folder);
            }
        }
        Err(io_error("create", &self.path(), Errno::ENOENT))
    }

    /// Returns the names of the files in the folder, sorted.
    pub(crate) fn files(&self) -> Result<Vec<String>, NamespaceError> {
        match self.open()? {
            None => Ok(Vec::new()),
            // This library's names are always UTF-8.
            Some(folder) => Ok(entries(folder, &self.path())?
                .into_iter()
                .filter_map(|name| name.into_string().ok())
                .collect()),
        }
    }

    /// Locks the folder against other removers, until the guard is dropped or its process dies.
    pub(crate) fn lock(&self, folder: OwnedFd) -> Result<Flock<OwnedFd>, NamespaceError> {
        const LIMIT: Duration = Duration::from_secs(2);
        let deadline = Instant::now() + LIMIT;
        let mut folder = folder;
        loop {
            match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
                Ok(guard) => return Ok(guard),
                Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < deadline => {
                    folder = back;
                    thread::sleep(Duration::from_millis(1));
                }
                Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => {
                    return Err(NamespaceError::Busy {
                        path: self.path(),
                        waited: LIMIT,
                    });
                }
                Err((_, errno)) => return Err(io_error("lock", &self.path(), errno)),
            }
        }
    }

    /// Removes the folders if they are empty.
    pub(crate) fn remove_if_empty(&self) {
        // Failures do not matter: a folder is not empty, already removed, or not ours to remove.
        let _ = unlinkat(AT_FDCWD, &self.path(), UnlinkatFlags::RemoveDir);
        let _ = unlinkat(AT_FDCWD, &self.root, UnlinkatFlags::RemoveDir);
    }

    fn folder(&self, missing: Missing) -> Result<Option<OwnedFd>, NamespaceError> {
        let Some(root) = open_folder(None, &self.root, &self.root, missing)? else {
            return Ok(None);
        };
        open_folder(
            Some(&root),
            Path::new(self.name.as_str()),
            &self.path(),
            missing,
        )
    }
}

/// The treatment of a missing folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsNone,
    IsMade,
}

fn open_folder(
    parent: Option<&OwnedFd>,
    path: &Path,
    full: &Path,
    missing: Missing,
) -> Result<Option<OwnedFd>, NamespaceError> {
    if parent.is_none() && path.is_relative() {
        return Err(NamespaceError::Relative {
            path: path.to_owned(),
        });
    }
    let parent = parent.map_or(AT_FDCWD, AsFd::as_fd);
    if missing == Missing::IsMade {
        match mkdirat(parent, path, Mode::S_IRWXU) {
            // The umask may have taken rights of the user, who could not repair the folder later.
            Ok(()) => match fchmodat(parent, path, Mode::S_IRWXU, FchmodatFlags::FollowSymlink) {
                // Removed with another process's last segment.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(io_error("set the mode of folder", full, errno)),
            },
            Err(Errno::EEXIST) => {}
            Err(Errno::ENOENT) if full != path => return Ok(None),
            Err(errno) => return Err(io_error("create folder", full, errno)),
        }
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let folder = match openat(parent, path, flags, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ENOTDIR | Errno::ELOOP) => {
            return Err(NamespaceError::NotAFolder {
                path: full.to_owned(),
            });
        }
        Err(errno) => return Err(io_error("open folder", full, errno)),
    };
    let stat = fstat(&folder).map_err(|errno| io_error("stat", full, errno))?;
    check_owner(&stat, full)?;
    Ok(Some(folder))
}

fn check_owner(stat: &FileStat, path: &Path) -> Result<(), NamespaceError> {
    let (owner, us) = (stat.st_uid, user::ours());
    let path = || path.to_owned();
    if user::is_nobody(us) {
        return Err(NamespaceError::UnmappedUser {
            path: path(),
            shown_as: us,
        });
    }
    if owner != us {
        let path = path();
        return Err(if user::is_nobody(owner) {
            let shown_as = owner;
            NamespaceError::UnmappedOwner { path, shown_as, us }
        } else {
            NamespaceError::ForeignOwner { path, owner, us }
        });
    }
    let mode = stat.st_mode & 0o777;
    if mode & 0o077 != 0 {
        return Err(NamespaceError::OpenToOthers { path: path(), mode });
    }
    Ok(())
}

/// Returns the names in a folder, sorted.
fn entries(folder: OwnedFd, path: &Path) -> Result<Vec<OsString>, NamespaceError> {
    let failed = |errno| io_error("list", path, errno);
    let mut names = Vec::new();
    for entry in Dir::from_fd(folder).map_err(failed)?.iter() {
        let entry = entry.map_err(failed)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn io_error(action: &'static str, path: &Path, errno: Errno) -> NamespaceError {
    NamespaceError::Io {
        action,
        path: path.to_owned(),
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::unistd::geteuid;

    use super::*;

    fn namespace() -> (tempfile::TempDir, Namespace) {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let namespace = Namespace::in_folder(root.path().join("root"), "test").unwrap();
        (root, namespace)
    }

    #[test]
    fn folders_are_private_and_removed_when_empty() {
        let (root, namespace) = namespace();
        assert!(namespace.open().unwrap().is_none());
        drop(namespace.open_or_create().unwrap());
        let mode = fs::metadata(namespace.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(namespace.siblings().unwrap(), vec![namespace.clone()]);
        namespace.remove_if_empty();
        assert!(!root.path().join("root").exists());
    }

    #[test]
    fn a_link_a_file_and_an_open_folder_are_refused() {
        let (root, namespace) = namespace();
        let place = root.path().join("root");
        symlink(root.path(), &place).unwrap();
        assert!(matches!(
            namespace.open(),
            Err(NamespaceError::NotAFolder { .. })
        ));
        fs::remove_file(&place).unwrap();
        fs::write(&place, "").unwrap();
        assert!(matches!(
            namespace.open(),
            Err(NamespaceError::NotAFolder { .. })
        ));
        fs::remove_file(&place).unwrap();
        fs::create_dir(&place).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
        let error = namespace.open().unwrap_err();
        assert!(error.to_string().contains("mode 755"), "{error}");
    }

    #[test]
    fn an_entry_that_is_not_a_namespace_is_skipped_and_reported() {
        let (root, namespace) = namespace();
        drop(namespace.open_or_create().unwrap());
        let place = root.path().join("root");
        fs::write(place.join("file"), "").unwrap();
        fs::write(place.join("No Name"), "").unwrap();
        fs::write(place.join(OsStr::from_bytes(b"bad\xff")), "").unwrap();
        symlink(namespace.path(), place.join("link")).unwrap();
        fs::create_dir(place.join("open")).unwrap();
        fs::set_permissions(place.join("open"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(namespace.siblings().unwrap(), vec![namespace.clone()]);
        let found = namespace.siblings_and_skipped().unwrap();
        assert_eq!(found.namespaces, vec![namespace]);
        let skipped: Vec<_> = found.skipped.iter().map(|one| &one.reason).collect();
        assert!(
            matches!(
                skipped[..],
                [
                    SkipReason::Name,
                    SkipReason::Name,
                    SkipReason::Folder(NamespaceError::NotAFolder { .. }),
                    SkipReason::Folder(NamespaceError::NotAFolder { .. }),
                    SkipReason::Folder(NamespaceError::OpenToOthers { mode: 0o755, .. }),
                ]
            ),
            "{skipped:?}"
        );
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let (_root, namespace) = namespace();
        drop(namespace.open_or_create().unwrap());
        if !geteuid().is_root() {
            println!("skipped: only root can change the owner of a folder");
            return;
        }
        std::os::unix::fs::chown(namespace.path(), Some(12345), None).unwrap();
        let error = namespace.open().unwrap_err();
        assert!(
            matches!(error, NamespaceError::ForeignOwner { owner: 12345, .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains("user 12345") && text.contains("IPC_SHM_DIR"),
            "{text}"
        );
    }
}
