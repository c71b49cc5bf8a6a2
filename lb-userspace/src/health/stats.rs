//! What probing amounts to: how many probes ended how, how long they took, and how late they began. Pure.
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ReasonCode;

/// Counts since the agent's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbingStats {
    /// Targets that there are.
    pub targets: usize,
    /// Of these, those that are unhealthy.
    pub unhealthy: usize,
    /// Probes that are over, by the kind of what they saw.
    pub probes: BTreeMap<ReasonCode, u64>,
    /// From the beginning of a probe to its end.
    pub latency: Histogram,
    /// From the time at which a probe was due to its beginning.
    pub lateness: Histogram,
    /// From the end of a probe that changed a target's state to the store that made it so for new flows.
    pub effect: Histogram,
}

/// Numbers of times, by size: below 8 µs each microsecond is a class of its own, above there are four to each
/// power of two, so that no time is told more than a quarter too long. Times above half a day count as that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Histogram {
    /// By the greatest time of the class, microseconds; classes without a time are left out.
    classes: BTreeMap<u64, u64>,
    /// Of the times themselves, microseconds.
    sum_us: u64,
}

/// Longest time that is told from others, microseconds.
const LONGEST_US: u64 = (1 << 35) - 1;

impl Histogram {
    /// Counts a time.
    pub fn add(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(LONGEST_US);
        *self.classes.entry(class_end_us(us)).or_default() += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// How many times there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.classes.values().sum()
    }

    /// All times together, exactly.
    #[must_use]
    pub const fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us)
    }

    /// How many are not above a bound, as far as classes tell.
    #[must_use]
    pub fn count_up_to(&self, bound: Duration) -> u64 {
        let us = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        self.classes.range(..=us).map(|(_, count)| count).sum()
    }

    /// The time that this part of them, from 0 to 1, does not exceed; zero where there are none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Duration {
        let wanted = (self.count() as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.classes.iter().find(|(_, count)| {
            seen += **count;
            seen >= wanted
        });
        Duration::from_micros(found.map_or(0, |(end_us, _)| *end_us))
    }

    /// Those that came since an earlier state of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |end_us| earlier.classes.get(end_us).copied().unwrap_or_default();
        let new = self.classes.iter().map(|(end_us, count)| (*end_us, count.saturating_sub(before(end_us))));
        Self {
            classes: new.filter(|(_, count)| *count > 0).collect(),
            sum_us: self.sum_us.saturating_sub(earlier.sum_us),
        }
    }
}

/// The greatest time of the class that a time is in.
fn class_end_us(us: u64) -> u64 {
    if us < 8 {
        return us;
    }
    // The first three binary digits tell the class.
    us | (u64::MAX >> (us.leading_zeros() + 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(times_us: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        times_us.into_iter().for_each(|us| histogram.add(Duration::from_micros(us)));
        histogram
    }

    #[test]
    fn classes_end_where_the_fourth_digit_begins_to_matter() {
        let ends = [0, 7, 8, 9, 10, 15, 16, 19, 20, 1_000, 1_024].map(class_end_us);
        assert_eq!(ends, [0, 7, 9, 9, 11, 15, 19, 19, 23, 1_023, 1_279]);
    }

    #[test]
    fn quantiles_are_those_of_the_times() {
        let times = histogram(0..8);
        let us = |part| times.quantile(part).as_micros();
        assert_eq!([us(0.0), us(0.5), us(0.875), us(1.0)], [0, 3, 6, 7]);
        assert_eq!(histogram([]).quantile(0.5), Duration::ZERO);
    }

    #[test]
    fn times_of_a_while_are_what_came_since() {
        let before = histogram([1, 2, 2]);
        assert_eq!(histogram([1, 2, 2, 2, 5]).since(&before), histogram([2, 5]));
    }

    #[test]
    fn times_up_to_a_bound_are_counted() {
        let times = histogram([1, 3, 7, 1_000]);
        assert_eq!([0, 3, 1_023].map(|us| times.count_up_to(Duration::from_micros(us))), [0, 2, 4]);
    }

    #[test]
    fn endless_times_count_as_the_longest() {
        assert_eq!(histogram([u64::MAX]).quantile(1.0), Duration::from_micros((1 << 35) - 1));
    }
}
