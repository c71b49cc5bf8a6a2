//! What is counted, for whoever shows it.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;

/// Classes of [`Durations`]: all but the last end at a power of two milliseconds, from 1 ms to 16 s.
const DURATION_CLASSES: usize = 16;

/// How the requests of a URL map or a backend service came out.
#[derive(Debug, Default)]
pub struct Counters {
    classes: [AtomicU64; 5],
    /// Further tries.
    pub retries: AtomicU64,
    /// Connections to endpoints that did not come about.
    pub connects_failed: AtomicU64,
    /// Requests that became tunnels.
    pub tunnels: AtomicU64,
    /// Bytes of answers' bodies.
    pub answer_bytes: AtomicU64,
    /// From a request's head to the last byte of its answer, or to where that was given up.
    pub durations: Durations,
}

/// Times by size.
#[derive(Debug, Default)]
pub struct Durations {
    classes: [AtomicU64; DURATION_CLASSES],
    sum_us: AtomicU64,
}

impl Durations {
    pub(super) fn note(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let power = us.div_ceil(1_000).checked_next_power_of_two().map_or(u32::MAX, u64::trailing_zeros);
        self.classes[(power as usize).min(DURATION_CLASSES - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// All of them together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us.load(Ordering::Relaxed))
    }

    /// For each class the longest time that is in it, seconds, and how many are; the last has no end.
    pub fn classes(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = (0..DURATION_CLASSES - 1).map(|power| f64::from(1 << power) / 1e3);
        let counts = self.classes.iter().map(|count| count.load(Ordering::Relaxed));
        bounds.chain([f64::INFINITY]).zip(counts)
    }
}

impl Counters {
    pub(super) fn note(&self, code: StatusCode) {
        let class = usize::from(code.as_u16() / 100).clamp(1, 5);
        self.classes[class - 1].fetch_add(1, Ordering::Relaxed);
    }

    /// Answers by their code's first digit: 1xx (tunnels) first.
    #[must_use]
    pub fn classes(&self) -> [u64; 5] {
        std::array::from_fn(|index| self.classes[index].load(Ordering::Relaxed))
    }
}

/// What is counted of a front-end as a whole.
#[derive(Debug, Default)]
pub struct Totals {
    /// Clients' connections that are open.
    pub connections: AtomicU64,
    /// Those of them that are parked: without a request, and without what parsing one takes.
    pub parked: AtomicU64,
    /// Connections closed at once: too many in all.
    pub connections_refused: AtomicU64,
    /// Connections closed at once: too many of one client.
    pub client_connections_refused: AtomicU64,
    /// Connections closed for lack of a good PROXY header, or of the right to send one.
    pub proxy_headers_refused: AtomicU64,
    /// TLS handshakes that failed.
    pub handshakes_failed: AtomicU64,
    /// Requests refused for bytes that two readers could take for different requests.
    pub bytes_refused: AtomicU64,
    /// HTTP/2 connections closed for requests given up too fast.
    pub resets_refused: AtomicU64,
    /// Signals dropped, since nobody took those before.
    pub signals_dropped: AtomicU64,
    /// Lines of the access log dropped, since the log was not written as fast.
    pub log_lines_dropped: AtomicU64,
    /// Spans that a receiver of traces took.
    pub spans_sent: AtomicU64,
    /// Spans dropped, since those before were not taken as fast.
    pub spans_dropped: AtomicU64,
    /// Spans that a receiver of traces refused.
    pub spans_refused: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_class_that_ends_at_it() {
        let durations = Durations::default();
        for us in [0, 1_000, 1_001, 2_000, 16_384_000, 16_384_001, u64::MAX / 4] {
            durations.note(Duration::from_micros(us));
        }
        let classes: Vec<(f64, u64)> = durations.classes().filter(|(_, count)| *count > 0).collect();
        assert_eq!(classes, [(0.001, 2), (0.002, 2), (16.384, 1), (f64::INFINITY, 2)]);
        let short = Durations::default();
        short.note(Duration::from_micros(1_500));
        short.note(Duration::from_micros(500));
        assert_eq!(short.sum(), Duration::from_millis(2));
    }
}
