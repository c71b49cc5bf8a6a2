//! The first packet of a flow: endpoint, way, entries.
use lb_common::config::Config;
use lb_common::conntrack::{Flow, FlowState, flags};
use lb_common::counters::Reason;
use lb_common::endpoint::Endpoint;
use lb_common::flow_hash;
use lb_common::frontend::{Frontend, flags as frontend_flags};
use lb_common::source_range::SourceRangeKey;

use crate::flow;
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::select;
use crate::tables::{TableFull, Tables};
use crate::verdict::Verdict;

use super::source_nat;
use super::way::{Way, send, way_for};
use super::{Entries, Scratch, Side, reply_flow};

/// What a new flow's frontend means for where it came from.
pub(super) struct Entrance {
    backend_service: u32,
    neg: u32,
    /// Whether an empty NEG drops instead of refusing.
    empty_drops: bool,
    /// Whether only the Service's source ranges are let in.
    checks_source: bool,
    /// Whether endpoints on other nodes answer the client themselves.
    is_dsr: bool,
    side: Side,
}

impl Entrance {
    #[inline(always)]
    pub(super) fn of<T: Tables>(tables: &T, parsed: &Parsed, side: Side, frontend: &Frontend) -> Self {
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
            is_dsr: is_external && frontend.flags & frontend_flags::DSR != 0,
            side,
        }
    }
}

/// Chooses the endpoint of a new flow, finds the way and enters the flow, in this order: nothing is
/// entered for a packet that does not go on. The way is then in the scratch, and the flow.
///
/// Not inlined: the kernel counts 512 bytes of stack for a chain of calls, and this has its own part
/// only while it runs.
#[inline(never)]
pub(super) fn begin<T: Tables>(
    tables: &mut T,
    scratch: &mut Scratch,
    entrance: &Entrance,
    length_bytes: usize,
) {
    let Scratch { parsed, entries, way, .. } = scratch;
    match choose(tables, parsed, entries, entrance) {
        Ok(()) => find_way(tables, parsed, &entries.flow, length_bytes, way),
        Err(reason) => *way = Way::blocked(reason),
    }
    if way.is_blocked() {
        return;
    }
    match enter(tables, parsed, entries) {
        Ok(()) => {
            let flow = &entries.flow;
            tables.count_traffic(flow.backend_service, flow.endpoint, 1, length_bytes as u64, 1);
        }
        Err(reason) => *way = Way::blocked(reason),
    }
}

/// Not inlined, for the stack of the calls that follow.
#[inline(never)]
fn find_way<T: Tables>(tables: &mut T, parsed: &Parsed, flow: &Flow, length_bytes: usize, way: &mut Way) {
    *way = way_for(tables, parsed, flow, length_bytes);
}

/// Writes the flow to an endpoint that the frontend leads to.
#[inline(always)]
fn choose<T: Tables>(
    tables: &mut T,
    parsed: &Parsed,
    entries: &mut Entries,
    entrance: &Entrance,
) -> Result<(), Reason> {
    if is_of_other_proxy(tables, parsed) {
        return Err(Reason::PassNotOurs);
    }
    if entrance.checks_source && !is_source_allowed(tables, parsed, entrance.backend_service) {
        return Err(Reason::DropSourceRange);
    }
    let hash = flow_hash::of_flow(&parsed.key);
    let Some(id) = select::choose(tables, entrance.neg, &parsed.key.source, hash) else {
        return Err(match entrance.empty_drops {
            true => Reason::DropNoLocalEndpoint,
            false => Reason::RefuseNoEndpoint,
        });
    };
    write_flow(tables, parsed, entrance, id, &mut entries.flow)
}

/// Writes the flow to an endpoint.
#[inline(never)]
fn write_flow<T: Tables>(
    tables: &T,
    parsed: &Parsed,
    entrance: &Entrance,
    id: u32,
    flow: &mut Flow,
) -> Result<(), Reason> {
    let Some(endpoint) = tables.endpoint(id) else {
        return Err(Reason::DropDangling);
    };
    *flow = flow_to(id, &endpoint, parsed, entrance.backend_service, tables.now_s());
    address_source(tables, parsed, entrance, endpoint.is_local(), flow)
}

/// Beside another proxy, a TCP connection that this one has not seen open was opened by that one before the
/// Service was taken over, and goes on there. Alone, it is one that CONNTRACK has lost, and the ring leads it
/// where it was.
///
/// Not inlined: the verifier would walk what follows once for each way through the conditions.
#[inline(never)]
fn is_of_other_proxy<T: Tables>(tables: &T, parsed: &Parsed) -> bool {
    parsed.is_tcp() && !parsed.opens_tcp() && tables.config().is_some_and(Config::is_beside_proxy)
}

/// Whether a source range of the Service covers the client (`spec.loadBalancerSourceRanges`).
#[inline(never)]
fn is_source_allowed<T: Tables>(tables: &T, parsed: &Parsed, backend_service: u32) -> bool {
    tables.is_source_allowed(&SourceRangeKey::of_client(backend_service, &parsed.key.source))
}

/// Decides which source the endpoint sees and how replies come back: by themselves, to this node's
/// address (an outside client's from another node, and those of a pod that is its own client), or from
/// the endpoint's node to the client.
#[inline(always)]
fn address_source<T: Tables>(
    tables: &T,
    parsed: &Parsed,
    entrance: &Entrance,
    is_local: bool,
    flow: &mut Flow,
) -> Result<(), Reason> {
    let client = &parsed.key.source;
    let is_of_node = entrance.side == Side::Node;
    let is_itself = flow.new_destination == *client;
    let is_elsewhere = entrance.side == Side::Uplink && !is_local;
    if !is_of_node && !is_itself && !is_elsewhere {
        return Ok(());
    }
    let Some(node) = tables.config().and_then(|config| config.node_address(client)) else {
        return Err(Reason::DropNoNodeAddress);
    };
    if is_of_node {
        flow.flags = flags::SOURCE_NAT | flags::CLIENT_IS_NODE;
        // A packet from the node's address would not be taken in by the node: its endpoint sees the VIP.
        if is_itself || node == flow.new_destination {
            flow.new_source = parsed.key.destination;
        }
        return Ok(());
    }
    if entrance.is_dsr && !is_itself {
        flow.flags = flags::DSR;
        return Ok(());
    }
    flow.flags = flags::SOURCE_NAT;
    flow.new_source = node;
    Ok(())
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
        flags: if endpoint.is_local() { flags::LOCAL } else { 0 },
    }
}

#[inline(never)]
pub(super) fn send_new<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &Scratch) -> Verdict {
    let Scratch { parsed, entries, way, .. } = scratch;
    send(packet, tables, parsed, &entries.flow, way, Reason::ForwardNew)
}

/// Enters a new flow: the reply first, since the client's next packet may overtake us; with source NAT
/// under a port that it finds. With direct server return no reply passes this node.
#[inline(never)]
fn enter<T: Tables>(tables: &mut T, parsed: &Parsed, entries: &mut Entries) -> Result<(), Reason> {
    let Entries { flow, reply_key, reply } = entries;
    if flow.is_encapsulated() {
        return tables.put_flow(&parsed.key, flow).map_err(|TableFull| Reason::DropConntrackFull);
    }
    *reply_key = parsed.key.reply(flow);
    *reply = reply_flow(parsed, flow);
    source_nat::enter(tables, reply_key, reply, flow_hash::of_flow(&parsed.key))?;
    flow.new_source_port = reply_key.destination_port;
    tables.put_flow(&parsed.key, flow).map_err(|TableFull| Reason::DropConntrackFull)
}
