//! When an endpoint is ejected for how flows and requests to it fare, after Envoy's outlier detection
//! ("Outlier detection", architecture overview): failures in a row, or a share of failures in an interval. Pure.
use crate::model::PassivePolicy;

use super::StateReason;

/// Time over which a share of failures is counted, milliseconds (`OutlierDetection.interval`: 10 s).
pub const WINDOW_MS: u64 = 10_000;

/// How a flow or a request fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// The endpoint reset the connection in place of accepting it.
    Refused,
    /// The endpoint did not answer the opening of a connection.
    Unanswered,
    /// ICMP said that the endpoint, its host or its port is unreachable.
    Unreachable,
    /// The front-end could not connect.
    ConnectFailed,
    /// A request took longer than the front-end waits.
    TimedOut,
    /// The answer to a request had a code of 500 to 599.
    ServerError,
    /// The endpoint answered.
    Answered,
}

impl Signal {
    /// Whether it speaks against the endpoint.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        !matches!(self, Self::Answered)
    }
}

/// What the signals of an endpoint add up to. Times are milliseconds of the monotonic clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlier {
    /// Failures since the last answer.
    row: u32,
    window_began_ms: u64,
    /// Signals and failures in the window.
    seen: u32,
    failed: u32,
    ejected_until_ms: Option<u64>,
    /// Time of the last ejection, and when it was over.
    ejected_for_ms: u64,
    returned_ms: u64,
    /// Ejections in a row.
    ejections: u32,
}

impl Outlier {
    /// Whether the endpoint is ejected.
    #[must_use]
    pub const fn is_ejected(&self) -> bool {
        self.ejected_until_ms.is_some()
    }

    /// Takes a signal of a flow that began at `began_ms`; the reason why the endpoint should be ejected, where
    /// it should. What began before the last ejection ended tells nothing new.
    pub fn record(
        &mut self,
        signal: Signal,
        began_ms: u64,
        now_ms: u64,
        policy: &PassivePolicy,
    ) -> Option<StateReason> {
        if self.is_ejected() || began_ms < self.returned_ms {
            return None;
        }
        if now_ms - self.window_began_ms >= WINDOW_MS {
            (self.window_began_ms, self.seen, self.failed) = (now_ms, 0, 0);
        }
        self.seen = self.seen.saturating_add(1);
        if !signal.is_failure() {
            self.row = 0;
            return None;
        }
        self.failed = self.failed.saturating_add(1);
        self.row = self.row.saturating_add(1);
        if self.row >= policy.consecutive_failures {
            return Some(StateReason::ConsecutiveFailures);
        }
        let is_share =
            u64::from(self.failed) * 100 >= u64::from(self.seen) * u64::from(policy.failure_percent);
        (self.seen >= policy.flows_min && is_share).then_some(StateReason::FailureShare)
    }

    /// Ejects the endpoint: for twice as long as the last time, up to the longest, unless it has been in for at
    /// least as long as that took.
    pub fn eject(&mut self, now_ms: u64, policy: &PassivePolicy) {
        if now_ms - self.returned_ms >= self.ejected_for_ms {
            self.ejections = 0;
        }
        let doubled = u64::from(policy.ejection_ms) << self.ejections.min(32);
        let length_ms = doubled.min(u64::from(policy.ejection_max_ms));
        *self = Self {
            ejected_until_ms: Some(now_ms + length_ms),
            ejected_for_ms: length_ms,
            ejections: self.ejections.saturating_add(1),
            ..Self::default()
        };
    }

    /// Ends an ejection whose time is over; whether one ended.
    pub fn release(&mut self, now_ms: u64) -> bool {
        let is_over = self.ejected_until_ms.is_some_and(|until_ms| until_ms <= now_ms);
        if is_over {
            self.ejected_until_ms = None;
            self.returned_ms = now_ms;
            self.window_began_ms = now_ms;
        }
        is_over
    }
}

/// Whether one more of `endpoints` may be ejected beside `ejected` others.
#[must_use]
pub fn may_eject(ejected: usize, endpoints: usize, policy: &PassivePolicy) -> bool {
    (ejected as u64 + 1) * 100 <= endpoints as u64 * u64::from(policy.ejected_percent_max)
}

#[cfg(test)]
#[path = "passive_tests.rs"]
mod tests;
