//! Two sides, frontend by frontend.
use std::collections::BTreeSet;

use serde::Serialize;

use super::{Frontends, Handling, Outcome, Place, Range};
use crate::model::ObjectName;

/// One thing that the two sides do differently. JSON field names and the texts of `what` are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The frontend.
    pub frontend: String,
    /// Its Service.
    pub service: String,
    /// `frontend`, `internal`, `external`, `affinity` or `sourceRanges`.
    pub what: &'static str,
    /// What kube-proxy does.
    pub kube_proxy: String,
    /// What Podway does.
    pub podway: String,
}

/// All differences, in the order of the frontends. With `only`, those of other Services are left out.
#[must_use]
pub fn compare(kube_proxy: &Frontends, podway: &Frontends, only: &BTreeSet<ObjectName>) -> Vec<Difference> {
    let places: BTreeSet<&Place> = kube_proxy.keys().chain(podway.keys()).collect();
    let vips: BTreeSet<Range> = kube_proxy.keys().map(whole).collect();
    let mut differences = Vec::new();
    for place in places {
        let sides = (kube_proxy.get(place), podway.get(place));
        let service = [sides.0, sides.1].into_iter().flatten().find_map(|side| side.service.clone());
        if !only.is_empty() && !service.as_ref().is_some_and(|service| only.contains(service)) {
            continue;
        }
        let mut add = |what, kube_proxy: String, podway: String| {
            differences.push(Difference {
                frontend: place.to_string(),
                service: service.as_ref().map(ToString::to_string).unwrap_or_default(),
                what,
                kube_proxy,
                podway,
            });
        };
        match sides {
            (Some(kube_proxy), Some(podway)) => both(kube_proxy, podway, &vips, &mut add),
            (Some(kube_proxy), None) => {
                add("frontend", kube_proxy.external.to_string(), "missing".to_owned());
            }
            (None, Some(podway)) => add("frontend", "missing".to_owned(), podway.external.to_string()),
            (None, None) => {}
        }
    }
    differences
}

fn both(
    kube_proxy: &Handling,
    podway: &Handling,
    vips: &BTreeSet<Range>,
    add: &mut impl FnMut(&'static str, String, String),
) {
    for (what, ours, theirs) in [
        ("internal", &podway.internal, &kube_proxy.internal),
        ("external", &podway.external, &kube_proxy.external),
    ] {
        if ours != theirs {
            add(what, theirs.to_string(), ours.to_string());
        }
    }
    // kube-proxy's rules for affinity stand beside its endpoints; without these there are none.
    let has_endpoints =
        [&kube_proxy.internal, &kube_proxy.external].iter().any(|o| matches!(o, Outcome::OneOf(_)));
    if has_endpoints && kube_proxy.affinity_timeout_s != podway.affinity_timeout_s {
        add("affinity", seconds(kube_proxy.affinity_timeout_s), seconds(podway.affinity_timeout_s));
    }
    let theirs = kube_proxy.source_ranges.as_ref().map(|ranges| without_vips(ranges, podway, vips));
    if theirs != podway.source_ranges {
        add("sourceRanges", ranges(theirs.as_ref()), ranges(podway.source_ranges.as_ref()));
    }
}

/// Where a range covers the node itself, kube-proxy also lets in the balancer's own addresses, for nodes that
/// have these on an interface and dial from them.
fn without_vips(theirs: &BTreeSet<Range>, podway: &Handling, vips: &BTreeSet<Range>) -> BTreeSet<Range> {
    let is_ours = |range: &Range| podway.source_ranges.as_ref().is_some_and(|ours| ours.contains(range));
    theirs.iter().filter(|range| is_ours(range) || !vips.contains(range)).copied().collect()
}

fn whole(place: &Place) -> Range {
    (place.address, if place.address.is_ipv4() { 32 } else { 128 })
}

fn seconds(timeout_s: Option<u32>) -> String {
    timeout_s.map_or("none".to_owned(), |timeout_s| format!("{timeout_s} s"))
}

fn ranges(ranges: Option<&BTreeSet<Range>>) -> String {
    let text = |(address, bits): &Range| format!("{address}/{bits}");
    ranges.map_or("all".to_owned(), |ranges| ranges.iter().map(text).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn one_of(endpoints: &[&str]) -> Outcome {
        Outcome::OneOf(endpoints.iter().map(|text| text.parse().expect("an endpoint")).collect())
    }

    fn side(address: &str, handling: Handling) -> Frontends {
        let place =
            Place { address: address.parse().expect("an address"), port: 80, protocol: Protocol::Tcp };
        [(place, handling)].into()
    }

    fn web() -> Handling {
        Handling {
            service: Some(ObjectName::new("shop", "web")),
            internal: one_of(&["192.0.2.1:8080"]),
            external: one_of(&["192.0.2.1:8080"]),
            affinity_timeout_s: None,
            source_ranges: None,
        }
    }

    /// The differences as `what kube-proxy podway`.
    fn differences(kube_proxy: Handling, podway: Handling) -> Vec<String> {
        let sides = (side("203.0.113.9", kube_proxy), side("203.0.113.9", podway));
        let found = compare(&sides.0, &sides.1, &BTreeSet::new());
        found.iter().map(|d| format!("{}: {} | {}", d.what, d.kube_proxy, d.podway)).collect()
    }

    #[test]
    fn equal_sides_have_no_difference() {
        assert_eq!(differences(web(), web()), [""; 0]);
    }

    #[test]
    fn a_frontend_of_one_side_is_named_with_its_service() {
        let found = compare(&side("203.0.113.9", web()), &Frontends::new(), &BTreeSet::new());
        assert_eq!(
            found,
            [Difference {
                frontend: "203.0.113.9:80/TCP".to_owned(),
                service: "shop/web".to_owned(),
                what: "frontend",
                kube_proxy: "192.0.2.1:8080".to_owned(),
                podway: "missing".to_owned(),
            }]
        );
        let found = compare(&Frontends::new(), &side("203.0.113.9", web()), &BTreeSet::new());
        assert_eq!(found[0].kube_proxy, "missing");
    }

    #[test]
    fn endpoints_are_compared_for_each_scope() {
        let other = Handling { external: Outcome::Drop, ..web() };
        assert_eq!(differences(web(), other), ["external: 192.0.2.1:8080 | drop"]);
        let other = Handling { internal: one_of(&["192.0.2.2:8080"]), ..web() };
        assert_eq!(differences(web(), other), ["internal: 192.0.2.1:8080 | 192.0.2.2:8080"]);
    }

    #[test]
    fn refusing_is_not_dropping() {
        let with = |external| Handling { external, ..web() };
        assert_eq!(differences(with(Outcome::Refuse), with(Outcome::Drop)), ["external: refuse | drop"]);
    }

    #[test]
    fn affinity_is_compared_where_there_are_endpoints() {
        let sticky = Handling { affinity_timeout_s: Some(600), ..web() };
        assert_eq!(differences(sticky.clone(), web()), ["affinity: 600 s | none"]);
        let empty = |handling| Handling { internal: Outcome::Refuse, external: Outcome::Refuse, ..handling };
        assert_eq!(differences(empty(web()), empty(sticky)), [""; 0]);
    }

    #[test]
    fn source_ranges_are_compared_but_for_the_balancers_own_address() {
        let ranged = |texts: &[(&str, u8)]| Handling {
            source_ranges: Some(
                texts.iter().map(|(a, bits)| (a.parse().expect("an address"), *bits)).collect(),
            ),
            ..web()
        };
        let theirs = ranged(&[("198.51.100.0", 24), ("203.0.113.9", 32)]);
        assert_eq!(differences(theirs.clone(), ranged(&[("198.51.100.0", 24)])), [""; 0]);
        assert_eq!(differences(theirs, web()), ["sourceRanges: 198.51.100.0/24 | all"]);
    }

    #[test]
    fn other_services_are_left_out_on_request() {
        let only = |name| BTreeSet::from([ObjectName::new("shop", name)]);
        assert_eq!(compare(&side("203.0.113.9", web()), &Frontends::new(), &only("cart")), []);
        assert_eq!(compare(&side("203.0.113.9", web()), &Frontends::new(), &only("web")).len(), 1);
    }
}
