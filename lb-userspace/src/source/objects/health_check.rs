//! The health check that a Service's annotations ask for.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Faults;
use crate::model::HealthCheck;

/// Switches the check on; the only value is `tcp`.
const CHECK: &str = "podway.io/health-check";

/// An annotation with a number, its bounds and what holds without it.
struct Setting {
    annotation: &'static str,
    min: u32,
    max: u32,
    default: u32,
}

/// The defaults are those of a Kubernetes probe where it has them (`successThreshold` 1,
/// `failureThreshold` 3, `timeoutSeconds` 1), with a shorter interval: a check that is slower than
/// the kubelet's adds nothing to readiness.
const INTERVAL_MS: Setting =
    Setting { annotation: "podway.io/health-check-interval-ms", min: 100, max: 3_600_000, default: 2_000 };
const TIMEOUT_MS: Setting =
    Setting { annotation: "podway.io/health-check-timeout-ms", min: 10, max: 60_000, default: 1_000 };
const HEALTHY_THRESHOLD: Setting =
    Setting { annotation: "podway.io/health-check-healthy-threshold", min: 1, max: 100, default: 1 };
const UNHEALTHY_THRESHOLD: Setting =
    Setting { annotation: "podway.io/health-check-unhealthy-threshold", min: 1, max: 100, default: 3 };

/// The check, or `None` where readiness alone decides. A bad value gives a fault and the default.
pub(super) fn of_annotations(meta: &ObjectMeta, faults: &mut Faults) -> Option<HealthCheck> {
    let annotations = meta.annotations.as_ref()?;
    match annotations.get(CHECK)?.as_str() {
        "tcp" => {}
        other => {
            faults.add(format!(
                "annotation {CHECK} {other:?} is unknown; use \"tcp\"; readiness alone decides"
            ));
            return None;
        }
    }
    let mut read = |setting: &Setting| {
        let Some(text) = annotations.get(setting.annotation) else { return setting.default };
        match text.parse::<u32>() {
            Ok(value) if (setting.min..=setting.max).contains(&value) => value,
            _ => {
                let Setting { annotation, min, max, default } = setting;
                faults.add(format!(
                    "annotation {annotation} {text:?} is not a number between {min} and {max}; {default} is used"
                ));
                setting.default
            }
        }
    };
    Some(HealthCheck {
        interval_ms: read(&INTERVAL_MS),
        timeout_ms: read(&TIMEOUT_MS),
        healthy_threshold: read(&HEALTHY_THRESHOLD),
        unhealthy_threshold: read(&UNHEALTHY_THRESHOLD),
    })
}
