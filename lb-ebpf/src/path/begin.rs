//! The first packet of a flow: endpoint, way, entries.
use lb_common::conntrack::{Flow, FlowState, flags};
use lb_common::counters::Reason;
use lb_common::endpoint::Endpoint;
use lb_common::flow_hash;
use lb_common::frontend::{Frontend, flags as frontend_flags};
use lb_common::source_range::SourceRangeKey;

use crate::flow;
use crate::icmp;
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::select;
use crate::tables::{TableFull, Tables};
use crate::verdict::Verdict;

use super::way::{Way, send, way_for};
use super::{Entries, Scratch, Side, reply_flow};
use super::{source_nat, stray};

/// A packet of no known flow to what may be a VIP: whether the verdict is found, in [`Scratch::settled`]; if
/// not, a flow has begun, and the packet goes by [`Scratch::way`]. Not inlined: the kernel counts 512 bytes of
/// stack for a chain of calls, and this has its own part only while it runs.
#[inline(never)]
pub(super) fn to_frontend<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
    side: Side,
) -> bool {
    let parsed = &scratch.parsed;
    let result = match tables.frontend(&parsed.frontend()) {
        None => Err(stray::judge(packet, tables, parsed)),
        Some(frontend) => {
            let entrance = Entrance::of(tables, parsed, side, &frontend);
            forward_new(packet, tables, scratch, &entrance)
        }
    };
    match result {
        Ok(()) => false,
        Err(verdict) => {
            scratch.settled = verdict.into();
            true
        }
    }
}

/// What a new flow's frontend means for where it came from.
struct Entrance {
    backend_service: u32,
    neg: u32,
    /// Whether an empty NEG drops instead of refusing.
    empty_drops: bool,
    /// Whether only the Service's source ranges are let in.
    checks_source: bool,
    side: Side,
}

impl Entrance {
    #[inline(always)]
    fn of<T: Tables>(tables: &T, parsed: &Parsed, side: Side, frontend: &Frontend) -> Self {
        let is_external = side == Side::Uplink
            && !tables.config().is_some_and(|config| config.is_in_cluster(&parsed.key.source));
        let (neg, empty_drops) = if is_external {
            (frontend.neg_external, frontend_flags::EXTERNAL_EMPTY_DROPS)
        } else {
            (frontend.neg_internal, frontend_flags::INTERNAL_EMPTY_DROPS)
        };
        Self {
            backend_service: frontend.backend_service,
            neg,
            empty_drops: frontend.flags & empty_drops != 0,
            checks_source: frontend.flags & frontend_flags::CHECK_SOURCE != 0,
            side,
        }
    }
}

#[inline(always)]
fn forward_new<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
    entrance: &Entrance,
) -> Result<(), Verdict> {
    let Scratch { parsed, entries, way, .. } = scratch;
    if entrance.checks_source && !is_source_allowed(tables, parsed, entrance.backend_service) {
        return Err(Verdict::Drop(Reason::DropSourceRange));
    }
    let hash = flow_hash::of_flow(&parsed.key);
    let Some(id) = select::choose(tables, entrance.neg, &parsed.key.source, hash) else {
        return Err(match entrance.empty_drops {
            true => Verdict::Drop(Reason::DropNoLocalEndpoint),
            false => refuse(packet, parsed, Reason::RefuseNoEndpoint),
        });
    };
    let Some(endpoint) = tables.endpoint(id) else {
        return Err(Verdict::Drop(Reason::DropDangling));
    };
    entries.flow = flow_to(id, &endpoint, parsed, entrance.backend_service, tables.now_s());
    if needs_source_nat(parsed, entrance, &endpoint) {
        let Some(address) = tables.config().and_then(|config| config.node_address(&parsed.key.source)) else {
            return Err(Verdict::Drop(Reason::DropNoNodeAddress));
        };
        entries.flow.new_source = address;
        entries.flow.flags = flags::SOURCE_NAT;
    }
    *way = way_for(tables, parsed, &entries.flow)?;
    match enter(tables, parsed, entries, hash) {
        Ok(()) => {}
        Err(Reason::RefuseSourceNatExhausted) => {
            return Err(refuse(packet, parsed, Reason::RefuseSourceNatExhausted));
        }
        Err(reason) => return Err(Verdict::Drop(reason)),
    }
    let flow = &entries.flow;
    tables.count_traffic(flow.backend_service, flow.endpoint, 1, packet.length_bytes() as u64, 1);
    Ok(())
}

/// Whether a source range of the Service covers the client (`spec.loadBalancerSourceRanges`).
#[inline(never)]
fn is_source_allowed<T: Tables>(tables: &T, parsed: &Parsed, backend_service: u32) -> bool {
    tables.is_source_allowed(&SourceRangeKey::of_client(backend_service, &parsed.key.source))
}

/// Whether replies would not come back to this node by themselves: an outside client's from another
/// node, and those of a pod that is its own client.
#[inline(always)]
fn needs_source_nat(parsed: &Parsed, entrance: &Entrance, endpoint: &Endpoint) -> bool {
    let is_from_outside_to_elsewhere = entrance.side == Side::Uplink && !endpoint.is_local();
    is_from_outside_to_elsewhere || endpoint.address == parsed.key.source
}

#[inline(never)]
fn refuse<P: Packet>(packet: &mut P, parsed: &Parsed, reason: Reason) -> Verdict {
    match icmp::refuse(packet, parsed) {
        Some(()) => Verdict::Answer(reason),
        None => Verdict::Drop(Reason::DropRewriteFailed),
    }
}

/// The entry of a new flow without source NAT.
#[inline(always)]
fn flow_to(id: u32, endpoint: &Endpoint, parsed: &Parsed, backend_service: u32, now_s: u32) -> Flow {
    let state = flow::next_state(FlowState::Opening, parsed.has_connection(), parsed.tcp_flags);
    Flow {
        new_source: parsed.key.source,
        new_destination: endpoint.address,
        new_source_port: parsed.key.source_port,
        new_destination_port: endpoint.port,
        endpoint: id,
        endpoint_generation: endpoint.generation,
        backend_service,
        created_s: now_s,
        last_seen_s: now_s,
        state: state as u32,
        flags: 0,
    }
}

#[inline(never)]
pub(super) fn send_new<P: Packet>(packet: &mut P, parsed: &Parsed, flow: &Flow, way: &Way) -> Verdict {
    send(packet, parsed, flow, way, Reason::ForwardNew)
}

/// Enters a new flow: the reply first, since the client's next packet may overtake us; with source NAT
/// under a port that it finds.
#[inline(never)]
fn enter<T: Tables>(tables: &mut T, parsed: &Parsed, entries: &mut Entries, hash: u32) -> Result<(), Reason> {
    let Entries { flow, reply_key, reply } = entries;
    *reply_key = parsed.key.reply(flow);
    *reply = reply_flow(parsed, flow);
    if flow.is_source_nat() {
        source_nat::enter(tables, reply_key, reply, hash)?;
        flow.new_source_port = reply_key.destination_port;
    } else {
        tables.put_flow(reply_key, reply).map_err(|TableFull| Reason::DropConntrackFull)?;
    }
    tables.put_flow(&parsed.key, flow).map_err(|TableFull| Reason::DropConntrackFull)
}
