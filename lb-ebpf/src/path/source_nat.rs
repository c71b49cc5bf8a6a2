//! The source port of a flow whose client gets this node's address.
use lb_common::conntrack::{Flow, FlowKey, FlowState};
use lb_common::counters::Reason;
use lb_common::{Be16, flow_hash};

use crate::tables::{Inserted, TableFull, Tables};

/// Source NAT ports that are tried for one flow. With half of the ports in use, one flow in 65,536 finds them all
/// taken.
pub const SOURCE_NAT_ATTEMPTS_MAX: u32 = 16;
/// The first so many of them are then looked at for a flow that is over; after that the new one is refused as
/// exhausted.
const TAKEN_ATTEMPTS_MAX: u32 = 8;

/// Finds a source port whose replies are nobody else's. Ports are shared by endpoints: the reply's
/// whole five-tuple is the key.
///
/// A client that keeps its address keeps its port too, unless it has a live flow from this port to the same
/// endpoint by another frontend: the endpoint could not tell the two apart.
#[inline(always)]
pub(super) fn enter<T: Tables>(
    tables: &mut T,
    key: &mut FlowKey,
    entry: &Flow,
    hash: u32,
) -> Result<(), Reason> {
    let is_source_nat = entry.is_source_nat();
    let Some((first, count)) = tables.config().map(|config| (config.snat_port_first, config.snat_ports))
    else {
        return Err(Reason::DropNoNodeAddress);
    };
    if is_source_nat && count == 0 {
        return Err(Reason::RefuseSourceNatExhausted);
    }
    for attempt in 0..SOURCE_NAT_ATTEMPTS_MAX {
        if is_source_nat || attempt > 0 {
            key.destination_port = port(first, count, hash, attempt);
        }
        match tables.put_new_flow(key, entry) {
            Ok(Inserted::New) => return Ok(()),
            Ok(Inserted::Taken) => {}
            Err(TableFull) => return Err(Reason::DropConntrackFull),
        }
        if attempt == 0 && is_own_or_over(tables, key, entry) {
            return put(tables, key, entry);
        }
    }
    // All are taken, but perhaps by flows that are over.
    for attempt in 1..TAKEN_ATTEMPTS_MAX {
        key.destination_port = port(first, count, hash, attempt);
        if is_own_or_over(tables, key, entry) {
            return put(tables, key, entry);
        }
    }
    Err(Reason::RefuseSourceNatExhausted)
}

/// The port of an attempt.
#[inline(always)]
fn port(first: u16, count: u16, hash: u32, attempt: u32) -> Be16 {
    let point = flow_hash::again(hash, attempt);
    let index = ((point as u64 * count as u64) >> 32) as u16;
    Be16::new(first.wrapping_add(index))
}

#[inline(always)]
fn put<T: Tables>(tables: &mut T, key: &FlowKey, entry: &Flow) -> Result<(), Reason> {
    tables.put_flow(key, entry).map_err(|TableFull| Reason::DropConntrackFull)
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
    is_own || is_over(tables, key, &other, now_s)
}

#[inline(always)]
fn is_idle(flow: &Flow, key: &FlowKey, now_s: u32) -> bool {
    now_s.saturating_sub(flow.last_seen_s) > flow.idle_timeout_s(key.protocol)
}

/// Whether a flow is over by both of its entries: idle, or closed or reset. Its port is free for another
/// client then, as in Linux (`nf_nat_used_tuple_harder`), whose endpoints take a new SYN in TIME-WAIT
/// (RFC 6191); else ports would be short for two minutes after each burst. One entry alone does not say
/// it: the forward one would go on to lead its client to the port.
#[inline(always)]
fn is_over<T: Tables>(tables: &mut T, key: &FlowKey, reply: &Flow, now_s: u32) -> bool {
    if !is_idle(reply, key, now_s) && reply.state() < FlowState::Closing {
        return false;
    }
    let forward_key = FlowKey {
        source: reply.new_destination,
        destination: reply.new_source,
        source_port: reply.new_destination_port,
        destination_port: reply.new_source_port,
        protocol: key.protocol,
    };
    let Some(forward) = tables.flow(&forward_key) else {
        return true;
    };
    if forward.new_source_port != key.destination_port
        || forward.state() >= FlowState::Closing
        || is_idle(&forward, key, now_s)
    {
        return true;
    }
    let is_reset = reply.state() == FlowState::Reset;
    if is_reset {
        // The client may never say that it knows.
        tables.record_flow(&forward, FlowState::Reset, now_s);
    }
    is_reset
}
