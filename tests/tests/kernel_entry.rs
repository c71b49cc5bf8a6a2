//! Kernel tier: direct server return, clients on the node itself and packets that are too big give the
//! same verdict and the same bytes on the host and in the kernel.
use std::net::{IpAddr, SocketAddr};

use lb_common::config::{self, Config};
use lb_common::counters::Reason;
use lb_common::{Address, maps};
use lb_ebpf::host::{HostFrame, HostTables};
use lb_ebpf::parse::parse;
use lb_ebpf::path::{self, Scratch, Sender, Side};
use lb_ebpf::verdict::Verdict;
use lb_tests::kernel::{Kernel, Run};
use lb_tests::need;
use lb_tests::packet::build::tcp_flags::{ACK, SYN};
use lb_tests::packet::{FiveTuple, PacketBuilder, five_tuple, verify_checksums};
use lb_tests::uplink::{now_s, tc_code, with_both, xdp_code};
use lb_tests::world::{self, NODE_V4, NODE_V6, VIP_V4, VIP_V6};

/// An interface by which something came in: any but none.
const FORWARDED: u32 = 1;

/// Where a packet meets the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Xdp,
    UplinkIn,
    PodIn,
    /// On its way out, sent by the node or forwarded.
    Egress(Sender),
}

fn on_host(tables: &mut HostTables, frame: &[u8], hook: Hook) -> (Verdict, Vec<u8>) {
    tables.now_s = now_s();
    let mut packet = HostFrame(frame.to_vec());
    let mut scratch = Scratch::new(parse(&packet).unwrap());
    let verdict = match hook {
        Hook::Xdp | Hook::UplinkIn => path::to_backend(&mut packet, tables, &mut scratch, Side::Uplink),
        Hook::PodIn => path::to_backend(&mut packet, tables, &mut scratch, Side::Pod),
        Hook::Egress(sender) => path::to_client(&mut packet, tables, &mut scratch, sender),
    };
    (verdict, packet.0)
}

fn in_kernel(kernel: &Kernel, uplink: u32, frame: &[u8], hook: Hook) -> Run {
    match hook {
        Hook::Xdp => kernel.run_xdp(frame, uplink),
        Hook::UplinkIn => kernel.run_tc("tc_uplink_in", frame, uplink, FORWARDED),
        Hook::PodIn => kernel.run_tc("tc_pod_in", frame, uplink, FORWARDED),
        Hook::Egress(Sender::Node) => kernel.run_tc("tc_egress", frame, uplink, 0),
        Hook::Egress(Sender::Other) => kernel.run_tc("tc_egress", frame, uplink, FORWARDED),
    }
    .unwrap()
}

/// Runs both on one packet and compares.
fn step(both: &mut Both<'_>, frame: &[u8], hook: Hook) -> (Verdict, Vec<u8>) {
    let (verdict, expected) = on_host(both.tables, frame, hook);
    let run = in_kernel(both.kernel, both.uplink, frame, hook);
    let code = if hook == Hook::Xdp { xdp_code(&verdict) } else { tc_code(&verdict) };
    assert_eq!(code, run.code, "{hook:?}: host says {verdict:?}; frame {frame:02x?}");
    assert_eq!(expected, run.frame, "{hook:?}: {verdict:?}; frame {frame:02x?}");
    (verdict, run.frame)
}

struct Both<'a> {
    kernel: &'a mut Kernel,
    tables: &'a mut HostTables,
    uplink: u32,
}

fn both(work: impl FnOnce(Both<'_>) + Send) {
    with_both(|kernel, tables, uplink| work(Both { kernel, tables, uplink }));
}

/// A client's first packet over TCP or UDP.
fn first(protocol: u8, client: SocketAddr, to: SocketAddr) -> PacketBuilder {
    match protocol {
        6 => PacketBuilder::tcp(client, to, SYN),
        _ => PacketBuilder::udp(client, to).payload(b"ask"),
    }
}

fn answer(tuple: FiveTuple) -> Vec<u8> {
    let tuple = tuple.reply();
    match tuple.protocol {
        6 => PacketBuilder::tcp(tuple.source, tuple.destination, SYN | ACK).build(),
        _ => PacketBuilder::udp(tuple.source, tuple.destination).payload(b"reply").build(),
    }
}

/// Every protocol with a VIP and a client in both families.
fn cases(client_v4: &str, client_v6: &str) -> Vec<(u8, IpAddr, IpAddr)> {
    let ends = [(VIP_V4, client_v4), (VIP_V6, client_v6)];
    let with = |protocol: u8| ends.map(|(vip, client)| (protocol, vip, client.parse().unwrap()));
    [6, 17].into_iter().flat_map(with).collect()
}

#[test]
fn host_and_kernel_agree_on_direct_server_return_from_client_to_client() {
    let Some(_) = need::kernel() else { return };
    for hook in [Hook::Xdp, Hook::UplinkIn] {
        both(|mut both| {
            for (protocol, vip, client) in cases("203.0.113.7", "2001:db8:9::7") {
                let frontend: SocketAddr = (vip, world::PORT_DSR).into();
                let mut returned = 0;
                for port in 40_000..40_040 {
                    let client = SocketAddr::new(client, port);
                    let asked = first(protocol, client, frontend).build();
                    let (verdict, sent) = step(&mut both, &asked, hook);
                    if verdict.reason() != Reason::ForwardEncapsulated {
                        continue;
                    }
                    let (verdict, delivered) = step(&mut both, &sent, hook);
                    assert_eq!(verdict, Verdict::ToStack(Reason::ForwardDecapsulated));
                    verify_checksums(&delivered).unwrap();
                    let tuple = five_tuple(&delivered).unwrap();
                    assert_eq!(tuple.source, client);
                    let (verdict, back) = step(&mut both, &answer(tuple), Hook::Egress(Sender::Other));
                    assert_eq!(verdict, Verdict::ToStack(Reason::ForwardReply));
                    verify_checksums(&back).unwrap();
                    let tuple = five_tuple(&back).unwrap();
                    assert_eq!((tuple.source, tuple.destination), (frontend, client));
                    let (verdict, _) = step(&mut both, &asked, hook);
                    assert_eq!(verdict.reason(), Reason::ForwardEncapsulated, "known now");
                    returned += 1;
                }
                assert!(returned > 10, "{returned} of 40: three endpoints of four are elsewhere");
            }
        });
    }
}

#[test]
fn host_and_kernel_agree_on_packets_that_are_too_big() {
    let Some(_) = need::kernel() else { return };
    for hook in [Hook::Xdp, Hook::UplinkIn] {
        both(|mut both| {
            let mut met = [0; 2];
            for (protocol, vip, client) in cases("203.0.113.7", "2001:db8:9::7") {
                for port in 40_000..40_020 {
                    let client = SocketAddr::new(client, port);
                    let asked = first(protocol, client, (vip, world::PORT_DSR).into());
                    let headers = asked.clone().payload(b"").build().len();
                    // The last that fits beside the overhead of 48 or 80 bytes, and the first that does not.
                    let fits = 1_514 - headers - if client.is_ipv4() { 48 } else { 80 };
                    for (index, bytes) in [fits, fits + 1].into_iter().enumerate() {
                        let asked = asked.clone().payload(&vec![7; bytes]).build();
                        let (verdict, frame) = step(&mut both, &asked, hook);
                        match verdict.reason() {
                            Reason::ForwardEncapsulated => assert_eq!(index, 0),
                            Reason::RefuseTooBig => {
                                assert_eq!(index, 1);
                                verify_checksums(&frame).unwrap();
                            }
                            other => {
                                assert_eq!(verdict, Verdict::ToStack(other), "a local endpoint");
                                continue;
                            }
                        }
                        met[index] += 1;
                    }
                }
            }
            assert!(met.into_iter().all(|count| count > 20), "{met:?}");
        });
    }
}

#[test]
fn host_and_kernel_agree_on_clients_of_the_node_itself() {
    let Some(_) = need::kernel() else { return };
    both(|mut both| {
        for (protocol, vip, node) in cases(&NODE_V4.to_string(), &NODE_V6.to_string()) {
            let frontend: SocketAddr = (vip, world::PORT_MIXED).into();
            for port in 40_000..40_020 {
                let client = SocketAddr::new(node, port);
                let asked = first(protocol, client, frontend).build();
                let (verdict, sent) = step(&mut both, &asked, Hook::Egress(Sender::Node));
                assert!(matches!(verdict, Verdict::ToLink { reason: Reason::ForwardNew, .. }), "{verdict:?}");
                verify_checksums(&sent).unwrap();
                let tuple = five_tuple(&sent).unwrap();
                assert_eq!(tuple.source.ip(), node);
                for hook in [Hook::Xdp, Hook::UplinkIn, Hook::PodIn] {
                    let (verdict, back) = step(&mut both, &answer(tuple), hook);
                    assert_eq!(verdict, Verdict::ToStack(Reason::ForwardReply), "{hook:?}");
                    verify_checksums(&back).unwrap();
                    let tuple = five_tuple(&back).unwrap();
                    assert_eq!((tuple.source, tuple.destination), (frontend, client));
                }
            }
            let refused = first(protocol, (node, 40_000).into(), (vip, world::PORT_EMPTY).into()).build();
            let (verdict, _) = step(&mut both, &refused, Hook::Egress(Sender::Node));
            assert_eq!(verdict, Verdict::Answer(Reason::RefuseNoEndpoint));
            let (verdict, _) = step(&mut both, &refused, Hook::Egress(Sender::Other));
            assert_eq!(verdict, Verdict::Pass(Reason::PassNotOurs), "forwarded for somebody else");
        }
    });
}

#[test]
fn host_and_kernel_agree_on_packets_handed_to_pods() {
    let Some(_) = need::kernel() else { return };
    for hook in [Hook::Xdp, Hook::UplinkIn, Hook::PodIn] {
        both(|both| {
            let Both { kernel, tables, uplink } = both;
            tables.can_deliver = hook != Hook::Xdp;
            tables.config.as_mut().unwrap().flags |= config::flags::DELIVER_DIRECTLY;
            let value = tables.config.unwrap();
            kernel.put_array::<{ size_of::<Config>() }>(maps::CONFIG, 0, &value).unwrap();
            let mut both = Both { kernel, tables, uplink };
            let mut delivered = 0;
            for (protocol, vip, client) in cases("203.0.113.7", "2001:db8:9::7") {
                for port in 40_000..40_010 {
                    let client = SocketAddr::new(client, port);
                    let asked = first(protocol, client, (vip, world::PORT_LOCAL).into()).build();
                    for _ in 0..2 {
                        let (verdict, sent) = step(&mut both, &asked, hook);
                        verify_checksums(&sent).unwrap();
                        delivered += u32::from(matches!(verdict, Verdict::ToLink { .. }));
                    }
                }
            }
            assert_eq!(delivered, if hook == Hook::Xdp { 0 } else { 4 * 10 * 2 }, "{hook:?}");
        });
    }
}

#[test]
fn node_that_is_its_own_endpoint_meets_itself_as_the_vip() {
    let Some(_) = need::kernel() else { return };
    both(|mut both| {
        let own = [NODE_V4, NODE_V6].map(Address::from);
        let ids: Vec<u32> = both.tables.endpoints.keys().copied().collect();
        for id in ids {
            let endpoint = both.tables.endpoints.get_mut(&id).unwrap();
            endpoint.address = if endpoint.address.is_v4() { own[0] } else { own[1] };
            both.kernel.put_array::<40>(maps::ENDPOINTS, id, &*endpoint).unwrap();
        }
        for (protocol, vip, node) in cases(&NODE_V4.to_string(), &NODE_V6.to_string()) {
            let (client, frontend) = (SocketAddr::new(node, 40_000), (vip, world::PORT_MIXED).into());
            let asked = first(protocol, client, frontend).build();
            let (verdict, sent) = step(&mut both, &asked, Hook::Egress(Sender::Node));
            assert_eq!(verdict, Verdict::ToSelf(Reason::ForwardNew));
            assert_eq!(sent[..12], [&asked[6..12], &asked[..6]].concat(), "to the interface itself");
            verify_checksums(&sent).unwrap();
            let tuple = five_tuple(&sent).unwrap();
            assert_eq!((tuple.source.ip(), tuple.destination.ip()), (vip, node));
            let (verdict, back) = step(&mut both, &answer(tuple), Hook::Egress(Sender::Node));
            assert_eq!(verdict, Verdict::ToSelf(Reason::ForwardReply));
            verify_checksums(&back).unwrap();
            let tuple = five_tuple(&back).unwrap();
            assert_eq!((tuple.source, tuple.destination), (frontend, client));
        }
    });
}
