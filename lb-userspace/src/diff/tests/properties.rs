//! Random sequences of changes, refused operations and restarts.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::Address;
use lb_common::endpoint::{DRAINED, Endpoint};
use lb_common::frontend::{Kind, flags};
use lb_common::neg::NegKind;
use proptest::prelude::*;

use crate::model::{EndpointSlice, ServicePort, Snapshot};
use crate::plan::{self, BackendServiceName, HealthView, Scope, neg_kind, slices_by_service};

use super::*;

const SERVICES: [&str; 4] = ["a", "b", "c", "d"];

/// One step of a sequence.
#[derive(Clone, Debug)]
enum Step {
    /// The Service is now so.
    Service { name: usize, shape: ServiceShape },
    /// The Service is gone.
    ServiceGone { name: usize },
    /// One of the Service's slices holds these endpoints.
    Slice { service: usize, number: usize, endpoints: Vec<SliceEndpoint> },
    /// These pods fail their health checks, one bit for each.
    Health { failing: u8 },
    /// Time passes, and these endpoints have no flow left, one bit for each id.
    Drain { passes_s: u32, idle: u32 },
    /// The agent is killed: what it did not write to the maps is lost.
    Restart,
}

#[derive(Clone, Debug)]
struct ServiceShape {
    is_dual_stack: bool,
    is_shared: bool,
    has_node_port: bool,
    has_second_port: bool,
    has_check: bool,
    /// Its load-balancer IP lets in so many ranges; none checks nobody.
    ranges: u8,
    external_local: bool,
    internal_local: bool,
    created_s: Option<i64>,
}

fn service_shape() -> impl Strategy<Value = ServiceShape> {
    (any::<[bool; 7]>(), 0u8..4, proptest::option::of(0i64..3)).prop_map(|(bits, ranges, created_s)| {
        let [
            is_dual_stack,
            is_shared,
            has_node_port,
            has_second_port,
            has_check,
            external_local,
            internal_local,
        ] = bits;
        ServiceShape {
            is_dual_stack,
            is_shared,
            has_node_port,
            has_second_port,
            has_check,
            ranges,
            external_local,
            internal_local,
            created_s,
        }
    })
}

/// Ten pods, of which every second has an IPv6 address.
fn pod() -> impl Strategy<Value = SliceEndpoint> {
    (0u8..10, any::<[bool; 3]>(), any::<bool>()).prop_map(|(pod, [ready, serving, terminating], is_local)| {
        SliceEndpoint {
            ready,
            serving,
            terminating,
            node: Some(if is_local { "node-a" } else { "node-b" }.into()),
            ..SliceEndpoint::new(pod_address(pod))
        }
    })
}

fn pod_address(pod: u8) -> IpAddr {
    if pod.is_multiple_of(2) { ip(&format!("10.1.0.{pod}")) } else { ip(&format!("2001:db8:2::{pod}")) }
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..SERVICES.len();
    prop_oneof![
        4 => (name.clone(), service_shape()).prop_map(|(name, shape)| Step::Service { name, shape }),
        1 => name.clone().prop_map(|name| Step::ServiceGone { name }),
        6 => (name, 0..2usize, proptest::collection::vec(pod(), 0..6))
            .prop_map(|(service, number, endpoints)| Step::Slice { service, number, endpoints }),
        1 => any::<u8>().prop_map(|failing| Step::Health { failing }),
        2 => (0u32..4_000, any::<u32>()).prop_map(|(passes_s, idle)| Step::Drain { passes_s, idle }),
        1 => Just(Step::Restart),
    ]
}

/// After how many operations the kernel refuses one, for each step; most are not refused.
fn refusals() -> impl Strategy<Value = Vec<Option<usize>>> {
    proptest::collection::vec(proptest::option::weighted(0.3, 0usize..12), 24)
}

struct Failing(u8);

impl HealthView for Failing {
    fn is_healthy(&self, _: &BackendServiceName, address: IpAddr, _: u16) -> bool {
        !(0..8u8).any(|pod| pod_address(pod) == address && self.0 & 1 << pod != 0)
    }
}

fn facts(name: usize, shape: &ServiceShape) -> Service {
    let policy = |is_local| if is_local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let mut facts = service(SERVICES[name], &format!("10.96.0.{name}"));
    if shape.is_dual_stack {
        facts.cluster_ips.push(ip(&format!("2001:db8:96::{name}")));
    }
    if shape.is_shared {
        facts.external_ips = vec![ip("203.0.113.9")];
    }
    facts.load_balancer_ips = vec![ip(&format!("203.0.113.{}", 10 + name / 2))];
    let ranges = (0..shape.ranges).map(|number| (ip(&format!("192.0.2.{}", 64 * number)), 26));
    facts.source_ranges.ranges = ranges.collect();
    facts.ports[0].port = 80 + name as u16 % 2;
    if shape.has_node_port {
        facts.ports[0].node_port = Some(30_080 + name as u16 % 2);
    }
    if shape.has_second_port {
        facts.ports.push(ServicePort { node_port: None, ..plan::fixture::port("admin", 90) });
    }
    if shape.has_check {
        let check = crate::model::HealthCheck {
            kind: crate::model::CheckKind::Tcp,
            port: None,
            interval_ms: 1_000,
            timeout_ms: 500,
            healthy_threshold: 1,
            unhealthy_threshold: 1,
        };
        facts.health_check = Some(check.into());
        facts.health_policy.panic_threshold_percent = 50;
    }
    facts.external_traffic_policy = policy(shape.external_local);
    facts.internal_traffic_policy = policy(shape.internal_local);
    facts.created_s = shape.created_s;
    facts
}

/// A node whose maps follow the facts.
struct World {
    snapshot: Snapshot,
    failing: u8,
    desired: Desired,
    tables: Tables,
    pending: BTreeSet<ObjectName>,
    now_ms: u64,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            snapshot: Snapshot::default(),
            failing: 0,
            desired: Desired::default(),
            tables: Tables::new(limits),
            pending: BTreeSet::new(),
            now_ms: 0,
        }
    }

    fn step(&mut self, step: &Step, refused: Option<usize>) {
        self.now_ms += 400;
        match step {
            Step::Service { name, shape } => {
                let facts = facts(*name, shape);
                self.snapshot.services.insert(facts.name.clone(), Arc::new(facts));
            }
            Step::ServiceGone { name } => {
                self.snapshot.services.remove(&ObjectName::new("shop", SERVICES[*name]));
            }
            Step::Slice { service, number, endpoints } => {
                let name = format!("{}-{number}", SERVICES[*service]);
                let slice: Arc<EndpointSlice> = slice(&name, SERVICES[*service], endpoints.clone());
                self.snapshot.endpoint_slices.insert(slice.name.clone(), slice);
            }
            Step::Health { failing } => self.failing = *failing,
            Step::Drain { passes_s, idle } => {
                self.now_ms += u64::from(*passes_s) * 1_000;
                let is_idle = |id: u32| idle & 1u32.checked_shl(id).unwrap_or(0) != 0;
                let diff = drains(&self.desired, &self.tables, &is_idle, self.now_ms);
                self.apply(&Diff { pending: self.pending.clone(), ..diff }, refused);
                return;
            }
            Step::Restart => {
                self.tables = Tables::recover(*self.tables.limits(), self.tables.dump());
                self.desired = plan::plan(&self.snapshot, &node(), &Failing(self.failing));
                let diff = full(&self.desired, &self.tables, self.now_ms);
                self.apply(&diff, refused);
                return;
            }
        }
        self.replan();
        let diff = services(&self.desired, &self.tables, &self.pending, self.now_ms);
        self.apply(&diff, refused);
    }

    /// Plans every Service anew: `replace` finds out which ones changed.
    fn replan(&mut self) {
        let slices = slices_by_service(&self.snapshot);
        for name in SERVICES.map(|name| ObjectName::new("shop", name)) {
            let slices = slices.get(&name).map_or(&[][..], Vec::as_slice);
            let facts = self.snapshot.services.get(&name);
            let plan = facts.map(|facts| {
                plan::service(facts, slices, &BackendConfigs::new(), &node(), &Failing(self.failing))
            });
            self.pending.extend(self.desired.replace(&name, plan));
        }
    }

    fn apply(&mut self, diff: &Diff, refused: Option<usize>) {
        let taken = diff.ops.len().min(refused.unwrap_or(usize::MAX));
        for op in &diff.ops[..taken] {
            self.tables.apply(op, self.now_ms);
            let found = self.tables.check();
            assert!(found.is_empty(), "after {op}: {found:?}");
        }
        if taken == diff.ops.len() {
            self.pending = diff.pending.clone();
        } else {
            self.pending.extend(SERVICES.map(|name| ObjectName::new("shop", name)));
        }
    }

    fn ids(&self) -> BTreeMap<(String, IpAddr, u16), (u32, u32)> {
        let of_endpoint = |id: u32| {
            let endpoint = self.tables.endpoint(id);
            let name = self.tables.name(endpoint.backend_service)?.name.to_string();
            Some(((name, endpoint.address.into(), endpoint.port.get()), (id, endpoint.generation)))
        };
        self.tables.endpoint_ids().filter_map(of_endpoint).collect()
    }
}

/// The tables hold the desired state, all of it and nothing else. Follows the chain from the frontends,
/// as a packet does.
fn assert_equal(tables: &Tables, desired: &Desired) {
    let wanted: Vec<_> = desired.frontends().map(|chain| chain.frontend.key()).collect();
    assert_eq!(tables.frontends().keys().copied().collect::<Vec<_>>(), wanted);
    let mut endpoints = 0;
    for service in desired.backend_services() {
        let id = tables.backend_service_id(&service.name).expect("the backend service has an id");
        let ids = tables.endpoints_of(id);
        let named: Vec<u32> = ids.iter().copied().filter(|id| tables.endpoint(*id).is_named()).collect();
        let present: Vec<Endpoint> = named.iter().map(|id| tables.endpoint(*id)).collect();
        let present = present.iter().map(|e| (IpAddr::from(e.address), e.port.get(), e.state));
        let planned = service.endpoints.iter().map(|e| (e.address, e.port, e.state_bits()));
        assert_eq!(present.collect::<Vec<_>>(), planned.collect::<Vec<_>>());
        endpoints += service.endpoints.len();
        let ranges = tables.source_ranges_of(id).iter().map(|key| key.range().0.to_string());
        let planned_ranges = service.source_ranges.iter().map(|(network, _)| network.to_string());
        assert_eq!(ranges.collect::<Vec<_>>(), planned_ranges.collect::<Vec<_>>());
        for kind in NegKind::ALL {
            let members = service.neg(kind).map_or(&[][..], |neg| &neg.members);
            let members = members.iter().map(|index| named[*index as usize]);
            let slots = tables.slots(tables.neg(kind.id(id))).expect("the ring lies in the arena");
            let slots: BTreeSet<u32> = slots.iter().copied().collect();
            assert_eq!(slots, members.collect::<BTreeSet<u32>>(), "NEG {kind:?} of {}", service.name);
        }
    }
    for chain in desired.frontends() {
        let value = tables.frontends()[&chain.frontend.key()];
        let id = tables.backend_service_id(&chain.backend_service.name).expect("an id");
        let neg = |scope: Scope| neg_kind(scope, plan::Family::of(chain.frontend.address)).id(id);
        assert_eq!(value.kind(), Some(chain.frontend.kind));
        assert_eq!(value.neg_internal, neg(chain.frontend.neg_internal));
        assert_eq!(value.neg_external, neg(chain.frontend.neg_external));
        assert_eq!(value.flags & flags::CHECK_SOURCE != 0, chain.frontend.checks_source);
    }
    let vips = desired.frontends().filter(|chain| chain.frontend.kind != Kind::NodePort);
    let vips: BTreeSet<Address> = vips.map(|chain| chain.frontend.address.into()).collect();
    assert_eq!(tables.vips().keys().copied().collect::<BTreeSet<_>>(), vips);
    assert_eq!(tables.backend_service_ids().count(), desired.backend_services().count());
    assert_eq!(tables.endpoint_ids().count(), endpoints);
    assert_eq!(tables.leftovers(), &BTreeSet::new());
}

fn follow(limits: Limits, steps: &[Step], refusals: &[Option<usize>]) {
    let mut world = World::new(limits);
    for (step, refused) in steps.iter().zip(refusals) {
        let before = world.ids();
        world.step(step, *refused);
        for (place, (id, generation)) in world.ids() {
            if let Some(former) = before.get(&place) {
                // The end of a drain by health ends flows once.
                let is_drained = world.tables.endpoint(id).drain_until_s == DRAINED;
                let ends_flows = is_drained && generation == former.1 + 1;
                assert!(*former == (id, generation) || ends_flows && former.0 == id, "{place:?} has moved");
            }
        }
    }
    // What was refused is taken now; former rings have rested, so there is space; and drains are over.
    for _ in 0..2 {
        world.now_ms += QUARANTINE_MS;
        world.step(&Step::Restart, None);
        world.step(&Step::Drain { passes_s: 4_000, idle: 0 }, None);
    }
    assert_equal(&world.tables, &world.desired);
    let recovered = Tables::recover(limits, world.tables.dump());
    assert_eq!(recovered.dump(), world.tables.dump());
    assert_eq!(full(&world.desired, &world.tables, world.now_ms).ops, []);
    assert_eq!(full(&world.desired, &recovered, world.now_ms).ops, []);
    let incremental = services(&world.desired, &world.tables, world.desired.services().keys(), world.now_ms);
    assert_eq!(incremental.ops, []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    // Room for everything but for long rings: those take the time of a test.
    #[test]
    fn every_prefix_is_valid_and_the_end_equals_the_plan(
        steps in proptest::collection::vec(step(), 1..24),
        refusals in refusals(),
    ) {
        follow(Limits { ring_slots_max: 512, ..Limits::default() }, &steps, &refusals);
    }

    #[test]
    fn at_every_bound_the_tables_stay_valid(
        steps in proptest::collection::vec(step(), 1..24),
        refusals in refusals(),
        frontends_max in 1u32..8,
        backend_services_max in 1u32..5,
        endpoints_max in 1u32..12,
        ring_slots_max in 1u32..24,
        source_ranges_max in 0u32..6,
    ) {
        let limits = Limits {
            frontends_max,
            backend_services_max,
            endpoints_max,
            ring_slots_max,
            source_ranges_max,
        };
        let mut world = World::new(limits);
        for (step, refused) in steps.iter().zip(&refusals) {
            world.step(step, *refused);
            prop_assert!(world.tables.frontends_used() <= frontends_max);
            prop_assert!(world.tables.source_ranges_used() <= source_ranges_max);
            prop_assert!(world.tables.rings().all(|(_, r)| r.position() + r.length() <= ring_slots_max));
        }
        // What waits for room gets what there is, and then nothing is left to do.
        for _ in 0..6 {
            world.now_ms += QUARANTINE_MS;
            world.step(&Step::Restart, None);
        }
        prop_assert_eq!(full(&world.desired, &world.tables, world.now_ms).ops, []);
    }
}
