//! Kernel tier: what operations leave in the kernel's own maps, pinned under a path of each test's own.
use std::path::PathBuf;
use std::sync::Arc;

use aya::maps::{Array, Map, MapData, PerCpuArray, PerCpuValues};
use lb_common::backend_service::{BackendService, flags};
use lb_common::counters::Traffic;
use lb_common::endpoint::{Endpoint, state};
use lb_common::frontend::{self, Frontend, FrontendKey, Kind};
use lb_common::neg::Ring;
use lb_common::{Address, Be16, maps as names};
use lb_tests::need;
use lb_tests::pins::TestPins;
use lb_userspace::diff::{self, Limits, Op, StoredName, Tables};
use lb_userspace::maps::{Maps, Object, Sizes, load};
use lb_userspace::model::{
    EndpointSlice, HttpTransport, ObjectName, Protocol, Service, ServicePort, SliceEndpoint, SlicePort,
    Snapshot,
};
use lb_userspace::plan::{BackendServiceName, NodeContext, ReadinessAlone, plan};

const HEALTHY: u32 = state::PRESENT | state::HEALTHY;

/// Small enough to be filled.
fn sizes() -> Sizes {
    Sizes {
        limits: Limits {
            frontends_max: 2,
            backend_services_max: 2,
            endpoints_max: 4,
            ring_slots_max: 16,
            source_ranges_max: 64,
        },
        conntrack_max: 64,
        affinity_max: 64,
        socket_flows_max: 64,
    }
}

/// Enough for the rings of a Service.
fn roomy() -> Sizes {
    let limits = Limits { ring_slots_max: 65_536, ..sizes().limits };
    Sizes { limits, ..sizes() }
}

fn load_maps(need: &need::Kernel, pins: &TestPins) -> Maps {
    load(&Object::File(need.ebpf_object.clone()), pins, &sizes()).unwrap().1
}

fn endpoint(last: u8, bits: u32) -> Endpoint {
    Endpoint {
        address: Address::v4([10, 4, 2, last]),
        port: Be16::new(8080),
        protocol: 6,
        padding: 0,
        backend_service: 0,
        generation: 0,
        withdrawn_s: 0,
        drain_until_s: 0,
        state: bits,
    }
}

fn name() -> StoredName {
    let name = BackendServiceName {
        service: ObjectName::new("shop", "cart"),
        port_name: "http".into(),
        port: 80,
        protocol: Protocol::Tcp,
    };
    StoredName::new(&Arc::new(name), &"81".into())
}

fn frontend_key(last: u8) -> FrontendKey {
    FrontendKey::new(Address::v4([192, 0, 2, last]), Be16::new(80), 6)
}

fn put_frontend(last: u8) -> Op {
    let frontend =
        Frontend { backend_service: 0, neg_external: 0, neg_internal: 0, flags: Kind::ClusterIp as u32 };
    Op::PutFrontend { key: frontend_key(last), frontend }
}

/// A backend service with two endpoints, a ring in the middle of the arena and a frontend.
fn service() -> Vec<Op> {
    let flags = Kind::ClusterIp as u32 | frontend::flags::VIP | frontend::flags::REFUSE_OTHER_PORTS;
    let vip = Frontend { backend_service: 0, neg_external: 0, neg_internal: 0, flags };
    vec![
        Op::PutEndpoint { id: 0, endpoint: endpoint(8, HEALTHY) },
        Op::PutEndpoint { id: 1, endpoint: endpoint(9, HEALTHY | state::LOCAL) },
        Op::WriteRing { neg: 0, ring: Ring::new(8, 4), slots: [0, 1, 1, 0].into() },
        Op::SwitchNeg { neg: 0, ring: Ring::new(8, 4) },
        Op::PutBackendService {
            id: 0,
            backend_service: BackendService {
                flags: flags::PRESENT | flags::AFFINITY_CLIENT_IP,
                affinity_timeout_s: 600,
            },
            name: name(),
        },
        Op::PutVip { address: frontend_key(1).address, vip },
        put_frontend(1),
    ]
}

fn apply_all(maps: &mut Maps, ops: &[Op]) {
    for op in ops {
        maps.apply(op).unwrap();
    }
}

/// Values of an array map as bpf(2) gives them, beside the memory that `Maps` uses.
fn values<const N: usize>(pins: &TestPins, name: &str) -> Vec<[u8; N]> {
    let map = Map::from_map_data(MapData::from_pin(pins.map(name)).unwrap()).unwrap();
    let array: Array<MapData, [u8; N]> = map.try_into().unwrap();
    array.iter().collect::<Result<_, _>>().unwrap()
}

#[test]
fn what_operations_wrote_is_what_a_dump_and_the_kernel_have() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let mut maps = load_maps(&need, &pins);
    let mut mirror = Tables::new(maps.limits());
    for op in service() {
        maps.apply(&op).unwrap();
        mirror.apply(&op, 0);
    }
    assert_eq!(maps.dump().unwrap(), mirror.dump());
    assert_eq!(maps.tables().unwrap().check(), []);

    let slots: Vec<u32> = values::<4>(&pins, names::RING_SLOTS).into_iter().map(u32::from_ne_bytes).collect();
    assert_eq!(slots, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]);
    assert_eq!(values::<8>(&pins, names::NEGS)[0], 0x0000_0008_0000_0004_u64.to_ne_bytes());
    let second = values::<40>(&pins, names::ENDPOINTS)[1];
    assert_eq!(second[8..20], [0, 0, 0xff, 0xff, 10, 4, 2, 9, 0x1f, 0x90, 6, 0]);
    assert_eq!(second[36..], (HEALTHY | state::LOCAL).to_ne_bytes());
}

#[test]
fn deleting_leaves_empty_maps_and_the_raised_generations() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let mut maps = load_maps(&need, &pins);
    apply_all(&mut maps, &service());
    let cleared = Endpoint { generation: 1, ..Endpoint::default() };
    apply_all(
        &mut maps,
        &[
            Op::DeleteFrontend { key: frontend_key(1) },
            Op::DeleteVip { address: frontend_key(1).address },
            Op::DeleteBackendService { id: 0 },
            Op::SwitchNeg { neg: 0, ring: Ring::EMPTY },
            Op::DeleteEndpoint { id: 0, endpoint: cleared },
            Op::DeleteEndpoint { id: 1, endpoint: cleared },
        ],
    );
    let dump = maps.dump().unwrap();
    assert_eq!(dump.frontends, []);
    assert_eq!((dump.backend_services.len(), dump.names.len(), dump.negs.len()), (0, 0, 0));
    assert_eq!(dump.endpoints, [cleared, cleared]);
    assert_eq!(values::<240>(&pins, names::BACKEND_SERVICE_NAMES)[0], [0; 240]);
    maps.apply(&Op::DeleteFrontend { key: frontend_key(1) }).expect("deleting twice is no error");
}

#[test]
fn state_of_an_endpoint_changes_alone() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let mut maps = load_maps(&need, &pins);
    apply_all(&mut maps, &service());
    maps.set_endpoint_state(1, state::PRESENT).unwrap();
    assert_eq!(maps.endpoint(1), endpoint(9, state::PRESENT));
    assert_eq!(maps.endpoint(0), endpoint(8, HEALTHY));
    let error = maps.set_endpoint_state(4, state::PRESENT).unwrap_err();
    assert_eq!(error.to_string(), "cannot set the state of endpoint 4: map ENDPOINTS has no such place");
}

#[test]
fn a_full_map_is_named_with_its_size_and_its_flag() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let mut maps = load_maps(&need, &pins);
    apply_all(&mut maps, &[put_frontend(1), put_frontend(2)]);
    let refused = [
        (
            put_frontend(3),
            "cannot put frontend 192.0.2.3:80/TCP: map FRONTENDS is full (2 entries); raise --frontends-max",
        ),
        (
            Op::PutEndpoint { id: 4, endpoint: endpoint(9, HEALTHY) },
            "cannot put endpoint 4 (10.4.2.9:8080): map ENDPOINTS is full (4 entries); raise --endpoints-max",
        ),
        (
            Op::WriteRing { neg: 0, ring: Ring::new(14, 4), slots: [0; 4].into() },
            "cannot write ring of NEG 0 (clusterV4 of backend service 0): 4 slots from slot 14: map RING_SLOTS is \
             full (16 entries); raise --ring-slots-max",
        ),
        (
            Op::PutBackendService { id: 2, backend_service: BackendService::default(), name: name() },
            "cannot put backend service 2 (shop/cart:http/TCP): map BACKEND_SERVICES is full (2 entries); raise \
             --backend-services-max",
        ),
    ];
    for (op, message) in refused {
        assert_eq!(maps.apply(&op).unwrap_err().to_string(), message);
    }
    apply_all(&mut maps, &[put_frontend(2)]);
}

#[test]
fn a_second_load_finds_entries_and_ids_and_keeps_the_size() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let mut maps = load_maps(&need, &pins);
    apply_all(&mut maps, &service());
    let before = maps.dump().unwrap();
    drop(maps);
    let object = Object::File(need.ebpf_object.clone());
    let (_ebpf, maps) = load(&object, &pins, &Sizes::default()).unwrap();
    assert_eq!(maps.limits(), sizes().limits);
    assert_eq!(maps.dump().unwrap(), before);
    let tables = maps.tables().unwrap();
    assert_eq!(tables.backend_service_id(&name().name), Some(0));
    assert_eq!(tables.endpoint_id(0, Address::v4([10, 4, 2, 9]), 8080), Some(1));
}

/// Gives an id 1 packet of 2 bytes and 3 flows on each CPU, as programs do.
fn count(pins: &TestPins, name: &str, id: u32) {
    let map = Map::from_map_data(MapData::from_pin(pins.map(name)).unwrap()).unwrap();
    let mut table: PerCpuArray<MapData, [u64; 3]> = map.try_into().unwrap();
    let cpus = aya::util::nr_cpus().unwrap();
    table.set(id, PerCpuValues::try_from(vec![[1, 2, 3]; cpus]).unwrap(), 0).unwrap();
}

#[test]
fn an_id_that_comes_into_use_counts_from_zero() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let mut maps = load_maps(&need, &pins);
    let given_up = Endpoint { generation: 1, ..Endpoint::default() };
    for id in [0, 1] {
        apply_all(&mut maps, &[Op::DeleteEndpoint { id, endpoint: given_up }]);
    }
    // What connections to the former owners of the ids left behind.
    count(&pins, names::BACKEND_SERVICE_TRAFFIC, 0);
    count(&pins, names::ENDPOINT_TRAFFIC, 0);
    count(&pins, names::ENDPOINT_TRAFFIC, 1);
    apply_all(&mut maps, &service());
    assert_eq!(maps.backend_service_traffic(0).unwrap(), Traffic::default());
    assert_eq!(maps.endpoint_traffic(0).unwrap(), Traffic::default());
    assert_eq!(maps.endpoint_traffic(1).unwrap(), Traffic::default());
}

#[test]
fn an_id_that_stays_in_use_keeps_its_counts() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let mut maps = load_maps(&need, &pins);
    apply_all(&mut maps, &service());
    count(&pins, names::BACKEND_SERVICE_TRAFFIC, 0);
    count(&pins, names::ENDPOINT_TRAFFIC, 0);
    let mut again = service();
    again[0] = Op::PutEndpoint { id: 0, endpoint: endpoint(8, state::PRESENT) };
    apply_all(&mut maps, &again);
    let cpus = aya::util::nr_cpus().unwrap() as u64;
    let counted = Traffic { packets: cpus, bytes: 2 * cpus, new_flows: 3 * cpus };
    assert_eq!(maps.backend_service_traffic(0).unwrap(), counted);
    assert_eq!(maps.endpoint_traffic(0).unwrap(), counted);
}

/// The Service `shop/cart` with two ready endpoints on two nodes.
fn facts() -> Snapshot {
    let endpoint = |address: &str, node: &str| SliceEndpoint {
        node: Some(node.into()),
        ..SliceEndpoint::new(address.parse().unwrap())
    };
    let service = Service {
        resource_version: "81".into(),
        cluster_ips: vec!["192.0.2.1".parse().unwrap()],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            transport: HttpTransport::Http1,
        }],
        affinity_timeout_s: Some(600),
        ..Service::new(ObjectName::new("shop", "cart"))
    };
    let slice = EndpointSlice {
        name: ObjectName::new("shop", "cart-1"),
        service: "cart".into(),
        resource_version: "82".into(),
        change_trigger_unix_ms: None,
        is_headless: false,
        endpoints: vec![endpoint("10.4.2.8", "node-a"), endpoint("10.4.2.9", "node-b")],
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
    };
    let mut snapshot = Snapshot::default();
    snapshot.services.insert(service.name.clone(), service.into());
    snapshot.endpoint_slices.insert(slice.name.clone(), slice.into());
    snapshot
}

#[test]
fn a_restarted_agent_has_nothing_to_do_for_the_same_plan() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let node = NodeContext {
        name: "node-a".into(),
        addresses: vec!["198.51.100.1".parse().unwrap()],
        ..NodeContext::default()
    };
    let desired = plan(&facts(), &node, &ReadinessAlone);
    let object = Object::File(need.ebpf_object.clone());
    let (_ebpf, mut maps) = load(&object, &pins, &roomy()).unwrap();
    let first = diff::full(&desired, &maps.tables().unwrap(), 0);
    assert_eq!((first.problems.len(), first.pending.len()), (0, 0));
    assert!(!first.ops.is_empty());
    apply_all(&mut maps, &first.ops);
    drop(maps);
    let (_ebpf, maps) = load(&object, &pins, &roomy()).unwrap();
    let tables = maps.tables().unwrap();
    assert_eq!(tables.check(), []);
    assert_eq!(diff::full(&desired, &tables, 0).ops, []);
}

#[test]
fn a_reader_needs_no_object_and_cannot_write() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let error = format!("{:#}", Maps::open(&pins).err().unwrap());
    assert!(error.contains("NEGS: no agent has run with this pin path; see --pin-path"), "{error}");
    apply_all(&mut load_maps(&need, &pins), &service());
    let mut reader = Maps::open(&pins).unwrap();
    assert_eq!(reader.endpoint(0), endpoint(8, HEALTHY));
    let error = reader.apply(&Op::SwitchNeg { neg: 0, ring: Ring::EMPTY }).unwrap_err();
    assert!(error.to_string().ends_with("the maps are open for reading"), "{error}");
    assert!(reader.set_endpoint_state(0, 0).is_err());
}

#[test]
fn a_reader_of_open_maps_sees_what_they_write_and_cannot_write() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let mut maps = load_maps(&need, &pins);
    let mut reader = maps.reader(&pins).unwrap();
    apply_all(&mut maps, &service());
    assert_eq!(reader.endpoint(0), endpoint(8, HEALTHY));
    assert!(reader.apply(&Op::SwitchNeg { neg: 0, ring: Ring::EMPTY }).is_err());
    assert!(reader.set_endpoint_state(0, 0).is_err());
}

#[test]
fn a_damaged_object_is_refused_before_a_map_is_made() {
    let Some(need) = need::kernel() else { return };
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(&need.ebpf_object).unwrap();
    for (file, bytes) in [("cut.o", &whole[..whole.len() / 2]), ("text.o", b"no object"), ("empty.o", b"")] {
        let pins = TestPins::new().unwrap();
        let path: PathBuf = dir.path().join(file);
        std::fs::write(&path, bytes).unwrap();
        let error = load(&Object::File(path.clone()), &pins, &sizes()).err().unwrap().to_string();
        let expected = format!(
            "cannot use the eBPF object {}: it is damaged or none; build it again with `cargo xtask build-ebpf`",
            path.display()
        );
        assert_eq!(error, expected);
        assert_eq!(std::fs::read_dir(pins.maps()).unwrap().count(), 0, "{file}");
    }
}
