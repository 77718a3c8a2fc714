//! Which boot of the machine this is.
//!
//! Times since boot and kernel locks mean nothing after a restart. Segments in memory do not
//! outlive one; those in a folder on a disk do. Some container managers give each container a boot
//! id of its own, so a different id is no proof of a restart: it counts only for files that can
//! outlive one.

use std::fs;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};

use crate::descriptor::Kept;
use crate::layout::fingerprint;

/// A fingerprint of the kernel's boot id; 0 if it is not known.
pub(crate) fn current() -> u64 {
    // The same for every process, forked ones included.
    static BOOT: OnceLock<u64> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        match id.trim() {
            "" => 0,
            id => fingerprint(id.as_bytes()),
        }
    })
}

/// Whether a file made in `boot` is certainly from an earlier run of the machine, or of a container
/// with an id of its own.
pub(crate) fn is_another(boot: u64, file: &Kept) -> bool {
    let ours = current();
    boot != 0 && ours != 0 && boot != ours && !is_in_memory(file)
}

/// Whether the file goes with the machine's memory.
pub(crate) fn is_in_memory(file: &impl AsFd) -> bool {
    /// `RAMFS_MAGIC` of the kernel.
    const RAMFS: FsType = FsType(0x8584_58f6);
    fstatfs(file).is_ok_and(|stat| [TMPFS_MAGIC, RAMFS].contains(&stat.filesystem_type()))
}
