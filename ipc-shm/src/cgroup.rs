//! The memory that the control groups of this process leave to it.
//!
//! A segment's memory is reserved when it is created, and the kernel charges it to the creator's
//! memory cgroup. Beyond the limit the kernel does not refuse: it kills the process, without a
//! message. So the limits are compared first, like the free space of the file system. Every group
//! up to the root of the mounted hierarchy counts, in both versions of cgroups. A value that cannot
//! be read imposes no limit. Other processes may take the memory between the check and the
//! reservation.

use std::fs;
use std::path::{Path, PathBuf};

/// The memory left in a control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// The group's folder.
    pub group: PathBuf,
    /// The limit for all its processes together, in bytes.
    pub limit: u64,
    /// The bytes left, including memory that the kernel can reclaim or swap out.
    pub available: u64,
}

/// Returns the room of the group with the least memory left, or `None` if no group has a limit.
pub(crate) fn least_room() -> Option<Room> {
    least_room_below(Path::new("/"))
}

/// Like [`least_room`], with `/proc` and the mounts below another folder.
fn least_room_below(root: &Path) -> Option<Room> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let swap = swap_free(&read("proc/meminfo"));
    let hierarchies = [
        Hierarchy::find(&V1, &groups, &mounts),
        Hierarchy::find(&V2, &groups, &mounts),
    ];
    let rooms = hierarchies
        .iter()
        .flatten()
        .flat_map(|hierarchy| hierarchy.rooms(root, swap));
    rooms.min_by_key(|room| room.available)
}

/// The file names of a version of cgroups.
struct Version {
    file_system: &'static str,
    /// The controller's name, in `/proc/self/cgroup` and in the mount options.
    controller: Option<&'static str>,
    limit: &'static str,
    used: &'static str,
    /// The lines of `memory.stat` that count memory which the kernel reclaims before it kills.
    reclaimable: &'static [&'static str],
    swap: Option<[&'static str; 2]>,
}

const V1: Version = Version {
    file_system: "cgroup",
    controller: Some("memory"),
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: &["total_inactive_file", "total_active_file"],
    swap: None,
};

const V2: Version = Version {
    file_system: "cgroup2",
    controller: None,
    limit: "memory.max",
    used: "memory.current",
    reclaimable: &["inactive_file", "active_file", "slab_reclaimable"],
    swap: Some(["memory.swap.max", "memory.swap.current"]),
};

/// The groups of this process in one mounted hierarchy.
struct Hierarchy {
    version: &'static Version,
    mount: PathBuf,
    /// The path below the mount; empty for the mount's own group.
    group: PathBuf,
}

impl Hierarchy {
    fn find(version: &'static Version, groups: &str, mounts: &str) -> Option<Self> {
        let group = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let matches = match version.controller {
                None => controllers.is_empty(),
                Some(wanted) => controllers.split(',').any(|one| one == wanted),
            };
            matches.then_some(path)
        })?;
        let (root, mount) = mounts.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut after = after.split(' ');
            let (file_system, options) = (after.next()?, after.nth(1)?);
            let has_controller = version
                .controller
                .is_none_or(|wanted| options.split(',').any(|one| one == wanted));
            let mut before = before.split(' ').skip(3);
            let (root, mount) = (before.next()?, before.next()?);
            (file_system == version.file_system && has_controller).then_some((root, mount))
        })?;
        // A container may see only a part of the hierarchy, or be in a group outside that part.
        let below = Path::new(group).strip_prefix(root).ok();
        let below = below.filter(|path| !path.starts_with(".."));
        Some(Self {
            version,
            mount: PathBuf::from(mount),
            group: below.map(Path::to_owned).unwrap_or_default(),
        })
    }

    /// Returns the room of each of its groups that has a limit.
    fn rooms(&self, root: &Path, swap: u64) -> Vec<Room> {
        self.group
            .ancestors()
            .filter_map(|group| {
                let group = if group.as_os_str().is_empty() {
                    self.mount.clone()
                } else {
                    self.mount.join(group)
                };
                self.room(root, group, swap)
            })
            .collect()
    }

    fn room(&self, root: &Path, group: PathBuf, swap: u64) -> Option<Room> {
        let folder = root.join(group.strip_prefix("/").unwrap_or(&group));
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        // "max" and a missing file mean that there is no limit.
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        let limit = number(self.version.limit).filter(|limit| *limit < NO_LIMIT)?;
        let used = number(self.version.used)?;
        let stat = read("memory.stat").unwrap_or_default();
        let reclaimable: u64 = stat
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(name, _)| self.version.reclaimable.contains(name))
            .filter_map(|(_, bytes)| bytes.parse::<u64>().ok())
            .sum();
        let swap = match self.version.swap {
            Some([most, used]) => {
                let left = number(most).map(|most| most.saturating_sub(number(used).unwrap_or(0)));
                left.map_or(swap, |left| left.min(swap))
            }
            None => swap,
        };
        let held = used.saturating_sub(reclaimable);
        Some(Room {
            available: limit.saturating_sub(held).saturating_add(swap),
            limit,
            group,
        })
    }
}

/// Version 1 uses a huge number, rounded to pages, for "no limit".
const NO_LIMIT: u64 = 1 << 60;

/// Returns the machine's free swap space in bytes.
fn swap_free(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("SwapFree:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A simulated machine.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(groups: &str, mountinfo: &str, meminfo: &str) -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            machine.write("proc/self/cgroup", groups);
            machine.write("proc/self/mountinfo", mountinfo);
            machine.write("proc/meminfo", meminfo);
            machine
        }

        fn write(&self, path: &str, text: impl ToString) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text.to_string()).unwrap();
        }

        fn room(&self) -> Option<(PathBuf, u64, u64)> {
            let room = least_room_below(self.0.path())?;
            Some((room.group, room.limit / MIB, room.available / MIB))
        }
    }

    #[test]
    fn version_two_uses_the_tightest_group_and_counts_reclaimable_memory_as_free() {
        let mounts = "41 31 0:38 / /cg rw - cgroup2 cgroup2 rw\n";
        let machine = Machine::new("0::/a/b\n", mounts, "SwapFree: 0 kB\n");
        machine.write("cg/a/b/memory.max", "max\n");
        machine.write("cg/a/b/memory.current", 100 * MIB);
        assert_eq!(machine.room(), None);
        machine.write("cg/a/memory.max", 64 * MIB);
        machine.write("cg/a/memory.current", 60 * MIB);
        let stat = format!("anon 1\ninactive_file {}\n", 50 * MIB);
        machine.write("cg/a/memory.stat", stat);
        assert_eq!(machine.room(), Some(("/cg/a".into(), 64, 54)));
        machine.write("cg/a/b/memory.max", 101 * MIB);
        assert_eq!(machine.room(), Some(("/cg/a/b".into(), 101, 1)));
    }

    #[test]
    fn version_one_is_supported_and_free_swap_counts() {
        let mounts = "35 31 0:32 /docker/x /sys/memory rw - cgroup cgroup rw,memory\n\
                      32 31 0:29 / /sys/cpu rw - cgroup cgroup rw,cpu\n";
        let groups = "4:memory:/docker/x\n1:cpu:/\n0::/\n";
        let machine = Machine::new(groups, mounts, "SwapFree: 2048 kB\n");
        machine.write(
            "sys/memory/memory.limit_in_bytes",
            9_223_372_036_854_771_712_u64,
        );
        machine.write("sys/memory/memory.usage_in_bytes", 5 * MIB);
        assert_eq!(machine.room(), None);
        machine.write("sys/memory/memory.limit_in_bytes", 8 * MIB);
        assert_eq!(machine.room(), Some(("/sys/memory".into(), 8, 5)));
    }

    #[test]
    fn a_machine_without_control_groups_has_no_limit() {
        assert_eq!(Machine::new("", "", "").room(), None);
    }
}
