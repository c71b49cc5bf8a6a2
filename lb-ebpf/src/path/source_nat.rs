//! The source port of a flow whose client gets this node's address.
use lb_common::conntrack::{Flow, FlowKey, FlowState};
use lb_common::counters::Reason;
use lb_common::{Be16, flow_hash};

use crate::tables::{Inserted, TableFull, Tables};

/// Source NAT ports that are tried for one flow before it is refused as exhausted.
pub const SOURCE_NAT_ATTEMPTS_MAX: u32 = 8;

/// Finds a source port whose replies are nobody else's. Ports are shared by endpoints: the reply's
/// whole five-tuple is the key.
#[inline(always)]
pub(super) fn enter<T: Tables>(
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
        return Err(Reason::RefuseSourceNatExhausted);
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
    Err(Reason::RefuseSourceNatExhausted)
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
    is_own || is_idle(&other, key, now_s) || is_closed(tables, key, &other)
}

#[inline(always)]
fn is_idle(flow: &Flow, key: &FlowKey, now_s: u32) -> bool {
    now_s.saturating_sub(flow.last_seen_s) > flow.idle_timeout_s(key.protocol)
}

/// Whether a TCP connection of which this is the reply entry is over: reset, or closed by both ends. Its
/// port is free for another client then, as in Linux (`nf_nat_used_tuple_harder`), whose endpoints take a
/// new SYN in TIME-WAIT (RFC 6191); else ports would be short for two minutes after each burst.
#[inline(always)]
fn is_closed<T: Tables>(tables: &mut T, key: &FlowKey, reply: &Flow) -> bool {
    match reply.state() {
        FlowState::Reset => return true,
        FlowState::Closing => {}
        FlowState::Opening | FlowState::Established => return false,
    }
    let forward_key = FlowKey {
        source: reply.new_destination,
        destination: reply.new_source,
        source_port: reply.new_destination_port,
        destination_port: reply.new_source_port,
        protocol: key.protocol,
    };
    tables.flow(&forward_key).is_none_or(|forward| forward.state() >= FlowState::Closing)
}
