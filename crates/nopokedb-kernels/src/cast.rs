//! Views of `f32` rows as bytes and back, without copying: rows on disk are little-endian `f32`, as in memory.
//!
//! Invariants: 1. only little-endian targets compile; 2. a view never outlives or exceeds what it views.
#![allow(unsafe_code)]

#[cfg(not(target_endian = "little"))]
compile_error!("rows on disk are little-endian f32 and are used in place: this target is not supported");

/// The bytes of `floats`, little-endian.
#[must_use]
pub fn bytes_of(floats: &[f32]) -> &[u8] {
    // SAFETY: an f32 has no padding and any of its bytes is a valid u8, whose alignment is 1; the length in bytes is
    // exactly that of the slice, and the lifetime is the slice's.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast::<u8>(), size_of_val(floats)) }
}

/// `bytes` as floats, or `None` if they are not aligned to 4 or not a whole number of floats.
#[must_use]
pub fn floats_of(bytes: &[u8]) -> Option<&[f32]> {
    // SAFETY: every bit pattern of four bytes is a valid f32, and `align_to` places only aligned, whole ones in the middle.
    let (head, floats, tail) = unsafe { bytes.align_to::<f32>() };
    (head.is_empty() && tail.is_empty()).then_some(floats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_survives_the_way_to_bytes_and_back() {
        let row = [1.0f32, -0.0, f32::MIN_POSITIVE, 3.5];
        assert_eq!(bytes_of(&row)[..4], 1.0f32.to_le_bytes());
        assert_eq!(floats_of(bytes_of(&row)), Some(&row[..]));
        assert_eq!(floats_of(&[]), Some(&[][..]));
    }

    #[test]
    fn bytes_that_are_no_floats_are_refused() {
        let row = [1.0f32, 2.0];
        assert_eq!(floats_of(&bytes_of(&row)[1..5]), None);
        assert_eq!(floats_of(&bytes_of(&row)[..6]), None);
    }
}
