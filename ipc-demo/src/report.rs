//! The result of a run: one JSON object for programs, tables and sentences for people.
//!
//! This file has the facts and their JSON, `text` the form for people. It does not check the
//! numbers (as many files as tasks, nothing completed twice): the coordinator and the tests do.

mod text;

use std::path::PathBuf;

use serde::{Serialize, Serializer};

pub use self::text::{Look, nodes_to_text};
use crate::fingerprint::Fingerprint;

/// All facts about a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The number of tasks.
    pub tasks: u64,
    /// The number of tasks that ended, each counted once. All of them, unless the run was
    /// interrupted.
    pub completed: u64,
    /// The number of different tasks with a worker's result; the rest have a problem instead.
    pub distinct: u64,
    /// The number of repeated deliveries, because a worker was killed or returned its task.
    pub redelivered: u64,
    /// The number of tasks that were given up after too many attempts.
    pub dead_lettered: u64,
    /// The workers, in the order of their names.
    pub workers: Vec<WorkerReport>,
    /// The traffic of the queues.
    pub stats: Transfer,
    /// One entry per file, in the order the files were found.
    pub files: Vec<FileReport>,
    /// The duration of the run, in seconds.
    pub elapsed_s: f64,
    /// The names of queues, segments and files that the run should have removed.
    pub leaked: Vec<String>,
}

/// One worker, through all of its restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WorkerReport {
    /// Its name; a restarted worker keeps it.
    pub name: String,
    /// The last process with this name.
    pub pid: u32,
    /// The number of tasks it completed.
    pub completed: u64,
    /// The number of restarts.
    pub restarts: u64,
}

/// The traffic of the queues, for all processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Messages handed to a queue.
    pub messages_sent: u64,
    /// Messages taken from a queue; each redelivery counts.
    pub messages_received: u64,
    /// The payloads of the messages sent.
    pub bytes_transferred: u64,
    /// Failed sends and receives, without time-outs.
    pub errors: u64,
}

/// The result for one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Its path, as in [`input`](crate::input).
    pub path: PathBuf,
    /// Its fingerprint, or why it has none.
    pub outcome: Result<Fingerprint, String>,
}

impl Report {
    /// One object, on several lines, with the fields of this type under their own names.
    ///
    /// An entry of `files` has `path` and either `bytes`, `lines`, `words` and `sha256`, or
    /// `error`. Bytes of a path that are not UTF-8 appear as U+FFFD.
    ///
    /// # Errors
    ///
    /// No error is known: every field has a form in JSON.
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

    /// Two files done, one of them at the second attempt, and one gone.
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
