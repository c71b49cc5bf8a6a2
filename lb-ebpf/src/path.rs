//! The packet path: one function per direction. Both take the packet's headers as
//! [`parse`](crate::parse::parse) read them.
use lb_common::conntrack::{Direction, Flow, FlowKey, FlowState, flags};
use lb_common::counters::Reason;

use bytemuck::Zeroable as _;

use crate::flow::{self, Standing};
use crate::header::tcp;
use crate::packet::Packet;
use crate::parse::{Form, Parsed};
use crate::rewrite;
use crate::tables::{TableFull, Tables};
use crate::verdict::Verdict;

mod begin;
mod dsr;
mod fragment;
mod icmp_error;
mod source_nat;
mod stray;
mod unusual;
mod way;

pub use fragment::key as fragment_key;
pub use source_nat::SOURCE_NAT_ATTEMPTS_MAX;

use begin::{Entrance, begin, send_new};
use unusual::Turn;
use way::{Way, blocked, refuse_connection, send, turn_in, way_for};

/// Which side of the node a packet enters by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From outside the node.
    Uplink,
    /// From a pod of this node.
    Pod,
    /// From a process of the node itself, at the interface by which it would leave.
    Node,
}

/// Who sent a packet that leaves by an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A process of this node.
    Node,
    /// Somebody for whom this node forwards it.
    Other,
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
    /// The way of a new flow's first packet; what it holds before means nothing.
    way: Way,
    /// What an ICMP error quotes; what it holds before means nothing.
    quote: icmp_error::Quote,
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
        let entries = Entries { flow, reply_key: parsed.key, reply: flow };
        Self { parsed, entries, way: Way::STACK, quote: icmp_error::Quote::empty() }
    }
}

/// A packet enters the node, before its network stack: to a frontend, of a known flow, or a reply to
/// a flow that this node source-NATed.
#[inline(always)]
pub fn to_backend<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
    side: Side,
) -> Verdict {
    // A node's own packet had its turn in `to_client`.
    if side != Side::Node && scratch.parsed.form != Form::Whole {
        let turn = unusual::entering(packet, tables, scratch);
        packet.forget_reads();
        if turn != Turn::Plain {
            return unusual::verdict(packet, tables, scratch, turn);
        }
    } else if side == Side::Uplink && dsr::is_encapsulated(packet, tables, scratch) {
        return dsr::deliver(packet, tables, scratch);
    }
    let parsed = &scratch.parsed;
    if let Some(known) = tables.flow(&parsed.key) {
        match known.direction() {
            // Translated before, where its client's packets enter.
            _ if side == Side::Node && known.flags & flags::CLIENT_IS_NODE == 0 => {
                return Verdict::Pass(Reason::PassNotOurs);
            }
            Direction::ToBackend => {
                let endpoint = tables.endpoint(known.endpoint);
                match flow::standing(&known, endpoint.as_ref(), parsed, tables.now_s()) {
                    Standing::Good => return forward_known(packet, tables, parsed, &known),
                    Standing::Over => {}
                    Standing::EndpointGone => tables.count(Reason::NoteEndpointGone),
                    Standing::ConnectionGone => return refuse_gone(packet, tables, parsed, &known),
                }
            }
            // Other replies are undone where they leave the node (`to_client`), behind the stack.
            Direction::ToClient if known.is_source_nat() => {
                return reply(packet, tables, parsed, &known, side);
            }
            Direction::ToClient => return Verdict::Pass(Reason::PassReply),
        }
    }
    if !tables.is_maybe_vip(&parsed.key.destination) && !stray::is_service_address(tables, parsed) {
        return Verdict::Pass(Reason::PassNotOurs);
    }
    let Some(frontend) = tables.frontend(&parsed.frontend()) else {
        scratch.way = Way::blocked(stray::judge(tables, parsed));
        return blocked(packet, &scratch.parsed, &scratch.way);
    };
    // Only its first fragment begins a flow.
    if parsed.form == Form::LaterFragment {
        return Verdict::Pass(Reason::PassFragment);
    }
    let entrance = Entrance::of(tables, parsed, side, &frontend);
    // Two calls, one after the other: neither needs its part of the stack while the other runs.
    begin(tables, scratch, &entrance, packet.length_bytes());
    match scratch.way.is_blocked() {
        true => blocked(packet, &scratch.parsed, &scratch.way),
        false => send_new(packet, tables, scratch),
    }
}

/// A packet leaves the node behind its network stack: the reply of an endpoint gets the VIP as its
/// source again, and what a process of the node sends to a frontend its endpoint.
#[inline(always)]
pub fn to_client<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
    sender: Sender,
) -> Verdict {
    if scratch.parsed.form != Form::Whole {
        let turn = unusual::leaving(packet, tables, scratch, sender);
        if turn != Turn::Plain {
            return unusual::verdict(packet, tables, scratch, turn);
        }
    }
    let parsed = &scratch.parsed;
    let known = tables.flow(&parsed.key);
    if let Some(known) = &known
        && known.direction() == Direction::ToClient
        && !known.is_source_nat()
    {
        if flow::is_of_later_connection(known, parsed) {
            // Its further packets have no SYN to be known by.
            if known.state() != FlowState::Superseded {
                tables.record_flow(known, FlowState::Superseded, tables.now_s());
            }
            return Verdict::Pass(Reason::PassNotOurs);
        }
        record(tables, parsed, known);
        return match rewrite::translate(packet, parsed, known) {
            Some(()) => Verdict::ToStack(Reason::ForwardReply),
            None => Verdict::Drop(Reason::DropRewriteFailed),
        };
    }
    let is_to_service =
        tables.is_maybe_vip(&parsed.key.destination) || stray::is_service_address(tables, parsed);
    if sender == Sender::Node && (known.is_some() || is_to_service) {
        return from_node(packet, tables, scratch);
    }
    Verdict::Pass(Reason::PassNotOurs)
}

/// Not inlined: most packets that leave are replies.
#[inline(never)]
fn from_node<P: Packet, T: Tables>(packet: &mut P, tables: &mut T, scratch: &mut Scratch) -> Verdict {
    to_backend(packet, tables, scratch, Side::Node)
}

#[inline(always)]
fn forward_known<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    parsed: &Parsed,
    known: &T::FlowSlot,
) -> Verdict {
    let length_bytes = packet.length_bytes();
    let way = way_for(tables, parsed, known, length_bytes);
    if way.is_blocked() {
        return blocked(packet, parsed, &way);
    }
    let now_s = tables.now_s();
    let state = flow::next_state(known.state(), parsed.has_connection(), parsed.tcp_flags);
    if state != known.state() || now_s != known.last_seen_s || parsed.opens_tcp() {
        if keep_reply(tables, parsed, known, state).is_err() {
            return Verdict::Drop(Reason::DropConntrackFull);
        }
        tables.record_flow(known, state, now_s);
    }
    tables.count_traffic(known.backend_service, known.endpoint, 1, length_bytes as u64, 0);
    send(packet, tables, parsed, known, &way, Reason::ForwardKnown)
}

/// A reply to a flow that this node source-NATed goes straight back, without the stack; or to the stack
/// where the client is this node.
#[inline(always)]
fn reply<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    parsed: &Parsed,
    known: &T::FlowSlot,
    side: Side,
) -> Verdict {
    let way = way_for(tables, parsed, known, packet.length_bytes());
    if way.is_blocked() {
        return blocked(packet, parsed, &way);
    }
    record(tables, parsed, known);
    let verdict = send(packet, tables, parsed, known, &way, Reason::ForwardReply);
    match verdict {
        // The endpoint is this node too: the reply was about to leave it.
        Verdict::ToStack(reason) if side == Side::Node => turn_in(packet, reason),
        verdict => verdict,
    }
}

/// The endpoint of a TCP connection is gone and its drain over: the client gets a reset, and both entries
/// are over, so that their places and the source NAT port are free again soon.
#[inline(never)]
fn refuse_gone<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    parsed: &Parsed,
    known: &T::FlowSlot,
) -> Verdict {
    let now_s = tables.now_s();
    if let Some(reply) = tables.flow(&parsed.key.reply(known)) {
        tables.record_flow(&reply, FlowState::Reset, now_s);
    }
    tables.record_flow(known, FlowState::Reset, now_s);
    refuse_connection(packet, parsed, Reason::RefuseEndpointGone)
}

/// The entry of the other direction: it restores the client's address and the VIP.
#[inline(always)]
fn reply_flow(parsed: &Parsed, flow: &Flow) -> Flow {
    Flow {
        new_source: parsed.key.destination,
        new_destination: parsed.key.source,
        new_source_port: parsed.key.destination_port,
        new_destination_port: parsed.key.source_port,
        flags: flow.flags & !flags::LOCAL | flags::TO_CLIENT,
        ..*flow
    }
}

/// Once a second, and with each step of the flow, the other direction's entry takes part: it is as old as
/// this one and as established or reset, so that a flow with packets one way only keeps both, and with them its
/// source NAT port. One that was evicted is put back.
///
/// # Errors
/// The map has no room; or it gave the other direction's entry the place of this one, as a full map does at once: `flow` is
/// then not to be read any more.
#[inline(never)]
fn keep_reply<T: Tables>(
    tables: &mut T,
    parsed: &Parsed,
    flow: &Flow,
    state: FlowState,
) -> Result<(), TableFull> {
    if flow.is_encapsulated() {
        return Ok(());
    }
    let key = parsed.key.reply(flow);
    let Some(reply) = tables.flow(&key) else {
        tables.put_flow(&key, &reply_flow(parsed, flow))?;
        return tables.flow(&parsed.key).map_or(Err(TableFull), |_| Ok(()));
    };
    // A FIN ends its own direction alone (RFC 9293 §3.6): the endpoint may go on to send.
    let further = if state == FlowState::Closing { FlowState::Established } else { state };
    // A client that dials again from the same port begins anew what the endpoint alone had ended.
    let further = if parsed.opens_tcp() { further } else { reply.state().max(further) };
    let now_s = tables.now_s();
    tables.record_flow(&reply, further, now_s);
    Ok(())
}

/// Notes a reply in its entry, and the first that is no reset as the endpoint's answer. A write takes the cache line from other CPUs, so it happens only
/// when the state or the second changed.
#[inline(always)]
fn record<T: Tables>(tables: &mut T, parsed: &Parsed, known: &T::FlowSlot) {
    if known.flags & flags::ANSWERED == 0 && parsed.tcp_flags & tcp::RST == 0 {
        tables.mark_flow(known, flags::ANSWERED);
    }
    let now_s = tables.now_s();
    let state = flow::next_state(known.state(), parsed.has_connection(), parsed.tcp_flags);
    if state != known.state() || now_s != known.last_seen_s {
        tables.record_flow(known, state, now_s);
    }
}
