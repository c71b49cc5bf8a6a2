//! How a packet goes on after the rewrite.
use lb_common::Address;
use lb_common::config::Config;
use lb_common::conntrack::{Flow, flags};
use lb_common::counters::{Outcome, Reason};

use crate::geneve;
use crate::header::tcp;
use crate::icmp::{self, Message};
use crate::packet::{Mac, Packet};
use crate::parse::{Form, Parsed};
use crate::reset;
use crate::rewrite;
use crate::tables::{Route, Tables};
use crate::verdict::Verdict;

/// How the packet goes on after the rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Exit {
    Stack,
    Own,
    Link,
    Neighbour,
    Blocked,
}

/// An [`Exit`] and what it needs. Every field always holds a value: the compiler fills the unused part
/// of an enum with any register, and the verifier (6.18: "invalid size of register spill") refuses one
/// that holds a pointer. The fields are such that stores of neighbours, joined, are aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub(super) struct Way {
    exit: Exit,
    /// Why it is blocked.
    reason: Reason,
    /// The interface; where it is blocked by the packet's size, what fits through, bytes.
    value: u64,
    source_mac: Mac,
    destination_mac: Mac,
}

impl Way {
    /// To the network stack.
    pub(super) const STACK: Self = Self::out(Exit::Stack, 0);
    const NO_MAC: Mac = Mac::from_bytes([0; 6]);

    #[inline(always)]
    const fn out(exit: Exit, value: u32) -> Self {
        let (source_mac, destination_mac) = (Self::NO_MAC, Self::NO_MAC);
        Self { exit, reason: Reason::PassNoRoute, value: value as u64, source_mac, destination_mac }
    }

    /// None, for this reason.
    #[inline(always)]
    pub(super) const fn blocked(reason: Reason) -> Self {
        Self { reason, ..Self::out(Exit::Blocked, 0) }
    }

    /// Whether the packet cannot go on, and [`blocked`] says what becomes of it.
    #[inline(always)]
    pub(super) const fn is_blocked(&self) -> bool {
        matches!(self.exit, Exit::Blocked)
    }
}

/// The way of a flow's packet, found before anything is written: a hook that has none leaves the
/// packet as it is to the next hook. `length_bytes` is that of the frame.
#[inline(always)]
pub(super) fn way_for<T: Tables>(tables: &mut T, parsed: &Parsed, flow: &Flow, length_bytes: usize) -> Way {
    let is_direct = flow.flags & (flags::SOURCE_NAT | flags::DSR) == 0;
    if is_direct && !is_delivered(tables, parsed, flow) {
        return Way::STACK;
    }
    if flow.flags & flags::CLIENT_IS_NODE != 0 {
        if flow.flags & flags::TO_CLIENT != 0 {
            return Way::STACK;
        }
        if flow.new_source == parsed.key.destination {
            return Way::out(Exit::Own, 0);
        }
    }
    if parsed.hop_limit <= 1 {
        return Way::blocked(Reason::PassHopLimit);
    }
    let packet_bytes = length_bytes.saturating_sub(parsed.network_offset());
    if flow.is_encapsulated() {
        let overhead_bytes = geneve::overhead_bytes(parsed.family);
        let node = tables.config().and_then(|config| config.node_address(&flow.new_destination));
        let Some(node) = node else {
            return Way::blocked(Reason::DropNoNodeAddress);
        };
        return route(tables, [&node, &flow.new_destination], packet_bytes, overhead_bytes);
    }
    let way = route(tables, [&flow.new_source, &flow.new_destination], packet_bytes, 0);
    // What the pod's interface does not take as it is, the stack refuses or looks up.
    if is_direct && way.is_blocked() { Way::STACK } else { way }
}

/// Whether the packet of a flow that keeps its client's address is handed to the endpoint's interface. The stack answers
/// for a hop limit that ends here.
#[inline(always)]
fn is_delivered<T: Tables>(tables: &T, parsed: &Parsed, flow: &Flow) -> bool {
    flow.flags & flags::LOCAL != 0
        && tables.can_deliver()
        && tables.config().is_some_and(Config::delivers_directly)
        && parsed.hop_limit > 1
}

/// The way from the first address to the second for a packet that grows by `overhead_bytes`.
#[inline(always)]
fn route<T: Tables>(tables: &mut T, ends: [&Address; 2], packet_bytes: usize, overhead_bytes: usize) -> Way {
    let [source, destination] = ends;
    // A packet that is longer than the field is one that the kernel cuts before it sends it.
    let length_bytes = u16::try_from(packet_bytes + overhead_bytes).unwrap_or(u16::MAX);
    match tables.route(source, destination, length_bytes) {
        Route::None => Way::blocked(Reason::PassNoRoute),
        Route::TooBig { mtu_bytes } => Way {
            value: u64::from(mtu_bytes).saturating_sub(overhead_bytes as u64),
            ..Way::blocked(Reason::RefuseTooBig)
        },
        Route::Neighbour { interface } => Way::out(Exit::Neighbour, interface),
        Route::Link { interface, source_mac, destination_mac } => {
            Way { source_mac, destination_mac, ..Way::out(Exit::Link, interface) }
        }
    }
}

/// What becomes of a packet without a way: it passes, is dropped, or is answered with an error; where nobody
/// serves a TCP packet, with a reset.
#[inline(never)]
pub(super) fn blocked<P: Packet>(packet: &mut P, parsed: &Parsed, way: &Way) -> Verdict {
    let reason = way.reason;
    match reason.outcome() {
        // No error answers a fragment but the first (RFC 1122 §3.2.2).
        Outcome::Refuse if parsed.form == Form::LaterFragment => return Verdict::Drop(Reason::DropFragment),
        Outcome::Refuse => {}
        Outcome::Pass => return Verdict::Pass(reason),
        Outcome::Hold => return Verdict::Hold(reason),
        _ => return Verdict::Drop(reason),
    }
    let message = match reason {
        Reason::RefuseTooBig => Message::too_big(way.value as u32),
        // A fragment does not say where its segment ends, and no reset answers another one.
        _ if parsed.is_tcp() && parsed.form == Form::Whole && parsed.tcp_flags & tcp::RST == 0 => {
            return refuse_connection(packet, parsed, reason);
        }
        _ => Message::PORT_UNREACHABLE,
    };
    match icmp::refuse(packet, parsed, &message) {
        Some(()) => Verdict::Answer(reason),
        None => Verdict::Drop(Reason::DropRewriteFailed),
    }
}

/// Answers a TCP packet that nobody serves, or no longer. A call of its own, for the verifier (6.18: "cannot return stack
/// pointer to the caller", where the compiler joins both kinds of answer).
#[inline(never)]
pub(super) fn refuse_connection<P: Packet>(packet: &mut P, parsed: &Parsed, reason: Reason) -> Verdict {
    match reset::answer(packet, parsed) {
        Some(()) => Verdict::Answer(reason),
        None => Verdict::Drop(Reason::DropRewriteFailed),
    }
}

/// Rewrites a packet as its flow says and sends it on its way, which is not blocked.
#[inline(always)]
pub(super) fn send<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed,
    flow: &Flow,
    way: &Way,
    reason: Reason,
) -> Verdict {
    if rewrite::translate(packet, parsed, flow).is_none() {
        return Verdict::Drop(Reason::DropRewriteFailed);
    }
    leave(packet, tables, parsed, flow, way, reason)
}

/// Sends a packet that is rewritten already on its flow's way.
#[inline(always)]
pub(super) fn leave<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed,
    flow: &Flow,
    way: &Way,
    reason: Reason,
) -> Verdict {
    let failed = Verdict::Drop(Reason::DropRewriteFailed);
    if way.exit == Exit::Stack {
        return Verdict::ToStack(reason);
    }
    if way.exit == Exit::Own {
        return turn_in(packet, reason);
    }
    if rewrite::take_hop(packet, parsed).is_none() {
        return failed;
    }
    let mut reason = reason;
    if flow.is_encapsulated() {
        if encapsulate(packet, tables, parsed, flow).is_none() {
            return failed;
        }
        reason = Reason::ForwardEncapsulated;
    }
    let interface = way.value as u32;
    if way.exit == Exit::Neighbour {
        return Verdict::ToNeighbour { reason, interface };
    }
    match rewrite::address_link(packet, way.source_mac, way.destination_mac) {
        Some(()) => Verdict::ToLink { reason, interface },
        None => failed,
    }
}

/// Brings a packet of this node to itself in, with the interface's own address as its destination.
#[inline(never)]
pub(super) fn turn_in<P: Packet>(packet: &mut P, reason: Reason) -> Verdict {
    match rewrite::turn_link(packet) {
        Some(()) => Verdict::ToSelf(reason),
        None => Verdict::Drop(Reason::DropRewriteFailed),
    }
}

#[inline(never)]
fn encapsulate<P: Packet, T: Tables>(packet: &mut P, tables: &T, parsed: &Parsed, flow: &Flow) -> Option<()> {
    geneve::wrap(packet, tables.config()?, parsed, flow)
}
