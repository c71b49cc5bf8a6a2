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
use super::{Scratch, stray};

/// Whether the verdict on a packet that enters the node is found, in [`Scratch::settled`]; if not, it goes
/// on as a plain one.
#[inline(never)]
pub(super) fn to_backend<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
) -> bool {
    let parsed = &scratch.parsed;
    let verdict = match parsed.form {
        Form::Whole => return false,
        Form::FirstFragment | Form::LaterFragment => Verdict::Pass(Reason::PassFragment),
        Form::Icmp if is_icmp_error(packet, parsed) => {
            return icmp_error::translate(packet, tables, scratch, Hook::Entering);
        }
        Form::Icmp => icmp_message(packet, tables, parsed),
        Form::Other => other(packet, tables, parsed),
    };
    scratch.settled = verdict.into();
    true
}

/// Whether the verdict on a packet that leaves the node is found, in [`Scratch::settled`]; if not, it goes
/// on as a plain one.
#[inline(never)]
pub(super) fn to_client<P: Packet, T: Tables>(packet: &mut P, tables: &mut T, scratch: &mut Scratch) -> bool {
    let verdict = match scratch.parsed.form {
        Form::Whole => return false,
        Form::FirstFragment | Form::LaterFragment => Verdict::Pass(Reason::PassFragment),
        Form::Icmp if is_icmp_error(packet, &scratch.parsed) => {
            return icmp_error::translate(packet, tables, scratch, Hook::Leaving);
        }
        Form::Icmp | Form::Other => Verdict::Pass(Reason::PassOtherProtocol),
    };
    scratch.settled = verdict.into();
    true
}

#[inline(always)]
fn is_icmp_error<P: Packet>(packet: &P, parsed: &Parsed) -> bool {
    packet
        .load::<2>(parsed.transport_offset())
        .is_some_and(|[kind, _]| icmp_error::is_error(parsed.family, kind))
}

/// Other ICMP messages than echo requests and errors (neighbour discovery among them) are nobody's flow.
#[inline(always)]
fn icmp_message<P: Packet, T: Tables>(packet: &mut P, tables: &mut T, parsed: &Parsed) -> Verdict {
    let Some([kind, _]) = packet.load::<2>(parsed.transport_offset()) else {
        return Verdict::Pass(Reason::PassMalformed);
    };
    match (parsed.family, kind) {
        (Family::V4, header::V4_ECHO_REQUEST) | (Family::V6, header::V6_ECHO_REQUEST) => {
            match echo(packet, tables, parsed) {
                reason @ Reason::AnswerEcho => Verdict::Answer(reason),
                reason @ (Reason::PassNotOurs | Reason::PassOtherProtocol) => Verdict::Pass(reason),
                reason => Verdict::Drop(reason),
            }
        }
        _ => Verdict::Pass(Reason::PassOtherProtocol),
    }
}

/// Answers an echo request to a VIP; to a node's own address, the node answers.
#[inline(never)]
fn echo<P: Packet, T: Tables>(packet: &mut P, tables: &mut T, parsed: &Parsed) -> Reason {
    let destination = &parsed.key.destination;
    if stray::vip(tables, parsed).is_none() {
        return match stray::is_service_address(tables, parsed) {
            true => Reason::DropUnallocated,
            false => Reason::PassOtherProtocol,
        };
    }
    let is_own = tables.config().and_then(|config| config.node_address(destination)) == Some(*destination);
    if is_own || tables.is_node(destination) {
        return Reason::PassNotOurs;
    }
    match icmp::answer_echo(packet, parsed) {
        Some(()) => Reason::AnswerEcho,
        None => Reason::DropRewriteFailed,
    }
}

#[inline(always)]
fn other<P: Packet, T: Tables>(packet: &mut P, tables: &mut T, parsed: &Parsed) -> Verdict {
    match stray::judge(packet, tables, parsed) {
        Verdict::Pass(_) => Verdict::Pass(Reason::PassOtherProtocol),
        verdict => verdict,
    }
}
