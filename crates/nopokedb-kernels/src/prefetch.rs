//! Asking for memory before it is needed.
#![allow(unsafe_code)]

/// Bytes of a cache line on every CPU this crate has kernels for.
const LINE: usize = 64;

/// Asks the CPU to bring the first 2 KiB of `data` into its caches. A hint: it never faults and changes nothing.
#[inline(always)]
pub fn prefetch<T>(data: &[T]) {
    let start = data.as_ptr().cast::<u8>();
    let lines = size_of_val(data).min(2048).div_ceil(LINE);
    for line in 0..lines {
        line_hint(start.wrapping_add(line * LINE));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn line_hint(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch may be given any address, mapped or not; it has no architectural effect. SSE is part of x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn line_hint(address: *const u8) {
    // SAFETY: PRFM is a hint: it may be given any address, mapped or not, and has no architectural effect.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn line_hint(_address: *const u8) {}
