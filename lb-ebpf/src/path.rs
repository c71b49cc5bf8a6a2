//! The packet path: one function per direction. Both take the packet's headers as
//! [`parse`](crate::parse::parse) read them.
use lb_common::conntrack::{Direction, Flow, FlowKey, flags};
use lb_common::counters::Reason;

use bytemuck::Zeroable as _;

use crate::flow::{self, Standing};
use crate::packet::Packet;
use crate::parse::{Form, Parsed};
use crate::rewrite;
use crate::tables::{TableFull, Tables};
use crate::verdict::{Settled, Verdict};

mod begin;
mod icmp_error;
mod source_nat;
mod stray;
mod unusual;
mod way;

pub use source_nat::SOURCE_NAT_ATTEMPTS_MAX;

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
    /// What the path's side ways found; what it holds before means nothing.
    settled: Settled,
    /// The way of a new flow's packet; what it holds before means nothing.
    way: way::Way,
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
        let quote = icmp_error::Quote::empty();
        Self {
            parsed,
            entries,
            settled: Verdict::Pass(Reason::PassNotOurs).into(),
            way: way::Way::to_stack(),
            quote,
        }
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
    if scratch.parsed.form != Form::Whole && unusual::to_backend(packet, tables, scratch) {
        return scratch.settled.verdict();
    }
    let parsed = &scratch.parsed;
    if let Some(known) = tables.flow(&parsed.key) {
        let holds = match known.direction() {
            Direction::ToBackend => {
                let endpoint = tables.endpoint(known.endpoint);
                match flow::standing(&known, endpoint.as_ref(), parsed, tables.now_s()) {
                    Standing::Good => true,
                    Standing::Over => false,
                    Standing::EndpointGone => {
                        tables.count(Reason::NoteEndpointGone);
                        false
                    }
                }
            }
            // Other replies are undone where they leave the node (`to_client`), behind the stack.
            Direction::ToClient if known.is_source_nat() => true,
            Direction::ToClient => return Verdict::Pass(Reason::PassNotOurs),
        };
        if holds {
            return forward_known(packet, tables, parsed, &known);
        }
    }
    if !tables.is_maybe_vip(&parsed.key.destination) && !stray::is_service_address(tables, parsed) {
        return Verdict::Pass(Reason::PassNotOurs);
    }
    if begin::to_frontend(packet, tables, scratch, side) {
        return scratch.settled.verdict();
    }
    begin::send_new(packet, &scratch.parsed, &scratch.entries.flow, &scratch.way)
}

/// A packet leaves the node towards the client, behind the network stack: the reply of an endpoint
/// gets the VIP as its source again.
#[inline(always)]
pub fn to_client<P: Packet, T: Tables>(packet: &mut P, tables: &mut T, scratch: &mut Scratch) -> Verdict {
    if scratch.parsed.form != Form::Whole && unusual::to_client(packet, tables, scratch) {
        return scratch.settled.verdict();
    }
    let parsed = &scratch.parsed;
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

/// A packet of a known flow goes on as its entry says; a reply to a flow that this node source-NATed goes
/// straight back, without the stack. One function for both, since a kernel program's stack is short.
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
    let reason = match known.direction() {
        Direction::ToBackend => {
            if tables.now_s() != known.last_seen_s && keep_reply(tables, parsed, known).is_err() {
                return Verdict::Drop(Reason::DropConntrackFull);
            }
            tables.count_traffic(known.backend_service, known.endpoint, 1, packet.length_bytes() as u64, 0);
            Reason::ForwardKnown
        }
        Direction::ToClient => Reason::ForwardReply,
    };
    record(tables, parsed, known);
    send(packet, parsed, known, &way, reason)
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

/// Notes the packet in its entry. A write takes the cache line from other CPUs, so it happens only
/// when the state or the second changed.
#[inline(always)]
fn record<T: Tables>(tables: &mut T, parsed: &Parsed, known: &T::FlowSlot) {
    let now_s = tables.now_s();
    let state = flow::next_state(known.state(), parsed.has_connection(), parsed.tcp_flags);
    if state != known.state() || now_s != known.last_seen_s {
        tables.record_flow(known, state, now_s);
    }
}
