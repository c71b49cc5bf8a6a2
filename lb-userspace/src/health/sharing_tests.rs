use proptest::prelude::*;

use super::*;
use crate::model::{CheckKind, Protocol};
use crate::plan::BackendServiceName;

const PROBERS: usize = 3;

fn service(index: usize) -> ObjectName {
    ObjectName::new("shop", &format!("web-{index}"))
}

/// So many targets of one Service.
fn targets(index: usize, count: usize) -> Targets {
    let check = Arc::new(HealthCheck {
        kind: CheckKind::Tcp,
        port: None,
        interval_ms: 10_000,
        timeout_ms: 5_000,
        healthy_threshold: 2,
        unhealthy_threshold: 3,
    });
    let name = BackendServiceName {
        service: service(index),
        port_name: "http".into(),
        port: 80,
        protocol: Protocol::Tcp,
    };
    let name = Arc::new(name);
    let target = |host: usize| Target {
        backend_service: Arc::clone(&name),
        address: std::net::IpAddr::from([198, 51, (host / 256) as u8, (host % 256) as u8]),
        port: 8080,
    };
    (0..count).map(|host| (target(host), Arc::clone(&check))).collect()
}

fn node(index: usize) -> Arc<str> {
    format!("node-{index}").into()
}

fn nodes(indices: impl IntoIterator<Item = usize>) -> BTreeSet<Arc<str>> {
    indices.into_iter().map(node).collect()
}

/// The probers of all targets, by an electorate of these nodes.
fn elected(nodes: &BTreeSet<Arc<str>>, targets: &Targets) -> BTreeMap<Target, BTreeSet<String>> {
    let electorate = Electorate::new(nodes.iter().map(|node| &**node), PROBERS);
    let of =
        |target: &Target| electorate.probers(target_key(target)).into_iter().map(str::to_owned).collect();
    targets.keys().map(|target| (target.clone(), of(target))).collect()
}

#[test]
fn keys_and_probers_are_the_same_in_every_build() {
    let targets = targets(0, 2);
    let keys: Vec<String> = targets.keys().map(|target| format!("{:016x}", target_key(target))).collect();
    assert_eq!(keys, ["e03162f31bc5f87c", "e112c8f6fa30d612"]);
    let elected = elected(&nodes(0..9), &targets);
    let probers: Vec<Vec<&str>> =
        elected.values().map(|nodes| nodes.iter().map(String::as_str).collect()).collect();
    assert_eq!(probers, [["node-4", "node-7", "node-8"], ["node-1", "node-2", "node-7"]]);
}

#[test]
fn each_node_gets_its_share_give_or_take() {
    let (nodes, targets) = (nodes(0..50), targets(0, 5_000));
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for prober in elected(&nodes, &targets).into_values().flatten() {
        *shares.entry(prober).or_default() += 1;
    }
    assert_eq!(shares.len(), 50);
    // 300 on average, with a deviation of 17.
    assert!(shares.values().all(|share| (230..370).contains(share)), "{shares:?}");
}

#[test]
fn agent_without_others_probes_all() {
    let mut share = Share::new(&node(0), PROBERS);
    assert_eq!(share.replace(&service(0), targets(0, 20)).len(), 20);
}

#[test]
fn most_probers_carry_and_others_have_no_vote() {
    let nodes = nodes(0..9);
    let electorate = Electorate::new(nodes.iter().map(|node| &**node), PROBERS);
    let key = 7;
    let probers = electorate.probers(key);
    let others: Vec<&str> = nodes.iter().map(|node| &**node).filter(|node| !probers.contains(node)).collect();
    assert!(electorate.is_carried(key, &probers) && electorate.is_carried(key, &probers[1..]));
    assert!(!electorate.is_carried(key, &probers[2..]) && !electorate.is_carried(key, &others));
    let few = Electorate::new(probers[..2].iter().copied(), PROBERS);
    assert!(few.is_carried(key, &probers[..2]) && !few.is_carried(key, &probers[..1]));
    let one = Electorate::new(probers[..1].iter().copied(), PROBERS);
    assert!(one.is_carried(key, &probers[..1]) && !one.is_carried(key, &[]));
}

/// What happens to a cluster.
#[derive(Clone, Debug)]
enum Step {
    /// The live agents are these.
    Live(BTreeSet<usize>),
    /// A Service has so many targets.
    Targets(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let live = proptest::collection::btree_set(0usize..12, 1..12).prop_map(Step::Live);
    let targets = (0usize..3, 0usize..12).prop_map(|(service, count)| Step::Targets(service, count));
    proptest::collection::vec(prop_oneof![live, targets], 1..20)
}

proptest! {
    /// What all agents work out step by step is what the electorate of the moment says: each target has its three
    /// probers, or all agents where there are fewer.
    #[test]
    fn shares_of_all_agents_are_what_the_electorate_says(steps in steps()) {
        let mut shares: BTreeMap<usize, Share> =
            (0..12).map(|index| (index, Share::new(&node(index), PROBERS))).collect();
        let mut live: BTreeSet<usize> = (0..12).collect();
        let mut all: BTreeMap<usize, Targets> = BTreeMap::new();
        let mut parts: BTreeMap<(usize, usize), Targets> = BTreeMap::new();
        for (index, share) in &mut shares {
            share.set_others(&nodes(live.iter().copied().filter(|other| other != index)));
        }
        for step in steps {
            match step {
                Step::Live(indices) => live = indices,
                Step::Targets(service, count) => drop(all.insert(service, targets(service, count))),
            }
            for (index, share) in &mut shares {
                for (number, targets) in &all {
                    parts.insert((*index, *number), share.replace(&service(*number), targets.clone()));
                }
                for changed in share.set_others(&nodes(live.iter().copied())) {
                    let number = (0..3).find(|number| service(*number) == changed).expect("a Service");
                    parts.insert((*index, number), share.of(&changed));
                }
            }
            for (number, targets) in &all {
                for (target, expected) in elected(&nodes(live.iter().copied()), targets) {
                    let has = |index: &&usize| parts[&(**index, *number)].contains_key(&target);
                    let found: BTreeSet<String> =
                        live.iter().filter(has).map(|index| node(*index).to_string()).collect();
                    prop_assert_eq!(&found, &expected);
                    prop_assert_eq!(found.len(), PROBERS.min(live.len()));
                }
            }
        }
    }

    /// A node that comes takes a place in some targets' probers, and moves nothing else; one that goes is the same
    /// backwards.
    #[test]
    fn node_that_comes_takes_its_own_share_alone(count in 1usize..40, new in 40usize..80) {
        let before = nodes(0..count);
        let mut after = before.clone();
        after.insert(node(new));
        let targets = targets(0, 100);
        let (was, is) = (elected(&before, &targets), elected(&after, &targets));
        for (target, probers) in &is {
            let came: Vec<_> = probers.difference(&was[target]).collect();
            let went = was[target].difference(probers).count();
            prop_assert!(came.iter().all(|prober| **prober == *node(new)));
            prop_assert!(came.len() <= 1 && went <= came.len());
        }
    }
}
