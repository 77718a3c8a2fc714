//! Files of all sorts, and the output of `wc` and `sha256sum` for them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use ipc_demo::coordinator::PART_BYTES;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::Place;

/// Files, and other things that can be given to the program.
pub struct Tree {
    pub folder: TempDir,
    /// The arguments for `--input`.
    pub inputs: Vec<PathBuf>,
    /// The expected result for each path, in order.
    expected: Vec<(PathBuf, Expected)>,
}

enum Expected {
    Fingerprint,
    /// An error with these words in it.
    Problem(&'static str),
}

impl Tree {
    /// Creates a tree with one of everything, for a run in `place`.
    pub fn of_everything(place: &Place) -> Self {
        let mut tree = Self::empty(place);
        tree.add_odd_names();
        tree.add_large_files();
        let deep = "deeper/".repeat(100) + "file";
        tree.add(deep.as_bytes(), b"at the bottom\n");
        tree.add_unreadable(place);
        tree.sort();
        tree.add_things_that_are_not_files();
        tree
    }

    /// Creates `count` small files in a hundred folders.
    pub fn of_small_files(place: &Place, count: usize) -> Self {
        let mut tree = Self::empty(place);
        for number in 0..count {
            let name = format!("{:02}/{number:05}", number % 100);
            tree.add(
                name.as_bytes(),
                format!("file number {number}\n")
                    .repeat(number % 7)
                    .as_bytes(),
            );
        }
        tree.sort();
        tree
    }

    fn empty(place: &Place) -> Self {
        let folder = tempfile::tempdir().unwrap();
        place.give(folder.path());
        Self {
            inputs: vec![folder.path().to_owned()],
            folder,
            expected: Vec::new(),
        }
    }

    fn add(&mut self, name: &[u8], content: &[u8]) {
        let path = self.folder.path().join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        self.expected.push((path, Expected::Fingerprint));
    }

    fn add_odd_names(&mut self) {
        self.add(b"empty", b"");
        let names = [
            &b"with space"[..],
            b"new\nline",
            b"quotes'\"`",
            b"back\\slash",
            b"-n",
            b"tab\tstop",
            b"not-\xff\xfe-utf8",
            "ünïcode-文字".as_bytes(),
            b"\x1b[31mred",
            b"*",
        ];
        for (seed, name) in names.into_iter().enumerate() {
            self.add(name, &mixture(seed as u64, 3000 + seed));
        }
        self.add(
            b"binary",
            &(0..=255).cycle().take(70_000).collect::<Vec<u8>>(),
        );
    }

    /// Adds files with sizes around the end of one part and of many parts.
    fn add_large_files(&mut self) {
        let sizes = part_borders();
        for (name, size) in ["before", "at", "after", "second"].into_iter().zip(sizes) {
            self.add(format!("border-{name}").as_bytes(), &border_content(size));
        }
        self.add(b"large", &mixture(77, 5 << 20));
    }

    /// Adds links, a fifo and a socket, which do not count as files below a folder. Given by name,
    /// a link counts as its target, and a fifo or a missing file is a problem. Reading any of them
    /// must not hang.
    fn add_things_that_are_not_files(&mut self) {
        let path = |name: &str| self.folder.path().join(name);
        let [link, fifo, missing] = ["link", "fifo", "missing"].map(path);
        symlink("binary", &link).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        symlink("deeper", path("link-to-folder")).unwrap();
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        self.inputs
            .extend([link.clone(), fifo.clone(), missing.clone()]);
        self.expected.push((link, Expected::Fingerprint));
        self.expected.push((fifo, Expected::Problem("is a fifo")));
        self.expected
            .push((missing, Expected::Problem("No such file or directory")));
    }

    fn add_unreadable(&mut self, place: &Place) {
        let path = self.folder.path().join("unreadable");
        fs::write(&path, "secret").unwrap();
        place.give(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let problem = Expected::Problem("Permission denied");
        self.expected.push((path, problem));
    }

    /// Sorts like `LC_ALL=C sort`.
    fn sort(&mut self) {
        self.expected
            .sort_by(|a, b| a.0.as_os_str().cmp(b.0.as_os_str()));
    }

    pub fn len(&self) -> usize {
        self.expected.len()
    }

    /// Returns the number of paths that can't be fingerprinted.
    pub fn problems(&self) -> usize {
        let problem = |entry: &&(PathBuf, Expected)| matches!(entry.1, Expected::Problem(_));
        self.expected.iter().filter(problem).count()
    }

    /// Compares a report's `files` with the output of the system's own programs.
    pub fn check(&self, files: &Value) {
        let fingerprints = self.fingerprints();
        let files = files.as_array().unwrap();
        assert_eq!(files.len(), self.expected.len());
        for (found, (path, expected)) in files.iter().zip(&self.expected) {
            assert_eq!(found["path"], *path.to_string_lossy());
            match expected {
                Expected::Problem(words) => {
                    let error = found["error"].as_str();
                    assert!(error.is_some_and(|error| error.contains(words)), "{found}");
                }
                Expected::Fingerprint => fingerprints[&**path].check(found),
            }
        }
    }

    fn fingerprints(&self) -> HashMap<&Path, Fingerprint> {
        let files = self
            .expected
            .iter()
            .filter_map(|(path, expected)| match expected {
                Expected::Fingerprint => Some(path.as_path()),
                Expected::Problem(_) => None,
            });
        let files: Vec<&Path> = files.collect();
        files.chunks(1000).flat_map(wc_and_sha256sum).collect()
    }
}

/// The results of the system's own programs for a file.
struct Fingerprint {
    lines: u64,
    words: u64,
    bytes: u64,
    sha256: String,
}

impl Fingerprint {
    fn check(&self, found: &Value) {
        assert_eq!(found["bytes"], self.bytes, "{found}");
        assert_eq!(found["lines"], self.lines, "{found}");
        assert_eq!(found["sha256"], self.sha256, "{found}");
        if counts_words_as_we_do() {
            assert_eq!(found["words"], self.words, "{found}");
        }
    }
}

fn wc_and_sha256sum<'a>(files: &[&'a Path]) -> HashMap<&'a Path, Fingerprint> {
    // Neither prints a bare line end within a record: `wc` quotes such names, `sha256sum -z` ends
    // records with NUL.
    let counts = output(Command::new("wc").arg("-lwc").arg("--").args(files));
    let hashes = output(Command::new("sha256sum").arg("-z").arg("--").args(files));
    let counts: Vec<&[u8]> = counts.split(|byte| *byte == b'\n').collect();
    let hashes: Vec<&[u8]> = hashes.split(|byte| *byte == 0).collect();
    assert!(counts.len() > files.len() && hashes.len() == files.len() + 1);
    let described = files
        .iter()
        .zip(counts)
        .zip(hashes)
        .map(|((file, counts), hash)| {
            let [lines, words, bytes] = numbers(counts);
            let sha256 = String::from_utf8(hash[..64].to_vec()).unwrap();
            (
                *file,
                Fingerprint {
                    lines,
                    words,
                    bytes,
                    sha256,
                },
            )
        });
    described.collect()
}

fn numbers(line: &[u8]) -> [u64; 3] {
    let text = String::from_utf8_lossy(line);
    let mut words = text.split_whitespace().map(|word| word.parse().unwrap());
    std::array::from_fn(|_| words.next().unwrap())
}

fn output(command: &mut Command) -> Vec<u8> {
    let output = command
        .env("LC_ALL", "C")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}");
    output.stdout
}

/// Since version 9.5, `wc` counts unprintable bytes as words.
fn counts_words_as_we_do() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"\x01 \x80 a\xff b").unwrap();
        let as_we_do = numbers(&output(Command::new("wc").arg("-lwc").arg(file.path())))[1] == 2;
        if !as_we_do {
            println!("words are not compared: this `wc` counts those that can't be printed");
        }
        as_we_do
    })
}

/// Returns a mixture of text and other bytes.
fn mixture(seed: u64, size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = Vec::with_capacity(size + 64);
    while bytes.len() < size {
        if random.bool() {
            bytes.extend_from_slice(b"some words and\ta line end\n");
        } else {
            bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(64));
        }
    }
    bytes.truncate(size);
    bytes
}

/// Returns the content of a file with an interesting size: a prefix of a fixed content.
pub fn border_content(size: usize) -> Vec<u8> {
    static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
    CONTENT.get_or_init(|| mixture(5, 2 * PART_BYTES))[..size].to_vec()
}

/// Returns the interesting sizes: one byte less than a part, exactly one part, one byte more, and
/// exactly two parts.
pub fn part_borders() -> [usize; 4] {
    [PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES]
}
