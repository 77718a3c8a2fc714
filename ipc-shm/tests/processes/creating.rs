//! Creating buffers: creators that are killed, and memory or file sizes that are not available.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use ipc_shm::{
    AccessError, BufferError, CreateError, Created, LockError, Namespace, OpenError, SharedBuffer,
};
use nix::sys::resource::{Resource, setrlimit};

use crate::identity::skip;
use crate::support::{Scratch, listen, say};
use crate::unshare;

const MIB: u64 = 1 << 20;

pub fn create_and_remove(namespace: &Namespace) {
    loop {
        say("again");
        drop(SharedBuffer::create(namespace, "b", 10_000).unwrap());
        // Returns `false` if the test opened the buffer after the flag was set and finished the
        // removal.
        SharedBuffer::remove(namespace, "b").unwrap();
    }
}

/// Asserts that there is a complete buffer or none.
fn assert_whole_if_there(namespace: &Namespace) {
    let bytes = match SharedBuffer::connect(namespace, "b") {
        Ok(buffer) => buffer.read_to_vec(0, 10_000),
        Err(BufferError::Open(OpenError::NotFound { .. })) => return,
        Err(error) => panic!("an incomplete buffer: {error}"),
    };
    match bytes {
        Ok(bytes) => assert_eq!(bytes, [0; 10_000]),
        Err(error) => assert!(
            matches!(error, AccessError::Lock(LockError::Removed { .. })),
            "{error}"
        ),
    }
}

#[test]
fn killed_creators_leave_complete_buffers_or_nothing() {
    let scratch = Scratch::new();
    let namespace = &scratch.namespace;
    for _ in 0..200 {
        let mut creator = scratch.start("create and remove");
        for _ in 0..fastrand::u32(1..10) {
            creator.expect("again");
            assert_whole_if_there(namespace);
        }
        // Kills at a random moment within a round. A round takes about ten thousand times as long
        // as one iteration of this loop.
        (0..fastrand::u32(0..30_000)).for_each(|_| std::hint::spin_loop());
        creator.kill();
        assert_whole_if_there(namespace);
        SharedBuffer::remove(namespace, "b").unwrap();
        assert_eq!(SharedBuffer::list(namespace).unwrap(), []);
        assert!(scratch.is_empty(), "the folders are left");
    }
}

/// Runs on a file system of 1 MiB.
pub fn fill_memory(namespace: &Namespace) {
    full_file_system_is_an_error(namespace);
    makers_share_memory_for_one(namespace);
}

/// Several processes create one buffer. Memory reserved by one is missing for the others, but all
/// get the buffer.
fn makers_share_memory_for_one(namespace: &Namespace) {
    for _ in 0..10 {
        let make = || SharedBuffer::open_or_create(namespace, "most", 600 << 10).unwrap();
        let made = thread::scope(|scope| {
            [(); 3]
                .map(|()| scope.spawn(make))
                .map(|maker| maker.join().unwrap())
        });
        let makers = made.iter().filter(|(_, created)| *created == Created::Yes);
        assert_eq!(makers.count(), 1);
        SharedBuffer::remove(namespace, "most").unwrap();
    }
}

fn full_file_system_is_an_error(namespace: &Namespace) {
    let error = SharedBuffer::create(namespace, "huge", 8 << 20).unwrap_err();
    let BufferError::Create(CreateError::NoSpace { free, needed, .. }) = &error else {
        panic!("{error}")
    };
    assert!(
        (MIB / 2..=MIB).contains(free) && *needed > 8 * MIB,
        "{error}"
    );
    let figures = "has 1.0 MiB free, \"huge\" needs 8.0 MiB";
    assert!(error.to_string().contains(figures), "{error}");

    let half = SharedBuffer::create(namespace, "half", 512 << 10).unwrap();
    let filler = File::create(namespace.path().join("filler")).unwrap();
    let mut filled = 0;
    while filler.write_at(&[1; 4096], filled).is_ok() {
        filled += 4096;
    }
    let error = SharedBuffer::create(namespace, "more", 1).unwrap_err();
    assert!(
        matches!(
            error,
            BufferError::Create(CreateError::NoSpace { free: 0, .. })
        ),
        "{error}"
    );
    // Its memory was never touched before, but it is reserved: no SIGBUS.
    half.write_at(0, &vec![7; 512 << 10]).unwrap();
    let other = SharedBuffer::connect(namespace, "half").unwrap();
    assert_eq!(other.read_to_vec(0, 512 << 10).unwrap(), vec![7; 512 << 10]);
    drop(filler);
    fs::remove_file(namespace.path().join("filler")).unwrap();
    SharedBuffer::create(namespace, "more", 1).unwrap();
    for name in ["half", "more"] {
        assert!(SharedBuffer::remove(namespace, name).unwrap());
    }
}

#[test]
fn a_full_file_system_is_an_error_with_figures_and_never_a_crash() {
    let mut command = match unshare(&["--mount"]) {
        Ok(command) => command,
        Err(why) => return println!("skipped: {why}"),
    };
    let scratch = Scratch::new();
    let mount = "mount -t tmpfs -o size=1m,mode=0700 none \"$0\" && exec \"$@\"";
    command.args(["sh", "-c", mount]).arg(scratch.path());
    command.arg(std::env::current_exe().unwrap());
    assert!(scratch.start_by(command, "fill memory").end().success());
}

pub fn limit_files(namespace: &Namespace) {
    const LIMIT: u64 = 64 << 10;
    setrlimit(Resource::RLIMIT_FSIZE, LIMIT, LIMIT).unwrap();
    let error = SharedBuffer::create(namespace, "b", 64 << 10).unwrap_err();
    let BufferError::Create(CreateError::FileSizeLimit { limit, needed, .. }) = &error else {
        panic!("{error}")
    };
    assert!(*limit == LIMIT && *needed > LIMIT, "{error}");
    SharedBuffer::create(namespace, "b", 8 << 10).unwrap();
}

#[test]
fn a_limit_on_file_sizes_is_an_error_with_figures() {
    assert!(Scratch::new().start("limit files").end().success());
}

/// Runs in a memory cgroup of 8 MiB.
pub fn small_group(namespace: &Namespace) {
    let error = SharedBuffer::create(namespace, "b", 16 << 20).unwrap_err();
    let BufferError::Create(CreateError::MemoryLimit {
        limit,
        available,
        needed,
        ..
    }) = &error
    else {
        panic!("{error}")
    };
    assert!(
        *limit == 8 * MIB && *available <= 8 * MIB && *needed > 16 * MIB,
        "{error}"
    );
    assert!(error.to_string().contains("allows 8.0 MiB"), "{error}");
    let small = SharedBuffer::create(namespace, "b", 1 << 20).unwrap();
    small.write_at(0, &vec![1; 1 << 20]).unwrap();
    say("done");
    listen();
    SharedBuffer::create(namespace, "large", 16 << 20).unwrap();
    say("done");
}

/// A memory cgroup of 8 MiB, removed when dropped.
struct Group(PathBuf);

/// Where a version of cgroups is mounted that has the memory controller, and the file of its limit.
struct Hierarchy {
    version: &'static str,
    /// The fields after the dash in `/proc/self/mountinfo`: the file system and an option.
    mounted: (&'static str, &'static str),
    /// The second field in `/proc/self/cgroup`.
    controllers: &'static str,
    limit: &'static str,
}

const HIERARCHIES: [Hierarchy; 2] = [
    Hierarchy {
        version: "version 1",
        mounted: ("cgroup", "memory"),
        controllers: "memory",
        limit: "memory.limit_in_bytes",
    },
    Hierarchy {
        version: "version 2",
        mounted: ("cgroup2", ""),
        controllers: "",
        limit: "memory.max",
    },
];

impl Hierarchy {
    /// Returns the mount, and the path of this process's group below it.
    fn place(&self) -> Option<(PathBuf, PathBuf)> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mount = mounts.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut after = after.split(' ');
            let is_it = after.next()? == self.mounted.0;
            let options = after.nth(1)?;
            let has_it =
                self.mounted.1.is_empty() || options.split(',').any(|o| o == self.mounted.1);
            (is_it && has_it).then(|| PathBuf::from(before.split(' ').nth(4).unwrap_or_default()))
        })?;
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let group = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            (parts.next()? == self.controllers).then(|| parts.next())?
        })?;
        Some((mount, PathBuf::from(group.trim_start_matches('/'))))
    }

    /// Makes a group with a limit below this process's own, or below the nearest ancestor that
    /// allows it: in version 2, a group with processes can't limit groups below it.
    fn group(&self) -> Result<Group, String> {
        let (mount, own) = self.place().ok_or("not mounted")?;
        let name = format!("ipc-shm-test-{}", std::process::id());
        let mut refused = "no group".to_owned();
        for ancestor in own.ancestors() {
            let folder = mount.join(ancestor).join(&name);
            let made = fs::create_dir(&folder).map(|()| Group(folder.clone()));
            let limited = made.and_then(|group| {
                fs::write(group.0.join(self.limit), (8 * MIB).to_string())?;
                Ok(group)
            });
            match limited {
                Ok(group) => return Ok(group),
                Err(error) => refused = format!("{}: {error}", folder.display()),
            }
        }
        Err(refused)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Repeats until the kernel has released the process that was in the group.
        while let Err(error) = fs::remove_dir(&self.0) {
            if error.kind() != std::io::ErrorKind::ResourceBusy {
                break;
            }
            thread::yield_now();
        }
    }
}

#[test]
fn a_buffer_larger_than_the_memory_cgroup_is_refused_with_figures() {
    for hierarchy in &HIERARCHIES {
        let group = match hierarchy.group() {
            Ok(group) => group,
            Err(why) => {
                let test = "a_buffer_larger_than_the_memory_cgroup_is_refused_with_figures";
                skip(&format!("{test} ({})", hierarchy.version), &why);
                continue;
            }
        };
        let scratch = Scratch::new();
        let mut command = Command::new("sh");
        let enter = "echo $$ > \"$0\" && exec \"$@\"";
        command
            .args(["-c", enter])
            .arg(group.0.join("cgroup.procs"));
        command.arg(std::env::current_exe().unwrap());
        let mut peer = scratch.start_by(command, "small group");
        peer.expect("done");
        // The advice: with a higher limit the same buffer fits.
        fs::write(group.0.join(hierarchy.limit), (64 * MIB).to_string()).unwrap();
        peer.send("the limit is higher");
        peer.expect("done");
        let end = peer.end();
        assert!(end.success(), "{end}");
    }
}
