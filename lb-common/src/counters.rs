//! What is counted: traffic per backend service and endpoint, and one count per reason. The kernel,
//! the metrics and the command line all use this one list.
use bytemuck::{Pod, Zeroable};

/// Value of BACKEND_SERVICE_TRAFFIC and ENDPOINT_TRAFFIC, per-CPU arrays by id. Counts the direction
/// from the client to the endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Traffic {
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes of those packets, from the Ethernet header on.
    pub bytes: u64,
    /// Flows begun; a `connect()` through a socket hook is one flow and no packet.
    pub new_flows: u64,
}

const _: () = assert!(size_of::<Traffic>() == 24);

/// What became of a packet, and why: index into REASONS, a per-CPU array of `u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Reason {
    /// Forwarded for a flow that was known.
    ForwardKnown = 0,
    /// Forwarded for a new flow.
    ForwardNew,
    /// A reply went back to the client with the VIP as its source.
    ForwardReply,
    /// A socket hook chose an endpoint.
    ForwardSocket,
    /// Forwarded: an ICMP error about a packet of a known flow, translated as the flow is.
    ForwardIcmpError,
    /// Forwarded to its node, which answers the client itself, in an encapsulation.
    ForwardEncapsulated,
    /// Taken out of another node's encapsulation and delivered to an endpoint of this node.
    ForwardDecapsulated,
    /// Answered: an echo request to a VIP.
    AnswerEcho,
    /// Held: a fragment whose first one has not come yet; the agent brings it again when it has.
    HoldFragment,
    /// Passed: to no frontend of ours, or of a connection that another proxy of the node began.
    PassNotOurs,
    /// Passed: a reply, which gets the VIP as its source where it leaves.
    PassReply,
    /// Passed: neither IPv4 nor IPv6 in Ethernet.
    PassNotIp,
    /// Passed: neither TCP, UDP nor SCTP, nor an ICMP message about them.
    PassOtherProtocol,
    /// Passed: a fragment.
    PassFragment,
    /// Passed: the headers are cut short, contradict themselves or are longer than is looked at.
    PassMalformed,
    /// Passed: this hook has no way to the next hop; the next hook has.
    PassNoRoute,
    /// Passed: its hop limit ends at this node, which answers for it.
    PassHopLimit,
    /// Refused: the backend service has no endpoint.
    RefuseNoEndpoint,
    /// Refused: the VIP has no frontend on this port.
    RefuseUnusedPort,
    /// Refused: every source NAT port tried for this endpoint is taken.
    RefuseSourceNatExhausted,
    /// Refused: larger than the way to the endpoint takes; the sender is told the size that fits.
    RefuseTooBig,
    /// Refused: the TCP connection's endpoint is gone and its drain is over; the client gets a reset.
    RefuseEndpointGone,
    /// Dropped: the source is in none of the Service's `loadBalancerSourceRanges`.
    DropSourceRange,
    /// Dropped: an address of a service prefix that no Service has.
    DropUnallocated,
    /// Dropped: a fragment whose first one never came, or that there was no room to hold.
    DropFragment,
    /// Dropped: the policy is `Local` and no endpoint is on this node.
    DropNoLocalEndpoint,
    /// Dropped: this node has no address of the packet's family to source-NAT to.
    DropNoNodeAddress,
    /// Dropped: CONNTRACK took no entry.
    DropConntrackFull,
    /// Dropped: a table refers to an entry that is not there.
    DropDangling,
    /// Dropped: the frame could not be rewritten.
    DropRewriteFailed,
    /// Not a verdict: too few endpoints were healthy, so a new flow went to an unhealthy one.
    NotePanic,
    /// Not a verdict: a flow left an endpoint that is gone.
    NoteEndpointGone,
}

/// What a [`Reason`] says of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Rewritten and sent on.
    Forward,
    /// Answered in place of whoever was asked.
    Answer,
    /// Kept for a moment.
    Hold,
    /// Answered with an error.
    Refuse,
    /// Discarded.
    Drop,
    /// Left as it was.
    Pass,
    /// Counted beside another outcome.
    Note,
}

impl Outcome {
    /// The word for it in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Answer => "answer",
            Self::Hold => "hold",
            Self::Refuse => "refuse",
            Self::Drop => "drop",
            Self::Pass => "pass",
            Self::Note => "note",
        }
    }
}

impl Reason {
    /// Every reason in the order of its number.
    pub const ALL: [Self; 32] = [
        Self::ForwardKnown,
        Self::ForwardNew,
        Self::ForwardReply,
        Self::ForwardSocket,
        Self::ForwardIcmpError,
        Self::ForwardEncapsulated,
        Self::ForwardDecapsulated,
        Self::AnswerEcho,
        Self::HoldFragment,
        Self::PassNotOurs,
        Self::PassReply,
        Self::PassNotIp,
        Self::PassOtherProtocol,
        Self::PassFragment,
        Self::PassMalformed,
        Self::PassNoRoute,
        Self::PassHopLimit,
        Self::RefuseNoEndpoint,
        Self::RefuseUnusedPort,
        Self::RefuseSourceNatExhausted,
        Self::RefuseTooBig,
        Self::RefuseEndpointGone,
        Self::DropSourceRange,
        Self::DropUnallocated,
        Self::DropFragment,
        Self::DropNoLocalEndpoint,
        Self::DropNoNodeAddress,
        Self::DropConntrackFull,
        Self::DropDangling,
        Self::DropRewriteFailed,
        Self::NotePanic,
        Self::NoteEndpointGone,
    ];

    /// The outcome it belongs to.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::ForwardKnown
            | Self::ForwardNew
            | Self::ForwardReply
            | Self::ForwardSocket
            | Self::ForwardIcmpError
            | Self::ForwardEncapsulated
            | Self::ForwardDecapsulated => Outcome::Forward,
            Self::AnswerEcho => Outcome::Answer,
            Self::HoldFragment => Outcome::Hold,
            Self::PassNotOurs
            | Self::PassReply
            | Self::PassNotIp
            | Self::PassOtherProtocol
            | Self::PassFragment
            | Self::PassMalformed
            | Self::PassNoRoute
            | Self::PassHopLimit => Outcome::Pass,
            Self::RefuseNoEndpoint
            | Self::RefuseUnusedPort
            | Self::RefuseSourceNatExhausted
            | Self::RefuseTooBig
            | Self::RefuseEndpointGone => Outcome::Refuse,
            Self::DropSourceRange
            | Self::DropUnallocated
            | Self::DropFragment
            | Self::DropNoLocalEndpoint
            | Self::DropNoNodeAddress
            | Self::DropConntrackFull
            | Self::DropDangling
            | Self::DropRewriteFailed => Outcome::Drop,
            Self::NotePanic | Self::NoteEndpointGone => Outcome::Note,
        }
    }

    /// The name in every output, stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ForwardKnown => "known-flow",
            Self::ForwardNew => "new-flow",
            Self::ForwardReply => "reply",
            Self::ForwardSocket => "socket",
            Self::ForwardIcmpError => "icmp-error",
            Self::ForwardEncapsulated => "encapsulated",
            Self::ForwardDecapsulated => "decapsulated",
            Self::AnswerEcho => "echo",
            Self::HoldFragment => "fragment-early",
            Self::PassNotOurs => "not-ours",
            Self::PassReply => "reply-on-its-way",
            Self::PassNotIp => "not-ip",
            Self::PassOtherProtocol => "other-protocol",
            Self::PassFragment => "fragment",
            Self::PassMalformed => "malformed",
            Self::PassNoRoute => "no-route",
            Self::PassHopLimit => "hop-limit",
            Self::RefuseNoEndpoint => "no-endpoint",
            Self::RefuseUnusedPort => "unused-port",
            Self::RefuseSourceNatExhausted => "source-nat-exhausted",
            Self::RefuseTooBig => "too-big",
            Self::RefuseEndpointGone => "endpoint-gone-reset",
            Self::DropSourceRange => "source-range",
            Self::DropUnallocated => "unallocated",
            Self::DropFragment => "fragment-lost",
            Self::DropNoLocalEndpoint => "no-local-endpoint",
            Self::DropNoNodeAddress => "no-node-address",
            Self::DropConntrackFull => "conntrack-full",
            Self::DropDangling => "dangling",
            Self::DropRewriteFailed => "rewrite-failed",
            Self::NotePanic => "panic",
            Self::NoteEndpointGone => "endpoint-gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_number_and_has_its_own_name() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            let same_name = Reason::ALL.iter().filter(|other| other.name() == reason.name()).count();
            assert_eq!(same_name, 1, "{}", reason.name());
        }
    }
}
