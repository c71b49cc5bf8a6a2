//! The panic threshold.
use std::net::IpAddr;

use lb_common::endpoint::state;
use lb_common::neg::NegKind;
use proptest::prelude::*;

use super::fixture::{node, ready, service, slice};
use super::*;
use crate::model::{BackendConfigs, CheckKind, HealthCheck, HealthPolicy, Service};

/// Of the endpoints 10.1.0.0 and so on, which pass.
struct Passing(Vec<bool>);

impl HealthView for Passing {
    fn is_healthy(&self, _: &BackendServiceName, address: IpAddr, _: u16) -> bool {
        let IpAddr::V4(address) = address else { return true };
        self.0[usize::from(address.octets()[3])]
    }
}

/// The cluster NEG, and the state bits of all endpoints.
fn planned(passing: Vec<bool>, panic_threshold_percent: u32) -> (Neg, Vec<u32>) {
    let check = HealthCheck {
        kind: CheckKind::Tcp,
        port: None,
        interval_ms: 1_000,
        timeout_ms: 500,
        healthy_threshold: 1,
        unhealthy_threshold: 1,
    };
    let facts = Service {
        health_check: Some(check.into()),
        health_policy: HealthPolicy { panic_threshold_percent, ..HealthPolicy::default() },
        ..service("cart", "10.96.0.1")
    };
    let endpoints = (0..passing.len()).map(|last| ready(&format!("10.1.0.{last}"), "node-b")).collect();
    let slices = [slice("cart-1", "cart", endpoints)];
    let plan = super::service(&facts, &slices, &BackendConfigs::new(), &node(), &Passing(passing));
    let service = &plan.backend_services[0];
    let neg = service.neg(NegKind::ClusterV4).expect("the NEG is in use").clone();
    (neg, service.endpoints.iter().map(Endpoint::state_bits).collect())
}

const HEALTHY: u32 = state::PRESENT | state::HEALTHY;
const UNHEALTHY: u32 = state::PRESENT;
const USED_IN_PANIC: u32 = state::PRESENT | state::HEALTHY | state::PANIC;

#[test]
fn below_the_threshold_all_endpoints_are_used() {
    let (neg, states) = planned(vec![true, false, false], 50);
    assert_eq!((neg.members, neg.is_panic), (vec![0, 1, 2], true));
    assert_eq!(states, [HEALTHY, USED_IN_PANIC, USED_IN_PANIC]);
}

#[test]
fn at_the_threshold_only_healthy_endpoints_are_used() {
    let (neg, states) = planned(vec![true, false], 50);
    assert_eq!((neg.members, neg.is_panic), (vec![0], false));
    assert_eq!(states, [HEALTHY, UNHEALTHY]);
}

#[test]
fn without_a_threshold_the_last_healthy_endpoint_is_used_alone() {
    let (neg, _) = planned(vec![false, true, false, false], 0);
    assert_eq!((neg.members, neg.is_panic), (vec![1], false));
}

proptest! {
    /// Panic is where something fails and nothing passes, or less than the threshold; then all are used, else
    /// those that pass. Who is used takes new flows, and nobody else.
    #[test]
    fn used_endpoints_follow_from_the_share_that_passes(
        passing in prop::collection::vec(any::<bool>(), 1..40),
        threshold in 0u32..=100,
    ) {
        let (neg, states) = planned(passing.clone(), threshold);
        let count = passing.iter().filter(|passes| **passes).count();
        let percent = count as f64 * 100.0 / passing.len() as f64;
        let is_panic = count < passing.len() && (count == 0 || percent + 1e-9 < f64::from(threshold));
        prop_assert_eq!(neg.is_panic, is_panic);
        for (index, passes) in passing.iter().enumerate() {
            let expected = match (passes, is_panic) {
                (true, _) => HEALTHY,
                (false, true) => USED_IN_PANIC,
                (false, false) => UNHEALTHY,
            };
            prop_assert_eq!(states[index], expected);
            prop_assert_eq!(neg.members.contains(&(index as u32)), *passes || is_panic);
        }
    }
}
