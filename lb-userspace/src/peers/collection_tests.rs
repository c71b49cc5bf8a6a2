use super::*;
use crate::health::PROBERS_DEFAULT;

const HOLDS_MS: u64 = 40_000;

fn report(programmed: u64) -> Report {
    Report { programmed, ..Report::default() }
}

fn heard(report: Report, renewed_us: i64) -> Heard {
    Heard { report, renewed_us, holds_ms: HOLDS_MS }
}

/// A collector on `node-a` in a cluster of three nodes, whose own maps are well ahead.
struct Fixture {
    collection: Collection,
    own: Report,
}

impl Fixture {
    fn new() -> Self {
        Self { collection: Collection::new(PROBERS_DEFAULT), own: report(99) }
    }

    fn note(&mut self, node: &str, report: Report, now_ms: u64) {
        self.collection.note(node, heard(report, now_ms as i64), now_ms);
    }

    fn summary(&mut self, now_ms: u64) -> Summary {
        let nodes = ["node-a", "node-b", "node-c"].map(Into::into).into();
        self.collection.summary((&"node-a".into(), &self.own), &nodes, now_ms)
    }
}

fn absent(summary: &Summary) -> Vec<&str> {
    summary.absent.iter().map(|node| &**node).collect()
}

#[test]
fn cluster_is_as_far_as_the_agent_that_is_last() {
    let mut fixture = Fixture::new();
    fixture.note("node-b", report(7), 0);
    fixture.note("node-c", Report { behind: ["shop/cart".to_owned()].into(), ..report(9) }, 0);
    let summary = fixture.summary(0);
    assert_eq!((summary.programmed, summary.behind), (7, ["shop/cart".to_owned()].into()));
}

#[test]
fn report_by_a_clock_that_was_set_back_is_renewed() {
    let mut fixture = Fixture::new();
    let hour_us = 3_600_000_000;
    fixture.collection.note("node-b", heard(report(7), 2 * hour_us), 0);
    fixture.collection.note("node-b", heard(report(8), hour_us), 20_000);
    fixture.note("node-c", report(9), 20_000);
    let summary = fixture.summary(20_000 + HOLDS_MS - 1);
    assert_eq!((summary.programmed, absent(&summary)), (8, vec![]));
}

#[test]
fn agent_that_does_not_renew_is_not_waited_for() {
    let mut fixture = Fixture::new();
    fixture.note("node-b", report(7), 0);
    fixture.note("node-c", report(8), 0);
    fixture.note("node-c", report(8), 20_000);
    // Read once more, by a new watch.
    fixture.collection.note("node-b", heard(report(7), 0), 30_000);
    let before = fixture.summary(HOLDS_MS - 1);
    assert_eq!((before.programmed, absent(&before)), (7, vec![]));
    let after = fixture.summary(HOLDS_MS);
    assert_eq!((after.programmed, absent(&after)), (8, vec!["node-b"]));
}

#[test]
fn nobody_is_absent_for_what_the_server_missed() {
    let mut fixture = Fixture::new();
    fixture.note("node-b", report(7), 0);
    fixture.note("node-c", report(8), 0);
    fixture.collection.pardon(HOLDS_MS);
    assert_eq!(absent(&fixture.summary(HOLDS_MS)), [""; 0]);
}

#[test]
fn report_that_is_over_may_go_with_its_node() {
    let mut fixture = Fixture::new();
    fixture.note("node-b", report(7), 0);
    fixture.note("node-z", report(7), 0);
    let nodes = ["node-a".into(), "node-b".into()].into();
    assert_eq!(fixture.collection.over(&nodes, HOLDS_MS - 1), None);
    assert_eq!(fixture.collection.over(&nodes, HOLDS_MS).as_deref(), Some("node-z"));
}

#[test]
fn agent_of_a_node_that_is_gone_is_not_waited_for() {
    let mut fixture = Fixture::new();
    fixture.note("node-z", report(1), 0);
    let summary = fixture.summary(0);
    assert_eq!((summary.programmed, absent(&summary)), (99, vec!["node-b", "node-c"]));
}

#[test]
fn agents_are_asked_once_in_a_round() {
    let mut fixture = Fixture::new();
    let wanted = |wanted| Report { wanted, ..report(7) };
    fixture.note("node-b", wanted(10), 0);
    assert_eq!(fixture.summary(0).wanted, 10);
    fixture.note("node-b", wanted(12), 500);
    assert_eq!([500, 999, 1_000].map(|now_ms| fixture.summary(now_ms).wanted), [10, 10, 12]);
    fixture.note("node-b", wanted(0), 1_100);
    assert_eq!(fixture.summary(1_100).wanted, 0, "nobody waits any more");
}

#[test]
fn endpoint_is_unhealthy_by_most_of_its_live_probers() {
    let mut fixture = Fixture::new();
    let finds = |keys: &[u64]| Report { unhealthy: Keys(keys.iter().copied().collect()), ..report(9) };
    fixture.own = finds(&[1]);
    fixture.note("node-b", finds(&[1, 2]), 0);
    fixture.note("node-c", finds(&[2, 3]), 20_000);
    let unhealthy = |summary: Summary| summary.unhealthy.0.into_iter().collect::<Vec<_>>();
    assert_eq!(unhealthy(fixture.summary(20_000)), [1, 2]);
    // Of two that are left both must say so.
    assert_eq!(unhealthy(fixture.summary(HOLDS_MS)), [0; 0]);
}

#[test]
fn too_many_unhealthy_endpoints_are_counted() {
    let mut fixture = Fixture::new();
    fixture.own.unhealthy = Keys((0..KEYS_MAX as u64 + 5).collect());
    let summary = fixture.summary(0);
    assert_eq!((summary.unhealthy.0.len(), summary.left_out), (KEYS_MAX, 5));
}

#[test]
fn too_many_services_behind_hold_all_back() {
    let mut fixture = Fixture::new();
    fixture.own.behind = (0..=SERVICES_MAX).map(|index| format!("shop/web-{index}")).collect();
    let summary = fixture.summary(0);
    assert_eq!((summary.programmed, summary.behind.len()), (0, 0));
}
