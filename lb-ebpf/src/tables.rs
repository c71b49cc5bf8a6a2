//! The lookups and writes of the path, the clock and the routes, whoever holds them.
use core::ops::Deref;

use lb_common::Address;
use lb_common::affinity::{Affinity, AffinityKey};
use lb_common::backend_service::BackendService;
use lb_common::config::Config;
use lb_common::conntrack::{Flow, FlowKey, FlowState};
use lb_common::counters::Reason;
use lb_common::endpoint::Endpoint;
use lb_common::fragment::{FragmentKey, FragmentPorts, HeldWay};
use lb_common::frontend::{Frontend, FrontendKey};
use lb_common::neg::Ring;
use lb_common::socket_flow::{SocketFlow, SocketFlowKey};
use lb_common::source_range::SourceRangeKey;

use crate::packet::{Mac, Packet};

/// A table took no entry: it is full, or the kernel had no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

/// What became of an entry that must not replace another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is in.
    New,
    /// Another has the key.
    Taken,
}

/// How to reach an address from the interface that the packet came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Out of `interface` with these Ethernet addresses.
    Link {
        /// Interface index.
        interface: u32,
        /// This node's Ethernet address there.
        source_mac: Mac,
        /// The next hop's Ethernet address.
        destination_mac: Mac,
    },
    /// Out of `interface`; the kernel finds the next hop's Ethernet address (ARP, NDP).
    Neighbour {
        /// Interface index.
        interface: u32,
    },
    /// The packet is larger than the way takes.
    TooBig {
        /// What fits, from the IP header on, bytes.
        mtu_bytes: u32,
    },
    /// Not by this hook.
    None,
}

/// Everything that the path reads and writes beside the packet. Values come as copies.
pub trait Tables {
    /// An entry of CONNTRACK that was just found. It is read in place: a copy of all its words would
    /// not fit beside the others on a kernel program's 512 bytes of stack.
    type FlowSlot: Deref<Target = Flow>;

    /// Seconds of the monotonic clock.
    fn now_s(&self) -> u32;
    /// A random number, for a choice that nothing must repeat.
    fn random(&mut self) -> u32;
    /// What the programs know of this node; `None` before the agent wrote it.
    fn config(&self) -> Option<&Config>;
    /// FRONTENDS.
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend>;
    /// BACKEND_SERVICES.
    fn backend_service(&self, id: u32) -> Option<BackendService>;
    /// NEGS.
    fn ring(&self, neg: u32) -> Option<Ring>;
    /// RING_SLOTS: the endpoint id in a slot.
    fn ring_slot(&self, slot: u32) -> Option<u32>;
    /// ENDPOINTS.
    fn endpoint(&self, id: u32) -> Option<Endpoint>;

    /// CONNTRACK: the entry of a five-tuple.
    fn flow(&mut self, key: &FlowKey) -> Option<Self::FlowSlot>;
    /// Notes in an entry that was just found how far the flow is and when.
    fn record_flow(&mut self, slot: &Self::FlowSlot, state: FlowState, now_s: u32);
    /// Adds bits to the flags of an entry that was just found.
    fn mark_flow(&mut self, slot: &Self::FlowSlot, bits: u32);
    /// Puts an entry, in place of an older one.
    ///
    /// # Errors
    /// [`TableFull`]: the flow cannot begin, and its packet is dropped.
    fn put_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), TableFull>;
    /// Puts an entry unless the key is taken.
    ///
    /// # Errors
    /// [`TableFull`]: the flow cannot begin, and its packet is dropped.
    fn put_new_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<Inserted, TableFull>;

    /// AFFINITY.
    fn affinity(&mut self, key: &AffinityKey) -> Option<Affinity>;
    /// Puts a client's affinity. One that cannot be kept is no reason to refuse the flow.
    fn put_affinity(&mut self, key: &AffinityKey, affinity: &Affinity);
    /// SOCKET_FLOWS.
    fn socket_flow(&mut self, key: &SocketFlowKey) -> Option<SocketFlow>;
    /// Puts what a socket dialled.
    ///
    /// # Errors
    /// [`TableFull`]: replies could not be named, so the call is refused.
    fn put_socket_flow(&mut self, key: &SocketFlowKey, flow: &SocketFlow) -> Result<(), TableFull>;

    /// VIP_FILTER: whether an address may be a VIP; `false` is certain.
    fn is_maybe_vip(&self, address: &Address) -> bool;
    /// SOURCE_RANGES: whether a range covers the key's client.
    fn is_source_allowed(&self, key: &SourceRangeKey) -> bool;
    /// NODES: whether an address is a node's.
    fn is_node(&self, address: &Address) -> bool;
    /// FRAGMENTS.
    fn fragment(&mut self, key: &FragmentKey) -> Option<FragmentPorts>;
    /// Puts the ports of a datagram. Where they cannot be kept, its later fragments find none.
    fn put_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts);

    /// HELD_FRAMES: keeps a copy of a frame for a moment.
    ///
    /// # Errors
    /// [`TableFull`]: there is no room for it, or it is too long to be kept.
    fn hold<P: Packet>(&mut self, packet: &P, way: HeldWay) -> Result<(), TableFull>;

    /// Whether this hook can hand a packet to the interface of a pod.
    fn can_deliver(&self) -> bool;
    /// The way from `source` to `destination` for a packet of `length_bytes` from its IP header on.
    fn route(&mut self, source: &Address, destination: &Address, length_bytes: u16) -> Route;

    /// Adds to the traffic of a backend service and of an endpoint.
    fn count_traffic(
        &mut self,
        backend_service: u32,
        endpoint: u32,
        packets: u64,
        bytes: u64,
        new_flows: u64,
    );
    /// Adds one to a reason.
    fn count(&mut self, reason: Reason);
}
