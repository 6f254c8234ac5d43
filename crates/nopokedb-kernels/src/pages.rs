//! Asking for memory in large pages: walks read rows at random, and each small page costs a look-up of its own.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

/// Smaller allocations are not worth asking for.
const LEAST: usize = 4 << 20;

/// Asks the kernel to back `memory` with huge pages once it is written to. A hint: it never fails and changes no byte. Linux
/// only; nothing elsewhere.
pub fn prefer_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    if size_of_val(memory) >= LEAST {
        advise(memory.as_mut_ptr().cast(), size_of_val(memory));
    }
}

/// How much of a zeroed allocation of `size` bytes is in memory once its first `used` bytes were written: whole pages, and whole
/// huge ones where [`prefer_huge_pages`] asks for them.
pub fn touched(used: usize, size: usize) -> usize {
    let page = if size >= LEAST { 2 << 20 } else { 4096 };
    used.next_multiple_of(page).min(size)
}

#[cfg(target_os = "linux")]
fn advise(start: *mut u8, bytes: usize) {
    unsafe extern "C" {
        fn madvise(address: *mut std::ffi::c_void, length: usize, advice: std::ffi::c_int) -> std::ffi::c_int;
    }
    const PAGE: usize = 4096;
    const MADV_HUGEPAGE: std::ffi::c_int = 14;
    let skipped = start.align_offset(PAGE);
    if let Some(rest) = bytes.checked_sub(skipped) {
        // SAFETY: whole pages of the allocation that the caller holds exclusively; this advice changes neither their bytes nor
        // whether they are there. Where pages are larger than assumed the call fails, and nothing happens.
        unsafe { madvise(start.wrapping_add(skipped).cast(), rest - rest % PAGE, MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise(_start: *mut u8, _bytes: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_usable_whatever_the_kernel_makes_of_the_advice() {
        for bytes in [0, 1, LEAST - 1, LEAST, LEAST + 12_345] {
            let mut memory: Vec<u8> = Vec::with_capacity(bytes);
            prefer_huge_pages(memory.spare_capacity_mut());
            memory.resize(bytes, 7);
            assert!(memory.iter().all(|b| *b == 7));
        }
    }
}
