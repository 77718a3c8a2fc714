//! The README's program and others of `examples/`, run as they say. Each promises to survive the
//! death of a process, so one is killed.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ipc_proto::Name;
use ipc_queue::transport::{OpenMode, OpenRequest, Transport};
use ipc_queue::{QueueStats, ShmQueue};
use ipc_shm::Namespace;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

/// Long enough for anything that ends at all.
const PATIENCE: Duration = Duration::from_secs(60);
const NONBLOCKING: i32 = OFlag::O_NONBLOCK.bits();

/// A folder for the queues of one test, and for its other files.
struct Place {
    folder: tempfile::TempDir,
}

/// A running program.
struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Place {
    fn new() -> Self {
        let mut builder = tempfile::Builder::new();
        let folder = builder.prefix("ipc-test-").tempdir_in("/dev/shm").unwrap();
        Self { folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn file(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.to_str().expect("it is UTF-8").to_owned()
    }

    /// Makes a file whose reader waits until something is written.
    fn pipe(&self, name: &str) -> String {
        let path = self.file(name);
        nix::unistd::mkfifo(Path::new(&path), Mode::S_IRWXU).unwrap();
        path
    }

    /// Starts an example. Cargo builds examples before it runs tests, next to this test's folder.
    fn start(&self, example: &str, args: &[&str]) -> Program {
        let deps = std::env::current_exe().unwrap();
        let examples = deps.parent().unwrap().with_file_name("examples");
        let mut child = Command::new(examples.join(example))
            .args(args)
            .env("IPC_SHM_DIR", self.root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example, built by `cargo test`");
        let lines = lines_of(child.stdout.take().unwrap());
        Program { child, lines }
    }

    fn run(&self, example: &str, args: &[&str]) {
        assert!(self.start(example, args).child.wait().unwrap().success());
    }

    /// Removes the queue, which must be the only one, and returns its last figures.
    fn remove(&self, queue: &str) -> QueueStats {
        let namespace = Namespace::in_folder(self.root(), "default").unwrap();
        let name = Name::new(queue).unwrap();
        let request = OpenRequest {
            mode: OpenMode::Open,
            payload: OpenRequest::ANY_PAYLOAD.to_owned(),
            ..OpenRequest::default()
        };
        let opened = ShmQueue::open(&namespace, &name, &request).unwrap();
        let stats = opened.stats().unwrap();
        drop(opened);
        assert!(ShmQueue::remove(&namespace, &name).unwrap());
        assert!(!self.root().exists());
        stats
    }
}

impl Program {
    fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as Ctrl-C does.
    fn interrupt(&mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGINT).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

/// Opens a named pipe for writing once a process reads from it.
fn write_to(pipe: &str) -> File {
    let deadline = Instant::now() + PATIENCE;
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(NONBLOCKING);
    loop {
        match options.open(pipe) {
            Ok(file) => return file,
            Err(error) => assert!(Instant::now() < deadline, "nothing reads {pipe}: {error}"),
        }
        thread::yield_now();
    }
}

/// Reads lines in a thread, so that a test can stop waiting for the next one.
fn lines_of(output: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_program_in_the_readme_works_between_two_processes() {
    let place = Place::new();
    place.run("quickstart", &[]);
    let mut worker = place.start("quickstart", &["work"]);
    for n in 1..=10 {
        assert_eq!(worker.line(), format!("job {n}, attempt 1"));
    }
    worker.kill();
    // The last job was printed, but perhaps not acked. Then it is ready again, and nothing else is.
    let stats = place.remove("jobs");
    assert!(
        stats.ready <= 1 && stats.in_use() == stats.ready,
        "{stats:?}"
    );
}

#[test]
fn a_job_with_a_killed_worker_and_a_job_that_fails_are_done_at_a_later_attempt() {
    let place = Place::new();
    let (pipe, missing) = (place.pipe("pipe"), place.file("missing"));
    place.run("retries", &["send", &pipe, &missing]);
    let mut worker = place.start("retries", &["work"]);
    let writer = write_to(&pipe);
    worker.kill();
    drop(writer);

    // The second worker may fail the other job before it gets that of the first.
    let mut worker = place.start("retries", &["work"]);
    write_to(&pipe).write_all(b"one\ntwo\n").unwrap();
    let (mut lines, failure) = (Vec::new(), format!("{missing}: No such file"));
    while !lines.iter().any(|line: &String| line.starts_with(&failure)) {
        lines.push(worker.line());
    }
    fs::write(&missing, "one\n").unwrap();
    let success = format!("{missing}: 1 lines, attempt ");
    while !lines.iter().any(|line| line.starts_with(&success)) {
        lines.push(worker.line());
    }
    let of_pipe = format!("{pipe}: 2 lines, attempt 2");
    assert!(lines.contains(&of_pipe), "{lines:?}");
    worker.interrupt();
    let stats = place.remove("example-retries");
    assert_eq!((stats.in_use(), stats.acked, stats.crashes), (0, 2, 1));
}

#[test]
fn an_async_worker_finishes_its_jobs_at_ctrl_c_and_loses_none_when_killed() {
    let place = Place::new();
    let files = [place.file("one"), place.file("two")];
    place.run("asynchronous", &["send", &files[0], &files[1]]);
    let mut worker = place.start("asynchronous", &["work"]);
    let mut begun = [worker.line(), worker.line()]; // it works on both at once
    begun.sort();
    assert_eq!(
        begun,
        files.each_ref().map(|file| format!("{file}, attempt 1"))
    );
    worker.kill();

    let mut worker = place.start("asynchronous", &["work"]);
    let mut begun = [worker.line(), worker.line()];
    begun.sort();
    assert_eq!(
        begun,
        files.each_ref().map(|file| format!("{file}, attempt 2"))
    );
    fs::write(&files[0], "").unwrap();
    assert_eq!(worker.line(), format!("{} is there", files[0]));
    let pid = Pid::from_raw(worker.child.id().cast_signed());
    kill(pid, Signal::SIGINT).unwrap();
    fs::write(&files[1], "").unwrap();
    assert_eq!(worker.line(), format!("{} is there", files[1]));
    assert!(worker.child.wait().unwrap().success());
    let stats = place.remove("example-asynchronous");
    assert_eq!((stats.in_use(), stats.acked, stats.crashes), (0, 2, 2));
}

#[test]
fn an_image_is_seen_whole_or_not_at_all_when_its_camera_is_killed() {
    const IMAGE: usize = 8 << 20;
    let place = Place::new();
    let mut camera = place.start("zero_copy", &["camera"]);
    let mut pixels = camera.child.stdin.take().unwrap();
    pixels.write_all(&vec![7; IMAGE]).unwrap();
    pixels.write_all(&vec![9; IMAGE / 2]).unwrap(); // all but what the pipe holds was read
    camera.kill();

    let mut camera = place.start("zero_copy", &["camera"]);
    let mut pixels = camera.child.stdin.take().unwrap();
    pixels.write_all(&vec![8; IMAGE]).unwrap();
    drop(pixels);
    assert!(camera.child.wait().unwrap().success());

    let mut viewer = place.start("zero_copy", &["view"]);
    assert_eq!(viewer.line(), "mean 7, attempt 1");
    assert_eq!(viewer.line(), "mean 8, attempt 1");
    viewer.kill();
    let stats = place.remove("example-zero-copy");
    assert_eq!((stats.sent, stats.writing), (2, 0));
    assert!(
        stats.in_use() <= 1 && stats.in_use() == stats.ready,
        "{stats:?}"
    );
}
