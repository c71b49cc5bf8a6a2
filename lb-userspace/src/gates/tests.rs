use super::*;
use crate::plan::fixture::{ip, slice, unready};

const POD: &str = "10.1.0.9";

fn pod(uid: &str) -> Arc<GatedPod> {
    Arc::new(GatedPod {
        name: ObjectName::new("shop", "cart-1"),
        uid: uid.into(),
        addresses: vec![ip(POD)],
        unmet: ReadinessGate::ALL.into(),
    })
}

fn cart() -> ObjectName {
    ObjectName::new("shop", "cart")
}

/// A slice of the Service `cart` with one endpoint.
fn named(slice_name: &str, address: &str, version: &str) -> EndpointSlice {
    let slice = slice(slice_name, "cart", vec![unready(address, "node-a")]);
    EndpointSlice { resource_version: version.into(), ..(*slice).clone() }
}

fn waiting() -> Gates {
    let mut gates = Gates::new(vec![ReadinessGate::Programmed]);
    assert!(gates.wait(&pod("1"), 0));
    gates
}

fn all_at(programmed: u64) -> Summary {
    Summary { programmed, ..Summary::default() }
}

fn reasons(gates: &mut Gates, summary: &Summary, now_ms: u64) -> Vec<GateReason> {
    gates.met(summary, now_ms).into_iter().map(|met| met.reason).collect()
}

#[test]
fn gate_is_met_once_all_agents_have_the_change_that_named_the_pod() {
    let mut gates = waiting();
    gates.look(&cart(), &[named("cart-1", POD, "40")].iter());
    assert_eq!(gates.wanted(), 40);
    assert_eq!(reasons(&mut gates, &all_at(39), 1_000), []);
    let met = gates.met(&all_at(40), 1_000);
    assert_eq!(
        met,
        [Met { pod: pod("1"), gates: vec![ReadinessGate::Programmed], reason: GateReason::Programmed }]
    );
    assert_eq!(gates.wanted(), 0);
}

#[test]
fn later_changes_of_the_slice_are_not_waited_for() {
    let mut gates = waiting();
    gates.look(&cart(), &[named("cart-1", POD, "40")].iter());
    gates.look(&cart(), &[named("cart-1", POD, "55")].iter());
    assert_eq!(gates.wanted(), 40);
}

#[test]
fn slice_that_no_longer_names_the_pod_is_not_waited_for() {
    let mut gates = waiting();
    gates.look(&cart(), &[named("cart-1", POD, "40"), named("cart-2", POD, "50")].iter());
    gates.look(&cart(), &[named("cart-1", POD, "40"), named("cart-2", "10.1.0.8", "60")].iter());
    assert_eq!(gates.wanted(), 40);
    gates.look(&cart(), &[].iter());
    assert_eq!(gates.wanted(), 0);
}

#[test]
fn every_service_that_names_the_pod_must_be_done() {
    let mut gates = waiting();
    gates.look(&cart(), &[named("cart-1", POD, "40")].iter());
    gates.look(&ObjectName::new("shop", "web"), &[named("web-1", POD, "50")].iter());
    assert_eq!(reasons(&mut gates, &all_at(49), 0), []);
    let behind = Summary { behind: ["shop/cart".to_owned()].into(), ..all_at(50) };
    assert_eq!(reasons(&mut gates, &behind, 0), []);
    let other = Summary { behind: ["shop/other".to_owned()].into(), ..all_at(50) };
    assert_eq!(reasons(&mut gates, &other, 0), [GateReason::Programmed]);
}

#[test]
fn slices_of_another_namespace_do_not_name_the_pod() {
    let mut gates = waiting();
    gates.look(&ObjectName::new("other", "cart"), &[named("cart-1", POD, "40")].iter());
    assert_eq!(gates.wanted(), 0);
}

#[test]
fn pod_that_no_service_names_waits_a_little_only() {
    let mut gates = waiting();
    assert_eq!(reasons(&mut gates, &all_at(99), SERVICE_WAIT_MS - 1), []);
    assert_eq!(reasons(&mut gates, &all_at(99), SERVICE_WAIT_MS), [GateReason::NoService]);
}

#[test]
fn pod_does_not_wait_for_ever() {
    let mut gates = waiting();
    gates.look(&cart(), &[named("cart-1", POD, "40")].iter());
    assert_eq!(reasons(&mut gates, &all_at(39), WAIT_MAX_MS - 1), []);
    assert_eq!(reasons(&mut gates, &all_at(39), WAIT_MAX_MS), [GateReason::TimedOut]);
}

#[test]
fn what_was_told_is_told_again_while_the_pod_goes_on_waiting() {
    let mut gates = waiting();
    gates.look(&cart(), &[named("cart-1", POD, "40")].iter());
    let told = |gates: &mut Gates, now_ms| reasons(gates, &all_at(40), now_ms).len();
    let found = [0, TELL_INTERVAL_MS - 1, TELL_INTERVAL_MS].map(|now_ms| told(&mut gates, now_ms));
    assert_eq!(found, [1, 0, 1]);
    assert!(!gates.wait(&pod("1"), TELL_INTERVAL_MS), "the same pod");
    gates.forget(&pod("1").name);
    assert_eq!(told(&mut gates, 60_000), 0);
}

#[test]
fn successor_of_the_same_name_waits_anew() {
    let mut gates = waiting();
    gates.look(&cart(), &[named("cart-1", POD, "40")].iter());
    assert_eq!(reasons(&mut gates, &all_at(40), 0), [GateReason::Programmed]);
    assert!(gates.wait(&pod("2"), 1_000));
    assert_eq!(reasons(&mut gates, &all_at(40), 1_000), []);
}

#[test]
fn pod_without_an_address_or_an_asked_gate_does_not_wait() {
    let mut gates = Gates::new(vec![ReadinessGate::NegReady]);
    assert!(!gates.wait(&Arc::new(GatedPod { addresses: vec![], ..(*pod("1")).clone() }), 0));
    let other = GatedPod { unmet: vec![ReadinessGate::Programmed], ..(*pod("1")).clone() };
    assert!(!gates.wait(&Arc::new(other), 0));
    assert!(gates.is_empty());
}
