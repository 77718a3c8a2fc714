//! Finds the files to fingerprint at the given paths.
//!
//! Folders are walked as `find PATH -type f` walks them. Symbolic links inside are not followed;
//! links, fifos, sockets and devices are not files. A path that was given itself is treated
//! differently: a link is followed, and anything else than a file or a folder is a problem to
//! report.
//!
//! Only folders are opened, and nothing here fails, because paths may change during the walk. A
//! path that can't be read becomes an [`Input`] with the reason, and the rest is still found.

use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

/// A file to fingerprint, or a path that can't be, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The path as given, or the folder as given and the way from there. Not necessarily UTF-8.
    pub path: PathBuf,
    /// The length of the file when it was found, or why it can't be read.
    ///
    /// May be out of date, and is zero for files that the kernel makes up (`/proc`). Fit for a
    /// progress bar, not for finding the end of a file.
    pub bytes_hint: Result<u64, String>,
}

/// The files at and under `paths`, in the order of `paths`.
///
/// Files under one folder come in the byte order of their paths, as from `LC_ALL=C sort`. A file
/// that is reached twice is listed twice, as by `wc`.
///
/// ```
/// use ipc_demo::input::find;
///
/// let inputs = find(["src", "no/such/path"]);
/// assert!(inputs.iter().any(|input| input.path.ends_with("src/input.rs")));
/// let problem = inputs.last().and_then(|input| input.bytes_hint.as_ref().err());
/// assert!(problem.is_some_and(|problem| problem.contains("No such file or directory")));
/// ```
pub fn find<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Vec<Input> {
    paths
        .into_iter()
        .flat_map(|path| under(path.as_ref()))
        .collect()
}

fn under(path: &Path) -> Vec<Input> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => inside(path),
        found => vec![given(path, found)],
    }
}

fn given(path: &Path, found: io::Result<Metadata>) -> Input {
    let bytes_hint = match found {
        Ok(metadata) if metadata.is_file() => Ok(metadata.len()),
        Ok(metadata) => Err(not_a_file(metadata.file_type())),
        Err(error) => Err(error.to_string()),
    };
    Input {
        path: path.to_owned(),
        bytes_hint,
    }
}

fn inside(folder: &Path) -> Vec<Input> {
    let walk = WalkDir::new(folder).follow_links(false);
    let mut inputs: Vec<Input> = walk
        .into_iter()
        .filter_map(|entry| from_walk(folder, entry))
        .collect();
    // Not by `Path`'s order, which compares name by name and puts `a/b` before `a.txt`.
    inputs.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
    inputs
}

/// `None` for the folders themselves, and for everything that `find -type f` would not list.
fn from_walk(folder: &Path, entry: walkdir::Result<DirEntry>) -> Option<Input> {
    match entry {
        Ok(entry) if !entry.file_type().is_file() => None,
        Ok(entry) => {
            let bytes_hint = entry
                .metadata()
                .map(|found| found.len())
                .map_err(|error| why(&error));
            Some(Input {
                path: entry.into_path(),
                bytes_hint,
            })
        }
        Err(error) => {
            let path = error.path().unwrap_or(folder).to_owned();
            Some(Input {
                path,
                bytes_hint: Err(why(&error)),
            })
        }
    }
}

/// Without the path, which walkdir's own text repeats.
fn why(error: &walkdir::Error) -> String {
    error
        .io_error()
        .map_or_else(|| error.to_string(), io::Error::to_string)
}

fn not_a_file(kind: FileType) -> String {
    let name = if kind.is_fifo() {
        "a fifo"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "something else"
    };
    format!("is {name}: only files and folders can be fingerprinted")
}

#[cfg(test)]
mod tests {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_folder_yields_the_same_as_find_and_sort() {
        let folder = sample();
        symlink("a.txt", folder.path().join("link-to-file")).unwrap();
        symlink("a", folder.path().join("link-to-folder")).unwrap();
        symlink("nowhere", folder.path().join("link-to-nothing")).unwrap();
        let _socket = UnixListener::bind(folder.path().join("socket")).unwrap();

        let found = Command::new("find")
            .arg(folder.path())
            .args(["-type", "f", "-print0"])
            .output();
        let found = found.unwrap().stdout;
        let mut expected: Vec<OsString> = found
            .split(|byte| *byte == 0)
            .filter(|path| !path.is_empty())
            .map(|path| OsString::from_vec(path.to_vec()))
            .collect();
        expected.sort();

        let inputs = find([folder.path()]);
        let paths: Vec<&OsStr> = inputs.iter().map(|input| input.path.as_os_str()).collect();
        assert_eq!(paths, expected);
        assert_eq!(paths.len(), 4);
    }

    #[test]
    fn names_that_are_not_utf8_and_lengths_are_kept() {
        let folder = sample();
        let input = find([folder.path()]).pop().unwrap();
        assert_eq!(input.path.file_name(), Some(OsStr::from_bytes(b"z\xff")));
        assert_eq!(input.bytes_hint, Ok(3));
    }

    #[test]
    fn paths_keep_the_order_in_which_they_were_given() {
        let folder = sample();
        let given = ["b", "a.txt", "a", "b"].map(|name| folder.path().join(name));
        let found: Vec<PathBuf> = find(&given).into_iter().map(|input| input.path).collect();
        let expected = ["b", "a.txt", "a/inner", "b"].map(|name| folder.path().join(name));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_link_given_by_name_is_followed_and_keeps_its_name() {
        let folder = sample();
        let [to_file, to_folder] = ["to-file", "to-folder"].map(|name| folder.path().join(name));
        symlink("b", &to_file).unwrap();
        symlink("a", &to_folder).unwrap();
        let found = find([&to_file, &to_folder]);
        assert_eq!(
            found[0],
            Input {
                path: to_file,
                bytes_hint: Ok(3)
            }
        );
        assert_eq!(
            found[1],
            Input {
                path: to_folder.join("inner"),
                bytes_hint: Ok(3)
            }
        );
    }

    #[test]
    fn a_missing_path_is_a_problem_and_does_not_stop_the_rest() {
        let folder = sample();
        let found = find([folder.path().join("missing"), folder.path().join("b")]);
        assert!(
            found[0]
                .bytes_hint
                .as_ref()
                .unwrap_err()
                .starts_with("No such file or directory")
        );
        assert_eq!(found[1].bytes_hint, Ok(3));
    }

    #[test]
    fn a_socket_or_device_given_by_name_is_a_problem() {
        let folder = sample();
        let socket = folder.path().join("socket");
        let _socket = UnixListener::bind(&socket).unwrap();
        let problem = |path: &Path| find([path])[0].bytes_hint.clone().unwrap_err();
        assert!(problem(&socket).starts_with("is a socket"));
        assert!(problem(Path::new("/dev/null")).starts_with("is a device"));
    }

    #[test]
    fn unreadable_paths_become_problems() {
        let folder = sample();
        let missing = folder.path().join("missing");
        let error = WalkDir::new(&missing).into_iter().next().unwrap();
        let input = from_walk(folder.path(), error).unwrap();
        assert_eq!(input.path, missing);
        assert!(
            input
                .bytes_hint
                .unwrap_err()
                .starts_with("No such file or directory")
        );
    }

    #[test]
    fn an_unreadable_folder_is_a_problem_and_its_siblings_are_found() {
        let folder = sample();
        let locked = folder.path().join("a");
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
        // Root can read everything; the test above covers the walk's errors.
        let expected = if fs::read_dir(&locked).is_ok() { 0 } else { 1 };
        let found = find([folder.path()]);
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
        let problems = found.iter().filter(|input| input.bytes_hint.is_err());
        assert_eq!((found.len(), problems.count()), (4, expected));
    }

    /// `a/inner`, `a.txt`, `b` and a name that is not UTF-8, of three bytes each.
    fn sample() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        for name in [&b"a/inner"[..], b"a.txt", b"b", b"z\xff"] {
            fs::write(folder.path().join(OsStr::from_bytes(name)), "abc").unwrap();
        }
        folder
    }
}
