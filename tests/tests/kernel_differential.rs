//! Kernel tier: the same packets, one after the other, give the same verdict and the same bytes on the
//! host and in the kernel; and what goes forward comes back whole.
use std::collections::HashMap;
use std::net::IpAddr;

use aya::programs::{Xdp, XdpMode};
use lb_common::counters::Reason;
use lb_common::interface::{self, Interface};
use lb_common::maps;
use lb_ebpf::host::{HostFrame, HostTables};
use lb_ebpf::parse::parse;
use lb_ebpf::path::{self, Scratch, Side};
use lb_ebpf::verdict::Verdict;
use lb_tests::footprint::Footprint;
use lb_tests::kernel::{Kernel, Run, XDP};
use lb_tests::need;
use lb_tests::netns::{self, Namespace};
use lb_tests::packet::build::tcp_flags::{ACK, SYN};
use lb_tests::packet::build::{SCTP, TCP, chunk};
use lb_tests::packet::stream::{Intent, Soundness};
use lb_tests::packet::{FiveTuple, PacketBuilder, PacketStream, World, five_tuple, verify_checksums};
use lb_tests::world;
use rustix::time::{ClockId, clock_gettime};

const SEEDS: [u64; 4] = [1, 0x5eed, 20_240_601, 0xdead_beef];
const PACKETS_PER_SEED: usize = 6_000;

/// Shorter frames are no frames: the kernel takes none for a test run.
const ETHERNET_BYTES: usize = 14;

/// Reasons that the stream must have met, or it does not test what it should.
const EXPECTED: [Reason; 15] = [
    Reason::ForwardKnown,
    Reason::ForwardNew,
    Reason::ForwardReply,
    Reason::ForwardIcmpError,
    Reason::AnswerEcho,
    Reason::RefuseUnusedPort,
    Reason::PassNotOurs,
    Reason::PassNotIp,
    Reason::PassOtherProtocol,
    Reason::PassFragment,
    Reason::PassMalformed,
    Reason::PassHopLimit,
    Reason::RefuseNoEndpoint,
    Reason::DropNoLocalEndpoint,
    Reason::DropSourceRange,
];

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
/// `TC_ACT_UNSPEC`: on to the next program.
const TC_NEXT: u32 = u32::MAX;
const TC_SHOT: u32 = 2;
const TC_REDIRECT: u32 = 7;

/// A namespace whose uplink has an XDP program and a next hop with a known Ethernet address.
struct Bench {
    namespace: Namespace,
    _footprint: Footprint,
}

impl Bench {
    fn new() -> Self {
        let footprint = Footprint::new().unwrap();
        let name = footprint.namespace("path");
        netns::ip_batch(&[], &format!("netns add {name}\n")).unwrap();
        let namespace = Namespace::open(&name).unwrap();
        let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
        let (own, next) = (mac(world::UPLINK_MAC), mac(world::NEXT_HOP_MAC));
        let commands = format!(
            "link set lo up\n\
             link add eth0 address {own} type veth peer name eth1\n\
             addr add 192.0.2.11/24 dev eth0\n\
             link set eth0 up\nlink set eth1 up\n\
             addr add 2001:db8:0:1::11/64 dev eth0 nodad\n\
             neigh add 192.0.2.1 lladdr {next} dev eth0 nud permanent\n\
             neigh add 2001:db8:0:1::1 lladdr {next} dev eth0 nud permanent\n\
             route add default via 192.0.2.1\n\
             route add default via 2001:db8:0:1::1\n"
        );
        namespace.ip_batch(&commands).unwrap();
        namespace.set_sysctls(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]).unwrap();
        Self { namespace, _footprint: footprint }
    }
}

fn interface_index(name: &str) -> u32 {
    let family = rustix::net::AddressFamily::INET;
    let socket = rustix::net::socket(family, rustix::net::SocketType::DGRAM, None).unwrap();
    rustix::net::netdevice::name_to_index(&socket, name).unwrap()
}

fn now_s() -> u32 {
    u32::try_from(clock_gettime(ClockId::MonotonicCoarse).tv_sec).unwrap()
}

fn stream_world(tables: &HostTables) -> World {
    let vips: [IpAddr; 2] = [world::VIP_V4, world::VIP_V6];
    let frontends = [6, 17, 132]
        .into_iter()
        .flat_map(|protocol| vips.map(|vip| (protocol, vip)))
        .flat_map(|(protocol, vip)| world::PORTS.map(|port| (protocol, (vip, port).into())))
        .collect();
    let endpoints = tables
        .endpoints
        .values()
        .map(|endpoint| (endpoint.protocol, (IpAddr::from(endpoint.address), endpoint.port.get()).into()))
        .collect();
    let clients = ["203.0.113.7", "203.0.113.8", "10.244.3.3", "2001:db8:9::7", "2001:db8:9::8"];
    World { frontends, endpoints, clients: clients.map(|client| client.parse().unwrap()).to_vec() }
}

fn host_tables(uplink: u32) -> HostTables {
    HostTables { default_route: Some(world::route(uplink)), ..world::tables(now_s()) }
}

fn on_host(tables: &mut HostTables, frame: &[u8]) -> (Verdict, Vec<u8>) {
    on_host_side(tables, frame, Side::Uplink)
}

fn on_host_side(tables: &mut HostTables, frame: &[u8], side: Side) -> (Verdict, Vec<u8>) {
    tables.now_s = now_s();
    let mut packet = HostFrame(frame.to_vec());
    let verdict = match parse(&packet) {
        Ok(parsed) => path::to_backend(&mut packet, tables, &mut Scratch::new(parsed), side),
        Err(reason) => Verdict::Pass(reason),
    };
    (verdict, packet.0)
}

fn egress_on_host(tables: &mut HostTables, frame: &[u8]) -> (Verdict, Vec<u8>) {
    tables.now_s = now_s();
    let mut packet = HostFrame(frame.to_vec());
    let verdict = match parse(&packet) {
        Ok(parsed) => path::to_client(&mut packet, tables, &mut Scratch::new(parsed)),
        Err(reason) => Verdict::Pass(reason),
    };
    (verdict, packet.0)
}

fn xdp_code(verdict: &Verdict) -> u32 {
    match verdict {
        Verdict::Pass(_) | Verdict::ToStack(_) => XDP_PASS,
        Verdict::Drop(_) | Verdict::ToNeighbour { .. } => XDP_DROP,
        Verdict::Answer(_) | Verdict::ToLink { .. } => XDP_TX,
    }
}

fn tc_code(verdict: &Verdict) -> u32 {
    match verdict {
        Verdict::Pass(_) | Verdict::ToStack(_) => TC_NEXT,
        Verdict::Drop(_) => TC_SHOT,
        Verdict::Answer(_) | Verdict::ToLink { .. } | Verdict::ToNeighbour { .. } => TC_REDIRECT,
    }
}

/// Fresh programs and maps in a fresh namespace, and host tables that say the same.
fn with_both(work: impl FnOnce(&mut Kernel, &mut HostTables, u32) + Send) {
    let bench = Bench::new();
    let run = || {
        let uplink = interface_index("eth0");
        let mut kernel = Kernel::load(1 << 16).unwrap();
        let mut tables = host_tables(uplink);
        kernel.fill(&tables).unwrap();
        let entry = Interface { flags: interface::flags::UPLINK | interface::flags::XDP_TRANSMIT };
        kernel.put_hash::<4, 4>(maps::INTERFACES, &uplink, &entry).unwrap();
        // The test run takes an interface only with a registered receive queue: one with XDP.
        let xdp: &mut Xdp = kernel.ebpf_mut().program_mut(XDP).unwrap().try_into().unwrap();
        xdp.attach("eth0", XdpMode::Driver).unwrap();
        work(&mut kernel, &mut tables, uplink);
    };
    bench.namespace.run(run).unwrap();
}

/// The endpoint's first packet back.
fn answer(tuple: FiveTuple) -> Vec<u8> {
    let packet = match tuple.protocol {
        TCP => PacketBuilder::tcp(tuple.source, tuple.destination, SYN | ACK),
        SCTP => PacketBuilder::sctp(tuple.source, tuple.destination, chunk::DATA),
        _ => PacketBuilder::udp(tuple.source, tuple.destination),
    };
    packet.payload(b"reply").build()
}

/// Whether the kernel makes an skb of a frame for a test run: it wants the whole IP header, without
/// options, behind the `EtherType` that promises one.
fn takes_skb(frame: &[u8]) -> bool {
    let network_bytes = match frame.get(12..14) {
        Some([0x08, 0x00]) => 20,
        Some([0x86, 0xdd]) => 40,
        _ => 1,
    };
    frame.len() >= ETHERNET_BYTES + network_bytes
}

/// Runs both on one packet and compares.
fn step(kernel: &Kernel, tables: &mut HostTables, uplink: u32, frame: &[u8], what: &str) -> (Verdict, Run) {
    let (verdict, expected) = on_host(tables, frame);
    let run = kernel.run_xdp(frame, uplink).unwrap();
    assert_eq!(xdp_code(&verdict), run.code, "{what}: host says {verdict:?}; frame {frame:02x?}");
    assert_eq!(expected, run.frame, "{what}: {verdict:?}; frame {frame:02x?}");
    (verdict, run)
}

#[test]
fn host_and_kernel_agree_on_every_packet() {
    let Some(_) = need::kernel() else { return };
    let mut reasons = HashMap::<Reason, usize>::new();
    for seed in SEEDS {
        with_both(|kernel, tables, uplink| {
            let mut stream = PacketStream::new(seed, stream_world(tables));
            for number in 0..PACKETS_PER_SEED {
                let sample = stream.next_sample();
                if sample.frame.len() < ETHERNET_BYTES {
                    continue;
                }
                let what =
                    format!("seed {seed}, packet {number}, {:?} {:?}", sample.intent, sample.soundness);
                let (verdict, run) = step(kernel, tables, uplink, &sample.frame, &what);
                *reasons.entry(verdict.reason()).or_default() += 1;
                if matches!(verdict, Verdict::ToStack(_) | Verdict::ToLink { .. }) {
                    stream.learn(&run.frame);
                }
            }
        });
    }
    let rare: Vec<Reason> =
        EXPECTED.into_iter().filter(|reason| reasons.get(reason).copied().unwrap_or(0) < 20).collect();
    assert!(rare.is_empty(), "too few packets met {rare:?}: {reasons:?}");
}

#[test]
fn host_and_kernel_agree_at_the_tc_hooks() {
    let Some(_) = need::kernel() else { return };
    with_both(|kernel, tables, _| {
        let mut stream = PacketStream::new(SEEDS[0], stream_world(tables));
        for number in 0..PACKETS_PER_SEED {
            let sample = stream.next_sample();
            if !takes_skb(&sample.frame) {
                continue;
            }
            let what = format!("packet {number}, {:?} {:?}", sample.intent, sample.soundness);
            let (verdict, expected) = on_host_side(tables, &sample.frame, Side::Pod);
            let run = kernel.run_tc("tc_pod_in", &sample.frame).unwrap();
            assert_eq!((tc_code(&verdict), &expected), (run.code, &run.frame), "{what}: {verdict:?}");
            if matches!(verdict, Verdict::ToStack(_)) {
                stream.learn(&run.frame);
            }
            let (verdict, expected) = egress_on_host(tables, &sample.frame);
            let run = kernel.run_tc("tc_egress", &sample.frame).unwrap();
            assert_eq!((tc_code(&verdict), &expected), (run.code, &run.frame), "{what}: {verdict:?}");
        }
    });
}

#[test]
fn what_goes_forward_comes_back_whole() {
    let Some(_) = need::kernel() else { return };
    with_both(|kernel, tables, uplink| {
        let mut stream = PacketStream::new(SEEDS[1], stream_world(tables));
        let mut returned = [0; 2];
        for number in 0..PACKETS_PER_SEED {
            let sample = stream.next_sample();
            if sample.soundness != Soundness::Sound || sample.intent != Intent::Open {
                continue;
            }
            let what = format!("packet {number}");
            let (verdict, forward) = step(kernel, tables, uplink, &sample.frame, &what);
            if !matches!(verdict, Verdict::ToStack(_) | Verdict::ToLink { .. }) {
                continue;
            }
            verify_checksums(&forward.frame).unwrap_or_else(|error| panic!("{what}: forward: {error}"));
            let asked = five_tuple(&sample.frame).unwrap();
            let got = five_tuple(&forward.frame).unwrap().reply();
            let reply = answer(got);
            let back = if matches!(verdict, Verdict::ToStack(_)) {
                let (verdict, expected) = egress_on_host(tables, &reply);
                assert_eq!(verdict, Verdict::ToStack(Reason::ForwardReply), "{what}");
                let run = kernel.run_tc("tc_egress", &reply).unwrap();
                assert_eq!((TC_NEXT, &expected), (run.code, &run.frame), "{what}");
                returned[0] += 1;
                run
            } else {
                let (verdict, run) = step(kernel, tables, uplink, &reply, &what);
                assert_eq!(verdict.reason(), Reason::ForwardReply, "{what}");
                returned[1] += 1;
                run
            };
            verify_checksums(&back.frame).unwrap_or_else(|error| panic!("{what}: back: {error}"));
            assert_eq!(five_tuple(&back.frame).unwrap(), asked.reply(), "{what}");
        }
        assert!(returned.iter().all(|count| *count > 100), "local and remote round trips: {returned:?}");
    });
}
