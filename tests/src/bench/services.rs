//! The Services that are dialled, and as many others beside them as are asked for.
use std::net::{IpAddr, Ipv4Addr};

use lb_common::backend_service::{self, BackendService};
use lb_common::endpoint::{Endpoint, state};
use lb_common::frontend::{Frontend, FrontendKey, flags};
use lb_common::neg::{NegKind, Ring};
use lb_common::protocol::{TCP, UDP};
use lb_common::{Address, Be16};
use lb_ebpf::host::HostTables;

use crate::manifests::{self, Service};
use crate::world;

/// Ten endpoints on this node.
pub const LOCAL: u16 = 80;
/// A hundred endpoints on another node, for as many source NAT ports as the new flows of all rounds take.
pub const REMOTE: u16 = 81;
/// Ten endpoints on this node; clients keep theirs.
pub const AFFINITY: u16 = 82;
/// Ten endpoints on another node, which answers the client itself; over TCP and over UDP.
pub const DSR: u16 = 83;
/// One endpoint on this node: [`endpoint_address`].
pub const ONE_LOCAL: u16 = 84;
/// One endpoint on another node: [`endpoint_address`].
pub const ONE_REMOTE: u16 = 85;
/// Ten endpoints on another node, over UDP.
pub const REMOTE_UDP: u16 = 86;
/// Every endpoint's port.
pub const ENDPOINT_PORT: u16 = 8080;

/// Services that are dialled: six over TCP, two of them over UDP too, and one over UDP alone.
const DIALLED: u32 = 9;
/// Endpoints of each of the others.
pub const OTHER_ENDPOINTS: u32 = 10;
/// Slots of a dialled Service's ring, what the agent gives ten endpoints for clients outside.
const RING_SLOTS: u32 = 1_024;

/// The address of a dialled Service's `index`th endpoint, by the Service's port.
#[must_use]
pub fn endpoint_address(port: u16, index: u32, is_v4: bool) -> IpAddr {
    let (service, host) = (port as u8, index as u8 + 1);
    match is_v4 {
        true => [10, 244, service, host].into(),
        false => [0x2001, 0xdb8, 0x244, service.into(), 0, 0, 0, host.into()].into(),
    }
}

/// The VIP of a Service that nobody dials, by its number, which is below 65,536.
#[must_use]
pub fn other_vip(number: u32) -> Ipv4Addr {
    let [_, _, high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 96, high, low)
}

/// The address of its `index`th endpoint.
#[must_use]
pub fn other_endpoint(number: u32, index: u32) -> Ipv4Addr {
    let [_, _, high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 20 + index as u8, high, low)
}

/// The same as kube-proxy sees it: the ports of `like`, and pods on `node`.
#[must_use]
pub fn other_service(like: &Service, number: u32, node: &str) -> Service {
    let name = format!("other-{number}");
    let endpoint = |index| {
        let addresses = [other_endpoint(number, index).into(), world::NODE_V6];
        manifests::Endpoint::ready(&format!("{name}-{index}"), node, addresses)
    };
    let endpoints = (0..OTHER_ENDPOINTS).map(endpoint).collect();
    let mut service = Service { endpoints, name: name.clone(), ..like.clone() };
    service.cluster_ips[0] = other_vip(number).into();
    service
}

struct Builder {
    tables: HostTables,
    services: u32,
    endpoints: u32,
    slots: u32,
}

/// Tables at second `now_s` with `services` Services, of which the dialled ones are always there.
#[must_use]
pub fn tables(now_s: u32, services: u32) -> HostTables {
    let HostTables { config, nodes, .. } = world::tables(now_s);
    let tables = HostTables { now_s, config, nodes, default_route: None, ..HostTables::default() };
    let mut builder = Builder { tables, services: 0, endpoints: 0, slots: 0 };
    for vip in [world::VIP_V4, world::VIP_V6] {
        builder.vip(vip);
    }
    builder.dialled(LOCAL, TCP, 10, state::LOCAL, 0);
    builder.dialled(LOCAL, UDP, 10, state::LOCAL, 0);
    builder.dialled(REMOTE, TCP, 100, 0, 0);
    builder.dialled(AFFINITY, TCP, 10, state::LOCAL, 0);
    builder.dialled(DSR, TCP, 10, 0, flags::DSR);
    builder.dialled(ONE_LOCAL, TCP, 1, state::LOCAL, 0);
    builder.dialled(ONE_REMOTE, TCP, 1, 0, 0);
    builder.dialled(REMOTE_UDP, UDP, 10, 0, 0);
    builder.dialled(DSR, UDP, 10, 0, flags::DSR);
    for number in 0..services.saturating_sub(DIALLED) {
        builder.other(number);
    }
    builder.tables
}

impl Builder {
    fn vip(&mut self, vip: IpAddr) {
        let flags = flags::VIP | flags::REFUSE_OTHER_PORTS;
        let entry = Frontend { backend_service: 0, neg_external: 0, neg_internal: 0, flags };
        self.tables.frontends.insert(FrontendKey::vip(vip.into()), entry);
    }

    fn dialled(&mut self, port: u16, protocol: u8, endpoints: u32, place: u32, flags: u32) {
        let id = self.services;
        let mut policy = BackendService { flags: backend_service::flags::PRESENT, affinity_timeout_s: 0 };
        if port == AFFINITY {
            policy.flags |= backend_service::flags::AFFINITY_CLIENT_IP;
            policy.affinity_timeout_s = world::AFFINITY_TIMEOUT_S;
        }
        self.tables.backend_services.insert(id, policy);
        self.services += 1;
        for (vip, neg) in [(world::VIP_V4, NegKind::ClusterV4), (world::VIP_V6, NegKind::ClusterV6)] {
            self.frontend(vip, port, protocol, id, neg, flags);
            let addresses: Vec<IpAddr> =
                (0..endpoints).map(|index| endpoint_address(port, index, vip.is_ipv4())).collect();
            self.ring(neg, id, protocol, &addresses, place, RING_SLOTS);
        }
    }

    /// A Service that nobody dials, IPv4 alone.
    fn other(&mut self, number: u32) {
        let id = self.services;
        let policy = BackendService { flags: backend_service::flags::PRESENT, affinity_timeout_s: 0 };
        self.tables.backend_services.insert(id, policy);
        self.services += 1;
        let vip = other_vip(number).into();
        self.vip(vip);
        self.frontend(vip, 80, TCP, id, NegKind::ClusterV4, 0);
        let addresses: Vec<IpAddr> =
            (0..OTHER_ENDPOINTS).map(|index| other_endpoint(number, index).into()).collect();
        self.ring(NegKind::ClusterV4, id, TCP, &addresses, 0, 2 * OTHER_ENDPOINTS);
    }

    fn frontend(&mut self, vip: IpAddr, port: u16, protocol: u8, id: u32, neg: NegKind, flags: u32) {
        let entry =
            Frontend { backend_service: id, neg_external: neg.id(id), neg_internal: neg.id(id), flags };
        self.tables.frontends.insert(FrontendKey::new(vip.into(), Be16::new(port), protocol), entry);
    }

    /// A ring whose slots name the endpoints in turn.
    fn ring(
        &mut self,
        neg: NegKind,
        backend_service: u32,
        protocol: u8,
        addresses: &[IpAddr],
        place: u32,
        length: u32,
    ) {
        let first = self.endpoints;
        for address in addresses {
            let endpoint = Endpoint {
                address: Address::from(*address),
                port: Be16::new(ENDPOINT_PORT),
                protocol,
                padding: 0,
                backend_service,
                generation: 1,
                withdrawn_s: 0,
                drain_until_s: 0,
                state: state::PRESENT | state::HEALTHY | place,
            };
            self.tables.endpoints.insert(self.endpoints, endpoint);
            self.endpoints += 1;
        }
        let count = addresses.len() as u32;
        let slots = (0..length).map(|slot| (self.slots + slot, first + slot % count));
        self.tables.ring_slots.extend(slots);
        self.tables.rings.insert(neg.id(backend_service), Ring::new(self.slots, length));
        self.slots += length;
    }
}
