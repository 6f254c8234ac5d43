//! A query made of rows: near to some of them, away from others.
//!
//! The formula: with `p` the mean of the positive examples and `n` that of the negative ones, the query is `p + (p - n)`, and
//! `p` where there are no negative ones. Under cosine each example is scaled to length 1 first, since its length means
//! nothing there. It is linear and does not depend on where the origin is, so it suits l2 as well as the others.

use crate::types::Metric;

/// Collects examples.
#[derive(Debug)]
pub(crate) struct Blend {
    metric: Metric,
    /// Sum and number of the positive and of the negative examples.
    sums: [(Vec<f64>, u32); 2],
}

impl Blend {
    /// No examples of dimension `dim` yet.
    pub(crate) fn new(metric: Metric, dim: usize) -> Blend {
        Blend { metric, sums: [(vec![0.0; dim], 0), (vec![0.0; dim], 0)] }
    }

    /// Takes in one example.
    pub(crate) fn take(&mut self, example: &[f32], is_positive: bool) {
        let norm = example.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        let scale = if self.metric == Metric::Cosine && norm > 0.0 { 1.0 / norm } else { 1.0 };
        let (sum, count) = &mut self.sums[usize::from(!is_positive)];
        sum.iter_mut().zip(example).for_each(|(sum, &x)| *sum += f64::from(x) * scale);
        *count += 1;
    }

    /// The query. Numbers that would not be finite in f32 end at its largest.
    pub(crate) fn query(&self) -> Vec<f32> {
        let [(positive, p), (negative, n)] = &self.sums;
        let mean = |sum: f64, count: u32| sum / f64::from(count.max(1));
        let most = f64::from(f32::MAX);
        let both = positive.iter().zip(negative);
        both.map(|(&positive, &negative)| {
            let (positive, negative) = (mean(positive, *p), mean(negative, *n));
            let mixed = if *n == 0 { positive } else { 2.0 * positive - negative };
            #[allow(clippy::cast_possible_truncation)] // narrowing to f32 is meant
            let mixed = mixed.clamp(-most, most) as f32;
            mixed
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(metric: Metric, positive: &[[f32; 2]], negative: &[[f32; 2]]) -> Vec<f32> {
        let mut blend = Blend::new(metric, 2);
        positive.iter().for_each(|row| blend.take(row, true));
        negative.iter().for_each(|row| blend.take(row, false));
        blend.query()
    }

    #[test]
    fn it_is_the_mean_moved_away_from_the_negative_mean() {
        assert_eq!(query(Metric::L2, &[[1.0, 0.0], [3.0, 4.0]], &[]), [2.0, 2.0]);
        assert_eq!(query(Metric::L2, &[[1.0, 0.0], [3.0, 4.0]], &[[1.0, 1.0]]), [3.0, 3.0]);
    }

    #[test]
    fn under_cosine_the_length_of_an_example_means_nothing() {
        assert_eq!(query(Metric::Cosine, &[[9.0, 0.0], [0.0, 1.0]], &[]), [0.5, 0.5]);
        assert_eq!(query(Metric::Cosine, &[[9.0, 0.0]], &[[0.0, 0.0]]), [2.0, 0.0]);
        assert_eq!(query(Metric::Ip, &[[9.0, 0.0], [0.0, 1.0]], &[]), [4.5, 0.5]);
    }

    #[test]
    fn huge_examples_stay_finite() {
        assert!(query(Metric::L2, &[[f32::MAX, 0.0]], &[[-f32::MAX, 0.0]]).iter().all(|x| x.is_finite()));
    }
}
