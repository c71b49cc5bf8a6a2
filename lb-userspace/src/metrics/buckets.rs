//! Times by size, in buckets with given bounds.
use std::time::Duration;

/// Bounds of the time that an apply takes: doubled from a millisecond on, as kube-proxy's for the same.
pub(super) const APPLY_BOUNDS_S: [f64; 15] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];

/// Bounds of the network programming latency, those of kube-proxy (`pkg/proxy/metrics/metrics.go`): two parts of a
/// second, each second of the first minute, each five of the second, and each thirty up to five minutes.
pub(super) const PROGRAMMING_BOUNDS_S: [f64; 80] = programming_bounds_s();

const fn programming_bounds_s() -> [f64; 80] {
    let mut bounds = [0.0; 80];
    let (mut index, mut bound, mut step) = (0, 0.25, 0.25);
    while index < bounds.len() {
        bounds[index] = bound;
        step = match index {
            0 => 0.25,
            1 => 0.5,
            2..61 => 1.0,
            61..73 => 5.0,
            _ => 30.0,
        };
        bound += step;
        index += 1;
    }
    assert!(step == 30.0 && bounds[79] == 300.0);
    bounds
}

/// How many times were at most as long as each bound and longer than the one before, and their sum.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    bounds_s: &'static [f64],
    /// One more than there are bounds: those above all.
    counts: Vec<u64>,
    sum_s: f64,
}

impl Buckets {
    /// None yet; the bounds are seconds, and rise.
    #[must_use]
    pub fn new(bounds_s: &'static [f64]) -> Self {
        Self { bounds_s, counts: vec![0; bounds_s.len() + 1], sum_s: 0.0 }
    }

    /// Counts a time.
    pub fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.counts[self.bounds_s.partition_point(|bound| *bound < seconds)] += 1;
        self.sum_s += seconds;
    }

    /// How many times there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum, seconds.
    #[must_use]
    pub fn sum_s(&self) -> f64 {
        self.sum_s
    }

    /// Each bound in seconds, the last infinite, and how many times fell between it and the one before.
    pub fn each(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = self.bounds_s.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_programming_are_those_of_kube_proxy() {
        let bounds = PROGRAMMING_BOUNDS_S;
        assert_eq!(bounds[..4], [0.25, 0.5, 1.0, 2.0]);
        assert_eq!(bounds[59..64], [58.0, 59.0, 60.0, 65.0, 70.0]);
        assert_eq!(bounds[71..75], [110.0, 115.0, 120.0, 150.0][..]);
        assert_eq!(bounds[79], 300.0);
    }

    #[test]
    fn time_of_a_bound_is_in_its_bucket() {
        let mut buckets = Buckets::new(&[0.5, 1.0]);
        for ms in [250, 500, 501, 1_500] {
            buckets.add(Duration::from_millis(ms));
        }
        let counts: Vec<_> = buckets.each().collect();
        assert_eq!(counts, [(0.5, 2), (1.0, 1), (f64::INFINITY, 1)]);
        assert_eq!((buckets.count(), buckets.sum_s()), (4, 2.751));
    }
}
