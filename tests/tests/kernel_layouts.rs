//! Kernel tier: the maps of an older layout, kept as a file, are in use by an agent of this one.
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use aya::Ebpf;
use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{ProgramError, SchedClassifier};
use lb_common::counters::{Reason, Traffic};
use lb_common::{Address, maps as names};
use lb_tests::kernel::destination;
use lb_tests::need;
use lb_tests::packet::PacketBuilder;
use lb_tests::packet::build::tcp_flags::{ACK, SYN};
use lb_tests::pins::TestPins;
use lb_userspace::clock::now_s;
use lb_userspace::maps::{Maps, Object, Sizes, load, new_flow_table};
use serde::Deserialize;

const VIP: &str = "192.0.2.1:80";
/// The client of the connection in the file, and a new one.
const KNOWN: &str = "10.9.0.7:40000";
const NEW: &str = "10.9.0.9:40000";
/// The endpoint that the connection has, and the one that the ring names.
const OF_FLOW: &str = "10.4.2.9:8080";
const OF_RING: &str = "10.4.2.8:8080";

/// The maps of a layout.
#[derive(Deserialize)]
struct Layout {
    layout: u32,
    maps: Vec<Described>,
}

/// A map, as bpftool makes it.
#[derive(Deserialize)]
struct Described {
    name: String,
    r#type: String,
    key_bytes: u32,
    value_bytes: u32,
    entries_max: u32,
    flags: u32,
    entries: Vec<[String; 2]>,
}

/// Where the map of flows is.
#[derive(Clone, Copy)]
enum FlowsAre {
    /// In an array of maps, with a pin of its own.
    InAPlace,
    /// Alone, as before flows could be moved to a larger map.
    Alone,
}

fn bpftool(arguments: &[&str]) -> String {
    let output = Command::new("bpftool").args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "bpftool {arguments:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

/// The bytes of a hexadecimal text, one by one, with now in place of the seconds of the entries that have some.
fn bytes(text: &str, seconds_at: &[usize]) -> Vec<String> {
    let mut bytes: Vec<String> = (0..text.len() / 2).map(|at| text[2 * at..][..2].to_owned()).collect();
    for at in seconds_at {
        let now = now_s().to_ne_bytes().map(|byte| format!("{byte:02x}"));
        bytes[*at..at + 4].clone_from_slice(&now);
    }
    bytes
}

impl Described {
    /// Where its values have seconds.
    fn seconds_at(&self) -> &'static [usize] {
        match self.name.as_str() {
            names::CONNTRACK => &[52, 56],
            names::AFFINITY => &[8],
            _ => &[],
        }
    }

    fn make(&self, pin: &Path) {
        let pin = pin.to_str().unwrap();
        let numbers = [self.key_bytes, self.value_bytes, self.entries_max, self.flags].map(|n| n.to_string());
        let [key, value, entries, flags] = numbers.each_ref().map(String::as_str);
        bpftool(&[
            "map",
            "create",
            pin,
            "type",
            &self.r#type,
            "key",
            key,
            "value",
            value,
            "entries",
            entries,
            "name",
            &self.name,
            "flags",
            flags,
        ]);
        for [key, value] in &self.entries {
            let (key, value) = (bytes(key, &[]), bytes(value, self.seconds_at()));
            let key = ["key", "hex"].into_iter().chain(key.iter().map(String::as_str));
            let value = ["value", "hex"].into_iter().chain(value.iter().map(String::as_str));
            let all: Vec<&str> =
                ["map", "update", "pinned", pin].into_iter().chain(key).chain(value).collect();
            bpftool(&all);
        }
    }
}

/// Pins the maps of the file as an agent of their layout left them; the folder.
fn leave_former(pins: &TestPins, flows: FlowsAre) -> PathBuf {
    let layout: Layout = serde_json::from_str(include_str!("../fixtures/layout-2.json")).unwrap();
    let folder = pins.root().join(format!("v{}", layout.layout));
    let maps = folder.join("maps");
    std::fs::create_dir_all(&maps).unwrap();
    std::fs::create_dir_all(folder.join("links")).unwrap();
    for map in &layout.maps {
        map.make(&maps.join(&map.name));
    }
    if let FlowsAre::InAPlace = flows {
        let outer = maps.join(names::CONNTRACK);
        let id = MapData::from_pin(&outer).unwrap().info().unwrap().id();
        let inner = maps.join(format!("CONNTRACK_{id}"));
        std::fs::rename(&outer, &inner).unwrap();
        let [outer, inner] = [&outer, &inner].map(|path| path.to_str().unwrap());
        let array = "type array_of_maps key 4 value 4 entries 2 name CONNTRACK inner_map pinned";
        let make = ["map", "create", outer].into_iter().chain(array.split(' ')).chain([inner]);
        bpftool(&make.collect::<Vec<&str>>());
        let put = "key hex 00 00 00 00 value pinned";
        let put = ["map", "update", "pinned", outer].into_iter().chain(put.split(' ')).chain([inner]);
        bpftool(&put.collect::<Vec<&str>>());
    }
    folder
}

fn start(need: &need::Kernel, pins: &TestPins) -> (Ebpf, Maps) {
    load(&Object::File(need.ebpf_object.clone()), pins, &Sizes::default()).unwrap()
}

/// Where the programs send a packet of a client to the VIP.
fn led_to(ebpf: &mut Ebpf, client: &str, tcp_flags: u8) -> SocketAddr {
    let program: &mut SchedClassifier = ebpf.program_mut("tc_pod_in").unwrap().try_into().unwrap();
    while program.fd().is_err() {
        match program.load() {
            // The end of a bpftool elsewhere: a signal interrupts the verifier.
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == ErrorKind::WouldBlock => {}
            loaded => loaded.unwrap(),
        }
    }
    let frame = PacketBuilder::tcp(client.parse().unwrap(), VIP.parse().unwrap(), tcp_flags).build();
    destination(program, &frame).unwrap()
}

/// The reasons that were counted.
fn counted(maps: &Maps) -> Vec<(Reason, u64)> {
    let all = Reason::ALL.iter().map(|reason| (*reason, maps.reason(*reason).unwrap()));
    all.filter(|(_, count)| *count > 0).collect()
}

fn assert_all_is_in_use(ebpf: &mut Ebpf, maps: &Maps) {
    assert_eq!(led_to(ebpf, KNOWN, ACK), OF_FLOW.parse().unwrap(), "the connection has moved");
    assert_eq!(led_to(ebpf, NEW, SYN), OF_RING.parse().unwrap(), "counted: {:?}", counted(maps));
    let tables = maps.tables().unwrap();
    assert_eq!(tables.check(), []);
    let named: Vec<String> = tables
        .backend_service_ids()
        .map(|id| tables.name(id).map_or_else(String::new, |stored| stored.name.to_string()))
        .collect();
    assert_eq!(named, ["shop/cart:http/TCP"]);
    assert_eq!(tables.endpoint_id(0, Address::v4([10, 4, 2, 9]), 8080), Some(1));
}

#[test]
fn what_maps_of_the_former_layout_hold_is_in_use() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let former = leave_former(&pins, FlowsAre::InAPlace);
    let (mut ebpf, maps) = start(&need, &pins);
    let cpus = aya::util::nr_cpus().unwrap() as u64;
    // One reason was put among the others.
    let counted = [(Reason::PassNotOurs, 7), (Reason::PassReply, 0), (Reason::PassNotIp, 11)];
    for (reason, count) in counted {
        assert_eq!(maps.reason(reason).unwrap(), count * cpus, "{reason:?}");
    }
    assert_eq!(maps.reason(*Reason::ALL.last().unwrap()).unwrap(), 13 * cpus);
    let traffic = Traffic { packets: 5 * cpus, bytes: 300 * cpus, new_flows: cpus };
    assert_eq!(maps.backend_service_traffic(0).unwrap(), traffic);
    let kept: Vec<u32> = maps.affinities().map(|found| found.unwrap().1.endpoint).collect();
    assert_eq!(kept, [1]);
    assert_all_is_in_use(&mut ebpf, &maps);
    pins.adopt_links().unwrap();
    pins.remove_older().unwrap();
    assert!(!former.exists());
    assert_all_is_in_use(&mut ebpf, &maps);
    drop((ebpf, maps));
    let (mut ebpf, maps) = start(&need, &pins);
    assert_all_is_in_use(&mut ebpf, &maps);
}

#[test]
fn flows_of_a_map_that_stood_alone_go_on() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    leave_former(&pins, FlowsAre::Alone);
    let (mut ebpf, maps) = start(&need, &pins);
    assert_all_is_in_use(&mut ebpf, &maps);
}

#[test]
fn maps_of_a_layout_that_is_not_known_any_more_are_made_anew() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let former = leave_former(&pins, FlowsAre::Alone);
    let older = former.with_file_name("v1");
    std::fs::rename(&former, &older).unwrap();
    let (mut ebpf, maps) = start(&need, &pins);
    assert_eq!(maps.flows().count(), 0);
    let tables = maps.tables().unwrap();
    assert_eq!((tables.backend_service_ids().count(), tables.check()), (0, Vec::new()));
    // Until the next apply nobody has the VIP.
    assert_eq!(led_to(&mut ebpf, KNOWN, ACK), VIP.parse().unwrap());
    pins.adopt_links().unwrap();
    pins.remove_older().unwrap();
    assert!(!older.exists());
}

#[test]
fn a_take_over_that_was_cut_short_is_finished() {
    let Some(need) = need::kernel() else { return };
    // As many maps have their second pin when the agent is killed.
    for pinned in [0, 3, 7, 12, 18] {
        let pins = TestPins::new().unwrap();
        leave_former(&pins, FlowsAre::InAPlace);
        drop(start(&need, &pins));
        let later: Vec<PathBuf> = names::ALL[pinned..].iter().map(|name| pins.map(name)).collect();
        later.iter().for_each(|pin| std::fs::remove_file(pin).unwrap());
        let (mut ebpf, maps) = start(&need, &pins);
        assert_all_is_in_use(&mut ebpf, &maps);
    }
}

/// Gives a reason another count, as programs do.
fn count(pins: &TestPins, reason: Reason, packets: u64) {
    let map = Map::from_map_data(MapData::from_pin(pins.map(names::REASONS)).unwrap()).unwrap();
    let mut table: PerCpuArray<MapData, u64> = map.try_into().unwrap();
    let cpus = aya::util::nr_cpus().unwrap();
    table.set(reason as u32, PerCpuValues::try_from(vec![packets; cpus]).unwrap(), 0).unwrap();
}

#[test]
fn counts_are_converted_once() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    leave_former(&pins, FlowsAre::InAPlace);
    drop(start(&need, &pins));
    count(&pins, Reason::PassNotOurs, 70);
    let (_ebpf, maps) = start(&need, &pins);
    assert_eq!(maps.reason(Reason::PassNotOurs).unwrap(), 70 * aya::util::nr_cpus().unwrap() as u64);
}

#[test]
fn links_of_the_former_layout_become_this_ones_where_it_has_none() {
    let Some(_need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    pins.create().unwrap();
    let former = leave_former(&pins, FlowsAre::InAPlace).join("links");
    let (theirs, ours) = (new_flow_table(16).unwrap(), new_flow_table(16).unwrap());
    for name in ["xdp_uplink-7", "tc_egress-7"] {
        theirs.pin(former.join(name)).unwrap();
    }
    ours.pin(pins.links().join("tc_egress-7")).unwrap();
    pins.adopt_links().unwrap();
    let id = |map: &MapData| map.info().unwrap().id();
    let id_at = |name: &str| id(&MapData::from_pin(pins.links().join(name)).unwrap());
    assert_eq!((id_at("xdp_uplink-7"), id_at("tc_egress-7")), (id(&theirs), id(&ours)));
    assert_eq!(std::fs::read_dir(&former).unwrap().count(), 0);
}

#[test]
fn programs_of_a_newer_layout_are_left_alone() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let newer = pins.root().join("v99");
    std::fs::create_dir_all(newer.join("links")).unwrap();
    let link = newer.join("links").join("tc_egress-7");
    new_flow_table(16).unwrap().pin(&link).unwrap();
    let object = Object::File(need.ebpf_object.clone());
    let error = load(&object, &pins, &Sizes::default()).err().unwrap().to_string();
    assert!(
        error.contains("programs of layout 99 are attached, and this version has layout 3; start"),
        "{error}"
    );
    assert!(link.exists());
    assert_eq!(std::fs::read_dir(pins.maps()).unwrap().count(), 0);
    // What an upgrade left that was cut short before its programs were attached is of no use to anybody.
    std::fs::remove_file(&link).unwrap();
    start(&need, &pins);
    assert!(!newer.exists());
}
