use proptest::prelude::*;

use super::Signal::{Answered, Refused, ServerError, Unanswered};
use super::*;

fn policy() -> PassivePolicy {
    PassivePolicy {
        consecutive_failures: 3,
        failure_percent: 50,
        flows_min: 8,
        ejection_ms: 1_000,
        ejection_max_ms: 5_000,
        ejected_percent_max: 50,
    }
}

/// Takes signals at one moment; the reasons to eject that follow.
fn reasons(outlier: &mut Outlier, signals: &[Signal], now_ms: u64) -> Vec<Option<StateReason>> {
    signals.iter().map(|signal| outlier.record(*signal, now_ms, now_ms, &policy())).collect()
}

#[test]
fn failures_in_a_row_of_any_kind_eject() {
    let mut outlier = Outlier::default();
    let found = reasons(&mut outlier, &[Refused, Unanswered, Answered, Refused, ServerError, Unanswered], 7);
    assert_eq!(found, [None, None, None, None, None, Some(StateReason::ConsecutiveFailures)]);
}

#[test]
fn a_share_of_enough_flows_ejects() {
    let mut outlier = Outlier::default();
    let mixed = [Refused, Answered].repeat(4);
    assert_eq!(reasons(&mut outlier, &mixed, 7), [None; 8], "the eighth is no failure");
    assert_eq!(reasons(&mut outlier, &[Refused], 8), [Some(StateReason::FailureShare)]);
}

#[test]
fn a_share_is_of_one_interval() {
    let mut outlier = Outlier::default();
    assert_eq!(reasons(&mut outlier, &[Refused, Answered].repeat(3), 7), [None; 6]);
    assert_eq!(reasons(&mut outlier, &[Refused, Answered, Refused], 7 + WINDOW_MS), [None; 3]);
}

#[test]
fn ejections_in_a_row_take_twice_as_long_up_to_the_longest() {
    let mut outlier = Outlier::default();
    let mut now_ms = 50_000;
    for length_ms in [1_000, 2_000, 4_000, 5_000, 5_000] {
        outlier.eject(now_ms, &policy());
        assert!(!outlier.release(now_ms + length_ms - 1), "{length_ms}");
        now_ms += length_ms;
        assert!(outlier.release(now_ms), "{length_ms}");
    }
    now_ms += 5_000;
    outlier.eject(now_ms, &policy());
    assert!(outlier.release(now_ms + 1_000), "it was in for as long as it was out");
}

#[test]
fn flows_from_before_the_return_do_not_count() {
    let mut outlier = Outlier::default();
    outlier.eject(50_000, &policy());
    assert!(outlier.release(51_000));
    for began_ms in [50_500, 50_999, 50_999] {
        assert_eq!(outlier.record(Unanswered, began_ms, 52_000, &policy()), None);
    }
    assert_eq!(reasons(&mut outlier, &[Unanswered; 3], 52_000)[2], Some(StateReason::ConsecutiveFailures));
}

#[test]
fn half_of_the_endpoints_may_be_ejected_and_never_the_only_one() {
    let most =
        |endpoints| (0..endpoints).take_while(|ejected| may_eject(*ejected, endpoints, &policy())).count();
    assert_eq!([1, 2, 3, 4, 5].map(most), [0, 1, 1, 2, 2]);
}

/// The rule by the whole history of signals since the endpoint came in: `history` are times and failures.
fn plain_model(history: &[(u64, bool)], policy: &PassivePolicy) -> bool {
    let Some((_, true)) = history.last() else { return false };
    let row = history.iter().rev().take_while(|(_, is_failure)| *is_failure).count();
    let mut window: Vec<(u64, bool)> = Vec::new();
    let mut began_ms = 0;
    for signal in history {
        if signal.0 >= began_ms + WINDOW_MS {
            window.clear();
            began_ms = signal.0;
        }
        window.push(*signal);
    }
    let failed = window.iter().filter(|(_, is_failure)| *is_failure).count();
    let share = failed as f64 * 100.0 / window.len() as f64;
    row >= policy.consecutive_failures as usize
        || (window.len() >= policy.flows_min as usize && share + 1e-9 >= f64::from(policy.failure_percent))
}

proptest! {
    #[test]
    fn ejection_agrees_with_the_rule_over_any_history(
        thresholds in (1u32..6, 1u32..=100, 1u32..12),
        signals in prop::collection::vec((prop::bool::weighted(0.6), 0u64..3_000), 0..80),
    ) {
        let (consecutive_failures, failure_percent, flows_min) = thresholds;
        let policy = PassivePolicy { consecutive_failures, failure_percent, flows_min, ..policy() };
        let (mut outlier, mut history, mut now_ms) = (Outlier::default(), Vec::new(), 0);
        for (is_failure, wait_ms) in signals {
            now_ms += wait_ms;
            history.push((now_ms, is_failure));
            let signal = if is_failure { Refused } else { Answered };
            let reason = outlier.record(signal, now_ms, now_ms, &policy);
            prop_assert_eq!(reason.is_some(), plain_model(&history, &policy));
        }
    }
}
