//! What a Service's annotations ask to be done with what is known of its endpoints' health.
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Faults;
use crate::model::{HealthPolicy, PassivePolicy};

/// Switches passive health on: `true` or `false`.
const PASSIVE: &str = "podway.io/passive-health";

/// An annotation with a number, its bounds and what holds without it.
struct Setting {
    annotation: &'static str,
    min: u32,
    max: u32,
    default: u32,
}

const PANIC_THRESHOLD: Setting =
    Setting { annotation: "podway.io/panic-threshold-percent", min: 0, max: 100, default: 0 };

const SLOW_START_S: Setting =
    Setting { annotation: "podway.io/slow-start-seconds", min: 0, max: 3_600, default: 0 };
/// The defaults are those of Envoy, but for the last; see [`PassivePolicy`].
const CONSECUTIVE_FAILURES: Setting =
    Setting { annotation: "podway.io/passive-health-consecutive-failures", min: 1, max: 1_000, default: 5 };
const FAILURE_PERCENT: Setting =
    Setting { annotation: "podway.io/passive-health-failure-percent", min: 1, max: 100, default: 85 };
const FLOWS_MIN: Setting =
    Setting { annotation: "podway.io/passive-health-minimum-flows", min: 1, max: 100_000, default: 50 };
const EJECTION_S: Setting =
    Setting { annotation: "podway.io/passive-health-ejection-seconds", min: 1, max: 3_600, default: 30 };
const EJECTION_MAX_S: Setting = Setting {
    annotation: "podway.io/passive-health-ejection-max-seconds",
    min: 1,
    max: 86_400,
    default: 300,
};
const EJECTED_PERCENT_MAX: Setting =
    Setting { annotation: "podway.io/passive-health-ejected-max-percent", min: 0, max: 100, default: 50 };

/// The policy. A bad value gives a fault and the default.
pub(super) fn of_annotations(meta: &ObjectMeta, faults: &mut Faults) -> HealthPolicy {
    HealthPolicy {
        panic_threshold_percent: number(&PANIC_THRESHOLD, meta, faults),
        slow_start_s: number(&SLOW_START_S, meta, faults),
        passive: is_passive(meta, faults).then(|| {
            Arc::new(PassivePolicy {
                consecutive_failures: number(&CONSECUTIVE_FAILURES, meta, faults),
                failure_percent: number(&FAILURE_PERCENT, meta, faults),
                flows_min: number(&FLOWS_MIN, meta, faults),
                ejection_ms: number(&EJECTION_S, meta, faults) * 1_000,
                ejection_max_ms: number(&EJECTION_MAX_S, meta, faults) * 1_000,
                ejected_percent_max: number(&EJECTED_PERCENT_MAX, meta, faults),
            })
        }),
    }
}

fn is_passive(meta: &ObjectMeta, faults: &mut Faults) -> bool {
    match meta.annotations.as_ref().and_then(|annotations| annotations.get(PASSIVE)).map(String::as_str) {
        Some("true") => true,
        None | Some("false") => false,
        Some(other) => {
            faults.add(format!("annotation {PASSIVE} {other:?} is neither true nor false; false is used"));
            false
        }
    }
}

fn number(setting: &Setting, meta: &ObjectMeta, faults: &mut Faults) -> u32 {
    let Setting { annotation, min, max, default } = *setting;
    let text = meta.annotations.as_ref().and_then(|annotations| annotations.get(annotation));
    let Some(text) = text else { return default };
    match text.parse() {
        Ok(value) if (min..=max).contains(&value) => value,
        _ => {
            faults.add(format!(
                "annotation {annotation} {text:?} is not a number between {min} and {max}; {default} is used"
            ));
            default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    /// The policy of a Service with these annotations, and the faults in them.
    fn read(annotations: &[(&str, &str)]) -> (HealthPolicy, Vec<String>) {
        let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let meta = ObjectMeta { annotations: Some(annotations.collect()), ..ObjectMeta::default() };
        let mut faults = Faults::of("Service", &ObjectName::new("shop", "cart"));
        let policy = of_annotations(&meta, &mut faults);
        (policy, faults.problems.into_iter().map(|problem| problem.message).collect())
    }

    #[test]
    fn panic_threshold_is_a_percentage_and_zero_by_default() {
        assert_eq!(read(&[]).0.panic_threshold_percent, 0);
        assert_eq!(read(&[("podway.io/panic-threshold-percent", "50")]).0.panic_threshold_percent, 50);
        assert_eq!(
            read(&[("podway.io/panic-threshold-percent", "101")]),
            (
                HealthPolicy::default(),
                vec![
                    "annotation podway.io/panic-threshold-percent \"101\" is not a number between 0 and 100; 0 is used"
                        .to_owned()
                ]
            )
        );
    }

    #[test]
    fn passive_health_is_on_when_asked_for() {
        assert_eq!(read(&[("podway.io/passive-health", "false")]).0.passive, None);
        let expected = PassivePolicy {
            consecutive_failures: 5,
            failure_percent: 85,
            flows_min: 50,
            ejection_ms: 30_000,
            ejection_max_ms: 300_000,
            ejected_percent_max: 50,
        };
        assert_eq!(
            read(&[("podway.io/passive-health", "true")]),
            (HealthPolicy { passive: Some(expected.into()), ..HealthPolicy::default() }, vec![],)
        );
    }

    #[test]
    fn bad_values_of_passive_health_are_named_and_the_default_holds() {
        let annotations =
            [("podway.io/passive-health", "true"), ("podway.io/passive-health-ejected-max-percent", "all")];
        let (policy, faults) = read(&annotations);
        assert_eq!(policy.passive.map(|passive| passive.ejected_percent_max), Some(50));
        assert_eq!(
            faults,
            [
                "annotation podway.io/passive-health-ejected-max-percent \"all\" is not a number between 0 and 100; 50 \
              is used"
            ]
        );
        assert_eq!(
            read(&[("podway.io/passive-health", "on")]).1,
            ["annotation podway.io/passive-health \"on\" is neither true nor false; false is used"]
        );
    }

    #[test]
    fn slow_start_is_off_unless_asked_for() {
        assert_eq!(read(&[]).0.slow_start_s, 0);
        assert_eq!(read(&[("podway.io/slow-start-seconds", "60")]).0.slow_start_s, 60);
    }
}
