//! The specification: every kernel in plain Rust, and the kernels of machines that have nothing better.
//!
//! Float kernels sum in an order that differs by level, so they agree only within rounding. The bound that tests hold
//! each level to, against a sum in f64: `|error| <= (n / 8 + 16) * f32::EPSILON * sum(|terms|)`, plus the smallest normal
//! number per term for products that underflow. Sums that leave the range of f32 are infinite or NaN on every level.

/// Lanes summed independently: as many as let a compiler use whatever vectors the target has.
const LANES: usize = 16;

/// Sum of `term(i)` over `0..n` in [`LANES`] independent partial sums.
#[inline(always)]
fn sum_lanes(n: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = n - n % LANES;
    let mut i = 0;
    while i < whole {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += term(i + l);
        }
        i += LANES;
    }
    for (l, lane) in lanes.iter_mut().enumerate().take(n - whole) {
        *lane += term(whole + l);
    }
    lanes.iter().sum()
}

/// `sum(a[i] * b[i])`.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (&a[..a.len().min(b.len())], &b[..a.len().min(b.len())]);
    sum_lanes(a.len(), |i| a[i] * b[i])
}

/// `sum((a[i] - b[i])^2)`.
pub fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (&a[..a.len().min(b.len())], &b[..a.len().min(b.len())]);
    sum_lanes(a.len(), |i| (a[i] - b[i]) * (a[i] - b[i]))
}

/// `sum(x[i]^2)`.
pub fn norm_squared(x: &[f32]) -> f32 {
    sum_lanes(x.len(), |i| x[i] * x[i])
}

/// [`dot`]`(q, x)` and [`norm_squared`]`(x)` in one pass: all that an exact cosine needs of a row.
pub fn dot_and_norm(q: &[f32], x: &[f32]) -> (f32, f32) {
    (dot(q, x), norm_squared(x))
}

/// [`dot`] of one query with four rows.
pub fn dot4(q: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    rows.map(|row| dot(q, row))
}

/// [`l2_squared`] between one query and four rows.
pub fn l2_squared4(q: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    rows.map(|row| l2_squared(q, row))
}

mod codes;
mod quantise;

pub use codes::*;
pub(crate) use quantise::body as quantise_body;
pub use quantise::quantise;
