//! Hints to the processor that a cache line is needed soon.
//!
//! A cache line that another process wrote last takes about 60 ns to arrive. A locked instruction
//! waits for it, and everything after that instruction waits too. A line that was requested a few
//! messages earlier is already there.
//!
//! The instructions are named explicitly. The compiler's `_mm_prefetch` silently turns a hint for
//! *writing* into one for reading, unless the whole program is compiled for newer processors.
//! Processors without the instruction ignore it.

/// Requests the cache line at an address, for writing. Only a hint; any address is allowed.
#[inline(always)]
pub fn to_write<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: changes neither memory nor registers, and faults at no address.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "prfm pstl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// Requests the cache line at an address, for reading. Only a hint; any address is allowed.
#[inline(always)]
pub fn to_read<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as for `to_write`.
    unsafe {
        std::arch::asm!("prefetcht0 [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as for `to_write`.
    unsafe {
        std::arch::asm!(
            "prfm pldl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
