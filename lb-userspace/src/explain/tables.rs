//! Tables in memory from a mirror of the maps.
use lb_common::config::Config;
use lb_common::endpoint::Endpoint;
use lb_common::frontend::FrontendKey;
use lb_ebpf::host::HostTables;
use lb_ebpf::packet::Mac;
use lb_ebpf::tables::Route;

use crate::diff::Tables;

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
    host.frontends.extend(tables.vips().iter().map(|(address, vip)| (FrontendKey::vip(*address), *vip)));
    host.source_ranges.extend(tables.source_ranges().values().flatten());
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
