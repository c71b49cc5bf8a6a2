//! How long to wait after a failure.
use std::time::{Duration, Instant};

/// Waits that double from one failure to the next, each with a jitter that keeps the agents of a
/// cluster from coming back together.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    last_failure: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min, last_failure: None }
    }

    /// The wait after a failure at `now`: between half of and the whole current step, by `random`.
    /// Starts again at the shortest after a time of twice the longest without a failure; success
    /// alone does not, since a server can answer the list and refuse the watch for ever.
    pub(super) fn delay(&mut self, now: Instant, random: u32) -> Duration {
        let is_old = |last: Instant| now.saturating_duration_since(last) > self.max * 2;
        if self.last_failure.is_none_or(is_old) {
            self.next = self.min;
        }
        self.last_failure = Some(now);
        let step = self.next.min(self.max);
        self.next = (step * 2).min(self.max);
        jittered(step, random)
    }
}

/// Between half of and the whole wait, by `random`.
pub(super) fn jittered(wait: Duration, random: u32) -> Duration {
    wait / 2 + (wait / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn waits_double_up_to_the_bound_and_start_again_after_a_good_time() {
        let start = Instant::now();
        let mut backoff = Backoff::new(ms(100), ms(350));
        let longest: Vec<_> = (0..4).map(|i| backoff.delay(start + ms(i * 400), u32::MAX)).collect();
        assert_eq!(longest, [ms(100), ms(200), ms(350), ms(350)]);
        assert_eq!(backoff.delay(start + ms(1_200 + 701), u32::MAX), ms(100));
    }

    #[test]
    fn jitter_spans_the_upper_half() {
        let mut backoff = Backoff::new(ms(100), ms(100));
        assert_eq!(backoff.delay(Instant::now(), 0), ms(50));
        assert_eq!(backoff.delay(Instant::now(), u32::MAX), ms(100));
    }
}
