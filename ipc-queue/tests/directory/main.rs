//! A complete transport over a directory of files, which `docs/writing-a-transport.md` explains. It
//! keeps every promise of `ipc_queue::transport`.
#![cfg(unix)]

mod entry;
mod folder;
mod queue;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::{env, fs, thread};

use ipc_queue::conformance::{Subject, hold_until_killed};
use ipc_queue::transport::{OpenMode, OpenRequest, Transport};
use ipc_queue::{ByteQueue, ControlCall, ControlError, ControlFailure, Name, QueueError};
use tempfile::TempDir;

use folder::{Folder, address, trouble};
use queue::DirectoryQueue;

/// Queues in a separate folder, which must be empty at the end.
struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        let mut folder = tempfile::Builder::new();
        let folder = folder.prefix("ipc-queue-test-");
        // On a file system in memory, if there is one: the suite makes some hundred thousand
        // changes.
        let in_memory = folder.tempdir_in("/dev/shm");
        Self(in_memory.or_else(|_| folder.tempdir()).unwrap())
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.0.path().join(name.as_str())
    }
}

impl Subject for Directory {
    fn open(&self, name: &Name, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
        Ok(Arc::new(DirectoryQueue::open(&self.path(name), request)?))
    }

    fn remove(&self, name: &Name) -> Result<bool, ControlError> {
        let path = self.path(name);
        Folder::remove(&path).map_err(|error| {
            let failure = ControlFailure::from(trouble(&path, &error));
            failure.of(address(&path), ControlCall::Remove)
        })
    }

    fn slowness(&self) -> u32 {
        10
    }

    fn holder(&self, name: &Name) -> Option<Command> {
        let mut command = Command::new(env::current_exe().ok()?);
        command.args(["--exact", "holder", "--nocapture", "--quiet"]);
        command.env(HOLDER, self.path(name));
        Some(command)
    }
}

/// The environment variable with the queue's folder, for a holder.
const HOLDER: &str = "IPC_QUEUE_TEST_HOLDER";

/// Not a test: the tests start it as another process.
#[test]
fn holder() {
    if let Some(path) = env::var_os(HOLDER) {
        let request = OpenRequest {
            mode: OpenMode::Open,
            ..OpenRequest::default()
        };
        let queue = DirectoryQueue::open(Path::new(&path), &request).unwrap();
        hold_until_killed(&ByteQueue::over(Arc::new(queue)));
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let left: Vec<_> = fs::read_dir(self.0.path()).unwrap().collect();
        assert!(
            left.is_empty() || thread::panicking(),
            "left behind: {left:?}"
        );
    }
}

ipc_queue::conformance_tests!(Directory::new());

/// The mark between two pieces of code in the guide.
const OMITTED: &str = "// …";

#[test]
fn every_line_of_code_in_the_guide_is_this_code() {
    let guide = include_str!("../../../docs/writing-a-transport.md");
    let sources = [
        include_str!("entry.rs"),
        include_str!("folder.rs"),
        include_str!("main.rs"),
        include_str!("queue.rs"),
        include_str!("../../src/contract.rs"),
    ];
    let blocks: Vec<&str> = guide.split("```rust\n").skip(1).collect();
    assert!(blocks.len() > 5, "the guide shows code");
    for block in blocks {
        let (block, _) = block.split_once("```").expect("each block ends");
        for piece in block.split(OMITTED) {
            let piece = piece.trim_matches('\n');
            let is_here = sources.iter().any(|source| source.contains(piece));
            assert!(
                is_here,
                "the guide quotes code that is not in the source:\n{piece}"
            );
        }
    }
}
