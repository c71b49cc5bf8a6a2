//! Packets to an address of ours, or to one that a Service may get, that are of no flow and to no frontend.
use lb_common::counters::Reason;
use lb_common::frontend::{Frontend, FrontendKey, flags};

use crate::icmp;
use crate::packet::Packet;
use crate::parse::{Form, Parsed};
use crate::tables::Tables;
use crate::verdict::Verdict;

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
#[inline(always)]
pub(super) fn judge<P: Packet, T: Tables>(packet: &mut P, tables: &T, parsed: &Parsed) -> Verdict {
    match reason(packet, tables, parsed) {
        reason @ Reason::RefuseUnusedPort => Verdict::Answer(reason),
        reason @ Reason::PassNotOurs => Verdict::Pass(reason),
        reason => Verdict::Drop(reason),
    }
}

/// A kernel function that returns nothing in its register fails on what the compiler leaves there (6.18:
/// "cannot return stack pointer to the caller"): so this returns a number, not a [`Verdict`].
#[inline(never)]
fn reason<P: Packet, T: Tables>(packet: &mut P, tables: &T, parsed: &Parsed) -> Reason {
    let refuses = match vip(tables, parsed) {
        Some(vip) => vip.flags & flags::REFUSE_OTHER_PORTS != 0,
        None if is_service_address(tables, parsed) => return Reason::DropUnallocated,
        None => false,
    };
    if !refuses {
        return Reason::PassNotOurs;
    }
    // No error answers a fragment but the first (RFC 1122 §3.2.2).
    if parsed.form == Form::LaterFragment {
        return Reason::DropFragment;
    }
    match icmp::refuse(packet, parsed) {
        Some(()) => Reason::RefuseUnusedPort,
        None => Reason::DropRewriteFailed,
    }
}
