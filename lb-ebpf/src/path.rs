//! The packet path: one function per direction. Both take the packet's headers as
//! [`parse`](crate::parse::parse) read them.
use lb_common::conntrack::{Direction, Flow, FlowKey, FlowState, flags};
use lb_common::counters::Reason;

use bytemuck::Zeroable as _;

use crate::flow::{self, Standing};
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::reset;
use crate::rewrite;
use crate::tables::{TableFull, Tables};
use crate::verdict::Verdict;

mod begin;
mod source_nat;
mod way;

pub use source_nat::SOURCE_NAT_ATTEMPTS_MAX;

use begin::{Entrance, forward_new};
use way::{send, way_for};

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
                    Standing::ConnectionGone => return refuse_gone(packet, tables, parsed, &known),
                }
            }
            // Other replies are undone where they leave the node (`to_client`), behind the stack.
            Direction::ToClient if known.is_source_nat() => {
                return reply(packet, tables, parsed, &known);
            }
            Direction::ToClient => return Verdict::Pass(Reason::PassNotOurs),
        }
    }
    let frontend = match tables.is_maybe_vip(&parsed.key.destination) {
        true => tables.frontend(&parsed.frontend()),
        false => None,
    };
    let Some(frontend) = frontend else {
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
    let now_s = tables.now_s();
    let state = flow::next_state(known.state(), parsed.is_tcp(), parsed.tcp_flags);
    if state != known.state() || now_s != known.last_seen_s {
        if keep_reply(tables, parsed, known, state).is_err() {
            return Verdict::Drop(Reason::DropConntrackFull);
        }
        tables.record_flow(known, state, now_s);
    }
    tables.count_traffic(known.backend_service, known.endpoint, 1, packet.length_bytes() as u64, 0);
    send(packet, parsed, known, &way, Reason::ForwardKnown)
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
    match reset::answer(packet, parsed) {
        Some(()) => Verdict::Answer(Reason::RefuseEndpointGone),
        None => Verdict::Drop(Reason::DropRewriteFailed),
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

/// Once a second, and with each step of the flow, the other direction's entry takes part: it is as old as
/// this one and at least as far, so that a flow with packets one way only keeps both, and with them its
/// source NAT port. One that was evicted is put back.
#[inline(never)]
fn keep_reply<T: Tables>(
    tables: &mut T,
    parsed: &Parsed,
    flow: &Flow,
    state: FlowState,
) -> Result<(), TableFull> {
    let key = parsed.key.reply(flow);
    let Some(reply) = tables.flow(&key) else {
        return tables.put_flow(&key, &reply_flow(parsed, flow));
    };
    let (further, now_s) = (reply.state().max(state), tables.now_s());
    tables.record_flow(&reply, further, now_s);
    Ok(())
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
