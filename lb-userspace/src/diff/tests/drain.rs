//! Endpoints that no slice names any more.
use lb_common::endpoint::{Endpoint, state};

use crate::model::DrainContract;

use super::*;

const DEADLINE_MS: u64 = 3_600_000;

fn both() -> Desired {
    desired([cart(vec![ready("10.1.0.1", "node-a"), ready("10.1.0.2", "node-a")])])
}

fn first() -> Desired {
    desired([cart(vec![ready("10.1.0.1", "node-a")])])
}

fn no_service() -> Desired {
    Desired::default()
}

/// `cart` with two endpoints, of which the second one (id 1) was withdrawn at [`NOW_MS`].
fn withdrawn() -> Tables {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &both(), 0);
    bring(&mut tables, &first(), NOW_MS);
    tables
}

fn end_drains(tables: &mut Tables, desired: &Desired, idle: &[u32], now_ms: u64) -> Vec<String> {
    let diff = drains(desired, tables, &|id| idle.contains(&id), now_ms);
    apply(tables, &diff, now_ms);
    texts(&diff)
}

#[test]
fn an_endpoint_that_no_slice_names_is_withdrawn_after_it_has_left_the_rings() {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &both(), 0);
    let diff = full(&first(), &tables, NOW_MS);
    assert_eq!(
        texts(&diff),
        [
            "write ring of NEG 0 (clusterV4 of backend service 0): 1 slot at slot 1024",
            "switch NEG 0 (clusterV4 of backend service 0) to 1 slot at slot 1024",
            "put endpoint 1: 10.1.0.2:8080 of backend service 0, healthy, withdrawn, on this node",
        ]
    );
    apply(&mut tables, &diff, NOW_MS);
    let endpoint = tables.endpoint(1);
    assert_eq!((endpoint.withdrawn_s, endpoint.drain_until_s), (10, 3_610));
}

#[test]
fn a_withdrawn_endpoint_stays_as_it_is_until_its_deadline() {
    let mut tables = withdrawn();
    assert_eq!(full(&first(), &tables, NOW_MS + DEADLINE_MS).ops, []);
    assert_eq!(end_drains(&mut tables, &first(), &[], NOW_MS + DEADLINE_MS - 1), [""; 0]);
    assert_eq!(
        end_drains(&mut tables, &first(), &[], NOW_MS + DEADLINE_MS),
        ["delete endpoint 1: generation 1 from now"]
    );
    assert_eq!(tables.withdrawn().count(), 0);
}

#[test]
fn a_withdrawn_endpoint_without_flows_is_given_up_before_its_deadline() {
    let mut tables = withdrawn();
    let deleted = end_drains(&mut tables, &first(), &[0, 1], NOW_MS);
    assert_eq!(deleted, ["delete endpoint 1: generation 1 from now"]);
    assert!(tables.endpoint(0).is_present(), "one that a slice names stays without flows too");
}

#[test]
fn an_endpoint_that_comes_back_has_its_id_and_generation() {
    let mut tables = withdrawn();
    bring(&mut tables, &both(), NOW_MS + 1_000);
    let Endpoint { state, generation, withdrawn_s, drain_until_s, .. } = tables.endpoint(1);
    assert_eq!(state, state::PRESENT | state::HEALTHY | state::LOCAL);
    assert_eq!((generation, withdrawn_s, drain_until_s), (0, 0, 0));
    assert_eq!(tables.withdrawn().count(), 0);
}

#[test]
fn a_restart_keeps_the_time_of_the_withdrawal() {
    let tables = withdrawn();
    let mut tables = Tables::recover(*tables.limits(), tables.dump());
    assert_eq!(tables.withdrawn().collect::<Vec<_>>(), [1]);
    assert_eq!(full(&first(), &tables, NOW_MS + 5_000).ops, []);
    assert_eq!(tables.endpoint(1).drain_until_s, 3_610);
    assert_eq!(end_drains(&mut tables, &first(), &[], NOW_MS + DEADLINE_MS).len(), 1);
}

#[test]
fn a_deleted_service_keeps_its_backend_service_until_its_last_endpoint_is_given_up() {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &both(), 0);
    let diff = services(&no_service(), &tables, [&ObjectName::new("shop", "cart")], NOW_MS);
    apply(&mut tables, &diff, NOW_MS);
    assert_eq!((tables.frontends().len(), tables.rings().count()), (0, 0));
    assert_eq!(tables.withdrawn().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(tables.name(0).map(|stored| stored.drain_deadline_s), Some(3_600));
    assert_eq!(
        end_drains(&mut tables, &no_service(), &[0], NOW_MS),
        ["delete endpoint 0: generation 1 from now"]
    );
    assert_eq!(full(&no_service(), &tables, NOW_MS).ops, [], "nor does a restart hurry it");
    assert_eq!(
        end_drains(&mut tables, &no_service(), &[1], NOW_MS),
        ["delete backend service 0", "delete endpoint 1: generation 1 from now"]
    );
}

#[test]
fn a_service_that_comes_back_finds_its_withdrawn_endpoints() {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &both(), 0);
    bring(&mut tables, &no_service(), NOW_MS);
    bring(&mut tables, &both(), NOW_MS);
    assert_eq!(tables.withdrawn().count(), 0);
    assert_eq!(tables.endpoint_ids().map(|id| tables.endpoint(id).generation).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(tables.frontends().len(), 1);
}

#[test]
fn udp_endpoints_go_at_once() {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &desired([dns(vec![ready("10.1.0.1", "node-a")])]), 0);
    bring(&mut tables, &desired([dns(vec![])]), NOW_MS);
    assert_eq!(tables.endpoint_ids().count(), 0);
}

#[test]
fn when_endpoint_ids_run_short_the_ones_withdrawn_first_are_given_up_first() {
    let mut tables = Tables::new(Limits { endpoints_max: 3, ..Limits::default() });
    let with = |last: &[u8]| {
        desired([cart(last.iter().map(|last| ready(&format!("10.1.0.{last}"), "node-a")).collect())])
    };
    bring(&mut tables, &with(&[1, 2, 3]), 0);
    bring(&mut tables, &with(&[1, 3]), NOW_MS);
    bring(&mut tables, &with(&[3]), 2 * NOW_MS);
    let wanted = with(&[3, 4]);
    let diff = full(&wanted, &tables, 3 * NOW_MS);
    assert_eq!(diff.problems, [], "there will be room");
    apply(&mut tables, &diff, 3 * NOW_MS);
    assert_eq!(tables.withdrawn().collect::<Vec<_>>(), [0]);
    let diff = services(&wanted, &tables, &diff.pending, 3 * NOW_MS);
    apply(&mut tables, &diff, 3 * NOW_MS);
    assert_eq!(tables.endpoint(1).address, ip("10.1.0.4").into());
    assert_eq!(diff.pending, BTreeSet::new());
}

#[test]
fn when_backend_service_ids_run_short_a_deleted_services_drain_ends() {
    let mut tables = Tables::new(Limits { backend_services_max: 1, ..Limits::default() });
    bring(&mut tables, &both(), 0);
    let other = desired([planned(&service("other", "10.96.0.2"), vec![ready("10.1.0.9", "node-a")])]);
    for _ in ["withdraws", "gives up", "takes the id"] {
        bring(&mut tables, &other, NOW_MS);
    }
    assert_eq!(tables.frontends().keys().next().map(|key| key.address), Some(ip("10.96.0.2").into()));
    assert_eq!(tables.withdrawn().count(), 0);
}

#[test]
fn a_slot_that_names_a_withdrawn_endpoint_is_found() {
    let tables = withdrawn();
    let mut dump = tables.dump();
    dump.endpoints[0].state |= state::WITHDRAWN;
    let damaged = Tables::recover(*tables.limits(), dump);
    let found: Vec<String> = damaged.check().iter().map(ToString::to_string).collect();
    assert_eq!(found, ["the ring of NEG 0 names endpoint 0, which is withdrawn"]);
}

fn with_contract(deadline_s: u32, endpoints: Vec<SliceEndpoint>) -> Desired {
    let facts = Service { drain: Some(DrainContract { deadline_s }), ..service("cart", "10.96.0.1") };
    desired([planned(&facts, endpoints)])
}

#[test]
fn the_contract_to_reset_gives_an_endpoint_up_at_once() {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &with_contract(0, vec![ready("10.1.0.1", "node-a")]), 0);
    bring(&mut tables, &with_contract(0, vec![]), NOW_MS);
    assert_eq!(tables.endpoint_ids().count(), 0);
    assert_eq!(tables.endpoint(0).generation, 1);
}

#[test]
fn a_contract_that_changes_moves_the_deadline_of_those_already_withdrawn() {
    let mut tables = withdrawn();
    bring(&mut tables, &with_contract(60, vec![ready("10.1.0.1", "node-a")]), NOW_MS + 5_000);
    let endpoint = tables.endpoint(1);
    assert_eq!((endpoint.withdrawn_s, endpoint.drain_until_s), (10, 70));
    bring(&mut tables, &with_contract(0, vec![ready("10.1.0.1", "node-a")]), NOW_MS + 5_000);
    assert_eq!(tables.withdrawn().count(), 0);
}

/// Endpoints of these addresses fail their check.
struct Fails(&'static [&'static str]);

impl crate::plan::HealthView for Fails {
    fn is_healthy(&self, _: &crate::plan::BackendServiceName, address: std::net::IpAddr, _: u16) -> bool {
        !self.0.contains(&address.to_string().as_str())
    }
}

/// Endpoints of these addresses are ejected, and pass their check.
struct Ejected(&'static [&'static str]);

impl crate::plan::HealthView for Ejected {
    fn is_healthy(&self, _: &crate::plan::BackendServiceName, address: std::net::IpAddr, _: u16) -> bool {
        !self.0.contains(&address.to_string().as_str())
    }

    fn fails_check(&self, _: &crate::plan::BackendServiceName, _: std::net::IpAddr, _: u16) -> bool {
        false
    }
}

/// `cart` with the endpoints 10.1.0.1 and 10.1.0.2 and a check, which some of them fail.
fn checked(deadline_s: u32, failing: &'static [&'static str]) -> Desired {
    judged(deadline_s, &Fails(failing))
}

fn judged(deadline_s: u32, health: &dyn crate::plan::HealthView) -> Desired {
    let check = crate::model::HealthCheck {
        kind: crate::model::CheckKind::Tcp,
        port: None,
        interval_ms: 1_000,
        timeout_ms: 1_000,
        healthy_threshold: 1,
        unhealthy_threshold: 3,
    };
    let facts = Service {
        drain: Some(DrainContract { deadline_s }),
        health_check: Some(check.into()),
        ..service("cart", "10.96.0.1")
    };
    let slices = [slice("cart-1", "cart", vec![ready("10.1.0.1", "node-a"), ready("10.1.0.2", "node-a")])];
    let none = BackendConfigs::new();
    desired([crate::plan::service(&facts, &slices, &none, &node(), health)])
}

/// Those of [`checked`], of which the second one (id 1) failed its check at [`NOW_MS`].
fn taken_out(deadline_s: u32) -> Tables {
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &checked(deadline_s, &[]), 0);
    bring(&mut tables, &checked(deadline_s, &["10.1.0.2"]), NOW_MS);
    tables
}

/// Generation, and the two times.
fn drain_of(tables: &Tables, id: u32) -> (u32, u32, u32) {
    let Endpoint { generation, withdrawn_s, drain_until_s, .. } = tables.endpoint(id);
    (generation, withdrawn_s, drain_until_s)
}

#[test]
fn an_endpoint_that_fails_its_check_has_the_deadline_of_the_contract() {
    let tables = taken_out(60);
    assert_eq!(drain_of(&tables, 1), (0, 10, 70));
    assert_eq!(drain_of(&tables, 0), (0, 0, 0), "the other one passes");
    assert!(!tables.endpoint(1).is_withdrawn());
}

#[test]
fn flows_of_an_endpoint_that_fails_its_check_end_once_at_the_deadline() {
    let mut tables = taken_out(60);
    let failing = checked(60, &["10.1.0.2"]);
    assert_eq!(end_drains(&mut tables, &failing, &[0, 1], 69_999), [""; 0]);
    assert_eq!(
        end_drains(&mut tables, &failing, &[], 70_000),
        ["put endpoint 1: 10.1.0.2:8080 of backend service 0, unhealthy, on this node"]
    );
    assert_eq!(drain_of(&tables, 1), (1, 10, lb_common::endpoint::DRAINED));
    assert_eq!(full(&failing, &tables, 80_000).ops, [], "nor does the next diff begin again");
    assert_eq!(end_drains(&mut tables, &failing, &[], 500_000), [""; 0]);
}

#[test]
fn an_endpoint_that_passes_again_keeps_its_flows() {
    let mut tables = taken_out(60);
    bring(&mut tables, &checked(60, &[]), NOW_MS + 5_000);
    assert_eq!(drain_of(&tables, 1), (0, 0, 0));
    assert_eq!(end_drains(&mut tables, &checked(60, &[]), &[], 500_000), [""; 0]);
}

#[test]
fn an_endpoint_that_is_let_in_by_one_store_keeps_its_flows_at_the_deadline() {
    let mut tables = taken_out(60);
    let endpoint = tables.endpoint(1);
    let endpoint = Endpoint { state: endpoint.state | state::HEALTHY, ..endpoint };
    tables.apply(&Op::PutEndpoint { id: 1, endpoint }, 70_000);
    assert_eq!(end_drains(&mut tables, &checked(60, &["10.1.0.2"]), &[], 70_000), [""; 0]);
}

#[test]
fn an_endpoint_that_fails_anew_has_a_new_deadline() {
    let mut tables = taken_out(60);
    bring(&mut tables, &checked(60, &[]), 75_000);
    bring(&mut tables, &checked(60, &["10.1.0.2"]), 80_000);
    assert_eq!(drain_of(&tables, 1), (0, 80, 140));
}

#[test]
fn the_contract_to_reset_ends_the_flows_of_an_endpoint_that_fails_at_once() {
    let tables = taken_out(0);
    assert_eq!(drain_of(&tables, 1), (1, 10, lb_common::endpoint::DRAINED));
    assert_eq!(full(&checked(0, &["10.1.0.2"]), &tables, NOW_MS + 5_000).ops, [], "once");
}

#[test]
fn ejection_alone_ends_no_flows_whatever_the_contract() {
    for deadline_s in [0, 60] {
        let mut tables = Tables::new(Limits::default());
        bring(&mut tables, &checked(deadline_s, &[]), 0);
        let ejected = judged(deadline_s, &Ejected(&["10.1.0.2"]));
        bring(&mut tables, &ejected, NOW_MS);
        assert!(!tables.endpoint(1).takes_new_flows());
        assert_eq!(drain_of(&tables, 1), (0, 0, 0), "{deadline_s}");
        assert_eq!(end_drains(&mut tables, &ejected, &[1], 500_000), [""; 0]);
    }
}

#[test]
fn drain_of_a_failed_check_ends_where_ejection_alone_is_left() {
    let mut tables = taken_out(60);
    bring(&mut tables, &judged(60, &Ejected(&["10.1.0.2"])), NOW_MS + 5_000);
    assert!(!tables.endpoint(1).takes_new_flows());
    assert_eq!(drain_of(&tables, 1), (0, 0, 0));
}

#[test]
fn nothing_is_drained_where_no_endpoint_passes() {
    let mut tables = taken_out(60);
    bring(&mut tables, &checked(60, &["10.1.0.1", "10.1.0.2"]), NOW_MS + 5_000);
    assert_eq!((drain_of(&tables, 0), drain_of(&tables, 1)), ((0, 0, 0), (0, 0, 0)));
    assert_eq!(tables.drained_by_health().count(), 0);
}

#[test]
fn a_contract_that_changes_moves_the_deadline_of_those_already_taken_out() {
    let mut tables = taken_out(60);
    bring(&mut tables, &checked(90, &["10.1.0.2"]), NOW_MS + 5_000);
    assert_eq!(drain_of(&tables, 1), (0, 10, 100));
}

#[test]
fn a_restart_keeps_the_deadline_of_an_endpoint_that_was_taken_out() {
    let tables = taken_out(60);
    let mut tables = Tables::recover(*tables.limits(), tables.dump());
    assert_eq!(tables.drained_by_health().collect::<Vec<_>>(), [1]);
    assert_eq!(end_drains(&mut tables, &checked(60, &["10.1.0.2"]), &[], 70_000).len(), 1);
    assert_eq!(drain_of(&tables, 1).0, 1);
}

#[test]
fn udp_flows_have_left_an_endpoint_that_fails_already() {
    let mut facts = service("cart", "10.96.0.1");
    facts.ports[0].protocol = Protocol::Udp;
    facts.health_check = Some(std::sync::Arc::new(crate::model::HealthCheck {
        kind: crate::model::CheckKind::Tcp,
        port: Some(9_000),
        interval_ms: 1_000,
        timeout_ms: 1_000,
        healthy_threshold: 1,
        unhealthy_threshold: 3,
    }));
    let mut slice = EndpointSlice::clone(&slice(
        "cart-1",
        "cart",
        vec![ready("10.1.0.1", "node-a"), ready("10.1.0.2", "node-a")],
    ));
    slice.ports[0].protocol = Protocol::Udp;
    let slices = [std::sync::Arc::new(slice)];
    let plan = |failing| {
        desired([crate::plan::service(&facts, &slices, &BackendConfigs::new(), &node(), &Fails(failing))])
    };
    let mut tables = Tables::new(Limits::default());
    bring(&mut tables, &plan(&[]), 0);
    bring(&mut tables, &plan(&["10.1.0.2"]), NOW_MS);
    assert_eq!((drain_of(&tables, 1).0, tables.drained_by_health().count()), (0, 0));
}
