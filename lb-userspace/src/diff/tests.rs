//! One fact per test; what must hold for every sequence of changes is in `properties`.
use lb_common::frontend::Kind;
use lb_common::neg::{NegKind, Ring};

use crate::model::{BackendConfigs, EndpointSlice, Protocol, Service, SliceEndpoint, TrafficPolicy};
use crate::plan::fixture::{ip, node, ready, service, slice, terminating};
use crate::plan::{Desired, ReadinessAlone, ServicePlan};
use crate::ring::QUARANTINE_MS;

use super::*;

mod drain;
mod nameless;
mod properties;
mod source_ranges;
mod vips;

const NOW_MS: u64 = 10_000;

fn planned(facts: &Service, endpoints: Vec<SliceEndpoint>) -> ServicePlan {
    let name = &facts.name.name;
    let slices = [slice(&format!("{name}-1"), name, endpoints)];
    crate::plan::service(facts, &slices, &BackendConfigs::new(), &node(), &ReadinessAlone)
}

fn desired(plans: impl IntoIterator<Item = ServicePlan>) -> Desired {
    let mut desired = Desired::default();
    for plan in plans {
        desired.replace(&plan.name.clone(), Some(plan));
    }
    desired
}

fn cart(endpoints: Vec<SliceEndpoint>) -> ServicePlan {
    planned(&service("cart", "10.96.0.1"), endpoints)
}

/// The same over UDP, whose endpoints go at once.
fn dns(endpoints: Vec<SliceEndpoint>) -> ServicePlan {
    let mut facts = service("cart", "10.96.0.1");
    facts.ports[0].protocol = Protocol::Udp;
    let mut slice = EndpointSlice::clone(&slice("cart-1", "cart", endpoints));
    slice.ports[0].protocol = Protocol::Udp;
    crate::plan::service(&facts, &[slice.into()], &BackendConfigs::new(), &node(), &ReadinessAlone)
}

/// Applies all operations; every prefix of them must be valid.
fn apply(tables: &mut Tables, diff: &Diff, now_ms: u64) {
    for op in &diff.ops {
        tables.apply(op, now_ms);
        assert_eq!(tables.check(), [], "after: {op}");
    }
}

fn bring(tables: &mut Tables, desired: &Desired, now_ms: u64) {
    let diff = full(desired, tables, now_ms);
    apply(tables, &diff, now_ms);
}

fn texts(diff: &Diff) -> Vec<String> {
    diff.ops.iter().map(ToString::to_string).collect()
}

fn small(limits: Limits) -> Limits {
    Limits { ring_slots_max: 4_096, ..limits }
}

#[test]
fn what_is_referred_to_is_written_first() {
    let diff = full(&desired([cart(vec![ready("10.1.0.1", "node-a")])]), &Tables::new(Limits::default()), 0);
    assert_eq!(
        texts(&diff),
        [
            "put endpoint 0: 10.1.0.1:8080 of backend service 0, healthy, on this node",
            "write ring of NEG 0 (clusterV4 of backend service 0): 1 slot at slot 0",
            "switch NEG 0 (clusterV4 of backend service 0) to 1 slot at slot 0",
            "put backend service 0: shop/cart:http/TCP",
            "put VIP 10.96.0.1: ClusterIP",
            "put frontend 10.96.0.1:80/TCP: ClusterIP, backend service 0, NEG 0 (clusterV4 of backend service 0) \
             from inside and 0 (clusterV4 of backend service 0) from outside",
            "put VIP 10.96.0.1: ClusterIP, refuses other ports",
        ]
    );
}

#[test]
fn what_refers_is_deleted_first() {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &desired([dns(vec![ready("10.1.0.1", "node-a")])]), 0);
    let diff = services(&Desired::default(), &tables, [&ObjectName::new("shop", "cart")], NOW_MS);
    assert_eq!(
        texts(&diff),
        [
            "put VIP 10.96.0.1: ClusterIP",
            "delete frontend 10.96.0.1:80/UDP",
            "delete VIP 10.96.0.1",
            "delete backend service 0",
            "switch NEG 0 (clusterV4 of backend service 0) to no ring",
            "delete endpoint 0: generation 1 from now",
        ]
    );
}

#[test]
fn operations_have_stable_json() {
    let diff = full(&desired([cart(vec![ready("10.1.0.1", "node-a")])]), &Tables::new(Limits::default()), 0);
    assert_eq!(
        serde_json::to_value(&diff.ops).expect("JSON"),
        serde_json::json!([
            {"op": "putEndpoint", "id": 0, "address": "10.1.0.1", "port": 8080, "backendService": 0,
             "generation": 0, "state": ["healthy", "on this node"]},
            {"op": "writeRing", "neg": 0, "position": 0, "slots": [0]},
            {"op": "switchNeg", "neg": 0, "position": 0, "length": 1},
            {"op": "putBackendService", "id": 0, "name": "shop/cart:http/TCP", "resourceVersion": "7",
             "affinityTimeoutSeconds": null},
            {"op": "putVip", "vip": "10.96.0.1", "kind": "ClusterIP", "flags": []},
            {"op": "putFrontend", "frontend": "10.96.0.1:80/TCP", "kind": "ClusterIP", "backendService": 0,
             "negInternal": 0, "negExternal": 0, "flags": []},
            {"op": "putVip", "vip": "10.96.0.1", "kind": "ClusterIP", "flags": ["refuses other ports"]},
        ])
    );
}

#[test]
fn a_change_of_state_writes_the_endpoint_and_leaves_the_rest() {
    let facts = Service {
        internal_traffic_policy: TrafficPolicy::Local,
        load_balancer_ips: vec![ip("203.0.113.5")],
        ..service("cart", "10.96.0.1")
    };
    let mut tables = Tables::new(Limits::default());
    let before = desired([planned(&facts, vec![ready("10.1.0.1", "node-a")])]);
    bring(&mut tables, &before, 0);
    let after = desired([planned(&facts, vec![terminating("10.1.0.1", "node-a")])]);
    assert_eq!(
        texts(&full(&after, &tables, NOW_MS)),
        ["put endpoint 0: 10.1.0.1:8080 of backend service 0, healthy, draining, on this node"]
    );
}

#[test]
fn an_id_given_up_raises_the_generation_and_rests_while_others_are_fresh() {
    let mut tables = Tables::new(Limits::default());
    let with = |address: &str| desired([dns(vec![ready(address, "node-a")])]);
    bring(&mut tables, &with("10.1.0.1"), 0);
    bring(&mut tables, &with("10.1.0.2"), 0);
    assert_eq!(tables.endpoint_ids().collect::<Vec<_>>(), [1]);
    assert_eq!(tables.endpoint(0).generation, 1);
    assert!(!tables.endpoint(0).is_present());
    let limits = Limits { endpoints_max: 2, ..Limits::default() };
    let mut tables = Tables::recover(limits, tables.dump());
    let both = desired([dns(vec![ready("10.1.0.2", "node-a"), ready("10.1.0.3", "node-a")])]);
    bring(&mut tables, &both, 0);
    let third = tables.endpoint(0);
    assert_eq!((third.address, third.generation), (ip("10.1.0.3").into(), 1));
}

#[test]
fn a_frontend_moves_to_the_service_that_wins_it_with_one_write() {
    let shared = |name: &str, cluster_ip: &str, created_s: i64| {
        let facts = Service {
            external_ips: vec![ip("203.0.113.9")],
            created_s: Some(created_s),
            ..service(name, cluster_ip)
        };
        planned(&facts, vec![])
    };
    let mut desired = desired([shared("young", "10.96.0.1", 200)]);
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &desired, 0);
    let old = shared("old", "10.96.0.2", 100);
    let changed = desired.replace(&old.name.clone(), Some(old));
    let diff = services(&desired, &tables, &changed, 0);
    let about: Vec<String> = texts(&diff).into_iter().filter(|text| text.contains("203.0.113.9")).collect();
    assert_eq!(
        about,
        [
            "put frontend 203.0.113.9:80/TCP: ExternalIP, backend service 1, NEG 4 (clusterV4 of backend service 1) \
          from inside and 4 (clusterV4 of backend service 1) from outside"
        ]
    );
    apply(&mut tables, &diff, 0);
}

#[test]
fn endpoints_past_the_bound_stay_out_and_are_named() {
    let limits = Limits { endpoints_max: 1, ..Limits::default() };
    let mut tables = Tables::new(limits);
    let two = desired([cart(vec![ready("10.1.0.1", "node-a"), ready("10.1.0.2", "node-a")])]);
    let diff = full(&two, &tables, 0);
    apply(&mut tables, &diff, 0);
    let problems: Vec<String> = diff.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        ["Service shop/cart: cannot put 1 of the 2 endpoints of shop/cart:http/TCP: map ENDPOINTS is full \
          (1 entries); raise --endpoints-max"]
    );
    assert_eq!(diff.pending, BTreeSet::from([ObjectName::new("shop", "cart")]));
    assert_eq!(tables.endpoints_of(0), [0]);
    assert_eq!(full(&two, &tables, 0).ops, []);
}

#[test]
fn backend_services_past_the_bound_wait_until_one_is_deleted() {
    let limits = Limits { backend_services_max: 1, ..Limits::default() };
    let mut tables = Tables::new(limits);
    let other = || planned(&service("other", "10.96.0.2"), vec![]);
    let mut wanted = desired([cart(vec![]), other()]);
    let diff = full(&wanted, &tables, 0);
    apply(&mut tables, &diff, 0);
    let problems: Vec<String> = diff.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        ["Service shop/other: cannot put backend service shop/other:http/TCP: map BACKEND_SERVICES is full \
          (1 entries); raise --backend-services-max"]
    );
    let changed = wanted.replace(&ObjectName::new("shop", "cart"), None);
    let diff = services(&wanted, &tables, changed.iter().chain(&diff.pending), 0);
    apply(&mut tables, &diff, 0);
    let diff = services(&wanted, &tables, &diff.pending, 0);
    apply(&mut tables, &diff, 0);
    assert_eq!(diff.pending, BTreeSet::new());
    assert_eq!(tables.backend_service_id(&other().backend_services[0].name), Some(0));
}

#[test]
fn frontends_past_the_bound_are_named_and_vips_count() {
    let limits = Limits { frontends_max: 3, ..Limits::default() };
    let mut tables = Tables::new(limits);
    let facts = Service { external_ips: vec![ip("203.0.113.9")], ..service("cart", "10.96.0.1") };
    let diff = full(&desired([planned(&facts, vec![])]), &tables, 0);
    apply(&mut tables, &diff, 0);
    let problems: Vec<String> = diff.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        ["Service shop/cart: cannot put 1 frontends of shop/cart: map FRONTENDS is full (3 entries); raise \
          --frontends-max"]
    );
    assert_eq!(tables.frontends().len(), 1);
}

/// Members 10.1.0.1 to 10.1.0.`count`.
fn many(count: u8) -> Vec<SliceEndpoint> {
    (1..=count).map(|last| ready(&format!("10.1.0.{last}"), "node-a")).collect()
}

#[test]
fn a_ring_is_written_aside_and_its_former_space_rests() {
    let mut tables = Tables::new(small(Limits::default()));
    bring(&mut tables, &desired([cart(many(2))]), NOW_MS);
    assert_eq!(tables.neg(0), Ring::new(0, 1_024));
    let mut now_ms = NOW_MS;
    for (count, position) in [(3, 1_024), (2, 2_048)] {
        bring(&mut tables, &desired([cart(many(count))]), now_ms);
        assert_eq!(tables.neg(0), Ring::new(position, 1_024));
    }
    // The tightest block first: the one that was never used, then the ones that have rested.
    now_ms += QUARANTINE_MS;
    for (count, position) in [(3, 3_072), (2, 0)] {
        bring(&mut tables, &desired([cart(many(count))]), now_ms);
        assert_eq!(tables.neg(0), Ring::new(position, 1_024));
    }
}

#[test]
fn rings_become_shorter_as_the_arena_fills_and_long_again_when_it_empties() {
    let mut tables = Tables::new(Limits { ring_slots_max: 2_048, ..Limits::default() });
    let two = desired([cart(many(3)), planned(&service("other", "10.96.0.2"), many(3))]);
    let diff = full(&two, &tables, NOW_MS);
    apply(&mut tables, &diff, NOW_MS);
    assert_eq!([tables.neg(0).length(), tables.neg(4).length()], [1_024, 256]);
    let problems: Vec<String> = diff.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        ["Service shop/other: cannot give NEG clusterV4 of shop/other:http/TCP a ring of 1024 slots: map \
          RING_SLOTS (2048 entries) has little room left, so it has 256 and coarser shares; raise \
          --ring-slots-max"]
    );
    assert_eq!(full(&two, &tables, NOW_MS).ops, []);
    let one = desired([planned(&service("other", "10.96.0.2"), many(3))]);
    bring(&mut tables, &one, NOW_MS);
    let later_ms = NOW_MS + QUARANTINE_MS;
    let diff = full(&one, &tables, later_ms);
    assert_eq!(diff.ops, [], "without the other half of the arena to spare the ring stays");
    let bigger = Tables::recover(Limits { ring_slots_max: 8_192, ..Limits::default() }, tables.dump());
    assert_eq!(texts(&full(&one, &bigger, later_ms)).len(), 2);
}

#[test]
fn a_full_arena_has_rings_written_over_in_place() {
    let mut tables = Tables::new(Limits { ring_slots_max: 4, ..Limits::default() });
    bring(&mut tables, &desired([dns(many(3))]), NOW_MS);
    assert_eq!(tables.neg(0), Ring::new(0, 4));
    let fewer = desired([dns(many(2))]);
    let diff = full(&fewer, &tables, NOW_MS);
    apply(&mut tables, &diff, NOW_MS);
    assert_eq!(tables.neg(0), Ring::new(0, 4));
    assert_eq!(tables.endpoints_of(0), [0, 1]);
    let problems: Vec<String> = diff.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "Service shop/cart: cannot place the ring of NEG clusterV4 of shop/cart:http/UDP: map RING_SLOTS is \
          full (4 entries), so its former ring is written over in place; raise --ring-slots-max"
        ]
    );
    assert_eq!(full(&fewer, &tables, NOW_MS).ops, []);
}

#[test]
fn a_neg_for_which_there_is_no_space_has_no_ring() {
    let mut tables = Tables::new(Limits { ring_slots_max: 2, ..Limits::default() });
    let diff = full(&desired([cart(many(3))]), &tables, 0);
    apply(&mut tables, &diff, 0);
    assert_eq!(tables.neg(0), Ring::EMPTY);
    assert!(diff.problems[0].message.contains("so it has no ring and refuses new flows"));
    assert_eq!(diff.pending.len(), 1);
}

#[test]
fn a_full_diff_clears_what_no_service_wants() {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &desired([dns(many(2))]), 0);
    let mut tables = Tables::recover(Limits::default(), tables.dump());
    bring(&mut tables, &Desired::default(), 0);
    assert_eq!(tables.frontends().len(), 0);
    assert_eq!(tables.backend_service_ids().count(), 0);
    assert_eq!(tables.endpoint_ids().count(), 0);
    assert_eq!(tables.rings().count(), 0);
}

#[test]
fn what_an_apply_that_was_cut_short_left_is_cleared() {
    let mut tables = Tables::new(Limits::default());
    let wanted = desired([cart(many(2))]);
    let diff = full(&wanted, &tables, 0);
    let ring_is_in_place = 4;
    for op in &diff.ops[..ring_is_in_place] {
        tables.apply(op, 0);
    }
    assert_eq!(tables.leftovers(), &BTreeSet::from([0]));
    let mut tables = Tables::recover(Limits::default(), tables.dump());
    assert_eq!(tables.leftovers(), &BTreeSet::from([0]));
    let diff = services(&Desired::default(), &tables, [], 0);
    apply(&mut tables, &diff, 0);
    assert_eq!(tables.leftovers(), &BTreeSet::new());
    assert_eq!(tables.endpoint_ids().count(), 0);
}

#[test]
fn a_change_of_the_service_alone_writes_its_version() {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &desired([cart(many(1))]), 0);
    let facts = Service {
        resource_version: "8".into(),
        affinity_timeout_s: Some(600),
        ..service("cart", "10.96.0.1")
    };
    let diff = full(&desired([planned(&facts, many(1))]), &tables, 0);
    assert_eq!(texts(&diff), ["put backend service 0: shop/cart:http/TCP, client affinity for 600 s"]);
    apply(&mut tables, &diff, 0);
    assert_eq!(&*tables.name(0).expect("a name").resource_version, "8");
}

#[test]
fn damage_is_found_and_mended() {
    let mut tables = Tables::new(small(Limits::default()));
    let wanted = desired([cart(many(2)), planned(&service("other", "10.96.0.2"), many(2))]);
    bring(&mut tables, &wanted, 0);
    let mut dump = tables.dump();
    dump.negs[4] = Ring::new(0, 1_024);
    dump.endpoints[1].state = 0;
    let key = *tables.frontends_of(1).next().expect("a frontend");
    dump.frontends.retain(|(other, _)| *other != key);
    dump.frontends
        .push((key, lb_common::frontend::Frontend { backend_service: 9, ..tables.frontends()[&key] }));
    let mut damaged = Tables::recover(*tables.limits(), dump);
    let found: Vec<String> = damaged.check().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "frontend 10.96.0.2:80/TCP leads to backend service 9, which is not in use",
            "frontend 10.96.0.2:80/TCP uses NEG 4, which is not one of its backend service and family",
            "frontend 10.96.0.2:80/TCP uses NEG 4, which is not one of its backend service and family",
            "the ring of NEG 0 names endpoint 1, which is not in use",
            "the rings of NEGs 0 and 4 overlap",
            "the ring of NEG 4 names endpoint 0, which is none of clusterV4 of backend service 1",
            "the ring of NEG 4 names endpoint 1, which is not in use",
        ]
    );
    let diff = full(&wanted, &damaged, 0);
    diff.ops.iter().for_each(|op| damaged.apply(op, 0));
    assert_eq!(damaged.check(), []);
    assert_eq!(full(&wanted, &damaged, 0).ops, []);
}

#[test]
fn empty_actions_and_kinds_reach_the_flags() {
    let facts = Service {
        external_traffic_policy: TrafficPolicy::Local,
        internal_traffic_policy: TrafficPolicy::Local,
        load_balancer_ips: vec![ip("203.0.113.5")],
        ..service("cart", "10.96.0.1")
    };
    let mut tables = Tables::new(Limits::default());
    let wanted = desired([planned(&facts, vec![ready("10.1.0.1", "node-b")])]);
    bring(&mut tables, &wanted, 0);
    let values: Vec<_> = tables.frontends().values().map(|value| (value.kind(), value.flags & !7)).collect();
    assert_eq!(values, [(Some(Kind::ClusterIp), 3 << 3), (Some(Kind::LoadBalancer), 1 << 3)]);
    assert_eq!(tables.neg(NegKind::LocalV4.id(0)), Ring::EMPTY);
    let value = tables.frontends().values().next_back().expect("a frontend");
    assert_eq!((value.neg_internal, value.neg_external), (0, 1));
}
