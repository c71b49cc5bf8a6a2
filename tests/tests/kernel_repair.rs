//! Kernel tier: pins that are missing, or are not what they should be. The next agent says what it found and makes that
//! map anew; the others keep what they hold, and the connection that was there goes on.
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{ArrayOfMaps, HashMap, Map, MapData};
use aya::programs::SchedClassifier;
use lb_common::conntrack::{CURRENT, Flow, FlowKey, FlowState};
use lb_common::{Address, Be16, maps as names, protocol};
use lb_tests::kernel::destination;
use lb_tests::need;
use lb_tests::packet::PacketBuilder;
use lb_tests::packet::build::tcp_flags::ACK;
use lb_tests::pins::TestPins;
use lb_userspace::clock::now_s;
use lb_userspace::diff::{self, Limits};
use lb_userspace::maps::{Fault, Maps, Object, Repair, Sizes, load, new_flow_table, repair};
use lb_userspace::model::{
    EndpointSlice, HttpTransport, ObjectName, Protocol, Service, ServicePort, SliceEndpoint, SlicePort,
    Snapshot,
};
use lb_userspace::plan::{Desired, NodeContext, ReadinessAlone, plan};

const CLIENT: &str = "203.0.113.7:40000";
const VIP: &str = "192.0.2.2:80";
const ENDPOINT: &str = "10.4.2.9:8080";

fn sizes() -> Sizes {
    let limits = Limits {
        frontends_max: 16,
        backend_services_max: 4,
        endpoints_max: 16,
        ring_slots_max: 65_536,
        source_ranges_max: 64,
    };
    Sizes { limits, conntrack_max: 64, affinity_max: 64, socket_flows_max: 64 }
}

/// A Service with one endpoint.
fn service(name: &str, vip: &str, endpoint: &str, snapshot: &mut Snapshot) {
    let port = ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
        transport: HttpTransport::Http1,
    };
    let service = Service {
        cluster_ips: vec![vip.parse().unwrap()],
        ports: vec![port],
        ..Service::new(ObjectName::new("shop", name))
    };
    let slice = EndpointSlice {
        name: ObjectName::new("shop", name),
        service: name.into(),
        resource_version: "82".into(),
        change_trigger_unix_ms: None,
        is_headless: false,
        endpoints: vec![SliceEndpoint::new(endpoint.parse().unwrap())],
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
    };
    snapshot.services.insert(service.name.clone(), service.into());
    snapshot.endpoint_slices.insert(slice.name.clone(), slice.into());
}

/// The connection is with the endpoint of the first Service, whose ids are not those that it would get anew.
fn desired() -> Desired {
    let mut snapshot = Snapshot::default();
    service("cart", "192.0.2.2", "10.4.2.9", &mut snapshot);
    service("users", "192.0.2.3", "10.4.2.10", &mut snapshot);
    let node = NodeContext {
        name: "node-a".into(),
        addresses: vec!["198.51.100.1".parse().unwrap()],
        ..NodeContext::default()
    };
    plan(&snapshot, &node, &ReadinessAlone)
}

fn start(object: &Path, pins: &TestPins) -> (Ebpf, Maps) {
    load(&Object::File(object.to_owned()), pins, &sizes()).unwrap()
}

fn apply(maps: &mut Maps, desired: &Desired) {
    for op in diff::full(desired, &maps.tables().unwrap(), 0).ops {
        maps.apply(&op).unwrap();
    }
}

/// The ids of the endpoint and of its backend service.
fn ids(maps: &Maps, desired: &Desired) -> (u32, u32) {
    let tables = maps.tables().unwrap();
    let cart = desired.backend_services().next().unwrap();
    let service = tables.backend_service_id(&cart.name).unwrap();
    (tables.endpoint_id(service, Address::v4([10, 4, 2, 9]), 8080).unwrap(), service)
}

/// A node on which a Service came and went before the two that are there, and a connection.
fn begin(object: &Path, desired: &Desired) -> TestPins {
    let pins = TestPins::new().unwrap();
    let (_ebpf, mut maps) = start(object, &pins);
    let mut snapshot = Snapshot::default();
    service("former", "192.0.2.4", "10.4.2.11", &mut snapshot);
    let former = plan(&snapshot, &NodeContext::default(), &ReadinessAlone);
    apply(&mut maps, &former);
    apply(&mut maps, desired);
    let (endpoint, backend_service) = ids(&maps, desired);
    let generation = maps.endpoint(endpoint).generation;
    let [client, vip, to] = [CLIENT, VIP, ENDPOINT].map(|text| text.parse::<std::net::SocketAddr>().unwrap());
    let key = FlowKey {
        source: client.ip().into(),
        destination: vip.ip().into(),
        source_port: Be16::new(client.port()),
        destination_port: Be16::new(vip.port()),
        protocol: u32::from(protocol::TCP),
    };
    let flow = Flow {
        new_source: key.source,
        new_destination: to.ip().into(),
        new_source_port: key.source_port,
        new_destination_port: Be16::new(to.port()),
        flags: 0,
        endpoint,
        endpoint_generation: generation,
        backend_service,
        created_s: now_s(),
        last_seen_s: now_s(),
        state: FlowState::Established as u32,
    };
    let outer = Map::from_map_data(MapData::from_pin(pins.map(names::CONNTRACK)).unwrap()).unwrap();
    let outer: ArrayOfMaps<MapData, MapData> = outer.try_into().unwrap();
    let table = Map::from_map_data(outer.get(&CURRENT, 0).unwrap()).unwrap();
    let mut table: HashMap<MapData, [u8; size_of::<FlowKey>()], [u8; size_of::<Flow>()]> =
        table.try_into().unwrap();
    table.insert(bytemuck::cast::<_, [u8; 40]>(key), bytemuck::cast::<_, [u8; 64]>(flow), 0).unwrap();
    maps.note_flow(&key);
    pins
}

/// Where a program sends a packet of the connection.
fn assert_connection_goes_on(ebpf: &mut Ebpf, what: &str) {
    let program: &mut SchedClassifier = ebpf.program_mut("tc_pod_in").unwrap().try_into().unwrap();
    program.load().unwrap();
    let frame = PacketBuilder::tcp(CLIENT.parse().unwrap(), VIP.parse().unwrap(), ACK).build();
    assert_eq!(destination(program, &frame).unwrap(), ENDPOINT.parse().unwrap(), "{what}");
}

/// What is done to the pin of a map.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Missing,
    OtherMap,
    Folder,
}

impl Damage {
    const ALL: [Self; 3] = [Self::Missing, Self::OtherMap, Self::Folder];

    fn do_to(self, pin: &Path) {
        std::fs::remove_file(pin).unwrap();
        match self {
            Self::Missing => {}
            Self::OtherMap => new_flow_table(16).unwrap().pin(pin).unwrap(),
            Self::Folder => std::fs::create_dir(pin).unwrap(),
        }
    }

    /// What is told of it.
    fn is_told(self, fault: &Fault) -> bool {
        match self {
            Self::Missing => *fault == Fault::Missing,
            Self::OtherMap => {
                fault.to_string().starts_with("it is LruHash of 40 and 64 bytes, and this version needs: ")
            }
            Self::Folder => *fault == Fault::Foreign("it is a folder".into()),
        }
    }
}

#[test]
fn a_map_that_is_missing_or_another_is_made_anew_and_the_rest_kept() {
    let Some(need) = need::kernel() else { return };
    let desired = desired();
    let others = [Damage::OtherMap, Damage::Folder].into_iter().cycle();
    for (name, other) in names::ALL.into_iter().zip(others) {
        for damage in [Damage::Missing, other] {
            let what = format!("{name}, {damage:?}");
            let pins = begin(&need.ebpf_object, &desired);
            damage.do_to(&pins.map(name));
            let (mut ebpf, mut maps) = start(&need.ebpf_object, &pins);
            apply(&mut maps, &desired);
            let tables = maps.tables().unwrap();
            assert_eq!(tables.check(), [], "{what}");
            assert_eq!(diff::full(&desired, &tables, 0).ops, [], "{what}");
            assert_eq!(maps.flows().count(), 1, "{what}: the connection is not in CONNTRACK any more");
            if matches!(damage, Damage::Missing) {
                assert_connection_goes_on(&mut ebpf, &what);
            }
        }
    }
}

#[test]
fn what_was_found_is_told() {
    let Some(need) = need::kernel() else { return };
    let pins = begin(&need.ebpf_object, &desired());
    let damaged = [names::CONFIG, names::NODES, names::REASONS];
    for (name, damage) in damaged.into_iter().zip(Damage::ALL) {
        damage.do_to(&pins.map(name));
    }
    let mut repairs = repair(&pins, &sizes()).unwrap();
    repairs.sort_by_key(|repair| repair.map);
    assert_eq!(repairs.iter().map(|repair| repair.map).collect::<Vec<_>>(), damaged);
    assert!(
        repairs.iter().zip(Damage::ALL).all(|(repair, damage)| damage.is_told(&repair.fault)),
        "{repairs:?}"
    );
}

/// The pin of the map of flows.
fn flow_pin(pins: &TestPins) -> PathBuf {
    let mut entries = std::fs::read_dir(pins.maps()).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| path.to_string_lossy().contains("CONNTRACK_")).unwrap()
}

#[test]
fn the_map_of_flows_gets_its_pin_back() {
    let Some(need) = need::kernel() else { return };
    let desired = desired();
    for damage in Damage::ALL {
        let pins = begin(&need.ebpf_object, &desired);
        let pin = flow_pin(&pins);
        damage.do_to(&pin);
        let (mut ebpf, maps) = start(&need.ebpf_object, &pins);
        assert_eq!(maps.flows().count(), 1, "{damage:?}");
        assert_eq!(flow_pin(&pins), pin, "{damage:?}");
        assert_connection_goes_on(&mut ebpf, &format!("{damage:?}"));
    }
}

#[test]
fn a_program_in_the_place_of_a_map_is_none() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let (mut ebpf, _maps) = start(&need.ebpf_object, &pins);
    std::fs::remove_file(pins.map(names::NODES)).unwrap();
    let program: &mut SchedClassifier = ebpf.program_mut("tc_again").unwrap().try_into().unwrap();
    program.load().unwrap();
    program.pin(pins.map(names::NODES)).unwrap();
    let repairs = repair(&pins, &sizes()).unwrap();
    let fault = Fault::Foreign("it is no map but bpf-prog".into());
    assert_eq!(repairs, [Repair { map: names::NODES, fault }]);
}

#[test]
fn a_folder_with_something_in_it_is_named_and_left() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    drop(start(&need.ebpf_object, &pins));
    std::fs::remove_file(pins.map(names::NODES)).unwrap();
    std::fs::create_dir_all(pins.map(names::NODES).join("own")).unwrap();
    let error = load(&Object::File(need.ebpf_object.clone()), &pins, &sizes()).err().unwrap().to_string();
    let told = format!(
        "cannot use {}: it is a folder with something in it; remove it",
        pins.map(names::NODES).display()
    );
    assert_eq!(error, told);
    std::fs::remove_dir(pins.map(names::NODES).join("own")).unwrap();
}

#[test]
fn a_start_that_was_cut_short_is_no_fault() {
    let Some(need) = need::kernel() else { return };
    // After so many maps.
    for made in [0, 1, 6, 7, 20] {
        let pins = TestPins::new().unwrap();
        drop(start(&need.ebpf_object, &pins));
        std::fs::remove_file(flow_pin(&pins)).unwrap();
        names::ALL[made..].iter().for_each(|name| std::fs::remove_file(pins.map(name)).unwrap());
        let desired = desired();
        let (_ebpf, mut maps) = start(&need.ebpf_object, &pins);
        apply(&mut maps, &desired);
        assert_eq!(diff::full(&desired, &maps.tables().unwrap(), 0).ops, [], "{made}");
    }
}
