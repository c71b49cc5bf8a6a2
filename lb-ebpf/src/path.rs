//! The packet path: one function per direction.
use lb_common::conntrack::{Direction, Flow, FlowKey, FlowState, flags};
use lb_common::counters::Reason;
use lb_common::frontend::{Frontend, flags as frontend_flags};
use lb_common::{Be16, flow_hash};

use crate::flow::{self, Standing};
use crate::icmp;
use crate::packet::Packet;
use crate::parse::{Parsed, parse};
use crate::rewrite;
use crate::select::{self, Choice};
use crate::tables::{Inserted, Route, TableFull, Tables};
use crate::verdict::Verdict;

/// Which side of the node a packet enters by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From outside the node.
    Uplink,
    /// From a pod of this node.
    Pod,
}

/// Source NAT ports that are tried for one flow before it is dropped as exhausted.
pub const SOURCE_NAT_ATTEMPTS_MAX: u32 = 8;

/// A packet enters the node, before its network stack: to a frontend, of a known flow, or a reply to
/// a flow that this node source-NATed.
#[inline(always)]
pub fn to_backend<P: Packet, T: Tables>(packet: &mut P, tables: &mut T, side: Side) -> Verdict {
    let parsed = match parse(packet) {
        Ok(parsed) => parsed,
        Err(reason) => return Verdict::Pass(reason),
    };
    if let Some(known) = tables.flow(&parsed.key) {
        match known.direction() {
            Direction::ToBackend => {
                let endpoint = tables.endpoint(known.endpoint);
                match flow::standing(&known, endpoint.as_ref(), &parsed, tables.now_s()) {
                    Standing::Good => return forward_known(packet, tables, &parsed, &known),
                    Standing::Over => {}
                    Standing::EndpointGone => tables.count(Reason::NoteEndpointGone),
                }
            }
            // Other replies are undone where they leave the node (`to_client`), behind the stack.
            Direction::ToClient if side == Side::Uplink && known.is_source_nat() => {
                return reply(packet, tables, &parsed, &known);
            }
            Direction::ToClient => return Verdict::Pass(Reason::PassNotOurs),
        }
    }
    let Some(frontend) = tables.frontend(&parsed.frontend()) else {
        return Verdict::Pass(Reason::PassNotOurs);
    };
    let entrance = Entrance::of(tables, &parsed, side, &frontend);
    forward_new(packet, tables, &parsed, &entrance)
}

/// A packet leaves the node towards the client, behind the network stack: the reply of an endpoint
/// gets the VIP as its source again.
#[inline(always)]
pub fn to_client<P: Packet, T: Tables>(packet: &mut P, tables: &mut T) -> Verdict {
    let parsed = match parse(packet) {
        Ok(parsed) => parsed,
        Err(reason) => return Verdict::Pass(reason),
    };
    let Some(known) = tables.flow(&parsed.key) else {
        return Verdict::Pass(Reason::PassNotOurs);
    };
    if known.direction() != Direction::ToClient || known.is_source_nat() {
        return Verdict::Pass(Reason::PassNotOurs);
    }
    record(tables, &parsed, &known);
    match rewrite::translate(packet, &parsed, &known) {
        Some(()) => Verdict::ToStack(Reason::ForwardReply),
        None => Verdict::Drop(Reason::DropRewriteFailed),
    }
}

#[inline(always)]
fn forward_known<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    parsed: &Parsed,
    known: &T::FlowSlot,
) -> Verdict {
    let way = match way_for(tables, parsed, known) {
        Ok(way) => way,
        Err(verdict) => return verdict,
    };
    // Once a second the other direction's entry is looked up too, so that a flow with packets one way
    // only keeps both, and with them its source NAT port.
    if tables.now_s() != known.last_seen_s {
        let reply_key = parsed.key.reply(known);
        if tables.flow(&reply_key).is_none() && put_reply(tables, &reply_key, parsed, known).is_err() {
            return Verdict::Drop(Reason::DropConntrackFull);
        }
    }
    record(tables, parsed, known);
    tables.count_traffic(known.backend_service, known.endpoint, 1, packet.length_bytes() as u64, 0);
    send(packet, parsed, known, way, Reason::ForwardKnown)
}

/// What a new flow's frontend means for where it came from.
struct Entrance {
    backend_service: u32,
    neg: u32,
    /// Whether an empty NEG drops instead of refusing.
    empty_drops: bool,
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
            side,
        }
    }
}

/// Not inlined: the kernel counts 512 bytes of stack for a chain of calls, and this has its own part
/// only while it runs.
#[inline(never)]
fn forward_new<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    parsed: &Parsed,
    entrance: &Entrance,
) -> Verdict {
    let hash = flow_hash::of_flow(&parsed.key);
    let choice = select::choose(tables, entrance.backend_service, entrance.neg, &parsed.key.source, hash);
    let Some(choice) = choice else {
        return refuse(packet, parsed, entrance);
    };
    let mut flow = flow_to(&choice, parsed, entrance.backend_service, tables.now_s());
    let is_source_nat = entrance.side == Side::Uplink && !choice.endpoint.is_local();
    if is_source_nat {
        let Some(address) = tables.config().and_then(|config| config.node_address(&parsed.key.source)) else {
            return Verdict::Drop(Reason::DropNoNodeAddress);
        };
        flow.new_source = address;
        flow.flags = flags::SOURCE_NAT;
    }
    let way = match way_for(tables, parsed, &flow) {
        Ok(way) => way,
        Err(verdict) => return verdict,
    };
    let entered = if is_source_nat {
        enter_source_nat(tables, parsed, &mut flow, hash)
    } else {
        let reply_key = parsed.key.reply(&flow);
        put_reply(tables, &reply_key, parsed, &flow).map_err(|TableFull| Reason::DropConntrackFull)
    };
    if let Err(reason) = entered {
        return Verdict::Drop(reason);
    }
    if tables.put_flow(&parsed.key, &flow).is_err() {
        return Verdict::Drop(Reason::DropConntrackFull);
    }
    tables.count_traffic(flow.backend_service, flow.endpoint, 1, packet.length_bytes() as u64, 1);
    send(packet, parsed, &flow, way, Reason::ForwardNew)
}

/// A reply to a flow that this node source-NATed goes straight back, without the stack.
#[inline(always)]
fn reply<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    parsed: &Parsed,
    known: &T::FlowSlot,
) -> Verdict {
    let way = match way_for(tables, parsed, known) {
        Ok(way) => way,
        Err(verdict) => return verdict,
    };
    record(tables, parsed, known);
    send(packet, parsed, known, way, Reason::ForwardReply)
}

/// How the packet goes on after the rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Stack,
    Route(Route),
}

/// The way of a flow's packet, found before anything is written: a hook that has none leaves the
/// packet as it is to the next hook.
#[inline(always)]
fn way_for<T: Tables>(tables: &mut T, parsed: &Parsed, flow: &Flow) -> Result<Way, Verdict> {
    if !flow.is_source_nat() {
        return Ok(Way::Stack);
    }
    if parsed.hop_limit <= 1 {
        return Err(Verdict::Pass(Reason::PassHopLimit));
    }
    match tables.route(&flow.new_source, &flow.new_destination) {
        Route::None => Err(Verdict::Pass(Reason::PassNoRoute)),
        route @ (Route::Link { .. } | Route::Neighbour { .. }) => Ok(Way::Route(route)),
    }
}

#[inline(always)]
fn send<P: Packet>(packet: &mut P, parsed: &Parsed, flow: &Flow, way: Way, reason: Reason) -> Verdict {
    if rewrite::translate(packet, parsed, flow).is_none() {
        return Verdict::Drop(Reason::DropRewriteFailed);
    }
    let route = match way {
        Way::Stack => return Verdict::ToStack(reason),
        Way::Route(route) => route,
    };
    if rewrite::take_hop(packet, parsed).is_none() {
        return Verdict::Drop(Reason::DropRewriteFailed);
    }
    match route {
        Route::None => Verdict::Drop(Reason::DropRewriteFailed),
        Route::Neighbour { interface } => Verdict::ToNeighbour { reason, interface },
        Route::Link { interface, source_mac, destination_mac } => {
            match rewrite::address_link(packet, source_mac, destination_mac) {
                Some(()) => Verdict::ToLink { reason, interface },
                None => Verdict::Drop(Reason::DropRewriteFailed),
            }
        }
    }
}

#[inline(never)]
fn refuse<P: Packet>(packet: &mut P, parsed: &Parsed, entrance: &Entrance) -> Verdict {
    if entrance.empty_drops {
        return Verdict::Drop(Reason::DropNoLocalEndpoint);
    }
    match icmp::refuse(packet, parsed) {
        Some(()) => Verdict::Answer(Reason::RefuseNoEndpoint),
        None => Verdict::Drop(Reason::DropRewriteFailed),
    }
}

/// The entry of a new flow without source NAT.
#[inline(always)]
fn flow_to(choice: &Choice, parsed: &Parsed, backend_service: u32, now_s: u32) -> Flow {
    let state = flow::next_state(FlowState::Opening, parsed.key.protocol, parsed.tcp_flags);
    Flow {
        new_source: parsed.key.source,
        new_destination: choice.endpoint.address,
        new_source_port: parsed.key.source_port,
        new_destination_port: choice.endpoint.port,
        endpoint: choice.id,
        endpoint_generation: choice.endpoint.generation,
        backend_service,
        created_s: now_s,
        last_seen_s: now_s,
        state: state as u8,
        direction: Direction::ToBackend as u8,
        flags: 0,
        padding: 0,
    }
}

/// The entry of the other direction: it restores the client's address and the VIP.
#[inline(always)]
fn reply_flow(parsed: &Parsed, flow: &Flow) -> Flow {
    Flow {
        new_source: parsed.key.destination,
        new_destination: parsed.key.source,
        new_source_port: parsed.key.destination_port,
        new_destination_port: parsed.key.source_port,
        direction: Direction::ToClient as u8,
        ..*flow
    }
}

#[inline(never)]
fn put_reply<T: Tables>(
    tables: &mut T,
    reply_key: &FlowKey,
    parsed: &Parsed,
    flow: &Flow,
) -> Result<(), TableFull> {
    tables.put_flow(reply_key, &reply_flow(parsed, flow))
}

/// Finds a source port whose replies are nobody else's, and enters the reply under it. Ports are
/// shared by endpoints: the reply's whole five-tuple is the key.
#[inline(always)]
fn enter_source_nat<T: Tables>(
    tables: &mut T,
    parsed: &Parsed,
    flow: &mut Flow,
    hash: u32,
) -> Result<(), Reason> {
    let Some((first, count)) = tables.config().map(|config| (config.snat_port_first, config.snat_ports))
    else {
        return Err(Reason::DropNoNodeAddress);
    };
    if count == 0 {
        return Err(Reason::DropSourceNatExhausted);
    }
    for attempt in 0..SOURCE_NAT_ATTEMPTS_MAX {
        let point = flow_hash::again(hash, attempt);
        let index = ((point as u64 * count as u64) >> 32) as u16;
        flow.new_source_port = Be16::new(first.wrapping_add(index));
        let reply_key = parsed.key.reply(flow);
        let entry = reply_flow(parsed, flow);
        match tables.put_new_flow(&reply_key, &entry) {
            Ok(Inserted::New) => return Ok(()),
            Ok(Inserted::Taken) => {}
            Err(TableFull) => return Err(Reason::DropConntrackFull),
        }
        if is_own_or_over(tables, &reply_key, &entry) {
            return tables.put_flow(&reply_key, &entry).map_err(|TableFull| Reason::DropConntrackFull);
        }
    }
    Err(Reason::DropSourceNatExhausted)
}

/// Whether the entry under a taken key is this client's own from before, or belongs to nobody any more.
#[inline(always)]
fn is_own_or_over<T: Tables>(tables: &mut T, key: &FlowKey, entry: &Flow) -> bool {
    let now_s = tables.now_s();
    let Some(other) = tables.flow(key) else {
        return true;
    };
    let is_own = other.new_destination == entry.new_destination
        && other.new_destination_port == entry.new_destination_port
        && other.new_source == entry.new_source
        && other.new_source_port == entry.new_source_port;
    is_own || now_s.saturating_sub(other.last_seen_s) > other.idle_timeout_s(key.protocol)
}

/// Notes the packet in its entry. A write takes the cache line from other CPUs, so it happens only
/// when the state or the second changed.
#[inline(always)]
fn record<T: Tables>(tables: &mut T, parsed: &Parsed, known: &T::FlowSlot) {
    let now_s = tables.now_s();
    let state = flow::next_state(known.state(), parsed.key.protocol, parsed.tcp_flags);
    if state != known.state() || now_s != known.last_seen_s {
        tables.record_flow(known, state, now_s);
    }
}
