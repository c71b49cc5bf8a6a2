//! Direct server return, at the endpoint's node: the packet is taken out of the other node's
//! encapsulation, and its reply will leave here with the VIP as its source.
use lb_common::conntrack::{Direction, Flow, FlowKey, FlowState, NO_ID, flags};
use lb_common::counters::Reason;
use lb_common::protocol;

use crate::flow;
use crate::geneve;
use crate::packet::Packet;
use crate::parse::{Parsed, Transport, parse};
use crate::tables::{TableFull, Tables};
use crate::verdict::Verdict;

use super::{Scratch, record};

/// Whether another node encapsulated the packet for an endpoint of this one; the VIP is then in the
/// scratch's reply entry. Packets to other ports pay for two comparisons.
#[inline(always)]
pub(super) fn is_encapsulated<P: Packet, T: Tables>(packet: &P, tables: &T, scratch: &mut Scratch) -> bool {
    let key = &scratch.parsed.key;
    key.protocol == u32::from(protocol::UDP)
        && tables.config().is_some_and(|config| config.dsr_port == key.destination_port)
        && is_from_node(packet, tables, scratch)
}

#[inline(never)]
fn is_from_node<P: Packet, T: Tables>(packet: &P, tables: &T, scratch: &mut Scratch) -> bool {
    let Scratch { parsed, entries, .. } = scratch;
    // Without IP options: the length of ours is fixed.
    let has_own_length = geneve::has_own_length(parsed);
    has_own_length
        && tables.is_node(&parsed.key.source)
        && geneve::read_vip(packet, parsed, &mut entries.reply)
}

/// Delivers the inner packet to this node's stack, and keeps the entry that its replies need.
#[inline(never)]
pub(super) fn deliver<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> Verdict {
    let Scratch { parsed, entries, .. } = scratch;
    if geneve::unwrap(packet, parsed).is_none() {
        return Verdict::Drop(Reason::DropRewriteFailed);
    }
    let delivered = Verdict::ToStack(Reason::ForwardDecapsulated);
    let Ok(inner) = parse(packet) else {
        return delivered;
    };
    // A later fragment or an ICMP error: the first packet, or the one that is quoted, has an entry.
    if inner.transport == Transport::None {
        return delivered;
    }
    *parsed = inner;
    write_reply(tables, parsed, &mut entries.reply_key, &mut entries.reply);
    match keep(tables, parsed, &entries.reply_key, &entries.reply) {
        Ok(()) => delivered,
        Err(TableFull) => Verdict::Drop(Reason::DropConntrackFull),
    }
}

/// The entry of the endpoint's replies; its new source is filled already.
#[inline(always)]
fn write_reply<T: Tables>(tables: &T, parsed: &Parsed, key: &mut FlowKey, reply: &mut Flow) {
    let inner = &parsed.key;
    *key = FlowKey {
        source: inner.destination,
        destination: inner.source,
        source_port: inner.destination_port,
        destination_port: inner.source_port,
        protocol: inner.protocol,
    };
    reply.new_destination = inner.source;
    reply.new_destination_port = inner.source_port;
    reply.flags = flags::TO_CLIENT | flags::DSR;
    reply.endpoint = NO_ID;
    reply.endpoint_generation = 0;
    reply.backend_service = NO_ID;
    reply.created_s = tables.now_s();
    reply.last_seen_s = tables.now_s();
    reply.state = flow::next_state(FlowState::Opening, parsed.has_connection(), parsed.tcp_flags) as u32;
}

/// Puts the entry where it is missing, is another frontend's or belongs to a connection before this one.
#[inline(always)]
fn keep<T: Tables>(tables: &mut T, parsed: &Parsed, key: &FlowKey, reply: &Flow) -> Result<(), TableFull> {
    if !parsed.opens_tcp()
        && let Some(known) = tables.flow(key)
        && known.direction() == Direction::ToClient
        && known.flags & flags::DSR != 0
        && known.new_source == reply.new_source
        && known.new_source_port == reply.new_source_port
    {
        record(tables, parsed, &known);
        return Ok(());
    }
    tables.put_flow(key, reply)
}
