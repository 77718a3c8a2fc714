//! The `nats-server` programs that tests can use.

use std::collections::HashSet;
use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

/// A `nats-server` program of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub(super) path: PathBuf,
}

/// A choice among the programs found, for a suite of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// The one on the path, usually the distribution's.
    First,
    /// Another version.
    Second,
}

/// The program to use for everything.
const ONLY: &str = "NATS_SERVER";
/// Further programs, or folders with one, separated as in `PATH`.
const FURTHER: &str = "IPC_NATS_SERVERS";
const NAME: &str = "nats-server";
/// The path at which `.ci/run` puts the current server, below the workspace.
const CURRENT: &str = "target/nats-server-current/bin";
/// A file to which each skipped suite adds a line.
const SKIPPED: &str = "IPC_SKIPPED_SUITES";

static FOUND: LazyLock<Vec<Program>> = LazyLock::new(find);

impl Program {
    /// The programs of this machine. If `NATS_SERVER` is set, only that one. Otherwise the one on
    /// the path, followed by those of `IPC_NATS_SERVERS`, a list of programs or folders. Without
    /// that list, a server in `target/nats-server-current` is used.
    #[must_use]
    pub fn found() -> &'static [Self] {
        &FOUND
    }

    /// Its version, such as `[2, 9, 10]`.
    ///
    /// # Panics
    /// If it does not print its version.
    #[must_use]
    pub fn version(&self) -> Vec<u32> {
        let said = Command::new(&self.path).arg("--version").output();
        let said = said.expect("nats-server can be started").stdout;
        let said = String::from_utf8_lossy(&said);
        let (_, version) = said.trim().rsplit_once('v').expect("nats-server: v2.9.10");
        let numbers = version
            .split('.')
            .map(|number| number.parse().unwrap_or_default());
        numbers.collect()
    }

    /// The program for a suite of tests. If it is missing, prints once for each suite that it was
    /// skipped, even where the output of tests is captured.
    #[must_use]
    pub fn get(which: Which, suite: &str) -> Option<Self> {
        let found = FOUND.get(which as usize);
        if found.is_none() {
            say_skipped(which, suite);
        }
        found.cloned()
    }
}

fn find() -> Vec<Program> {
    if let Some(only) = env::var_os(ONLY) {
        let only = PathBuf::from(only);
        let program = program_at(&only);
        let program = program.unwrap_or_else(|| panic!("{ONLY}: there is no program {only:?}"));
        return vec![program];
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&folders).find_map(|folder| program_at(&folder));
    let further: Vec<PathBuf> = match env::var_os(FURTHER) {
        Some(list) => env::split_paths(&list).collect(),
        None => Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .map(|workspace| workspace.join(CURRENT))
            .into_iter()
            .collect(),
    };
    let further = further.iter().filter_map(|path| program_at(path));
    let mut known = HashSet::new();
    let all = on_path.into_iter().chain(further);
    all.filter(|program| known.insert(program.path.clone()))
        .collect()
}

/// The program at this path, or in this folder.
fn program_at(path: &Path) -> Option<Program> {
    let named = path.join(NAME);
    let candidates = [path, &named];
    let file = candidates.into_iter().find(|path| path.is_file())?;
    let path = file.canonicalize().ok()?;
    Some(Program { path })
}

fn say_skipped(which: Which, suite: &str) {
    static SAID: Mutex<Option<HashSet<(Which, String)>>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let said = said.get_or_insert_default();
    if !said.insert((which, suite.to_owned())) {
        return;
    }
    let line = match which {
        Which::First => format!(
            "SKIPPED: {suite}: no {NAME} is on the path; install it (apt-get install {NAME})\n"
        ),
        Which::Second => format!(
            "SKIPPED: {suite} on a second {NAME}: name one in {FURTHER}, or put it into {CURRENT}\n"
        ),
    };
    // Do not use a macro: the test harness would swallow its output.
    let _ = std::io::stderr().write_all(format!("\n{line}").as_bytes());
    if let Some(path) = env::var_os(SKIPPED) {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
