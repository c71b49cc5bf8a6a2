//! Kernel tier: CONNTRACK grows under the programs' feet.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use aya::Ebpf;
use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use lb_common::conntrack::{CURRENT, Flow, FlowKey, FlowState, PREVIOUS};
use lb_common::endpoint::{Endpoint, state};
use lb_common::flow_filter::{self, Half};
use lb_common::{Address, Be16, maps as names, protocol};
use lb_tests::kernel::destination;
use lb_tests::need;
use lb_tests::packet::PacketBuilder;
use lb_tests::packet::build::tcp_flags::ACK;
use lb_tests::pins::TestPins;
use lb_userspace::clock::now_s;
use lb_userspace::diff::{Limits, Op};
use lb_userspace::maps::{Maps, Object, Pins, Sizes, load};
use lb_userspace::sweep::{Found, Sweep};

const FLOWS: u32 = 10_000;
const VIP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 80);

fn flow_pins(pins: &Pins) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(pins.maps()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().contains("CONNTRACK_")).collect()
}

/// The places of CONNTRACK, to leave them as somebody does who is killed.
fn places(pins: &Pins) -> ArrayOfMaps<MapData, MapData> {
    let map = MapData::from_pin(pins.map(names::CONNTRACK)).unwrap();
    Map::from_map_data(map).unwrap().try_into().unwrap()
}

fn sizes(conntrack_max: u32) -> Sizes {
    let limits = Limits {
        frontends_max: 16,
        backend_services_max: 16,
        endpoints_max: 16,
        ring_slots_max: 16,
        source_ranges_max: 16,
    };
    Sizes { limits, conntrack_max, ..Sizes::default() }
}

fn open(need: &need::Kernel, pins: &TestPins, conntrack_max: u32) -> (Ebpf, Maps) {
    load(&Object::File(need.ebpf_object.clone()), pins, &sizes(conntrack_max)).unwrap()
}

fn program(ebpf: &mut Ebpf) -> &SchedClassifier {
    let program: &mut SchedClassifier = ebpf.program_mut("tc_pod_in").unwrap().try_into().unwrap();
    program.load().unwrap();
    program
}

fn client(flow: u32) -> SocketAddr {
    ([10, 9, (flow >> 8) as u8, flow as u8], 40_000).into()
}

/// Each flow has a destination of its own, so that one that is taken for another is seen.
fn endpoint(flow: u32) -> SocketAddr {
    ([10, 4, (flow >> 8) as u8, flow as u8], 8080).into()
}

fn entry(flow: u32) -> (FlowKey, Flow) {
    let key = FlowKey {
        source: client(flow).ip().into(),
        destination: VIP.ip().into(),
        source_port: Be16::new(client(flow).port()),
        destination_port: Be16::new(VIP.port()),
        protocol: u32::from(protocol::TCP),
    };
    let value = Flow {
        new_source: key.source,
        new_destination: endpoint(flow).ip().into(),
        new_source_port: key.source_port,
        new_destination_port: Be16::new(endpoint(flow).port()),
        flags: 0,
        endpoint: 0,
        endpoint_generation: 0,
        backend_service: 0,
        created_s: now_s(),
        last_seen_s: now_s(),
        state: FlowState::Established as u32,
    };
    (key, value)
}

type Table = HashMap<MapData, [u8; size_of::<FlowKey>()], [u8; size_of::<Flow>()]>;

/// `FLOWS` flows in the current map, and the endpoint that they all count for.
fn begin(need: &need::Kernel, pins: &TestPins) -> (Ebpf, Maps) {
    let (ebpf, mut maps) = open(need, pins, 32_768);
    put_endpoint(&mut maps);
    maps.note_flow(&entry(0).0);
    put_flows(pins, (0..FLOWS).map(entry));
    (ebpf, maps)
}

fn put_endpoint(maps: &mut Maps) {
    let endpoint = Endpoint {
        address: Address::v4([10, 4, 0, 0]),
        port: Be16::new(8080),
        protocol: protocol::TCP,
        state: state::PRESENT | state::HEALTHY | state::LOCAL,
        ..Endpoint::default()
    };
    maps.apply(&Op::PutEndpoint { id: 0, endpoint }).unwrap();
}

/// Puts flows into the current map.
fn put_flows(pins: &Pins, flows: impl Iterator<Item = (FlowKey, Flow)>) {
    let table = places(pins).get(&CURRENT, 0).unwrap();
    let mut table: Table = Map::from_map_data(table).unwrap().try_into().unwrap();
    for (key, value) in flows {
        table
            .insert(
                bytemuck::cast::<_, [u8; size_of::<FlowKey>()]>(key),
                bytemuck::cast::<_, [u8; size_of::<Flow>()]>(value),
                0,
            )
            .unwrap();
    }
}

/// Where the program sends a packet of a flow.
fn led_to(program: &SchedClassifier, flow: u32) -> SocketAddr {
    let frame = PacketBuilder::tcp(client(flow), VIP, ACK).build();
    destination(program, &frame).unwrap()
}

fn assert_all_found(program: &SchedClassifier, step: &str) {
    for flow in 0..FLOWS {
        assert_eq!(led_to(program, flow), endpoint(flow), "flow {flow} {step}");
    }
}

fn move_all(maps: &mut Maps) {
    for _ in 0..64 {
        maps.move_flows().unwrap();
        if !maps.is_growing() {
            return;
        }
    }
    panic!("the move has no end");
}

/// A full map gives the place of an entry away at once, perhaps that of the very flow whose other entry is put back.
#[test]
fn what_takes_a_flows_own_place_leads_it_nowhere_else() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let (mut ebpf, mut maps) = open(&need, &pins, 64);
    put_endpoint(&mut maps);
    maps.note_flow(&entry(0).0);
    let program = program(&mut ebpf);
    let mut found = 0;
    for round in 0..200 {
        let flows = round * 64..(round + 1) * 64;
        let due = |flow| {
            let (key, value) = entry(flow);
            (key, Flow { last_seen_s: value.last_seen_s - 2, ..value })
        };
        put_flows(&pins, flows.clone().map(due));
        for flow in flows {
            match led_to(program, flow) {
                // Its entry was given away before, or now.
                VIP => {}
                to => {
                    assert_eq!(to, endpoint(flow), "flow {flow}");
                    found += 1;
                }
            }
        }
    }
    assert!(found > 100, "{found} packets found their flow");
}

#[test]
fn every_flow_is_found_at_every_step_of_a_growth() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let (mut ebpf, mut maps) = begin(&need, &pins);
    let program = program(&mut ebpf);
    assert_all_found(program, "before");
    maps.grow_conntrack(65_536).unwrap();
    for step in 0.. {
        // Some flows are moved by their packets, the rest by the agent.
        for flow in (0..FLOWS).skip(step).step_by(16) {
            assert_eq!(led_to(program, flow), endpoint(flow), "flow {flow} at step {step}");
        }
        if !maps.is_growing() {
            break;
        }
        maps.move_flows().unwrap();
    }
    assert_all_found(program, "after");
    assert_eq!(maps.flows().filter(|found| found.as_ref().unwrap().1.flags == 0).count(), FLOWS as usize);
    assert_eq!(flow_pins(&pins).len(), 1);
}

#[test]
fn what_a_packet_notes_during_a_growth_stays() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let (mut ebpf, mut maps) = begin(&need, &pins);
    let program = program(&mut ebpf);
    maps.grow_conntrack(65_536).unwrap();
    let frame = PacketBuilder::tcp(client(7), VIP, lb_tests::packet::build::tcp_flags::RST).build();
    let options = TestRunOptions { data_in: Some(&frame), repeat: 1, ..TestRunOptions::default() };
    program.test_run(options).unwrap();
    move_all(&mut maps);
    assert_eq!(maps.flow(&entry(7).0).unwrap().unwrap().state(), FlowState::Reset);
}

#[test]
fn no_flow_is_lost_while_traffic_goes_on() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let (mut ebpf, mut maps) = begin(&need, &pins);
    let program = program(&mut ebpf);
    let (is_over, packets) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut flow = 0;
            while !is_over.load(Ordering::Relaxed) {
                flow = (flow + 7_919) % FLOWS;
                assert_eq!(led_to(program, flow), endpoint(flow), "flow {flow} has moved");
                packets.fetch_add(1, Ordering::Relaxed);
            }
        });
        for entries_max in [65_536, 131_072] {
            maps.grow_conntrack(entries_max).unwrap();
            move_all(&mut maps);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(packets.into_inner() > 0);
    assert_all_found(program, "after");
}

#[test]
fn a_growth_that_was_cut_short_is_finished_by_the_next_agent() {
    let Some(need) = need::kernel() else { return };
    // After how many batches the first one is killed; the second has moved something, not all.
    for batches in [0, 1, 2] {
        let pins = TestPins::new().unwrap();
        let (ebpf, mut maps) = begin(&need, &pins);
        maps.grow_conntrack(65_536).unwrap();
        for _ in 0..batches {
            maps.move_flows().unwrap();
        }
        assert!(maps.is_growing());
        drop((ebpf, maps));
        let (mut ebpf, mut maps) = open(&need, &pins, 32_768);
        assert!(maps.is_growing());
        let program = program(&mut ebpf);
        for flow in (0..FLOWS).step_by(3) {
            assert_eq!(led_to(program, flow), endpoint(flow));
        }
        move_all(&mut maps);
        assert_all_found(program, "after the second agent");
        assert_eq!(flow_pins(&pins).len(), 1);
    }
}

#[test]
fn an_agent_killed_between_the_two_places_leaves_one_map_in_both() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let (ebpf, maps) = begin(&need, &pins);
    let current = places(&pins).get(&CURRENT, 0).unwrap();
    places(&pins).set(PREVIOUS, &current, 0).unwrap();
    // And with the larger one pinned in no place.
    lb_userspace::maps::new_flow_table(64).unwrap().pin(pins.map("CONNTRACK_0")).unwrap();
    drop((ebpf, maps));
    let (mut ebpf, mut maps) = open(&need, &pins, 32_768);
    assert_eq!(maps.flows().count(), FLOWS as usize, "none twice");
    move_all(&mut maps);
    assert_all_found(program(&mut ebpf), "after the second agent");
    assert_eq!(flow_pins(&pins).len(), 1);
}

#[test]
fn an_unmoved_flow_is_read_from_where_it_is() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let (_ebpf, mut maps) = begin(&need, &pins);
    maps.grow_conntrack(65_536).unwrap();
    let (key, value) = entry(3);
    assert_eq!(maps.flow(&key).unwrap().map(|flow| flow.new_destination), Some(value.new_destination));
}

#[test]
fn a_sweep_removes_the_flows_that_are_over_and_reports() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let (_ebpf, mut maps) = begin(&need, &pins);
    let table = places(&pins).get(&CURRENT, 0).unwrap();
    let mut table: Table = Map::from_map_data(table).unwrap().try_into().unwrap();
    for flow in 0..100 {
        let (key, value) = entry(flow);
        let value = Flow { last_seen_s: 0, state: FlowState::Reset as u32, ..value };
        let key = bytemuck::cast::<_, [u8; size_of::<FlowKey>()]>(key);
        table.insert(key, bytemuck::cast::<_, [u8; size_of::<Flow>()]>(value), 0).unwrap();
    }
    let tables = maps.tables().unwrap();
    let mut sweep = Sweep::default();
    let pass = (0..64).find_map(|_| sweep.step(&mut maps, &tables).unwrap()).expect("a pass ends");
    let found = Found { entries: FLOWS - 100, expired: 100, entries_max: 32_768 };
    assert_eq!(pass.maps[0], (names::CONNTRACK, found));
    assert_eq!(pass.flows.of(0, &tables), u64::from(FLOWS) - 100);
    assert_eq!(maps.flows().count(), FLOWS as usize - 100);
    assert_eq!(maps.flow(&entry(0).0).unwrap(), None);
    assert!(maps.flow(&entry(100).0).unwrap().is_some());
}

#[test]
fn an_entry_that_was_begun_anew_since_it_was_read_stays() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let (_ebpf, mut maps) = begin(&need, &pins);
    let (key, value) = entry(3);
    let mut seen = None;
    let is_gone = maps.remove_entry_if(&key, |flow: &Flow| {
        seen = Some(*flow);
        false
    });
    assert!(!is_gone.unwrap());
    assert_eq!(seen.map(|flow| flow.new_destination), Some(value.new_destination));
    assert_eq!(maps.flow(&key).unwrap(), seen);
    assert!(maps.remove_entry_if(&key, |_| true).unwrap());
    assert_eq!(maps.flow(&key).unwrap(), None);
    assert!(maps.remove_entry_if(&key, |_| false).unwrap(), "gone already");
}

/// The bits of an address in FLOW_FILTER: in the lower and in the upper half.
fn filter_bits(pins: &TestPins, address: &Address) -> [bool; 2] {
    let map = MapData::from_pin(pins.map(names::FLOW_FILTER)).unwrap();
    let map: Array<MapData, u64> = Map::from_map_data(map).unwrap().try_into().unwrap();
    let (word, bits) = flow_filter::place(address);
    let found = map.get(&word, 0).unwrap();
    [Half::Lower, Half::Upper].map(|half| found & bits & half.mask() != 0)
}

/// Sweeps until a pass has ended.
fn sweep(maps: &mut Maps, sweep: &mut Sweep) {
    let tables = maps.tables().unwrap();
    (0..64).find_map(|_| sweep.step(maps, &tables).unwrap()).expect("a pass ends");
}

#[test]
fn two_walks_clear_the_filters_bits_of_flows_that_are_over_and_no_others() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let (_ebpf, mut maps) = begin(&need, &pins);
    let stays = entry(0).0.destination;
    let (key, value) = entry(1);
    let over = FlowKey { destination: Address::v4([203, 0, 113, 99]), ..key };
    maps.note_flow(&over);
    let table = places(&pins).get(&CURRENT, 0).unwrap();
    let mut table: Table = Map::from_map_data(table).unwrap().try_into().unwrap();
    let value = Flow { last_seen_s: 0, state: FlowState::Reset as u32, ..value };
    let bytes = bytemuck::cast::<_, [u8; size_of::<FlowKey>()]>(over);
    table.insert(bytes, bytemuck::cast::<_, [u8; size_of::<Flow>()]>(value), 0).unwrap();
    assert_eq!(filter_bits(&pins, &over.destination), [true, true]);
    let mut walks = Sweep::default();
    sweep(&mut maps, &mut walks);
    assert_eq!(filter_bits(&pins, &over.destination), [false, true]);
    assert_eq!(filter_bits(&pins, &stays), [true, true]);
    sweep(&mut maps, &mut walks);
    assert_eq!(filter_bits(&pins, &over.destination), [false, false]);
    assert_eq!(filter_bits(&pins, &stays), [true, true]);
}

#[test]
fn a_walk_that_nobody_ended_leaves_no_flow_without_its_bit() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let (ebpf, maps) = begin(&need, &pins);
    let stays = entry(0).0.destination;
    // Its agent is killed before it has met a flow.
    maps.begin_flow_walk();
    assert_eq!(filter_bits(&pins, &stays), [false, true]);
    drop((ebpf, maps));
    let (_ebpf, maps) = open(&need, &pins, 32_768);
    assert_eq!(filter_bits(&pins, &stays), [true, true]);
    // The next one begins with the same half, and may be killed too.
    maps.begin_flow_walk();
    assert_eq!(filter_bits(&pins, &stays), [false, true]);
}

#[test]
fn a_flow_is_found_whichever_half_has_its_bit() {
    let Some(need) = need::kernel() else { return };
    let pins = TestPins::new().unwrap();
    let (mut ebpf, mut maps) = begin(&need, &pins);
    let program = program(&mut ebpf);
    for _ in 0..2 {
        maps.begin_flow_walk();
        assert_eq!(led_to(program, 7), endpoint(7));
        maps.note_flow(&entry(0).0);
        maps.end_flow_walk();
    }
    maps.begin_flow_walk();
    maps.end_flow_walk();
    maps.begin_flow_walk();
    assert_eq!(led_to(program, 7), VIP, "no bit, no flow");
}
