//! When a row of probes makes an endpoint healthy or unhealthy.
use crate::model::HealthCheck;

/// Result of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint accepted the connection.
    Passed,
    /// It did not.
    Failed,
}

/// The state of one check. It begins as healthy: an endpoint is used until it has failed
/// `unhealthy_threshold` probes in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckState {
    is_healthy: bool,
    /// Probes in a row whose outcome speaks against the state.
    contrary: u32,
}

impl Default for CheckState {
    fn default() -> Self {
        Self { is_healthy: true, contrary: 0 }
    }
}

impl CheckState {
    /// Whether the endpoint may take new flows.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.is_healthy
    }

    /// Takes the outcome of the next probe. `true` when it changes [`CheckState::is_healthy`].
    pub fn record(&mut self, outcome: Outcome, check: &HealthCheck) -> bool {
        let (speaks_for, threshold) = match outcome {
            Outcome::Passed => (self.is_healthy, check.healthy_threshold),
            Outcome::Failed => (!self.is_healthy, check.unhealthy_threshold),
        };
        if speaks_for {
            self.contrary = 0;
            return false;
        }
        self.contrary += 1;
        if self.contrary < threshold {
            return false;
        }
        self.is_healthy = !self.is_healthy;
        self.contrary = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome::{Failed, Passed};
    use super::*;
    use crate::model::CheckKind;
    use proptest::prelude::*;

    fn check(healthy_threshold: u32, unhealthy_threshold: u32) -> HealthCheck {
        HealthCheck {
            kind: CheckKind::Tcp,
            port: None,
            interval_ms: 1_000,
            timeout_ms: 1_000,
            healthy_threshold,
            unhealthy_threshold,
        }
    }

    fn states(check: &HealthCheck, outcomes: &[Outcome]) -> Vec<bool> {
        let mut state = CheckState::default();
        let mut states = Vec::new();
        for outcome in outcomes {
            let before = state.is_healthy();
            let changed = state.record(*outcome, check);
            assert_eq!(changed, before != state.is_healthy());
            states.push(state.is_healthy());
        }
        states
    }

    #[test]
    fn only_failures_in_a_row_make_an_endpoint_unhealthy() {
        let outcomes = [Failed, Failed, Passed, Failed, Failed, Failed, Failed];
        assert_eq!(states(&check(1, 3), &outcomes), [true, true, true, true, true, false, false]);
    }

    #[test]
    fn only_successes_in_a_row_make_it_healthy_again() {
        let outcomes = [Failed, Passed, Failed, Passed, Passed, Failed];
        assert_eq!(states(&check(2, 1), &outcomes), [false, false, false, false, true, false]);
    }

    #[test]
    fn lower_threshold_counts_from_the_next_probe() {
        let mut state = CheckState::default();
        for _ in 0..4 {
            assert!(!state.record(Failed, &check(1, 10)));
        }
        assert!(state.record(Failed, &check(1, 2)));
    }

    /// The rule over the whole history at once: the state changes where the last `threshold` outcomes,
    /// all after the last change, contradict it.
    fn plain_model(check: &HealthCheck, outcomes: &[Outcome]) -> Vec<bool> {
        let mut is_healthy = true;
        let mut last_change = 0;
        let mut states = Vec::new();
        for end in 1..=outcomes.len() {
            let (contrary, threshold) = if is_healthy {
                (Failed, check.unhealthy_threshold as usize)
            } else {
                (Passed, check.healthy_threshold as usize)
            };
            let since_change = &outcomes[last_change..end];
            if since_change.len() >= threshold
                && since_change[since_change.len() - threshold..].iter().all(|outcome| *outcome == contrary)
            {
                is_healthy = !is_healthy;
                last_change = end;
            }
            states.push(is_healthy);
        }
        states
    }

    proptest! {
        #[test]
        fn machine_agrees_with_the_rule_over_any_history(
            thresholds in (1u32..5, 1u32..5),
            outcomes in prop::collection::vec(prop::bool::weighted(0.5), 0..60),
        ) {
            let check = check(thresholds.0, thresholds.1);
            let outcomes: Vec<_> = outcomes.iter().map(|passed| if *passed { Passed } else { Failed }).collect();
            prop_assert_eq!(states(&check, &outcomes), plain_model(&check, &outcomes));
        }
    }
}
