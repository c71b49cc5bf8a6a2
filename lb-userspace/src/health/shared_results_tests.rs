use std::collections::btree_map::Entry;

use proptest::prelude::*;

use super::*;
use crate::model::{ObjectName, Protocol};
use crate::plan::BackendServiceName;

const SETTLES_MS: u64 = 40_000;

fn target(host: u8) -> Target {
    let name = BackendServiceName {
        service: ObjectName::new("shop", "cart"),
        port_name: "http".into(),
        port: 80,
        protocol: Protocol::Tcp,
    };
    Target { backend_service: name.into(), address: std::net::IpAddr::from([192, 0, 2, host]), port: 8080 }
}

fn found(host: u8, is_healthy: bool) -> HealthEvent {
    let finding = Finding { is_healthy, since: SystemTime::UNIX_EPOCH, reason: "a probe".into() };
    HealthEvent::Found(target(host), finding)
}

/// Targets 1 to 9 are there; the even ones are of this node's share.
fn resolve(keys: &BTreeSet<u64>) -> BTreeMap<u64, Resolved> {
    let all = (1..10).map(|host| {
        let settles_ms = (host % 2 == 0).then_some(SETTLES_MS);
        (target_key(&target(host)), Resolved { target: target(host), settles_ms })
    });
    all.filter(|(key, _)| keys.contains(key)).collect()
}

fn keys(hosts: &[u8]) -> BTreeSet<u64> {
    hosts.iter().map(|host| target_key(&target(*host))).collect()
}

/// What changes, as host and whether it is healthy; `None` for one that is forgotten.
fn settle(results: &mut SharedResults, now_ms: u64) -> Vec<(u8, Option<bool>)> {
    let host = |target: &Target| match target.address {
        std::net::IpAddr::V4(address) => address.octets()[3],
        std::net::IpAddr::V6(_) => unreachable!("no such target"),
    };
    let mut changes: Vec<_> = results
        .settle(resolve, now_ms, SystemTime::UNIX_EPOCH)
        .iter()
        .map(|(event, _)| match event {
            HealthEvent::Found(target, finding) => (host(target), Some(finding.is_healthy)),
            HealthEvent::Forgotten(target) => (host(target), None),
        })
        .collect();
    changes.sort_unstable();
    changes
}

#[test]
fn alone_its_own_findings_are_in_force_at_once() {
    let mut results = SharedResults::default();
    assert!(results.own(&found(2, false)));
    assert_eq!(settle(&mut results, 0), []);
}

#[test]
fn own_finding_is_a_vote_and_most_votes_decide() {
    let mut results = SharedResults::default();
    results.hear(Standing::Fresh, &keys(&[]), 0);
    assert!(!results.own(&found(2, false)));
    assert_eq!(settle(&mut results, 0), []);
    assert_eq!(results.votes(0, 9), keys(&[2]));
    results.hear(Standing::Fresh, &keys(&[2, 3]), 0);
    assert_eq!(settle(&mut results, 0), [(2, Some(false)), (3, Some(false))]);
    results.hear(Standing::Fresh, &keys(&[3]), 0);
    assert_eq!(settle(&mut results, 0), [(2, Some(true))]);
}

#[test]
fn what_is_found_alone_gives_way_to_what_is_heard() {
    let mut results = SharedResults::default();
    results.own(&found(2, false));
    results.hear(Standing::Fresh, &keys(&[3]), 0);
    assert_eq!(settle(&mut results, 0), [(2, Some(true)), (3, Some(false))]);
    results.hear(Standing::Alone, &keys(&[3]), 0);
    assert_eq!(settle(&mut results, 0), [(2, Some(false)), (3, Some(true))]);
}

#[test]
fn with_the_server_away_own_findings_go_before_what_was_heard_last() {
    let mut results = SharedResults::default();
    results.hear(Standing::Fresh, &keys(&[2, 3]), 0);
    settle(&mut results, 0);
    results.hear(Standing::Stale, &keys(&[2, 3]), 0);
    results.own(&found(2, true));
    results.own(&found(4, false));
    assert_eq!(settle(&mut results, 0), [(2, Some(true)), (4, Some(false))]);
}

#[test]
fn of_more_than_are_told_a_node_goes_by_its_own_findings() {
    let mut results = SharedResults::default();
    results.own(&found(2, false));
    results.hear(Standing::Fresh, &keys(&[3]), 1);
    assert_eq!(settle(&mut results, 0), [(3, Some(false))]);
}

#[test]
fn target_that_is_gone_is_forgotten_and_one_that_comes_is_found() {
    let mut results = SharedResults::default();
    results.hear(Standing::Fresh, &keys(&[3, 77]), 0);
    assert_eq!(settle(&mut results, 0), [(3, Some(false))]);
    results.note_targets();
    let none = |_: &BTreeSet<u64>| BTreeMap::new();
    let events = results.settle(none, 0, SystemTime::UNIX_EPOCH);
    assert_eq!(events, [(HealthEvent::Forgotten(target(3)), Reporter::Peer)]);
    results.note_targets();
    assert_eq!(settle(&mut results, 0), [(3, Some(false))]);
}

#[test]
fn new_prober_votes_as_all_did_until_it_can_have_found_out() {
    let mut results = SharedResults::default();
    results.hear(Standing::Fresh, &keys(&[2, 3]), 0);
    settle(&mut results, 1_000);
    // 3 is not of its share.
    assert_eq!(results.votes(1_000, 9), keys(&[2]));
    results.note_targets();
    settle(&mut results, 30_000);
    let votes = [1_000 + SETTLES_MS - 1, 1_000 + SETTLES_MS].map(|now_ms| results.votes(now_ms, 9).len());
    assert_eq!(votes, [1, 0]);
    results.own(&found(2, true));
    assert_eq!(results.votes(1_000, 9), keys(&[]));
}

#[test]
fn votes_are_bounded() {
    let mut results = SharedResults::default();
    for host in 1..10 {
        results.own(&found(host, false));
    }
    assert_eq!(results.votes(0, 4).len(), 4);
}

/// What befalls a node.
#[derive(Clone, Debug)]
enum Step {
    Found(u8, bool),
    Forgotten(u8),
    Heard(u8, BTreeSet<u8>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1u8..10, any::<bool>()).prop_map(|(host, is_healthy)| Step::Found(host, is_healthy)),
        (1u8..10).prop_map(Step::Forgotten),
        (0u8..3, proptest::collection::btree_set(1u8..10, 0..6)).prop_map(|(s, hosts)| Step::Heard(s, hosts)),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    /// The events, added up, are what a model says that knows no past: own findings and what was heard last.
    #[test]
    fn events_add_up_to_what_is_known(steps in steps()) {
        let mut results = SharedResults::default();
        let mut unhealthy: BTreeSet<u8> = BTreeSet::new();
        let (mut own, mut heard) = (BTreeMap::<u8, bool>::new(), BTreeSet::<u8>::new());
        let mut standing = Standing::Alone;
        for step in steps {
            match step {
                Step::Found(host, is_healthy) => {
                    // A prober tells changes alone, and begins with healthy.
                    if let Entry::Vacant(_) = own.entry(host) && is_healthy {
                        continue;
                    }
                    own.insert(host, is_healthy);
                    if results.own(&found(host, is_healthy)) {
                        if is_healthy { unhealthy.remove(&host); } else { unhealthy.insert(host); }
                    }
                }
                Step::Forgotten(host) => {
                    own.remove(&host);
                    if results.own(&HealthEvent::Forgotten(target(host))) {
                        unhealthy.remove(&host);
                    }
                }
                Step::Heard(number, hosts) => {
                    standing = [Standing::Alone, Standing::Fresh, Standing::Stale][usize::from(number)];
                    results.hear(standing, &keys(&hosts.iter().copied().collect::<Vec<_>>()), 0);
                    heard = hosts;
                }
            }
            for (host, is_healthy) in settle(&mut results, 0) {
                prop_assert!(is_healthy.is_some(), "nothing is gone");
                let is_news = match is_healthy == Some(true) {
                    true => unhealthy.remove(&host),
                    false => unhealthy.insert(host),
                };
                prop_assert!(is_news, "host {} did not change", host);
            }
            let expected: BTreeSet<u8> = (1..10)
                .filter(|host| match standing {
                    Standing::Alone => own.get(host) == Some(&false),
                    Standing::Fresh => heard.contains(host),
                    Standing::Stale => own.get(host).map_or(heard.contains(host), |is_healthy| !is_healthy),
                })
                .collect();
            prop_assert_eq!(&unhealthy, &expected);
        }
    }
}
