use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::model::PassivePolicy;

fn target(address: [u8; 4]) -> Target {
    let backend_service = BackendServiceName {
        service: ObjectName::new("shop", "web"),
        port_name: "http".into(),
        port: 80,
        protocol: Protocol::Tcp,
    };
    Target { backend_service: Arc::new(backend_service), address: address.into(), port: 8080 }
}

fn found(target: &Target, is_healthy: bool) -> HealthEvent {
    let finding = Finding { is_healthy, since: SystemTime::UNIX_EPOCH, reason: "a probe".into() };
    HealthEvent::Found(target.clone(), finding)
}

fn at(second: u64) -> Moment {
    let monotonic_ms = 60_000 + second * 1_000;
    Moment { monotonic_ms, wall: SystemTime::UNIX_EPOCH + Duration::from_millis(monotonic_ms) }
}

fn policy(ejected_percent_max: u32) -> HealthPolicy {
    let passive = PassivePolicy {
        consecutive_failures: 1,
        failure_percent: 100,
        flows_min: 100,
        ejection_ms: 10_000,
        ejection_max_ms: 10_000,
        ejected_percent_max,
    };
    HealthPolicy { passive: Some(passive.into()), ..HealthPolicy::default() }
}

fn is_healthy(findings: &Findings, target: &Target) -> bool {
    findings.is_healthy(&target.backend_service, target.address, target.port)
}

fn refuse(findings: &mut Findings, target: &Target, endpoints: usize, second: u64) -> bool {
    let signal = (Signal::Refused, at(second).monotonic_ms, Reporter::Path);
    findings.signal(target, signal, &policy(50), || endpoints, at(second))
}

#[test]
fn endpoint_is_healthy_until_found_otherwise_and_after_it_is_forgotten() {
    let (one, other) = (target([192, 0, 2, 1]), target([192, 0, 2, 2]));
    let mut findings = Findings::default();
    let apply = |findings: &mut Findings, event| {
        findings.apply(event, Reporter::Probe, &HealthPolicy::default(), at(0))
    };
    assert!(is_healthy(&findings, &one));
    assert!(apply(&mut findings, found(&one, false)));
    assert!(!is_healthy(&findings, &one) && is_healthy(&findings, &other));
    assert!(apply(&mut findings, found(&one, true)));
    assert!(is_healthy(&findings, &one));
    assert!(apply(&mut findings, found(&one, false)));
    assert!(apply(&mut findings, HealthEvent::Forgotten(one.clone())));
    assert!(is_healthy(&findings, &one));
    assert_eq!(findings.finding(&one.backend_service, one.address, one.port), None);
    assert!(!apply(&mut findings, HealthEvent::Forgotten(one)), "nothing is known of it");
}

#[test]
fn ejected_endpoint_comes_back_with_time() {
    let one = target([192, 0, 2, 1]);
    let mut findings = Findings::default();
    assert!(refuse(&mut findings, &one, 2, 0));
    assert!(!is_healthy(&findings, &one));
    assert_eq!(findings.tick(|_| policy(50), at(9)), []);
    assert_eq!(findings.tick(|_| policy(50), at(10)), std::slice::from_ref(&one));
    assert!(is_healthy(&findings, &one));
    assert_eq!(findings.tick(|_| policy(50), at(20)), []);
}

#[test]
fn families_have_a_bound_each() {
    let v4 = target([192, 0, 2, 1]);
    let v6 = Target { address: "2001:db8::1".parse().expect("an address"), ..v4.clone() };
    let mut findings = Findings::default();
    assert!(refuse(&mut findings, &v4, 2, 0));
    assert!(refuse(&mut findings, &v6, 2, 0));
    assert!(!refuse(&mut findings, &target([192, 0, 2, 2]), 2, 0));
}

#[test]
fn warming_endpoint_changes_the_plan_with_each_step() {
    let one = target([192, 0, 2, 1]);
    let policy = HealthPolicy { slow_start_s: 20, ..HealthPolicy::default() };
    let mut findings = Findings::default();
    findings.apply(found(&one, false), Reporter::Probe, &policy, at(0));
    findings.apply(found(&one, true), Reporter::Probe, &policy, at(0));
    let mut shares = Vec::new();
    for second in 0..30 {
        if findings.tick(|_| policy.clone(), at(second)) == std::slice::from_ref(&one) {
            shares.push((second, findings.share_percent(&one.backend_service, one.address, one.port)));
        }
    }
    let expected = [(2, 20), (4, 30), (6, 40), (8, 50), (10, 60), (12, 70), (14, 80), (16, 90), (18, 100)];
    assert_eq!(shares, expected);
}

/// The plan of the target's Service, judged by its flows, with a NEG of the nodes at these addresses.
fn plan_with_nodes(addresses: &[[u8; 4]]) -> ServicePlan {
    use crate::plan::fixture;
    let facts = crate::model::Service { health_policy: policy(50), ..fixture::service("web", "10.96.0.1") };
    let configs = crate::model::BackendConfigs::new();
    let mut plan =
        crate::plan::service(&facts, &[], &configs, &fixture::node(), &crate::plan::ReadinessAlone);
    let endpoint = |address: &[u8; 4]| crate::plan::NodePortEndpoint {
        node: "node-a".into(),
        zone: None,
        address: (*address).into(),
        port: 8080,
        passes_health_check: true,
        share_percent: 100,
        is_local: false,
    };
    let endpoints = addresses.iter().map(endpoint).collect();
    let neg = crate::plan::NodePortNeg { family: crate::plan::Family::V4, endpoints, is_panic: false };
    plan.backend_services[0].node_ports = Some(NodePorts { port: Some(8080), check: None, negs: vec![neg] });
    plan
}

#[test]
fn what_requests_said_of_a_node_is_kept_while_it_is_an_endpoint() {
    let (one, other) = (target([192, 0, 2, 1]), target([192, 0, 2, 2]));
    let mut findings = Findings::default();
    assert!(refuse(&mut findings, &one, 2, 0));
    findings.follow(&one.backend_service.service, Some(&plan_with_nodes(&[[192, 0, 2, 1], [192, 0, 2, 2]])));
    assert!(!is_healthy(&findings, &one) && is_healthy(&findings, &other));
    findings.follow(&one.backend_service.service, Some(&plan_with_nodes(&[[192, 0, 2, 2]])));
    assert!(is_healthy(&findings, &one));
}

#[test]
fn what_flows_said_is_forgotten_with_the_service() {
    let one = target([192, 0, 2, 1]);
    let mut findings = Findings::default();
    assert!(refuse(&mut findings, &one, 2, 0));
    findings.follow(&one.backend_service.service, None);
    assert!(is_healthy(&findings, &one));
    assert_eq!(findings.tick(|_| policy(50), at(10)), []);
}

#[test]
fn ejected_endpoint_does_not_fail_its_check() {
    let one = target([192, 0, 2, 1]);
    let fails_check = |findings: &Findings| findings.fails_check(&one.backend_service, one.address, one.port);
    let mut findings = Findings::default();
    assert!(refuse(&mut findings, &one, 2, 0));
    assert!(!is_healthy(&findings, &one) && !fails_check(&findings));
    // What becomes of its flows differs, so each of the two is a change for the plan.
    assert!(findings.apply(found(&one, false), Reporter::Probe, &policy(50), at(1)));
    assert!(fails_check(&findings));
    assert!(findings.apply(found(&one, true), Reporter::Probe, &policy(50), at(2)));
    assert!(!is_healthy(&findings, &one) && !fails_check(&findings));
}

#[test]
fn ejection_of_an_endpoint_that_fails_its_check_ends_all_the_same() {
    let (one, other) = (target([192, 0, 2, 1]), target([192, 0, 2, 2]));
    let mut findings = Findings::default();
    findings.apply(found(&one, false), Reporter::Probe, &policy(50), at(0));
    assert!(!refuse(&mut findings, &one, 2, 0), "it is out already");
    assert!(!refuse(&mut findings, &other, 2, 9), "one of two is ejected");
    findings.tick(|_| policy(50), at(10));
    assert!(refuse(&mut findings, &other, 2, 10));
}

#[test]
fn changes_of_state_are_counted_by_state_and_reason() {
    let one = target([192, 0, 2, 1]);
    let mut findings = Findings::default();
    assert!(refuse(&mut findings, &one, 2, 0));
    assert_eq!(findings.ejected_by_service(), [(Arc::clone(&one.backend_service), 1)].into());
    findings.apply(found(&one, false), Reporter::Probe, &policy(50), at(1));
    assert_eq!(findings.ejected_by_service(), BTreeMap::new(), "what is worse counts");
    findings.apply(found(&one, false), Reporter::Probe, &policy(50), at(2));
    findings.apply(found(&one, true), Reporter::Probe, &policy(50), at(3));
    findings.tick(|_| policy(50), at(10));
    let expected = [
        ((HealthState::Healthy, StateReason::EjectionOver), 1),
        ((HealthState::Ejected, StateReason::ConsecutiveFailures), 2),
        ((HealthState::Unhealthy, StateReason::ProbesFailed), 1),
    ];
    assert_eq!(*findings.changes(), expected.into());
}

proptest! {
    /// Whatever fails when: never is more than the share ejected, and what may be is.
    #[test]
    fn no_more_than_the_share_is_ejected(
        endpoints in 1u8..12,
        percent in 0u32..=100,
        failures in prop::collection::vec((0u8..12, 0u64..6), 0..60),
    ) {
        let targets: Vec<Target> = (0..endpoints).map(|last| target([192, 0, 2, last])).collect();
        let policy = policy(percent);
        let mut findings = Findings::default();
        let mut second = 0;
        for (index, wait_s) in failures {
            second += wait_s;
            findings.tick(|_| policy.clone(), at(second));
            let out = |findings: &Findings| targets.iter().filter(|t| !is_healthy(findings, t)).count();
            let most = usize::from(endpoints) * percent as usize / 100;
            let failing = &targets[usize::from(index % endpoints)];
            let (before, was_in) = (out(&findings), is_healthy(&findings, failing));
            let signal = (Signal::Unanswered, at(second).monotonic_ms, Reporter::Path);
            let ejected = findings.signal(failing, signal, &policy, || endpoints.into(), at(second));
            prop_assert!(out(&findings) <= most);
            prop_assert_eq!(ejected, was_in && before < most);
        }
    }
}
