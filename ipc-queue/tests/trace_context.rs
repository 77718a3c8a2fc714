//! The example `trace_context`, run as it says: two processes, one trace.

use std::path::Path;
use std::process::Command;

/// The span that a process of the example prints.
#[derive(Debug)]
struct Span {
    name: String,
    trace: String,
    id: String,
    parent: String,
}

fn run(folder: &Path, args: &[&str]) -> Span {
    // Cargo builds examples before it runs tests, next to this test's folder.
    let deps = std::env::current_exe().unwrap();
    let program = deps.parent().unwrap().with_file_name("examples");
    let output = Command::new(program.join("trace_context"))
        .args(args)
        .env("IPC_SHM_DIR", folder)
        .output()
        .expect("the example, built by `cargo test`");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let [_, name, _, trace, _, id, _, parent] = words.try_into().expect("one span");
    Span {
        name,
        trace,
        id,
        parent,
    }
}

#[test]
fn a_trace_continues_from_the_sender_to_the_worker() {
    let folder = tempfile::Builder::new()
        .prefix("ipc-test-")
        .tempdir_in("/dev/shm")
        .unwrap();
    let root = folder.path().join("root");
    let sent = run(&root, &[]);
    let other = run(&root, &[]);
    let worked = run(&root, &["work"]);
    assert_eq!((&sent.name[..], &worked.name[..]), ("upload", "resize"));
    assert_eq!((&worked.trace, &worked.parent), (&sent.trace, &sent.id));
    assert_ne!(worked.id, sent.id);
    // Each job has a separate trace. The first job in the queue belongs to the first sender.
    assert_ne!(other.trace, sent.trace);
    let next = run(&root, &["work"]);
    assert_eq!((&next.trace, &next.parent), (&other.trace, &other.id));
    assert_eq!(sent.trace.len(), 32, "{sent:?}");
    assert_ne!(sent.trace, "0".repeat(32));
}
