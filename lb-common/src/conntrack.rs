//! CONNTRACK: which endpoint a flow got, and how to rewrite its packets, for both directions.
use bytemuck::{Pod, Zeroable};

use crate::{Address, Be16};

/// Places of CONNTRACK, a map of maps.
pub const SLOTS: u32 = 2;
/// Where the map is that flows are entered into.
pub const CURRENT: u32 = 0;
/// Where the map is that was current before, while its flows are moved; else there is none.
pub const PREVIOUS: u32 = 1;

/// Key of a map in CONNTRACK: a packet's five-tuple as it arrives, before any rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct FlowKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub destination_port: Be16,
    /// IP protocol number.
    pub protocol: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 40);

/// Value of a map in CONNTRACK. It holds the whole five-tuple after the rewrite, so an established flow needs
/// no other table to be rewritten, and ids may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Flow {
    /// Source address after the rewrite.
    pub new_source: Address,
    /// Destination address after the rewrite.
    pub new_destination: Address,
    /// Source port after the rewrite.
    pub new_source_port: Be16,
    /// Destination port after the rewrite.
    pub new_destination_port: Be16,
    /// Bits of [`flags`].
    pub flags: u32,
    /// The endpoint's id when the flow began.
    pub endpoint: u32,
    /// The endpoint's generation when the flow began.
    pub endpoint_generation: u32,
    /// The backend service.
    pub backend_service: u32,
    /// When the flow began, seconds of the monotonic clock.
    pub created_s: u32,
    /// Last packet in this direction, seconds of the monotonic clock.
    pub last_seen_s: u32,
    /// A [`FlowState`] as its number.
    pub state: u32,
}

const _: () = assert!(size_of::<Flow>() == 64);

/// Bits of [`Flow::flags`].
pub mod flags {
    /// The client's address was replaced by this node's: replies come back to this node and are
    /// undone where they arrive, before the network stack.
    pub const SOURCE_NAT: u32 = 1 << 0;
    /// The entry's packets go [to the client](super::Direction::ToClient).
    pub const TO_CLIENT: u32 = 1 << 1;
    /// Packets to the endpoint are encapsulated with the VIP for its node, which answers the client
    /// itself (direct server return): no reply passes this node, so there is no entry for one. The entry
    /// on the endpoint's node, to the client, has this bit too; it names neither endpoint nor backend
    /// service ([`super::NO_ID`]).
    pub const DSR: u32 = 1 << 2;
    /// The client is this node: replies are undone where they arrive, before the network stack, and go
    /// on to it.
    pub const CLIENT_IS_NODE: u32 = 1 << 3;
    /// The endpoint is on this node; on entries to an endpoint alone that keep the client's address.
    pub const LOCAL: u32 = 1 << 4;
    /// The endpoint has answered with anything but a reset; on entries to the client alone.
    pub const ANSWERED: u32 = 1 << 5;
    /// An ICMP error said that the endpoint, its host or its port is unreachable; on entries to the client
    /// alone.
    pub const UNREACHABLE: u32 = 1 << 6;
}

/// The endpoint and the backend service of an entry that stands on the endpoint's node for a flow that
/// another node chose: ids are each node's own. It is beyond every bound, so no table has it.
pub const NO_ID: u32 = u32::MAX;

/// Which way the packets of an entry go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the endpoint.
    ToBackend,
    /// From the endpoint to the client.
    ToClient,
}

/// How far a flow is, by the packets seen in the entry's own direction (RFC 9293 §3.3.2, reduced to
/// what expiry and reuse need).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum FlowState {
    /// Only opening packets (TCP SYN) so far.
    Opening = 0,
    /// Data or acknowledgements seen.
    Established = 1,
    /// A FIN was seen.
    Closing = 2,
    /// A RST was seen.
    Reset = 3,
    /// The flow was over, and its endpoint then answered a connection that the client opened to it without a frontend,
    /// from the same port: packets are of that one, until another by a frontend makes the entry anew.
    Superseded = 4,
}

/// A TCP flow that is still opening, or is closing, is forgotten after this long without a packet.
/// Linux: `nf_conntrack_tcp_timeout_syn_sent`, `…_fin_wait` and `…_time_wait` (120 s).
pub const TCP_TRANSIENT_TIMEOUT_S: u32 = 120;
/// An established TCP flow is forgotten after this long without a packet: two hours and a margin,
/// the least that RFC 5382 REQ-5 allows a NAT (2 h 4 min).
pub const TCP_ESTABLISHED_TIMEOUT_S: u32 = 7_440;
/// A UDP flow is forgotten after this long without a packet (Linux:
/// `nf_conntrack_udp_timeout_stream`, 120 s).
pub const UDP_TIMEOUT_S: u32 = 120;
/// An SCTP flow that is still opening, or is closing, is forgotten after this long without a packet: the
/// longest of Linux's for these states (`nf_conntrack_sctp_timeout_heartbeat_sent`, 30 s).
pub const SCTP_TRANSIENT_TIMEOUT_S: u32 = 30;
/// An established SCTP flow is forgotten after this long without a packet (Linux:
/// `nf_conntrack_sctp_timeout_established`, 210 s): seven heartbeats of 30 s (RFC 9260 §16).
pub const SCTP_ESTABLISHED_TIMEOUT_S: u32 = 210;

impl Flow {
    /// The direction of this entry.
    #[must_use]
    #[inline(always)]
    pub const fn direction(&self) -> Direction {
        if self.flags & flags::TO_CLIENT != 0 { Direction::ToClient } else { Direction::ToBackend }
    }

    /// The state of this entry; a number that names none reads as [`FlowState::Reset`].
    #[must_use]
    #[inline(always)]
    pub const fn state(&self) -> FlowState {
        match self.state {
            0 => FlowState::Opening,
            1 => FlowState::Established,
            2 => FlowState::Closing,
            4 => FlowState::Superseded,
            _ => FlowState::Reset,
        }
    }

    /// Whether the client's address was replaced by this node's.
    #[must_use]
    #[inline(always)]
    pub const fn is_source_nat(&self) -> bool {
        self.flags & flags::SOURCE_NAT != 0
    }

    /// Whether packets to the endpoint are encapsulated for its node.
    #[must_use]
    #[inline(always)]
    pub const fn is_encapsulated(&self) -> bool {
        self.flags & (flags::DSR | flags::TO_CLIENT) == flags::DSR
    }

    /// Seconds without a packet after which the entry means nothing any more.
    #[must_use]
    #[inline(always)]
    pub const fn idle_timeout_s(&self, protocol: u32) -> u32 {
        const TCP: u32 = crate::protocol::TCP as u32;
        const SCTP: u32 = crate::protocol::SCTP as u32;
        match (protocol, self.state()) {
            (TCP, FlowState::Established) => TCP_ESTABLISHED_TIMEOUT_S,
            (TCP, _) => TCP_TRANSIENT_TIMEOUT_S,
            (SCTP, FlowState::Established) => SCTP_ESTABLISHED_TIMEOUT_S,
            (SCTP, _) => SCTP_TRANSIENT_TIMEOUT_S,
            _ => UDP_TIMEOUT_S,
        }
    }
}

impl FlowKey {
    /// The key of the packets that answer this flow once it is rewritten as `flow` says.
    #[must_use]
    #[inline(always)]
    pub const fn reply(&self, flow: &Flow) -> Self {
        Self {
            source: flow.new_destination,
            destination: flow.new_source,
            source_port: flow.new_destination_port,
            destination_port: flow.new_source_port,
            protocol: self.protocol,
        }
    }
}
