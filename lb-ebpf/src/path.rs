//! The packet path: one function per direction. Both take the packet's headers as
//! [`parse`](crate::parse::parse) read them.
use lb_common::conntrack::{Direction, Flow, FlowKey, FlowState, flags};
use lb_common::counters::Reason;
use lb_common::endpoint::Endpoint;
use lb_common::frontend::{Frontend, flags as frontend_flags};
use lb_common::{Be16, flow_hash};

use bytemuck::Zeroable as _;

use crate::flow::{self, Standing};
use crate::icmp;
use crate::packet::{Mac, Packet};
use crate::parse::Parsed;
use crate::rewrite;
use crate::select;
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

/// Memory that the caller lends for one packet: a kernel program has 512 bytes of stack for all its
/// calls, and these take half of it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Scratch {
    /// The packet's headers.
    pub parsed: Parsed,
    /// The entries of a new flow; what they hold before means nothing.
    pub entries: Entries,
}

/// The two entries of a new flow.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Entries {
    flow: Flow,
    reply_key: FlowKey,
    reply: Flow,
}

impl Scratch {
    /// For a packet with these headers.
    #[must_use]
    pub fn new(parsed: Parsed) -> Self {
        let flow = Flow::zeroed();
        Self { parsed, entries: Entries { flow, reply_key: parsed.key, reply: flow } }
    }
}

/// Source NAT ports that are tried for one flow before it is dropped as exhausted.
pub const SOURCE_NAT_ATTEMPTS_MAX: u32 = 8;

/// A packet enters the node, before its network stack: to a frontend, of a known flow, or a reply to
/// a flow that this node source-NATed.
#[inline(always)]
pub fn to_backend<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
    side: Side,
) -> Verdict {
    let parsed = &scratch.parsed;
    if let Some(known) = tables.flow(&parsed.key) {
        match known.direction() {
            Direction::ToBackend => {
                let endpoint = tables.endpoint(known.endpoint);
                match flow::standing(&known, endpoint.as_ref(), parsed, tables.now_s()) {
                    Standing::Good => return forward_known(packet, tables, parsed, &known),
                    Standing::Over => {}
                    Standing::EndpointGone => tables.count(Reason::NoteEndpointGone),
                }
            }
            // Other replies are undone where they leave the node (`to_client`), behind the stack.
            Direction::ToClient if side == Side::Uplink && known.is_source_nat() => {
                return reply(packet, tables, parsed, &known);
            }
            Direction::ToClient => return Verdict::Pass(Reason::PassNotOurs),
        }
    }
    let Some(frontend) = tables.frontend(&parsed.frontend()) else {
        return Verdict::Pass(Reason::PassNotOurs);
    };
    let entrance = Entrance::of(tables, parsed, side, &frontend);
    forward_new(packet, tables, scratch, &entrance)
}

/// A packet leaves the node towards the client, behind the network stack: the reply of an endpoint
/// gets the VIP as its source again.
#[inline(always)]
pub fn to_client<P: Packet, T: Tables>(packet: &mut P, tables: &mut T, parsed: &Parsed) -> Verdict {
    let Some(known) = tables.flow(&parsed.key) else {
        return Verdict::Pass(Reason::PassNotOurs);
    };
    if known.direction() != Direction::ToClient || known.is_source_nat() {
        return Verdict::Pass(Reason::PassNotOurs);
    }
    record(tables, parsed, &known);
    match rewrite::translate(packet, parsed, &known) {
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
    if tables.now_s() != known.last_seen_s && keep_reply(tables, parsed, known).is_err() {
        return Verdict::Drop(Reason::DropConntrackFull);
    }
    record(tables, parsed, known);
    tables.count_traffic(known.backend_service, known.endpoint, 1, packet.length_bytes() as u64, 0);
    send(packet, parsed, known, &way, Reason::ForwardKnown)
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
    scratch: &mut Scratch,
    entrance: &Entrance,
) -> Verdict {
    let Scratch { parsed, entries } = scratch;
    let hash = flow_hash::of_flow(&parsed.key);
    let Some(id) = select::choose(tables, entrance.neg, &parsed.key.source, hash) else {
        return refuse(packet, parsed, entrance);
    };
    let Some(endpoint) = tables.endpoint(id) else {
        return Verdict::Drop(Reason::DropDangling);
    };
    entries.flow = flow_to(id, &endpoint, parsed, entrance.backend_service, tables.now_s());
    if entrance.side == Side::Uplink && !endpoint.is_local() {
        let Some(address) = tables.config().and_then(|config| config.node_address(&parsed.key.source)) else {
            return Verdict::Drop(Reason::DropNoNodeAddress);
        };
        entries.flow.new_source = address;
        entries.flow.flags = flags::SOURCE_NAT;
    }
    let way = match way_for(tables, parsed, &entries.flow) {
        Ok(way) => way,
        Err(verdict) => return verdict,
    };
    if let Err(reason) = enter(tables, parsed, entries, hash) {
        return Verdict::Drop(reason);
    }
    let flow = &entries.flow;
    tables.count_traffic(flow.backend_service, flow.endpoint, 1, packet.length_bytes() as u64, 1);
    send_new(packet, parsed, flow, &way)
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
    send(packet, parsed, known, &way, Reason::ForwardReply)
}

/// How the packet goes on after the rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Exit {
    Stack,
    Link,
    Neighbour,
}

/// An [`Exit`] and what it needs. Every field always holds a value: the compiler fills the unused part
/// of an enum with any register, and the verifier (6.18: "invalid size of register spill") refuses one
/// that holds a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    exit: Exit,
    interface: u32,
    source_mac: Mac,
    destination_mac: Mac,
}

/// The way of a flow's packet, found before anything is written: a hook that has none leaves the
/// packet as it is to the next hook.
#[inline(always)]
fn way_for<T: Tables>(tables: &mut T, parsed: &Parsed, flow: &Flow) -> Result<Way, Verdict> {
    let none = Mac::from_bytes([0; 6]);
    if !flow.is_source_nat() {
        return Ok(Way { exit: Exit::Stack, interface: 0, source_mac: none, destination_mac: none });
    }
    if parsed.hop_limit <= 1 {
        return Err(Verdict::Pass(Reason::PassHopLimit));
    }
    match tables.route(&flow.new_source, &flow.new_destination) {
        Route::None => Err(Verdict::Pass(Reason::PassNoRoute)),
        Route::Neighbour { interface } => {
            Ok(Way { exit: Exit::Neighbour, interface, source_mac: none, destination_mac: none })
        }
        Route::Link { interface, source_mac, destination_mac } => {
            Ok(Way { exit: Exit::Link, interface, source_mac, destination_mac })
        }
    }
}

#[inline(always)]
fn send<P: Packet>(packet: &mut P, parsed: &Parsed, flow: &Flow, way: &Way, reason: Reason) -> Verdict {
    let failed = Verdict::Drop(Reason::DropRewriteFailed);
    if rewrite::translate(packet, parsed, flow).is_none() {
        return failed;
    }
    if way.exit == Exit::Stack {
        return Verdict::ToStack(reason);
    }
    if rewrite::take_hop(packet, parsed).is_none() {
        return failed;
    }
    let interface = way.interface;
    if way.exit == Exit::Neighbour {
        return Verdict::ToNeighbour { reason, interface };
    }
    match rewrite::address_link(packet, way.source_mac, way.destination_mac) {
        Some(()) => Verdict::ToLink { reason, interface },
        None => failed,
    }
}

#[inline(never)]
fn send_new<P: Packet>(packet: &mut P, parsed: &Parsed, flow: &Flow, way: &Way) -> Verdict {
    send(packet, parsed, flow, way, Reason::ForwardNew)
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
fn flow_to(id: u32, endpoint: &Endpoint, parsed: &Parsed, backend_service: u32, now_s: u32) -> Flow {
    let state = flow::next_state(FlowState::Opening, parsed.is_tcp(), parsed.tcp_flags);
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

/// The entry of the other direction: it restores the client's address and the VIP.
#[inline(always)]
fn reply_flow(parsed: &Parsed, flow: &Flow) -> Flow {
    Flow {
        new_source: parsed.key.destination,
        new_destination: parsed.key.source,
        new_source_port: parsed.key.destination_port,
        new_destination_port: parsed.key.source_port,
        flags: flow.flags | flags::TO_CLIENT,
        ..*flow
    }
}

/// Once a second the other direction's entry is looked up too, so that a flow with packets one way only
/// keeps both, and with them its source NAT port; one that was evicted is put back.
#[inline(never)]
fn keep_reply<T: Tables>(tables: &mut T, parsed: &Parsed, flow: &Flow) -> Result<(), TableFull> {
    let key = parsed.key.reply(flow);
    if tables.flow(&key).is_some() {
        return Ok(());
    }
    tables.put_flow(&key, &reply_flow(parsed, flow))
}

/// Enters a new flow: the reply first, since the client's next packet may overtake us; with source NAT
/// under a port that it finds.
#[inline(never)]
fn enter<T: Tables>(tables: &mut T, parsed: &Parsed, entries: &mut Entries, hash: u32) -> Result<(), Reason> {
    let Entries { flow, reply_key, reply } = entries;
    *reply_key = parsed.key.reply(flow);
    *reply = reply_flow(parsed, flow);
    if flow.is_source_nat() {
        enter_source_nat(tables, reply_key, reply, hash)?;
        flow.new_source_port = reply_key.destination_port;
    } else {
        tables.put_flow(reply_key, reply).map_err(|TableFull| Reason::DropConntrackFull)?;
    }
    tables.put_flow(&parsed.key, flow).map_err(|TableFull| Reason::DropConntrackFull)
}

/// Finds a source port whose replies are nobody else's. Ports are shared by endpoints: the reply's
/// whole five-tuple is the key.
#[inline(always)]
fn enter_source_nat<T: Tables>(
    tables: &mut T,
    key: &mut FlowKey,
    entry: &Flow,
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
        key.destination_port = Be16::new(first.wrapping_add(index));
        match tables.put_new_flow(key, entry) {
            Ok(Inserted::New) => return Ok(()),
            Ok(Inserted::Taken) => {}
            Err(TableFull) => return Err(Reason::DropConntrackFull),
        }
        if is_own_or_over(tables, key, entry) {
            return tables.put_flow(key, entry).map_err(|TableFull| Reason::DropConntrackFull);
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
    let state = flow::next_state(known.state(), parsed.is_tcp(), parsed.tcp_flags);
    if state != known.state() || now_s != known.last_seen_s {
        tables.record_flow(known, state, now_s);
    }
}
