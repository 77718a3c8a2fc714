//! What the guides for operators say about services and containers.
//!
//! Unit files are checked by systemd's own program. A container is made of the namespaces that
//! container engines use, so no engine is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ipc_queue::{Backoff, QueueOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::doctor::{Folder, finding};
use crate::place::{Ended, Place, Running, ipc, program, run, say_skipped, wait_until};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn guide(name: &str) -> String {
    fs::read_to_string(docs().join(name)).unwrap()
}

/// Returns the blocks of a guide that are files: the path in the first line, and the text.
fn files(guide: &str, language: &str) -> Vec<(String, String)> {
    let blocks = guide
        .split("\n```")
        .filter_map(|block| block.strip_prefix(language));
    let files = blocks.filter_map(|block| {
        let (path, text) = block.strip_prefix("\n# ")?.split_once('\n')?;
        Some((path.to_owned(), text.to_owned()))
    });
    files.collect()
}

/// Asserts that a command line of `ipc` can be parsed, without running it.
#[track_caller]
fn check_command(line: &str) {
    let args = line.split_whitespace().skip(1);
    let mut args: Vec<_> = args.take_while(|arg| *arg != "--").collect();
    args.push("--help");
    run(&args).expect(0);
}

/// Writes the unit files of a guide into a folder, and returns their paths, except drop-ins.
/// Programs that are not installed here are replaced by some that are.
fn write_units(guide: &str, folder: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for (path, text) in files(guide, "ini") {
        let commands = text.lines().filter(|line| line.contains("=/usr/bin/ipc "));
        commands.for_each(|line| check_command(line.split_once('=').unwrap().1));
        let ours = format!("={} ", env!("CARGO_BIN_EXE_ipc"));
        let text = text.replace("=/usr/bin/ipc ", &ours);
        let text = text.replace("=/usr/local/bin/", "=/usr/bin/env ");
        let path = folder.join(path.strip_prefix("/etc/systemd/system/").unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        paths.extend(
            path.extension()
                .is_some_and(|end| end == "service")
                .then_some(path),
        );
    }
    paths
}

#[test]
fn the_unit_files_of_the_guides_are_valid() {
    for (name, units) in [("operations/systemd.md", 4), ("reboot.md", 2)] {
        let folder = tempfile::tempdir().unwrap();
        let paths = write_units(&guide(name), folder.path());
        assert_eq!(paths.len(), units, "{name}: {paths:?}");
        if Command::new("systemd-analyze")
            .arg("--version")
            .output()
            .is_err()
        {
            say_skipped("unit files", "systemd-analyze is not installed");
            continue;
        }
        for path in paths {
            let mut analyze = program("systemd-analyze");
            let ended = Ended::of(analyze.args(["verify", "--man=no"]).arg(&path));
            // An unknown setting is only a warning.
            assert!(ended.code == 0 && ended.err.is_empty(), "{name}: {ended:?}");
        }
    }
}

#[test]
fn the_log_of_a_worker_has_each_failed_attempt_with_its_error() {
    let place = Place::new("log");
    let name = place.name("jobs");
    let options = QueueOptions::new().attempt_limit(3).backoff(Backoff::None);
    let queue = place.make("jobs", &options);
    let message = queue.sender().send(b"clip-7.mov").unwrap().to_string();
    let fail = "echo decode: bad header at byte 3 >&2; exit 1";
    let work = [
        "work",
        &name,
        "--idle-timeout",
        "0s",
        "--",
        "sh",
        "-c",
        fail,
    ];
    let log = run(&work).expect(0).err;
    let notes: Vec<_> = log
        .lines()
        .filter(|line| line.starts_with("note: "))
        .collect();
    let page = guide("operations/systemd.md");
    let shown = page
        .lines()
        .filter(|line| line.starts_with("note: message "));
    let shown: Vec<_> = shown
        .map(|line| line.replace("8b96e2f95e1d0805-0", &message))
        .collect();
    assert_eq!(notes, shown);
}

#[test]
fn the_commands_of_the_compose_file_exist_and_its_services_share_one_folder() {
    let files = files(&guide("operations/containers.md"), "yaml");
    let [(path, text)] = &files[..] else {
        panic!("{files:?}");
    };
    assert_eq!(path, "compose.yaml");
    let values = |key: &str| -> Vec<&str> {
        let lines = text.lines().map(str::trim);
        lines.filter_map(|line| line.strip_prefix(key)).collect()
    };
    let commands = values("command: ");
    assert_eq!(commands.len(), 2);
    commands.into_iter().for_each(check_command);
    assert_eq!(values("IPC_SHM_DIR: "), ["/queues/ipc"; 2]);
    assert_eq!(values("- queues:"), ["/queues"; 2]);
    assert_eq!(values("user: "), ["\"1000:1000\""; 2]);
}

#[test]
fn the_page_for_operators_links_every_guide() {
    let page = guide("operations.md");
    let folder = fs::read_dir(docs().join("operations")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    for name in names {
        let link = format!("(operations/{name})");
        assert!(
            page.contains(&link),
            "docs/operations.md has no link to {name}"
        );
    }
    let readme = fs::read_to_string(docs().join("../README.md")).unwrap();
    assert!(readme.contains("(docs/operations.md)"));
}

/// A folder of the host that several containers share.
struct Volume(TempDir);

/// A process in namespaces of its own, as in a container.
struct Container(Running);

impl Volume {
    /// `None`, with a note, where namespaces are forbidden.
    fn new() -> Option<Self> {
        let tried = Self::unshare().arg("true").output();
        if tried.is_ok_and(|output| output.status.success()) {
            return Some(Self(tempfile::tempdir_in("/dev/shm").unwrap()));
        }
        say_skipped("containers", "namespaces are forbidden here");
        None
    }

    fn unshare() -> Command {
        let mut unshare = program("unshare");
        let own = ["--mount", "--pid", "--ipc", "--uts"];
        unshare
            .args(own)
            .args(["--fork", "--kill-child", "--mount-proc"]);
        unshare
    }

    /// Returns `ipc` with these arguments in a container. It is the first process there.
    fn command(&self, args: &[&str]) -> Command {
        self.program(&[&[env!("CARGO_BIN_EXE_ipc")], args].concat())
    }

    /// Returns a program in a container with a `/dev/shm` of its own, of the size that Docker gives
    /// it.
    fn program(&self, words: &[&str]) -> Command {
        // The volume is in the host's `/dev/shm`, so it is mounted before that is covered.
        let script = "mount -t tmpfs x /mnt; mkdir /mnt/queues; \
                      mount --bind \"$VOLUME\" /mnt/queues; \
                      mount -t tmpfs -o size=64m x /dev/shm; exec \"$@\"";
        let mut unshare = Self::unshare();
        unshare.args(["sh", "-ec", script, "sh"]).args(words);
        unshare.env("VOLUME", self.0.path());
        unshare.env("IPC_SHM_DIR", "/mnt/queues/ipc");
        unshare
    }

    fn run(&self, args: &[&str]) -> Ended {
        Ended::of(&mut self.command(args))
    }

    fn start(&self, args: &[&str]) -> Container {
        Container(Running::start(&mut self.command(args)))
    }

    fn stat(&self) -> Value {
        self.run(&["stat", "jobs", "--json"]).expect(0).json()
    }
}

impl Container {
    /// Sends a signal to the container's first process.
    fn signal(&self, signal: Signal) {
        let unshare = self.0.0.id();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let children = fs::read_to_string(children).unwrap();
        kill(Pid::from_raw(children.trim().parse().unwrap()), signal).unwrap();
    }
}

#[test]
fn a_queue_whose_file_is_a_mount_point_is_removed_whole_or_not_at_all() {
    let Some(volume) = Volume::new() else { return };
    volume
        .run(&["send", "jobs", "resize a.png", "--create"])
        .expect(0);
    let script = "file=$(find $IPC_SHM_DIR -name 'jobs*' -type f); mount --bind $file $file; \
                  for force in '' --force; do ipc rm $force jobs 2>/dev/null && exit 9; done; \
                  umount $file; \
                  ipc recv jobs --timeout 30s; ipc rm jobs";
    let mut command = volume.program(&["sh", "-ec", script]);
    let ipc = Path::new(env!("CARGO_BIN_EXE_ipc")).parent().unwrap();
    command.env(
        "PATH",
        format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", ipc.display()),
    );
    let ended = Ended::of(&mut command).expect(0);
    assert_eq!(ended.out.lines().next(), Some("resize a.png"), "{ended:?}");
}

#[test]
fn containers_with_a_common_volume_share_queues_and_others_do_not() {
    let Some(volume) = Volume::new() else { return };
    volume
        .run(&["send", "jobs", "resize a.png", "--create"])
        .expect(0);
    let received = volume.run(&["recv", "jobs", "--timeout", "30s"]).expect(0);
    assert_eq!(received.out, "resize a.png\n");
    // In `/dev/shm` of its own container, the queue is not seen by the next one.
    let own = |args: &[&str]| Ended::of(volume.command(args).env_remove("IPC_SHM_DIR"));
    own(&["create", "jobs"]).expect(0);
    own(&["stat", "jobs"]).expect(3);
}

#[test]
fn what_a_killed_container_held_comes_back_in_another_container() {
    let Some(volume) = Volume::new() else { return };
    volume
        .run(&["send", "jobs", "resize a.png", "--create"])
        .expect(0);
    let worker = volume.start(&["work", "jobs", "--", "sleep", "1000"]);
    wait_until("it is held", || volume.stat()["stats"]["leased"] == 1);
    // Its number there.
    assert_eq!(volume.stat()["leases"][0]["pid"], 1);
    worker.signal(Signal::SIGKILL);
    let received = volume
        .run(&["recv", "jobs", "--timeout", "30s", "--json"])
        .expect(0);
    assert_eq!(received.json()["attempt"], 2);
}

#[test]
fn a_worker_that_is_the_first_process_of_a_container_drains_at_sigterm() {
    let Some(volume) = Volume::new() else { return };
    volume
        .run(&["send", "jobs", "resize a.png", "--create"])
        .expect(0);
    let command = "until [ -e /mnt/queues/go ]; do sleep 0.01; done";
    let worker = volume.start(&["work", "jobs", "--", "sh", "-c", command]);
    wait_until("it is held", || volume.stat()["stats"]["leased"] == 1);
    worker.signal(Signal::SIGTERM);
    fs::write(volume.0.path().join("go"), "").unwrap();
    worker.0.end().expect(0);
    assert_eq!(volume.stat()["stats"]["acked"], 1);
}

#[test]
fn a_stopped_holder_is_seen_only_from_its_own_pid_namespace() {
    let Some(volume) = Volume::new() else { return };
    volume
        .run(&["send", "jobs", "resize a.png", "--create"])
        .expect(0);
    let worker = volume.start(&["work", "jobs", "--", "sleep", "1000"]);
    wait_until("it is held", || volume.stat()["stats"]["leased"] == 1);
    worker.signal(Signal::SIGSTOP);
    assert_eq!(volume.stat()["leases"][0]["health"], "alive");
    worker.signal(Signal::SIGCONT);
}

#[test]
fn dev_shm_of_docker_holds_six_queues_of_default_settings() {
    let Some(volume) = Volume::new() else { return };
    let script = "i=0; while \"$0\" create q$i >/dev/null 2>&1; do i=$((i+1)); done; echo $i";
    let mut shell = volume.program(&["sh", "-c", script, env!("CARGO_BIN_EXE_ipc")]);
    let ended = Ended::of(shell.env_remove("IPC_SHM_DIR")).expect(0);
    assert_eq!(ended.out.trim(), "6");
    let doctor = Ended::of(volume.command(&["doctor"]).env_remove("IPC_SHM_DIR")).expect(0);
    let lines: Vec<_> = doctor.out.lines().map(str::trim_end).collect();
    let page = guide("operations/containers.md");
    let shown = page.split("$ ipc doctor\n").nth(1).unwrap();
    for line in shown.split("\n```").next().unwrap().lines() {
        assert!(lines.contains(&line), "no {line:?} in {lines:#?}");
    }
}

#[test]
fn queues_on_a_disk_work_and_the_doctor_warns() {
    // The build's folder, if that is on a disk.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let here = |args: &[&str]| Ended::of(ipc(args).env("IPC_SHM_DIR", folder.path().join("ipc")));
    let kind = nix::sys::statfs::statfs(folder.path())
        .unwrap()
        .filesystem_type();
    if kind == nix::sys::statfs::TMPFS_MAGIC {
        say_skipped("queues on a disk", "the build's folder is in memory");
        return;
    }
    here(&["send", "jobs", "one", "--create"]).expect(0);
    here(&["recv", "jobs"]).expect(0);
    let (grade, what) = finding(&here(&["doctor", "--json"]), "shared memory");
    // `bad` if the disk is almost full.
    assert!(["warn", "bad"].contains(&&grade[..]), "{grade}");
    assert!(what.contains("on a disk"), "{what}");
    let (grade, _) = Folder::new().finding("shared memory");
    assert_eq!(grade, "ok");
    here(&["rm", "jobs"]).expect(0);
}
