//! Hints to the processor which cache lines are needed soon.
//!
//! A line that the other process wrote last takes some 60 ns to come, and a locked instruction waits for it with everything
//! behind it. Asked for a few messages ahead, it is there.
//!
//! By the instructions' names: the compiler's own `_mm_prefetch` quietly turns a hint for *writing* into one for reading, unless
//! the whole program is compiled for newer processors. Those that lack the instruction ignore it.

/// Has the cache line at an address fetched, to be written. Only a hint, whatever the address.
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
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// Has the cache line at an address fetched, to be read. Only a hint, whatever the address.
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
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
