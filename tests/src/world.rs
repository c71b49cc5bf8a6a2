//! A small set of Services as tables, for packet cases on the host and in the kernel alike.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::backend_service::{self, BackendService};
use lb_common::config::{self, Config};
use lb_common::endpoint::{Endpoint, state};
use lb_common::frontend::{Frontend, FrontendKey, flags};
use lb_common::neg::{NegKind, Ring};
use lb_common::protocol::{SCTP, TCP, UDP};
use lb_common::source_range::SourceRangeKey;
use lb_common::{Address, Be16, Prefix};
use lb_ebpf::host::HostTables;
use lb_ebpf::packet::Mac;
use lb_ebpf::tables::Route;

/// This node.
pub const NODE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11));
/// This node.
pub const NODE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x11));
/// The VIP of every IPv4 frontend.
pub const VIP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));
/// The VIP of every IPv6 frontend.
pub const VIP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x10));
/// An address of the service prefix that no Service has.
pub const UNALLOCATED_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 99));
/// An address of the service prefix that no Service has.
pub const UNALLOCATED_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x99));
/// A VIP whose unused ports pass, with no frontend of its own.
pub const OPEN_VIP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 200));
/// Endpoints on this node and on another.
pub const PORT_MIXED: u16 = 80;
/// Endpoints on this node only.
pub const PORT_LOCAL: u16 = 81;
/// No endpoint at all.
pub const PORT_EMPTY: u16 = 82;
/// `Local` policy and endpoints on other nodes only.
pub const PORT_LOCAL_EMPTY: u16 = 83;
/// One healthy endpoint among unhealthy ones.
pub const PORT_AILING: u16 = 84;
/// No healthy endpoint.
pub const PORT_PANIC: u16 = 85;
/// Client affinity.
pub const PORT_AFFINITY: u16 = 86;
/// A frontend whose ring names an endpoint that is not there: what no agent writes.
pub const PORT_DANGLING: u16 = 87;
/// Source ranges that cover [`ALLOWED`] only.
pub const PORT_RANGES: u16 = 88;
/// The clients that [`PORT_RANGES`] lets in.
pub const ALLOWED: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 7))];
/// Direct server return; endpoints on this node and on another.
pub const PORT_DSR: u16 = 89;
/// The UDP port of the encapsulation.
pub const ENCAPSULATION_PORT: u16 = 6_081;
/// Another node.
pub const NEIGHBOUR_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 12));
/// The same one.
pub const NEIGHBOUR_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x12));
/// Every port that has frontends, each for TCP, UDP and SCTP and both families.
pub const PORTS: [u16; 10] = [
    PORT_MIXED,
    PORT_LOCAL,
    PORT_EMPTY,
    PORT_LOCAL_EMPTY,
    PORT_AILING,
    PORT_PANIC,
    PORT_AFFINITY,
    PORT_DANGLING,
    PORT_RANGES,
    PORT_DSR,
];
/// First source NAT port.
pub const SNAT_FIRST: u16 = 61_000;
/// Number of source NAT ports.
pub const SNAT_COUNT: u16 = 4_536;
/// Where pods of the cluster are.
pub const POD_CIDR: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(10, 244, 0, 0)), 16);
/// Seconds that an affinity lasts.
pub const AFFINITY_TIMEOUT_S: u32 = 600;
/// The uplink's own Ethernet address.
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
/// The next hop's Ethernet address, for every destination.
pub const NEXT_HOP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

const HEALTHY: u32 = state::PRESENT | state::HEALTHY;

struct Builder {
    tables: HostTables,
    next_backend_service: u32,
    next_endpoint: u32,
    next_slot: u32,
}

impl Builder {
    /// One backend service per protocol, with frontends in both families.
    fn service(&mut self, port: u16, policy: BackendService, flags: u32, local_only: bool, states: &[u32]) {
        for protocol in [TCP, UDP, SCTP] {
            let id = self.next_backend_service;
            self.next_backend_service += 1;
            self.tables.backend_services.insert(id, policy);
            if flags & flags::CHECK_SOURCE != 0 {
                let range = |client: IpAddr| {
                    SourceRangeKey::of_range(id, &client.into(), if client.is_ipv4() { 32 } else { 128 })
                };
                self.tables.source_ranges.extend(ALLOWED.map(range));
            }
            for (vip, cluster, local) in [
                (VIP_V4, NegKind::ClusterV4, NegKind::LocalV4),
                (VIP_V6, NegKind::ClusterV6, NegKind::LocalV6),
            ] {
                let external = if local_only { local } else { cluster };
                let key = FrontendKey::new(vip.into(), Be16::new(port), protocol);
                let frontend = Frontend {
                    backend_service: id,
                    neg_external: external.id(id),
                    neg_internal: cluster.id(id),
                    flags,
                };
                self.tables.frontends.insert(key, frontend);
                self.ring(cluster.id(id), id, vip, protocol, states);
                self.tables.rings.entry(local.id(id)).or_insert(Ring::EMPTY);
            }
        }
    }

    /// A ring in which each endpoint has two slots, in turn.
    fn ring(&mut self, neg: u32, backend_service: u32, vip: IpAddr, protocol: u8, states: &[u32]) {
        let length = 2 * states.len() as u32;
        for (index, state) in states.iter().enumerate() {
            let id = self.next_endpoint;
            self.next_endpoint += 1;
            let host = id as u8;
            let node = if state & state::LOCAL != 0 { 1 } else { 2 };
            let address = match vip {
                IpAddr::V4(_) => Address::v4([10, 244, node, host]),
                IpAddr::V6(_) => {
                    Address::v6([0x20, 1, 0xd, 0xb8, 2, 0x44, 0, node, 0, 0, 0, 0, 0, 0, 0, host])
                }
            };
            let endpoint = Endpoint {
                address,
                port: Be16::new(8080),
                protocol,
                padding: 0,
                backend_service,
                generation: 1,
                withdrawn_s: 0,
                drain_until_s: 0,
                state: *state,
            };
            self.tables.endpoints.insert(id, endpoint);
            let slot = self.next_slot + index as u32;
            self.tables.ring_slots.insert(slot, id);
            self.tables.ring_slots.insert(slot + states.len() as u32, id);
        }
        self.tables.rings.insert(neg, Ring::new(self.next_slot, length));
        self.next_slot += length;
    }
}

/// The tables at second `now_s`. Fewer than 250 endpoints, so that the last byte of an address tells
/// them apart.
#[must_use]
pub fn tables(now_s: u32) -> HostTables {
    let plain = BackendService { flags: backend_service::flags::PRESENT, affinity_timeout_s: 0 };
    let affinity = BackendService {
        flags: backend_service::flags::PRESENT | backend_service::flags::AFFINITY_CLIENT_IP,
        affinity_timeout_s: AFFINITY_TIMEOUT_S,
    };
    let local = HEALTHY | state::LOCAL;
    let mut builder = Builder {
        tables: HostTables { now_s, config: Some(config()), ..HostTables::default() },
        next_backend_service: 0,
        next_endpoint: 0,
        next_slot: 0,
    };
    builder.service(PORT_MIXED, plain, 0, false, &[local, HEALTHY, local, HEALTHY, local, HEALTHY]);
    builder.service(PORT_LOCAL, plain, 0, false, &[local, local, local]);
    builder.service(PORT_EMPTY, plain, 0, false, &[]);
    builder.service(PORT_LOCAL_EMPTY, plain, flags::EXTERNAL_EMPTY_DROPS, true, &[HEALTHY, HEALTHY]);
    builder.service(PORT_AILING, plain, 0, false, &[state::PRESENT, local, state::PRESENT]);
    builder.service(PORT_PANIC, plain, 0, false, &[state::PRESENT | state::LOCAL, state::PRESENT]);
    builder.service(PORT_AFFINITY, affinity, 0, false, &[local, HEALTHY, local, HEALTHY]);
    builder.service(PORT_DANGLING, plain, 0, false, &[0]);
    builder.service(PORT_RANGES, plain, flags::CHECK_SOURCE, false, &[local, HEALTHY]);
    for (vip, flags) in [
        (VIP_V4, flags::VIP | flags::REFUSE_OTHER_PORTS),
        (VIP_V6, flags::VIP | flags::REFUSE_OTHER_PORTS),
        (OPEN_VIP_V4, flags::VIP),
    ] {
        let entry = Frontend { backend_service: 0, neg_external: 0, neg_internal: 0, flags };
        builder.tables.frontends.insert(FrontendKey::vip(vip.into()), entry);
    }
    builder.service(PORT_DSR, plain, flags::DSR, false, &[local, HEALTHY, HEALTHY, HEALTHY]);
    builder.tables.nodes.extend([NODE_V4, NODE_V6, NEIGHBOUR_V4, NEIGHBOUR_V6].map(Address::from));
    builder.tables
}

fn config() -> Config {
    let mut config = Config {
        node_v4: NODE_V4.into(),
        node_v6: NODE_V6.into(),
        flags: config::flags::NODE_V4 | config::flags::NODE_V6,
        cluster_prefixes_count: 1,
        service_prefixes_count: 2,
        snat_port_first: SNAT_FIRST,
        snat_ports: SNAT_COUNT,
        dsr_port: Be16::new(ENCAPSULATION_PORT),
        ..Config::default()
    };
    config.cluster_prefixes[0] = Prefix::new(POD_CIDR.0, POD_CIDR.1);
    config.service_prefixes[0] = Prefix::new(UNALLOCATED_V4, 24);
    config.service_prefixes[1] = Prefix::new(UNALLOCATED_V6, 64);
    config
}

/// The route to everything: one next hop, out of the interface with index `uplink`.
#[must_use]
pub fn route(uplink: u32) -> Route {
    Route::Link {
        interface: uplink,
        source_mac: Mac::from_bytes(UPLINK_MAC),
        destination_mac: Mac::from_bytes(NEXT_HOP_MAC),
    }
}
