//! What a Service's annotations ask to be done with what is known of its endpoints' health.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Faults;
use crate::model::HealthPolicy;

/// An annotation with a number, its bounds and what holds without it.
struct Setting {
    annotation: &'static str,
    min: u32,
    max: u32,
    default: u32,
}

const PANIC_THRESHOLD: Setting =
    Setting { annotation: "podway.io/panic-threshold-percent", min: 0, max: 100, default: 0 };

/// The policy. A bad value gives a fault and the default.
pub(super) fn of_annotations(meta: &ObjectMeta, faults: &mut Faults) -> HealthPolicy {
    HealthPolicy { panic_threshold_percent: number(&PANIC_THRESHOLD, meta, faults) }
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
}
