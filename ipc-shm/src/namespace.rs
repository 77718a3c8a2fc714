//! Where segments live: a folder per user, in it a folder per namespace, in it a file per segment.
//!
//! `/dev/shm/ipc.<uid>/<namespace>/<name>.<kind>`, each folder 0700 and the user's own. Folders are made
//! when the first segment needs them and removed with the last one. Everything is reached through
//! descriptors of checked folders, so a folder swapped for a link in between changes nothing.
//! Deaths: a folder made and left empty is reused; no half-made state of a folder matters.

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
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use thiserror::Error;

use crate::user;

/// A set of segments, nodes and queues that know each other by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace {
    root: PathBuf,
    name: Name,
}

/// The namespaces in a folder, and what else is in it.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Siblings {
    /// The namespaces, sorted.
    pub namespaces: Vec<Namespace>,
    /// Entries that are not namespaces, or that can't be used, sorted.
    pub skipped: Vec<Skipped>,
}

/// An entry of a folder that is not a namespace.
#[derive(Debug)]
#[non_exhaustive]
pub struct Skipped {
    /// Its path.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: SkipReason,
}

/// Why an entry of a folder was skipped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SkipReason {
    /// Its name is not a namespace's.
    #[error("its name is not one of a namespace ([a-z0-9][a-z0-9._-]{{0,63}})")]
    Name,
    /// It can't be used as a namespace's folder.
    #[error(transparent)]
    Folder(#[from] NamespaceError),
}

/// Why a namespace's folder can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// The path exists and is no folder, or is a symbolic link.
    #[error("{} is not a folder (links are refused): remove it or choose another place", path.display())]
    NotAFolder {
        /// Which.
        path: PathBuf,
    },
    /// Another user owns the folder.
    #[error(
        "{} belongs to user {owner}, not to us (user {us}): have user {owner} or root remove it, or set \
         IPC_SHM_DIR to a folder of our own in all programs that work together",
        path.display()
    )]
    ForeignOwner {
        /// Which.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// A user without a number in this user namespace owns the folder.
    #[error(
        "{} belongs to a user outside of this user namespace (shown as {shown_as}), not to us (user {us}): run both \
         sides with the same user mapping (for example podman run --userns=keep-id), or set IPC_SHM_DIR to a \
         folder of our own",
        path.display()
    )]
    UnmappedOwner {
        /// Which.
        path: PathBuf,
        /// The overflow user's number.
        shown_as: u32,
        /// Who we are.
        us: u32,
    },
    /// This process's own user has no number in its user namespace, so its folders can't be told
    /// from those of others.
    #[error(
        "{} can't be used: this process's user has no number in its user namespace (shown as {shown_as}, like \
         every such user), so nobody can tell what is ours: map the user (/etc/subuid, podman run \
         --userns=keep-id), or run as one that is mapped",
        path.display()
    )]
    UnmappedUser {
        /// Which.
        path: PathBuf,
        /// The overflow user's number.
        shown_as: u32,
    },
    /// Others may enter the folder.
    #[error("{} has mode {mode:03o}: others can get in; run chmod 700 on it", path.display())]
    OpenToOthers {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A clean-up by another process holds the folder's lock; it may be stopped.
    #[error("{} stayed locked for {waited:?}: is a process stopped while it removes a segment?", path.display())]
    Busy {
        /// Which.
        path: PathBuf,
        /// How long we tried.
        waited: Duration,
    },
    /// The system refused.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Namespace {
    /// The namespace called `name` of this user, in `/dev/shm/ipc.<uid>`, or in the folder that the
    /// environment variable `IPC_SHM_DIR` names, unless that is empty. Touches nothing yet.
    ///
    /// A set-uid, set-gid or otherwise privileged program ignores the variable: its caller set it.
    ///
    /// # Errors
    /// [`NameError`] when the name is not valid.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let given = std::env::var_os("IPC_SHM_DIR")
            .filter(|root| !root.is_empty() && !user::has_more_rights_than_caller());
        let root = given.map_or_else(
            || PathBuf::from(format!("/dev/shm/ipc.{}", user::ours())),
            PathBuf::from,
        );
        Self::in_folder(root, name)
    }

    /// The namespace called `name` in another folder, which should be on a tmpfs: on a disk the kernel
    /// writes shared memory back all the time.
    ///
    /// # Errors
    /// [`NameError`] when the name is not valid.
    pub fn in_folder(root: impl Into<PathBuf>, name: &str) -> Result<Self, NameError> {
        Ok(Self {
            root: root.into(),
            name: Name::new(name)?,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its folder, which exists only while something is in it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.root.join(self.name.as_str())
    }

    /// The namespaces in the same folder, sorted, whether or not anything in them is in use. What
    /// else is in the folder is skipped.
    ///
    /// # Errors
    /// [`NamespaceError`] when the folder is refused or can't be read.
    pub fn siblings(&self) -> Result<Vec<Self>, NamespaceError> {
        Ok(self.siblings_and_skipped()?.namespaces)
    }

    /// As [`siblings`](Self::siblings), and what was skipped.
    ///
    /// # Errors
    /// [`NamespaceError`] when the folder is refused or can't be read.
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
                    // Gone since it was listed: nothing was skipped.
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

    /// The checked folder, or `None` when it does not exist.
    pub(crate) fn open(&self) -> Result<Option<OwnedFd>, NamespaceError> {
        self.folder(Missing::IsNone)
    }

    /// The checked folder, made if it was missing.
    pub(crate) fn open_or_create(&self) -> Result<OwnedFd, NamespaceError> {
        // Whoever removes the last segment removes the folders too, perhaps just between our two steps.
        const TRIES: usize = 100;
        for _ in 0..TRIES {
            if let Some(folder) = self.folder(Missing::IsMade)? {
                return Ok(folder);
            }
        }
        Err(io_error("create", &self.path(), Errno::ENOENT))
    }

    /// The names of the files in the folder, sorted.
    pub(crate) fn files(&self) -> Result<Vec<String>, NamespaceError> {
        match self.open()? {
            None => Ok(Vec::new()),
            // Names that are not UTF-8 are not of this library.
            Some(folder) => Ok(entries(folder, &self.path())?
                .into_iter()
                .filter_map(|name| name.into_string().ok())
                .collect()),
        }
    }

    /// Locks the folder against other removers, until the guard is dropped or its holder dies.
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

    /// Removes the folders if nothing is in them any more.
    pub(crate) fn remove_if_empty(&self) {
        // Not empty, already gone, or the root is not ours to remove: all fine.
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

/// What to do about a folder that does not exist.
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
    let parent = parent.map_or(AT_FDCWD, AsFd::as_fd);
    if missing == Missing::IsMade {
        match mkdirat(parent, path, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
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

/// The names in a folder, sorted.
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
    fn folders_are_private_and_go_when_empty() {
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
    fn what_is_not_a_namespace_is_skipped_and_reported() {
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
            println!("skipped: only root can give a folder away");
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
