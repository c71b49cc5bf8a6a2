//! How a packet goes on after the rewrite.
use lb_common::conntrack::Flow;
use lb_common::counters::Reason;

use crate::packet::{Mac, Packet};
use crate::parse::Parsed;
use crate::rewrite;
use crate::tables::{Route, Tables};
use crate::verdict::Verdict;

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
pub(super) struct Way {
    exit: Exit,
    interface: u32,
    source_mac: Mac,
    destination_mac: Mac,
}

impl Way {
    /// To the network stack.
    #[inline(always)]
    pub(super) const fn to_stack() -> Self {
        let none = Mac::from_bytes([0; 6]);
        Self { exit: Exit::Stack, interface: 0, source_mac: none, destination_mac: none }
    }
}

/// The way of a flow's packet, found before anything is written: a hook that has none leaves the
/// packet as it is to the next hook.
#[inline(always)]
pub(super) fn way_for<T: Tables>(tables: &mut T, parsed: &Parsed, flow: &Flow) -> Result<Way, Verdict> {
    let none = Mac::from_bytes([0; 6]);
    if !flow.is_source_nat() {
        return Ok(Way::to_stack());
    }
    if parsed.hop_limit <= 1 {
        return Err(Verdict::Pass(Reason::PassHopLimit));
    }
    match tables.route(&flow.new_source, &flow.new_destination, 0) {
        Route::None | Route::TooBig { .. } => Err(Verdict::Pass(Reason::PassNoRoute)),
        Route::Neighbour { interface } => {
            Ok(Way { exit: Exit::Neighbour, interface, source_mac: none, destination_mac: none })
        }
        Route::Link { interface, source_mac, destination_mac } => {
            Ok(Way { exit: Exit::Link, interface, source_mac, destination_mac })
        }
    }
}

#[inline(always)]
pub(super) fn send<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    flow: &Flow,
    way: &Way,
    reason: Reason,
) -> Verdict {
    match rewrite::translate(packet, parsed, flow) {
        Some(()) => leave(packet, parsed, way, reason),
        None => Verdict::Drop(Reason::DropRewriteFailed),
    }
}

/// Sends a packet on that has its new addresses.
#[inline(always)]
pub(super) fn leave<P: Packet>(packet: &mut P, parsed: &Parsed, way: &Way, reason: Reason) -> Verdict {
    let failed = Verdict::Drop(Reason::DropRewriteFailed);
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
