//! What a run came to: one object in JSON for programs, tables and sentences for people.
//!
//! This file has the facts and their JSON, `text` the form for people. Only says what it is told. Whether the
//! numbers add up (as many files as tasks, nothing completed twice) is for the coordinator to find out and
//! for tests to doubt.

mod text;

use std::path::PathBuf;

use serde::{Serialize, Serializer};

pub use self::text::{Look, nodes_to_text};
use crate::fingerprint::Fingerprint;

/// Everything there is to say about a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// How many tasks there were to do.
    pub tasks: u64,
    /// How many tasks came to an end, each counted once. All of them, unless the run was interrupted.
    pub completed: u64,
    /// How many different tasks have a worker's result; the rest have a problem instead.
    pub distinct: u64,
    /// How often a task was delivered again, because whoever held it was killed or let go.
    pub redelivered: u64,
    /// How many tasks were given up, after too many attempts.
    pub dead_lettered: u64,
    /// Who worked, in the order they were named.
    pub workers: Vec<WorkerReport>,
    /// What went over the queues.
    pub stats: Transfer,
    /// One entry per file, in the order the files were found.
    pub files: Vec<FileReport>,
    /// How long it took, in seconds.
    pub elapsed_s: f64,
    /// What the run left behind and should not have: the names of queues, segments, files.
    pub leaked: Vec<String>,
}

/// One worker, through all of its restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WorkerReport {
    /// What it is called; a restarted worker keeps its name.
    pub name: String,
    /// The process that bore the name last.
    pub pid: u32,
    /// How many tasks it completed.
    pub completed: u64,
    /// How often it was started again.
    pub restarts: u64,
}

/// What went over the queues, all processes taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Messages handed to a queue.
    pub messages_sent: u64,
    /// Messages taken from a queue, redelivered ones each time.
    pub messages_received: u64,
    /// The payloads of the messages sent.
    pub bytes_transferred: u64,
    /// Sends and receives that failed, timeouts not counted.
    pub errors: u64,
}

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Its path, as [`input`](crate::input) gave it.
    pub path: PathBuf,
    /// Its fingerprint, or why it has none.
    pub outcome: Result<Fingerprint, String>,
}

impl Report {
    /// One object, on several lines, with the fields of this type under their own names.
    ///
    /// An entry of `files` has `path` and either `bytes`, `lines`, `words` and `sha256`, or `error`.
    /// Bytes of a path that are not UTF-8 appear as U+FFFD.
    ///
    /// # Errors
    ///
    /// None that is known of: every field has a form in JSON.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

impl Serialize for FileReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let path = self.path.to_string_lossy().into_owned();
        let entry = match &self.outcome {
            Ok(Fingerprint {
                lines,
                words,
                bytes,
                sha256,
            }) => FileEntry::Done {
                path,
                bytes: *bytes,
                lines: *lines,
                words: *words,
                sha256: sha256.to_string(),
            },
            Err(error) => FileEntry::Failed { path, error },
        };
        entry.serialize(serializer)
    }
}

/// The two forms of an entry of `files` in JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum FileEntry<'a> {
    Done {
        path: String,
        bytes: u64,
        lines: u64,
        words: u64,
        sha256: String,
    },
    Failed {
        path: String,
        error: &'a str,
    },
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use serde_json::{Value, json};

    use super::*;
    use crate::fingerprint::Progress;

    #[test]
    fn the_json_has_exactly_the_fields_it_promises() {
        let parsed: Value = serde_json::from_str(&sample().to_json().unwrap()).unwrap();
        let expected = json!({
            "tasks": 3, "completed": 3, "distinct": 2, "redelivered": 1, "dead_lettered": 0,
            "workers": [{"name": "worker-1", "pid": 4242, "completed": 2, "restarts": 1}],
            "stats": {
                "messages_sent": 7, "messages_received": 8, "bytes_transferred": 900, "errors": 0
            },
            "files": [
                {"path": "one", "bytes": 6, "lines": 1, "words": 2, "sha256": SHA256},
                {"path": "no\u{fffd}utf8", "bytes": 6, "lines": 1, "words": 2, "sha256": SHA256},
                {"path": "gone\u{1b}[31m", "error": "No such file or directory"},
            ],
            "elapsed_s": 0.5, "leaked": ["/dev/shm/demo.jobs"],
        });
        assert_eq!(parsed, expected);
    }

    pub(super) const SHA256: &str =
        "2750c740c3d2eacf348e4da3c3d2e0812f63adcb996c5fb367187d65104d0da5";

    /// Two files done, one of them on the second attempt, and one gone.
    pub(super) fn sample() -> Report {
        let mut progress = Progress::default();
        progress.update(b"ab cd\n");
        let done = Ok(progress.finish());
        let file = |path: &[u8], outcome: &Result<Fingerprint, String>| FileReport {
            path: OsStr::from_bytes(path).into(),
            outcome: outcome.clone(),
        };
        let gone = Err("No such file or directory".to_owned());
        Report {
            tasks: 3,
            completed: 3,
            distinct: 2,
            redelivered: 1,
            dead_lettered: 0,
            workers: vec![WorkerReport {
                name: "worker-1".into(),
                pid: 4242,
                completed: 2,
                restarts: 1,
            }],
            stats: Transfer {
                messages_sent: 7,
                messages_received: 8,
                bytes_transferred: 900,
                errors: 0,
            },
            files: vec![
                file(b"one", &done),
                file(b"no\xffutf8", &done),
                file(b"gone\x1b[31m", &gone),
            ],
            elapsed_s: 0.5,
            leaked: vec!["/dev/shm/demo.jobs".into()],
        }
    }
}
