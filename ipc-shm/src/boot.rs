//! The identity of the machine's current boot.
//!
//! Times since boot and kernel locks mean nothing after a restart. Segments in memory do not
//! survive a restart, but segments in a folder on a disk do. Some container managers give each
//! container its own boot id, so a different id does not prove a restart. It counts only for files
//! that can survive one.

use std::fs;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};

use crate::descriptor::Kept;
use crate::fingerprint::fingerprint;

/// Returns a fingerprint of the kernel's boot id, or 0 if the id is unknown.
pub(crate) fn current() -> u64 {
    // The same for every process, including forked ones.
    static BOOT: OnceLock<u64> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        match id.trim() {
            "" => 0,
            id => fingerprint(id.as_bytes()),
        }
    })
}

/// Returns `true` if a file created in `boot` certainly stems from an earlier run of the machine,
/// or from a container with its own boot id.
pub(crate) fn is_another(boot: u64, file: &Kept) -> bool {
    let ours = current();
    boot != 0 && ours != 0 && boot != ours && !is_in_memory(file)
}

/// Returns `true` if a restart of the machine loses the file.
pub(crate) fn is_in_memory(file: &impl AsFd) -> bool {
    /// `RAMFS_MAGIC` of the kernel.
    const RAMFS: FsType = FsType(0x8584_58f6);
    fstatfs(file).is_ok_and(|stat| [TMPFS_MAGIC, RAMFS].contains(&stat.filesystem_type()))
}
