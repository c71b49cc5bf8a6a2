//! Packets to an address of ours, or to one that a Service may get, that are of no flow and to no frontend.
use lb_common::counters::Reason;
use lb_common::frontend::{Frontend, FrontendKey, flags};

use crate::parse::Parsed;
use crate::tables::Tables;

/// Whether the packet is to an address that cluster IPs are taken from.
#[inline(always)]
pub(super) fn is_service_address<T: Tables>(tables: &T, parsed: &Parsed) -> bool {
    tables.config().is_some_and(|config| config.is_service_address(&parsed.key.destination))
}

/// The entry of the VIP that the packet is to, if it is to one.
#[inline(always)]
pub(super) fn vip<T: Tables>(tables: &T, parsed: &Parsed) -> Option<Frontend> {
    if !tables.is_maybe_vip(&parsed.key.destination) {
        return None;
    }
    let vip = tables.frontend(&FrontendKey::vip(parsed.key.destination))?;
    (vip.flags & flags::VIP != 0).then_some(vip)
}

/// Refuses an unused port of a cluster IP and drops what is to a cluster IP that no Service has, as
/// kube-proxy's nftables mode does (`pkg/proxy/nftables/proxier.go`, the chain `cluster-ips-check`:
/// "Reject traffic to invalid ports of ClusterIPs", "Drop traffic to unallocated ClusterIPs").
#[inline(never)]
pub(super) fn judge<T: Tables>(tables: &T, parsed: &Parsed) -> Reason {
    match vip(tables, parsed) {
        Some(vip) if vip.flags & flags::REFUSE_OTHER_PORTS != 0 => Reason::RefuseUnusedPort,
        None if is_service_address(tables, parsed) => Reason::DropUnallocated,
        _ => Reason::PassNotOurs,
    }
}
