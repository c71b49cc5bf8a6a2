//! Host tier: the plan against a second model of the Kubernetes rules, over seeded random worlds.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lb_common::frontend::FrontendKey;
use lb_common::{Be16, Prefix};
use lb_tests::reference::random::questions;
use lb_tests::reference::world::{From, NodePorts};
use lb_tests::reference::{self, Answer, Question, World, objects};
use lb_userspace::plan::{
    self, BackendService, Desired, EmptyAction, Family, NodeContext, NodePortAddresses, ReadinessAlone,
    neg_kind,
};

/// Worlds of one run; a failure prints its seed, and [`check`] of that seed repeats it.
const WORLDS: u64 = 100_000;

fn planned(world: &World) -> Desired {
    let snapshot = objects::snapshot(world);
    let here = snapshot.nodes.get(world.nodes[world.here].name.as_str()).expect("this node");
    let node_port_addresses = match world.node_ports {
        NodePorts::OnAll => NodePortAddresses::default(),
        NodePorts::OnPrimary => NodePortAddresses::Primary,
        NodePorts::In(network, bits) => NodePortAddresses::In(vec![(network, bits)]),
    };
    let node = NodeContext { node_port_addresses, ..NodeContext::of_node(here) };
    plan::plan(&snapshot, &node, &ReadinessAlone)
}

/// What the plan says of a packet.
fn of_plan(desired: &Desired, question: &Question) -> Answer {
    let key = FrontendKey::new(question.address.into(), Be16::new(question.port), question.protocol.number());
    let Some(chain) = desired.frontend(&key) else { return Answer::NotAService };
    let service = chain.backend_service;
    let lets_in = |(network, bits): &(IpAddr, u8)| {
        network.is_ipv4() == question.source.is_ipv4()
            && Prefix::new(*network, *bits).contains(&question.source.into())
    };
    if chain.frontend.checks_source && !service.source_ranges.iter().any(lets_in) {
        return Answer::Dropped;
    }
    let (scope, empty) = match question.from {
        From::Pod => (chain.frontend.neg_internal, chain.frontend.empty_internal),
        From::Outside => (chain.frontend.neg_external, chain.frontend.empty_external),
    };
    let neg = service.neg(neg_kind(scope, Family::of(question.address)));
    let neg = neg.expect("the NEG that a frontend names");
    let members = neg.members.iter().map(|index| &service.endpoints[*index as usize]);
    let with_weight = |endpoint: &plan::Endpoint| {
        (SocketAddr::new(endpoint.address, endpoint.port), u32::from(endpoint.weight))
    };
    let members: BTreeMap<SocketAddr, u32> = members.map(with_weight).collect();
    match (members.is_empty(), empty) {
        (false, _) => Answer::OneOf(members),
        (true, EmptyAction::Refuse) => Answer::Refused,
        (true, EmptyAction::Drop) => Answer::Dropped,
    }
}

/// How often each answer was given: worlds that only ever say one thing prove nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    forwarded: u64,
    refused: u64,
    dropped: u64,
    none: u64,
}

fn check(seed: u64, tally: &mut Tally) {
    let world = reference::world(seed);
    let desired = planned(&world);
    for service in &world.services {
        let expected = reference::drain_s(service);
        let of_service = |planned: &&BackendService| *planned.name.service.name == *service.name;
        for planned in desired.backend_services().filter(of_service) {
            assert_eq!(planned.drain.deadline_s, expected, "seed {seed}: {service:#?}");
        }
    }
    for question in questions(&world) {
        let expected = reference::answer(&world, &question);
        let found = of_plan(&desired, &question);
        assert_eq!(found, expected, "seed {seed}: {question:?}\n{world:#?}");
        match expected {
            Answer::OneOf(_) => tally.forwarded += 1,
            Answer::Refused => tally.refused += 1,
            Answer::Dropped => tally.dropped += 1,
            Answer::NotAService => tally.none += 1,
        }
    }
}

#[test]
fn plan_and_reference_agree_on_every_packet_of_random_worlds() {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let run = |first: u64| {
            let mut tally = Tally::default();
            (first..WORLDS).step_by(threads as usize).for_each(|seed| check(seed, &mut tally));
            tally
        };
        let workers: Vec<_> = (0..threads).map(|first| scope.spawn(move || run(first))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a disagreement, printed above")).collect()
    });
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    for count in [sum(|t| t.forwarded), sum(|t| t.refused), sum(|t| t.dropped), sum(|t| t.none)] {
        assert!(count > WORLDS / 2, "the worlds seldom give one of the answers: {tallies:?}");
    }
}
