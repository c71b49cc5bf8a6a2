//! Tables in memory from a mirror of the maps.
use lb_common::config::{self, CLUSTER_PREFIXES_MAX, Config};
use lb_common::{Prefix, endpoint::Endpoint};
use lb_ebpf::host::HostTables;
use lb_ebpf::packet::Mac;
use lb_ebpf::tables::Route;

use std::net::IpAddr;

use crate::diff::Tables;

/// First and number of the default source NAT ports: above the host's own ephemeral ports
/// (`net.ipv4.ip_local_port_range`, 32768 to 60999) and above the node ports (30000 to 32767).
pub const SNAT_PORTS_DEFAULT: (u16, u16) = (61_000, 4_536);

/// The path's tables with the same values. Every address has a route: which one is the kernel's to say.
#[must_use]
pub fn host_tables(tables: &Tables, config: Config, now_s: u32) -> HostTables {
    let mut host = HostTables {
        now_s,
        config: Some(config),
        default_route: Some(Route::Link {
            interface: 0,
            source_mac: Mac::from_bytes([0; 6]),
            destination_mac: Mac::from_bytes([0; 6]),
        }),
        ..HostTables::default()
    };
    host.frontends.extend(tables.frontends());
    for id in tables.backend_service_ids() {
        if let Some(value) = tables.backend_service(id) {
            host.backend_services.insert(id, *value);
        }
    }
    for (neg, ring) in tables.rings() {
        host.rings.insert(neg, ring);
        let slots = tables.slots(ring).unwrap_or_default();
        host.ring_slots.extend((ring.position()..).zip(slots.iter().copied()));
    }
    let endpoint = |id: u32| -> (u32, Endpoint) { (id, tables.endpoint(id)) };
    host.endpoints.extend(tables.endpoint_ids().map(endpoint));
    host
}

/// CONFIG of a node. Of more prefixes than fit, the first ones hold.
#[must_use]
pub fn node_config(
    addresses: &[IpAddr],
    cluster_prefixes: &[(IpAddr, u8)],
    snat_ports: (u16, u16),
) -> Config {
    let mut config = Config { snat_port_first: snat_ports.0, snat_ports: snat_ports.1, ..Config::default() };
    if let Some(address) = addresses.iter().find(|address| address.is_ipv4()) {
        config.node_v4 = (*address).into();
        config.flags |= config::flags::NODE_V4;
    }
    if let Some(address) = addresses.iter().find(|address| address.is_ipv6()) {
        config.node_v6 = (*address).into();
        config.flags |= config::flags::NODE_V6;
    }
    for (slot, (network, bits)) in config.cluster_prefixes.iter_mut().zip(cluster_prefixes) {
        *slot = Prefix::new(*network, *bits);
    }
    config.cluster_prefixes_count = cluster_prefixes.len().min(CLUSTER_PREFIXES_MAX) as u32;
    config
}
