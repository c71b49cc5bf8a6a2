//! Kernel tier: the same packets, one after the other, give the same verdict and the same bytes on the
//! host and in the kernel; and what goes forward comes back whole.
use std::collections::HashMap;
use std::net::IpAddr;

use lb_common::counters::Reason;
use lb_ebpf::host::HostTables;
use lb_ebpf::path::Side;
use lb_ebpf::verdict::Verdict;
use lb_tests::host_path;
use lb_tests::kernel::{Kernel, Run};
use lb_tests::need;
use lb_tests::packet::build::tcp_flags::{ACK, SYN};
use lb_tests::packet::build::{SCTP, TCP, chunk};
use lb_tests::packet::stream::{Intent, Soundness};
use lb_tests::packet::{FiveTuple, PacketBuilder, PacketStream, World, five_tuple, verify_checksums};
use lb_tests::uplink::{TC_NEXT, now_s, tc_code, with_both, xdp_code};
use lb_tests::world;

const SEEDS: [u64; 4] = [1, 0x5eed, 20_240_601, 0xdead_beef];
const PACKETS_PER_SEED: usize = 6_000;

/// The interface by which a packet came that now leaves: any but none.
const FORWARDED: u32 = 1;

/// Shorter frames are no frames: the kernel takes none for a test run.
const ETHERNET_BYTES: usize = 14;

/// Reasons that the stream must have met, or it does not test what it should.
const EXPECTED: [Reason; 17] = [
    Reason::HoldFragment,
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
    Reason::ForwardEncapsulated,
];

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

fn on_host(tables: &mut HostTables, frame: &[u8]) -> (Verdict, Vec<u8>) {
    on_host_side(tables, frame, Side::Uplink)
}

fn on_host_side(tables: &mut HostTables, frame: &[u8], side: Side) -> (Verdict, Vec<u8>) {
    tables.now_s = now_s();
    host_path::enter(tables, frame, side)
}

fn egress_on_host(tables: &mut HostTables, frame: &[u8]) -> (Verdict, Vec<u8>) {
    tables.now_s = now_s();
    host_path::leave(tables, frame)
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
            let run = kernel.run_tc("tc_pod_in", &sample.frame, 0, 0).unwrap();
            assert_eq!((tc_code(&verdict), &expected), (run.code, &run.frame), "{what}: {verdict:?}");
            if matches!(verdict, Verdict::ToStack(_)) {
                stream.learn(&run.frame);
            }
            let (verdict, expected) = egress_on_host(tables, &sample.frame);
            let run = kernel.run_tc("tc_egress", &sample.frame, 0, FORWARDED).unwrap();
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
            // Replies of an encapsulated flow do not pass this node.
            if !matches!(verdict, Verdict::ToStack(_) | Verdict::ToLink { .. })
                || verdict.reason() == Reason::ForwardEncapsulated
            {
                continue;
            }
            verify_checksums(&forward.frame).unwrap_or_else(|error| panic!("{what}: forward: {error}"));
            let asked = five_tuple(&sample.frame).unwrap();
            let got = five_tuple(&forward.frame).unwrap().reply();
            let reply = answer(got);
            let back = if matches!(verdict, Verdict::ToStack(_)) {
                let (verdict, expected) = egress_on_host(tables, &reply);
                assert_eq!(verdict, Verdict::ToStack(Reason::ForwardReply), "{what}");
                let run = kernel.run_tc("tc_egress", &reply, 0, FORWARDED).unwrap();
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
