//! What Podway's own annotations ask for, those of the health check aside. A value that cannot be
//! used gives a fault, and the default holds.
use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Faults;
use crate::model::{DrainContract, ExternalMode};

/// On a Service: what becomes of the TCP flows of an endpoint that is gone, `keep` or `reset`.
const DRAIN: &str = "podway.io/drain";

/// On a Service: seconds for which `keep` keeps them.
const DRAIN_DEADLINE: &str = "podway.io/drain-deadline-seconds";

/// A week: an endpoint id is held as long.
const DRAIN_DEADLINE_MAX_S: u32 = 604_800;

/// On a Service: `snat` or `dsr`, before the agent's `--external-mode`.
const EXTERNAL_MODE: &str = "podway.io/external-mode";

/// On an EndpointSlice: the weight of all its endpoints.
const WEIGHT: &str = "podway.io/weight";

/// On a Service or an EndpointSlice: weights by address, `10.4.2.9=3,10.4.2.10=0`.
const ENDPOINT_WEIGHTS: &str = "podway.io/endpoint-weights";

/// Greatest weight: with more, the least share would be less than a slot of the longest ring.
const WEIGHT_MAX: u16 = 1_000;

/// On an EndpointSlice, from the controller that writes it: the change that made it do so (RFC 3339).
const CHANGE_TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// When the pod or Service changed that made an EndpointSlice change, milliseconds since 1970. It is only measured
/// by, so one that cannot be read is no fault.
pub(super) fn change_trigger_unix_ms(meta: &ObjectMeta) -> Option<u64> {
    let at: k8s_openapi::jiff::Timestamp = text(meta, CHANGE_TRIGGER)?.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

pub(super) fn text<'a>(meta: &'a ObjectMeta, annotation: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(annotation).map(String::as_str)
}

/// The drain contract that a Service asks for.
pub(super) fn drain(meta: &ObjectMeta, faults: &mut Faults) -> Option<DrainContract> {
    if text(meta, DRAIN).is_none() && text(meta, DRAIN_DEADLINE).is_none() {
        return None;
    }
    let default = DrainContract::default();
    let deadline_s = match text(meta, DRAIN_DEADLINE) {
        None => default.deadline_s,
        Some(text) => match text.parse() {
            Ok(seconds) if (1..=DRAIN_DEADLINE_MAX_S).contains(&seconds) => seconds,
            _ => {
                faults.add(format!(
                    "annotation {DRAIN_DEADLINE} {text:?} is not a number between 1 and {DRAIN_DEADLINE_MAX_S}; \
                     {} is used",
                    default.deadline_s
                ));
                default.deadline_s
            }
        },
    };
    Some(match text(meta, DRAIN) {
        None | Some("keep") => DrainContract { deadline_s },
        Some("reset") => DrainContract { deadline_s: 0 },
        Some(other) => {
            faults.add(format!(
                "annotation {DRAIN} {other:?} is unknown; use \"keep\" or \"reset\"; keep is used"
            ));
            DrainContract { deadline_s }
        }
    })
}

/// The external mode that a Service asks for.
pub(super) fn external_mode(meta: &ObjectMeta, faults: &mut Faults) -> Option<ExternalMode> {
    match text(meta, EXTERNAL_MODE)? {
        "snat" => Some(ExternalMode::Snat),
        "dsr" => Some(ExternalMode::Dsr),
        other => {
            faults.add(format!(
                "annotation {EXTERNAL_MODE} {other:?} is unknown; use \"snat\" or \"dsr\"; the agent's \
                 --external-mode is used"
            ));
            None
        }
    }
}

/// The weight of all endpoints of a slice.
pub(super) fn weight(meta: &ObjectMeta, faults: &mut Faults) -> Option<u16> {
    let text = text(meta, WEIGHT)?;
    let weight = weight_of(text);
    if weight.is_none() {
        faults.add(format!(
            "annotation {WEIGHT} {text:?} is not a number between 0 and {WEIGHT_MAX}; 1 is used"
        ));
    }
    weight
}

/// Weights by address. Each bad entry is left out alone.
pub(super) fn endpoint_weights(meta: &ObjectMeta, faults: &mut Faults) -> BTreeMap<IpAddr, u16> {
    let mut weights = BTreeMap::new();
    let entries = text(meta, ENDPOINT_WEIGHTS).into_iter().flat_map(|text| text.split(','));
    for entry in entries.map(str::trim).filter(|entry| !entry.is_empty()) {
        let parsed = entry.split_once('=').and_then(|(address, weight)| {
            Some((address.trim().parse::<IpAddr>().ok()?, weight_of(weight.trim())?))
        });
        match parsed {
            Some((address, weight)) => drop(weights.insert(address, weight)),
            None => faults.add(format!(
                "annotation {ENDPOINT_WEIGHTS}: {entry:?} is not ADDRESS=WEIGHT with a weight between 0 and \
                 {WEIGHT_MAX}; it is left out"
            )),
        }
    }
    weights
}

fn weight_of(text: &str) -> Option<u16> {
    text.parse().ok().filter(|weight| *weight <= WEIGHT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    fn meta(annotations: &[(&str, &str)]) -> ObjectMeta {
        let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ObjectMeta { annotations: Some(annotations.collect()), ..ObjectMeta::default() }
    }

    /// What a reader makes of annotations, and the faults it finds.
    fn read<T>(annotations: &[(&str, &str)], reader: fn(&ObjectMeta, &mut Faults) -> T) -> (T, Vec<String>) {
        let mut faults = Faults::of("Service", &ObjectName::new("shop", "cart"));
        let value = reader(&meta(annotations), &mut faults);
        (value, faults.problems.into_iter().map(|problem| problem.message).collect())
    }

    #[test]
    fn flows_of_a_gone_endpoint_are_kept_for_an_hour_unless_told_otherwise() {
        assert_eq!(read(&[], drain), (None, vec![]));
        let keep = [("podway.io/drain", "keep")];
        assert_eq!(read(&keep, drain), (Some(DrainContract { deadline_s: 3_600 }), vec![]));
        let deadline = [("podway.io/drain", "keep"), ("podway.io/drain-deadline-seconds", "90")];
        assert_eq!(read(&deadline, drain), (Some(DrainContract { deadline_s: 90 }), vec![]));
    }

    #[test]
    fn reset_leaves_no_time_whatever_the_deadline() {
        let annotations = [("podway.io/drain", "reset"), ("podway.io/drain-deadline-seconds", "90")];
        assert_eq!(read(&annotations, drain).0, Some(DrainContract { deadline_s: 0 }));
    }

    #[test]
    fn bad_drain_annotations_are_named_and_the_default_holds() {
        let annotations = [("podway.io/drain", "slowly"), ("podway.io/drain-deadline-seconds", "0")];
        let (contract, faults) = read(&annotations, drain);
        assert_eq!(contract, Some(DrainContract { deadline_s: 3_600 }));
        assert_eq!(
            faults,
            [
                "annotation podway.io/drain-deadline-seconds \"0\" is not a number between 1 and 604800; 3600 is \
                 used",
                "annotation podway.io/drain \"slowly\" is unknown; use \"keep\" or \"reset\"; keep is used"
            ]
        );
    }

    #[test]
    fn external_mode_is_snat_or_dsr() {
        let of = |value| read(&[("podway.io/external-mode", value)], external_mode);
        assert_eq!(of("dsr"), (Some(ExternalMode::Dsr), vec![]));
        assert_eq!(of("snat"), (Some(ExternalMode::Snat), vec![]));
        assert_eq!(
            of("ipip").1,
            ["annotation podway.io/external-mode \"ipip\" is unknown; use \"snat\" or \"dsr\"; the agent's \
                 --external-mode is used"]
        );
    }

    #[test]
    fn a_bad_weight_is_left_out_alone() {
        let text = "192.0.2.9=3, 2001:db8::9=0,192.0.2.10,192.0.2.11=1001,";
        let (weights, faults) = read(&[("podway.io/endpoint-weights", text)], endpoint_weights);
        let expected = [("192.0.2.9", 3), ("2001:db8::9", 0)];
        assert_eq!(weights, expected.map(|(address, weight)| (address.parse().unwrap(), weight)).into());
        assert_eq!(
            faults,
            [
                "annotation podway.io/endpoint-weights: \"192.0.2.10\" is not ADDRESS=WEIGHT with a weight between 0 \
                 and 1000; it is left out",
                "annotation podway.io/endpoint-weights: \"192.0.2.11=1001\" is not ADDRESS=WEIGHT with a weight \
                 between 0 and 1000; it is left out"
            ]
        );
    }

    #[test]
    fn a_slice_has_one_weight() {
        assert_eq!(read(&[("podway.io/weight", "7")], weight), (Some(7), vec![]));
        assert_eq!(
            read(&[("podway.io/weight", "-1")], weight).1,
            ["annotation podway.io/weight \"-1\" is not a number between 0 and 1000; 1 is used"]
        );
    }
}
