//! The user of this process, as far as the kernel can tell.
//!
//! In a user namespace (a rootless container) only some users have numbers. All others appear as
//! one, the overflow user, usually 65534. So that number identifies no user, unless the namespace
//! maps it.

use std::fs;
use std::sync::OnceLock;

use nix::unistd::geteuid;

/// Returns the owner number of files that this process creates. Files that it may use must have the
/// same owner.
pub(crate) fn ours() -> u32 {
    geteuid().as_raw()
}

/// Returns `true` if this user namespace shows all its unmapped users as `uid`. Such a number
/// identifies no user, even if it is this process's own.
#[must_use]
pub fn is_nobody(uid: u32) -> bool {
    uid == overflow() && uid_map().is_some_and(|map| !is_mapped(uid, &map))
}

/// Returns `true` if this program has more rights than its caller (set-uid, set-gid, file
/// capabilities). The caller's environment must not tell such a program where to write.
pub(crate) fn has_more_rights_than_caller() -> bool {
    // SAFETY: takes a number and returns one. The kernel filled in the vector before `main`.
    let is_secure = unsafe { libc::getauxval(libc::AT_SECURE) };
    is_secure != 0
}

fn overflow() -> u32 {
    // Read once: it is a machine-wide setting that does not change.
    static OVERFLOW: OnceLock<u32> = OnceLock::new();
    *OVERFLOW.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
        text.trim().parse().unwrap_or(65534)
    })
}

/// Returns the user map, which is empty if no user has a number. `None` if `/proc` is not mounted,
/// or if the kernel has no user namespaces.
fn uid_map() -> Option<String> {
    fs::read_to_string("/proc/self/uid_map").ok()
}

/// Each line of the map is the first number inside, the first number outside, and the count.
fn is_mapped(uid: u32, map: &str) -> bool {
    let in_line = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let first = numbers.next()?.ok()?;
        let count = numbers.nth(1)?.ok()?;
        Some((first..first + count).contains(&uid.into()))
    };
    map.lines().any(|line| in_line(line) == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mapped_numbers_are_users() {
        let rootless = "         0       1000          1\n         1     100000      65536\n";
        assert!(is_mapped(0, rootless) && is_mapped(65534, rootless) && is_mapped(65536, rootless));
        assert!(!is_mapped(65537, rootless));
        assert!(!is_mapped(65534, "0 1000 1"));
        assert!(is_mapped(65534, "0 0 4294967295"));
        assert!(!is_mapped(65534, ""));
    }
}
