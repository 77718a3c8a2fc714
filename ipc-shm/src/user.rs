//! The user of this process, as far as the kernel can tell.
//!
//! In a user namespace (a rootless container) only some users have numbers. All others are shown as
//! one and the same, the overflow user, usually 65534. So that number is the identity of nobody,
//! unless the namespace maps it.

use std::fs;
use std::sync::OnceLock;

use nix::unistd::geteuid;

/// The number that files of this process get, and files that it may use must have.
pub(crate) fn ours() -> u32 {
    geteuid().as_raw()
}

/// Whether `uid` is how this user namespace shows all users that have no number in it. Such a
/// number identifies nobody, also if it is this process's own.
#[must_use]
pub fn is_nobody(uid: u32) -> bool {
    uid == overflow() && uid_map().is_some_and(|map| !is_mapped(uid, &map))
}

/// Whether this program runs with more rights than its caller (set-uid, set-gid, file
/// capabilities). The caller's environment must not tell such a program where to write.
pub(crate) fn has_more_rights_than_caller() -> bool {
    // SAFETY: takes a number and returns one; the vector was filled in by the kernel before `main`.
    let is_secure = unsafe { libc::getauxval(libc::AT_SECURE) };
    is_secure != 0
}

fn overflow() -> u32 {
    // Asked once: it is a setting of the machine that nobody changes.
    static OVERFLOW: OnceLock<u32> = OnceLock::new();
    *OVERFLOW.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
        text.trim().parse().unwrap_or(65534)
    })
}

/// Empty if no user has a number. `None` where `/proc` is not mounted, or the kernel has no user
/// namespaces.
fn uid_map() -> Option<String> {
    fs::read_to_string("/proc/self/uid_map").ok()
}

/// Lines of first number inside, first number outside, how many.
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
    fn only_numbers_in_the_map_are_users() {
        let rootless = "         0       1000          1\n         1     100000      65536\n";
        assert!(is_mapped(0, rootless) && is_mapped(65534, rootless) && is_mapped(65536, rootless));
        assert!(!is_mapped(65537, rootless));
        assert!(!is_mapped(65534, "0 1000 1"));
        assert!(is_mapped(65534, "0 0 4294967295"));
        assert!(!is_mapped(65534, ""));
    }
}
