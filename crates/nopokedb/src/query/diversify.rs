//! Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): hits that are near to the query and not near to each
//! other.

use crate::error::Result;

/// Chooses `n` of the rows whose `relevance` is given, one after the other: always the one with the highest
/// `lambda * relevance - (1 - lambda) * similarity to the most similar row chosen before`, the earlier one among equals.
///
/// `similar_to(row, out)` fills `out` with the similarity of `row` to each row; where it answers `false`, so does this, with
/// `None`.
pub(super) fn select(
    relevance: &[f32],
    n: usize,
    lambda: f32,
    mut similar_to: impl FnMut(usize, &mut Vec<f32>) -> Result<bool>,
) -> Result<Option<Vec<usize>>> {
    let n = n.min(relevance.len());
    let (mut order, mut similarities) = (Vec::with_capacity(n), Vec::new());
    let mut left: Vec<usize> = (0..relevance.len()).collect();
    // To the most similar chosen row; before there is one, relevance alone decides.
    let mut nearest: Vec<f32> = vec![f32::NEG_INFINITY; relevance.len()];
    while order.len() < n {
        let value = |row: usize| match order.is_empty() {
            true => relevance[row],
            false => lambda * relevance[row] - (1.0 - lambda) * nearest[row],
        };
        // Earlier rows win ties: a later one must be strictly better.
        let better = |best: usize, place: usize| if value(left[place]) > value(left[best]) { place } else { best };
        let place = (1..left.len()).fold(0, better);
        let chosen = left.remove(place);
        order.push(chosen);
        if order.len() < n && lambda < 1.0 {
            if !similar_to(chosen, &mut similarities)? {
                return Ok(None);
            }
            nearest.iter_mut().zip(&similarities).for_each(|(most, s)| *most = most.max(*s));
        }
    }
    Ok(Some(order))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points on a line; the query is at 0, similarity is minus the squared distance.
    fn chosen(points: &[f32], n: usize, lambda: f32) -> Vec<usize> {
        let relevance: Vec<f32> = points.iter().map(|p| -p * p).collect();
        let order = select(&relevance, n, lambda, |row, out| {
            out.clear();
            out.extend(points.iter().map(|p| -(p - points[row]) * (p - points[row])));
            Ok(true)
        });
        order.ok().flatten().unwrap_or_default()
    }

    #[test]
    fn with_all_weight_on_relevance_the_order_stays() {
        assert_eq!(chosen(&[0.0, 0.1, 0.2, 5.0], 3, 1.0), [0, 1, 2]);
    }

    #[test]
    fn the_nearest_comes_first_and_its_like_come_last() {
        assert_eq!(chosen(&[0.1, 0.11, 0.12, -1.0, 1.3], 3, 0.4), [0, 3, 4]);
        assert_eq!(chosen(&[0.1, 0.11, 0.12, -1.0, 1.3], 5, 0.0)[..2], [0, 4]);
    }

    #[test]
    fn equal_rows_keep_their_order_and_all_are_chosen() {
        assert_eq!(chosen(&[1.0; 4], 9, 0.5), [0, 1, 2, 3]);
        assert_eq!(chosen(&[], 3, 0.5), [0; 0]);
    }

    #[test]
    fn a_row_that_is_gone_ends_it() {
        assert!(select(&[1.0, 0.5], 2, 0.5, |_, _| Ok(false)).is_ok_and(|order| order.is_none()));
    }
}
