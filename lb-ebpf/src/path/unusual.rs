//! What is not a plain packet takes a turn first: ICMP messages, fragments, protocols without ports. All of
//! it is off the way of plain packets, which pay one comparison.
use lb_common::counters::Reason;

use crate::header::icmp as header;
use crate::icmp;
use crate::packet::Packet;
use crate::parse::{Family, Form, Parsed};
use crate::tables::Tables;
use crate::verdict::Verdict;

use super::icmp_error::{self, Hook};
use super::way::{Way, blocked};
use super::{Scratch, Sender, fragment, stray};

/// What the turn found. A number: a kernel function that returns nothing in its register fails on what the
/// compiler leaves there (6.18: "cannot return stack pointer to the caller").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Turn {
    /// The packet goes on as a plain one.
    Plain,
    /// It goes no further, as [`Scratch::way`] says.
    Blocked,
    /// It is an ICMP error, found and with a way.
    IcmpError,
    /// It was made the reply to an echo request.
    Echo,
}

/// The turn of a packet that enters the node.
#[inline(never)]
pub(super) fn entering<P: Packet, T: Tables>(packet: &mut P, tables: &mut T, scratch: &mut Scratch) -> Turn {
    match scratch.parsed.form {
        Form::Whole => Turn::Plain,
        Form::FirstFragment | Form::LaterFragment => fragment_entering(packet, tables, scratch),
        Form::Icmp if is_icmp_error(packet, &scratch.parsed) => {
            icmp_error::find(packet, tables, scratch, Hook::Entering)
        }
        Form::Icmp => echo(packet, tables, scratch),
        Form::Other => other(tables, scratch),
    }
}

/// The turn of a packet that leaves the node.
#[inline(never)]
pub(super) fn leaving<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
    sender: Sender,
) -> Turn {
    match scratch.parsed.form {
        Form::Whole => Turn::Plain,
        Form::FirstFragment | Form::LaterFragment => fragment_leaving(packet, tables, scratch, sender),
        Form::Icmp if is_icmp_error(packet, &scratch.parsed) => {
            icmp_error::find(packet, tables, scratch, Hook::Leaving)
        }
        Form::Icmp if sender == Sender::Node => echo(packet, tables, scratch),
        Form::Other if sender == Sender::Node => other(tables, scratch),
        Form::Icmp | Form::Other => block(scratch, Reason::PassOtherProtocol),
    }
}

/// What becomes of a packet after its turn; it was no plain one.
#[inline(never)]
pub(super) fn verdict<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
    turn: Turn,
) -> Verdict {
    match turn {
        Turn::Echo => Verdict::Answer(Reason::AnswerEcho),
        Turn::IcmpError => icmp_error::send(packet, tables, scratch),
        Turn::Blocked | Turn::Plain => blocked(packet, &scratch.parsed, &scratch.way),
    }
}

#[inline(always)]
fn block(scratch: &mut Scratch, reason: Reason) -> Turn {
    scratch.way = Way::blocked(reason);
    Turn::Blocked
}

#[inline(always)]
fn is_icmp_error<P: Packet>(packet: &P, parsed: &Parsed) -> bool {
    packet
        .load::<2>(parsed.transport_offset())
        .is_some_and(|[kind, _]| icmp_error::is_error(parsed.family, kind))
}

/// Answers an echo request to a VIP; to a node's own address, the node answers. Other messages (neighbour
/// discovery among them) are nobody's flow.
#[inline(never)]
fn echo<P: Packet, T: Tables>(packet: &mut P, tables: &mut T, scratch: &mut Scratch) -> Turn {
    let parsed = &scratch.parsed;
    let destination = &parsed.key.destination;
    let request = match parsed.family {
        Family::V4 => header::V4_ECHO_REQUEST,
        Family::V6 => header::V6_ECHO_REQUEST,
    };
    if packet.load::<2>(parsed.transport_offset()).is_none_or(|[kind, _]| kind != request) {
        return block(scratch, Reason::PassOtherProtocol);
    }
    if stray::vip(tables, parsed).is_none() {
        return match stray::is_service_address(tables, parsed) {
            true => block(scratch, Reason::DropUnallocated),
            false => block(scratch, Reason::PassOtherProtocol),
        };
    }
    let is_own = tables.config().and_then(|config| config.node_address(destination)) == Some(*destination);
    if is_own || tables.is_node(destination) {
        return block(scratch, Reason::PassNotOurs);
    }
    match icmp::answer_echo(packet, parsed) {
        Some(()) => Turn::Echo,
        None => block(scratch, Reason::DropRewriteFailed),
    }
}

#[inline(never)]
fn fragment_entering<P: Packet, T: Tables>(packet: &P, tables: &mut T, scratch: &mut Scratch) -> Turn {
    match fragment::entering(packet, tables, &mut scratch.parsed) {
        None => Turn::Plain,
        Some(reason) => block(scratch, reason),
    }
}

#[inline(never)]
fn fragment_leaving<P: Packet, T: Tables>(
    packet: &P,
    tables: &mut T,
    scratch: &mut Scratch,
    sender: Sender,
) -> Turn {
    match fragment::leaving(packet, tables, &mut scratch.parsed, sender) {
        None => Turn::Plain,
        Some(reason) => block(scratch, reason),
    }
}

#[inline(always)]
fn other<T: Tables>(tables: &mut T, scratch: &mut Scratch) -> Turn {
    match stray::judge(tables, &scratch.parsed) {
        Reason::PassNotOurs => block(scratch, Reason::PassOtherProtocol),
        reason => block(scratch, reason),
    }
}
