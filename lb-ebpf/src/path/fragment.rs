//! Fragments: only the first one of a datagram has the ports (RFC 791 §2.3, RFC 8200 §4.5). Its ports are
//! noted, the later ones find them there, and each goes the way of the whole datagram's flow. A later one that
//! comes before is held, and brought again behind the first one.
use lb_common::Address;
use lb_common::counters::Reason;
use lb_common::fragment::{FragmentKey, FragmentPorts, HeldWay};

use crate::header::ipv4;
use crate::packet::Packet;
use crate::parse::{Family, Form, Parsed};
use crate::tables::{TableFull, Tables};

use super::{Sender, stray};

/// A fragment that enters the node. `None`: it goes on as a plain packet, with its ports.
#[inline(always)]
pub(super) fn entering<P: Packet, T: Tables>(
    packet: &P,
    tables: &mut T,
    parsed: &mut Parsed,
) -> Option<Reason> {
    let destination = &parsed.key.destination;
    if !tables.is_maybe_vip(destination) && !is_of_node(tables, destination) {
        return if parsed.form == Form::FirstFragment { None } else { Some(Reason::PassFragment) };
    }
    match take(packet, tables, parsed) {
        Some(Reason::PassFragment) => Some(early(packet, tables, parsed)),
        found => found,
    }
}

/// A later fragment whose first one is not known. Held where it may be a flow's.
#[inline(always)]
fn early<P: Packet, T: Tables>(packet: &P, tables: &mut T, parsed: &Parsed) -> Reason {
    let is_to_vip = stray::vip(tables, parsed).is_some();
    if !is_to_vip && !is_of_node(tables, &parsed.key.destination) {
        return Reason::PassFragment;
    }
    match tables.hold(packet, HeldWay::Entering) {
        Ok(()) => Reason::HoldFragment,
        // To a VIP, it could only be sent to an endpoint that does not get the others.
        Err(TableFull) if is_to_vip => Reason::DropFragment,
        // It may be the node's own.
        Err(TableFull) => Reason::PassFragment,
    }
}

/// A fragment that leaves the node, as [`entering`]. Replies come from pods and from nodes; a later one that
/// comes early may be of one, or of a datagram to nobody's frontend, whose first fragment lets it go as well.
#[inline(always)]
pub(super) fn leaving<P: Packet, T: Tables>(
    packet: &P,
    tables: &mut T,
    parsed: &mut Parsed,
    sender: Sender,
) -> Option<Reason> {
    let source = &parsed.key.source;
    let is_of_cluster = tables.config().is_some_and(|config| config.is_in_cluster(source));
    let is_of_node = is_of_node(tables, source);
    if !is_of_cluster && !is_of_node {
        return if parsed.form == Form::FirstFragment { None } else { Some(Reason::PassFragment) };
    }
    match take(packet, tables, parsed) {
        // The node's address on what it received is our source NAT's: rewritten already, while its first
        // fragment may have left by XDP, unseen here.
        Some(Reason::PassFragment) if sender == Sender::Other && is_of_node => Some(Reason::PassFragment),
        Some(Reason::PassFragment) => {
            let way = match sender {
                Sender::Node => HeldWay::LeavingNode,
                Sender::Other => HeldWay::LeavingForwarded,
            };
            // Without room it passes: it may be nobody's reply.
            Some(tables.hold(packet, way).map_or(Reason::PassFragment, |()| Reason::HoldFragment))
        }
        found => found,
    }
}

/// Whether an address is the one that this node gives to outside clients.
#[inline(always)]
fn is_of_node<T: Tables>(tables: &T, address: &Address) -> bool {
    tables.config().and_then(|config| config.node_address(address)) == Some(*address)
}

/// Notes the ports of a first fragment; gives them to a later one.
#[inline(always)]
fn take<P: Packet, T: Tables>(packet: &P, tables: &mut T, parsed: &mut Parsed) -> Option<Reason> {
    let Some((key, offset_units)) = read(packet, parsed) else {
        return Some(Reason::PassMalformed);
    };
    let now_s = tables.now_s();
    if parsed.form == Form::FirstFragment {
        let ports = FragmentPorts {
            source_port: parsed.key.source_port,
            destination_port: parsed.key.destination_port,
            created_s: now_s,
        };
        tables.put_fragment(&key, &ports);
        return None;
    }
    let Some(ports) = tables.fragment(&key).filter(|ports| ports.is_young(now_s)) else {
        return Some(Reason::PassFragment);
    };
    // It would lie over the flags that the first one showed (RFC 1858 §3.2); no offset reaches ports.
    if parsed.is_tcp() && offset_units == 1 {
        return Some(Reason::DropFragment);
    }
    parsed.key.source_port = ports.source_port;
    parsed.key.destination_port = ports.destination_port;
    None
}

/// The key of a fragment in FRAGMENTS; `None` where the frame ends before it.
#[must_use]
pub fn key<P: Packet>(packet: &P, parsed: &Parsed) -> Option<FragmentKey> {
    read(packet, parsed).map(|(key, _)| key)
}

/// What the fragments of one datagram have in common, and where this one belongs, units of eight bytes.
#[inline(always)]
fn read<P: Packet>(packet: &P, parsed: &Parsed) -> Option<(FragmentKey, u16)> {
    let (identification, offset_units) = match parsed.family {
        Family::V4 => {
            let [i0, i1, o0, o1] = packet.load(parsed.fragment_offset())?;
            let offset_units = u16::from_be_bytes([o0, o1]) & ipv4::FRAGMENT_OFFSET_MASK;
            (u32::from(u16::from_be_bytes([i0, i1])), offset_units)
        }
        Family::V6 => {
            let [o0, o1, i0, i1, i2, i3] = packet.load(parsed.fragment_offset())?;
            (u32::from_be_bytes([i0, i1, i2, i3]), u16::from_be_bytes([o0, o1]) >> 3)
        }
    };
    let key = FragmentKey {
        source: parsed.key.source,
        destination: parsed.key.destination,
        identification,
        protocol: parsed.key.protocol,
    };
    Some((key, offset_units))
}
