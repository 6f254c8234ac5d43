//! Where codes are counted from: the mean of the rows, if that brings them much nearer.
//!
//! A code's error grows with the row's distance from the centre, so rows that share a large mean (many embeddings do) gain
//! from having it taken off, while rows around the origin would only pay for the norms that go with it.

use super::codes::inverse_length;
use crate::types::Metric;

/// Rows looked at.
const SAMPLE: usize = 4096;
/// The mean square distance must fall at least to this share for a centre to be moved.
const WORTH: f64 = 0.9;

/// A better centre than `old` (empty: the origin) for rows `0..rows`, of which `visit(i, f)` shows row `i` to `f`.
pub(crate) fn better(
    metric: Metric,
    dim: usize,
    rows: usize,
    old: &[f32],
    visit: impl Fn(usize, &mut dyn FnMut(&[f32])),
) -> Option<Vec<f32>> {
    let stride = rows.div_ceil(SAMPLE).max(1);
    let (mut mean, mut squares, mut n) = (vec![0.0f64; dim], 0.0, 0.0f64);
    for i in (0..rows).step_by(stride) {
        visit(i, &mut |row| {
            let scale = if metric == Metric::Cosine { f64::from(inverse_length(row)) } else { 1.0 };
            n += 1.0;
            for (sum, x) in mean.iter_mut().zip(row) {
                let x = f64::from(*x) * scale;
                *sum += x;
                squares += x * x;
            }
        });
    }
    if n == 0.0 {
        return None;
    }
    mean.iter_mut().for_each(|sum| *sum /= n);
    let squares = squares / n;
    let own: f64 = mean.iter().map(|m| m * m).sum();
    let (cross, length) = mean.iter().zip(old).fold((0.0, 0.0), |(cross, length), (m, o)| {
        let o = f64::from(*o);
        (cross + m * o, length + o * o)
    });
    #[allow(clippy::cast_possible_truncation)] // narrowing to f32 is meant
    let centre: Vec<f32> = mean.iter().map(|m| *m as f32).collect();
    // The mean square distances from the mean and from the old centre. Of few rows the mean is mostly chance: unrelated
    // ones seem to come nearer by one part in their number.
    let (around_mean, around_old) = (squares - own, squares - 2.0 * cross + length);
    let worth = around_mean + squares / n < WORTH * around_old && centre.iter().all(|c| c.is_finite());
    worth.then_some(centre)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(metric: Metric, rows: &[[f32; 2]], old: &[f32]) -> Option<Vec<f32>> {
        better(metric, 2, rows.len(), old, |i, f| f(&rows[i]))
    }

    #[test]
    fn rows_with_a_common_mean_are_counted_from_it() {
        let rows: Vec<[f32; 2]> = (0..100).map(|i| [10.0 + (i % 3) as f32, -5.0 + (i % 5) as f32]).collect();
        let centre = of(Metric::L2, &rows, &[]).expect("a centre");
        assert!((centre[0] - 10.99).abs() < 0.01 && (centre[1] + 3.0).abs() < 0.01, "{centre:?}");
        assert_eq!(of(Metric::L2, &rows, &centre), None);
    }

    #[test]
    fn rows_around_the_origin_are_counted_from_there() {
        let rows: Vec<[f32; 2]> = (0..100).map(|i| if i % 2 == 0 { [1.0, 2.0] } else { [-1.0, -2.0] }).collect();
        assert_eq!(of(Metric::L2, &rows, &[]), None);
        assert_eq!(of(Metric::L2, &[], &[]), None);
    }

    #[test]
    fn under_cosine_the_lengths_of_rows_do_not_matter() {
        let rows = [[1.0, 0.0], [0.0, 1.0e6], [1.0e-3, 0.0], [0.0, 1.0]].repeat(10);
        assert_eq!(of(Metric::Cosine, &rows, &[]), Some(vec![0.5, 0.5]));
    }
}
