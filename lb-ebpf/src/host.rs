//! Frame and tables in ordinary memory: the path without a kernel, for tests and `podway explain`.
use core::ops::Deref;
use std::collections::{HashMap, HashSet};
use std::vec::Vec;

use lb_common::affinity::{Affinity, AffinityKey};
use lb_common::backend_service::BackendService;
use lb_common::config::Config;
use lb_common::conntrack::{Flow, FlowKey, FlowState};
use lb_common::counters::{Reason, Traffic};
use lb_common::endpoint::Endpoint;
use lb_common::fragment::{FragmentKey, FragmentPorts, HELD_FRAME_BYTES_MAX, HeldWay};
use lb_common::frontend::{Frontend, FrontendKey};
use lb_common::neg::Ring;
use lb_common::socket_flow::{SocketFlow, SocketFlowKey};
use lb_common::source_range::SourceRangeKey;
use lb_common::{Address, Be16};

use crate::checksum::{Delta, apply_to_udp};
use crate::packet::{Packet, TransportChecksum};
use crate::parse::Family;
use crate::tables::{Inserted, Route, TableFull, Tables};

/// A frame as bytes, checksums computed in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFrame(pub Vec<u8>);

impl Packet for HostFrame {
    fn length_bytes(&self) -> usize {
        self.0.len()
    }

    fn reveal(&mut self, _length: usize) -> Option<()> {
        Some(())
    }

    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }

    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        *self.0.get_mut(offset..)?.first_chunk_mut()? = bytes;
        Some(())
    }

    fn patch_checksum(&mut self, field: TransportChecksum, addresses: Delta, ports: Delta) -> Option<()> {
        let delta = addresses.and(ports);
        match field {
            TransportChecksum::Tcp { offset } => {
                let checksum = Be16::from_bytes(self.load(offset)?);
                self.store(offset, delta.apply(checksum).bytes())
            }
            TransportChecksum::Udp { offset } => {
                let checksum = Be16::from_bytes(self.load(offset)?);
                self.store(offset, apply_to_udp(delta, checksum).bytes())
            }
        }
    }

    fn store_checksum(&mut self, offset: usize, whole: Be16, _pseudo_header: Be16) -> Option<()> {
        self.store(offset, whole.bytes())
    }

    fn grow_front(&mut self, count: usize) -> Option<()> {
        self.0.splice(0..0, std::iter::repeat_n(0, count));
        Some(())
    }

    fn open_network(&mut self, network_offset: usize, count: usize, _family: Family) -> Option<()> {
        self.0.get(network_offset..)?;
        self.0.splice(network_offset..network_offset, std::iter::repeat_n(0, count));
        Some(())
    }

    fn close_network(&mut self, network_offset: usize, count: usize) -> Option<()> {
        self.0.get(network_offset..network_offset + count)?;
        self.0.drain(network_offset..network_offset + count);
        Some(())
    }

    fn copy_to(&self, room: &mut [u8; HELD_FRAME_BYTES_MAX]) -> Option<u32> {
        room.get_mut(..self.0.len())?.copy_from_slice(&self.0);
        Some(self.0.len() as u32)
    }

    fn truncate(&mut self, length: usize) -> Option<()> {
        self.0.truncate(length);
        Some(())
    }
}

/// An entry of CONNTRACK that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFlow {
    key: FlowKey,
    flow: Flow,
}

impl Deref for HostFlow {
    type Target = Flow;

    fn deref(&self) -> &Flow {
        &self.flow
    }
}

/// Tables as maps in memory. CONNTRACK has a bound, so that a full table can be tried; the others
/// have none.
#[derive(Clone, Debug, Default)]
pub struct HostTables {
    /// The clock, seconds.
    pub now_s: u32,
    /// What [`Tables::random`] gives next; it counts up.
    pub random: u32,
    /// CONFIG.
    pub config: Option<Config>,
    /// FRONTENDS.
    pub frontends: HashMap<FrontendKey, Frontend>,
    /// What [`Tables::can_deliver`] says.
    pub can_deliver: bool,
    /// BACKEND_SERVICES.
    pub backend_services: HashMap<u32, BackendService>,
    /// NEGS.
    pub rings: HashMap<u32, Ring>,
    /// RING_SLOTS.
    pub ring_slots: HashMap<u32, u32>,
    /// ENDPOINTS.
    pub endpoints: HashMap<u32, Endpoint>,
    /// CONNTRACK.
    pub flows: HashMap<FlowKey, Flow>,
    /// Most entries of [`HostTables::flows`]; `None` is no bound.
    pub flows_max: Option<usize>,
    /// AFFINITY.
    pub affinities: HashMap<AffinityKey, Affinity>,
    /// SOCKET_FLOWS.
    pub socket_flows: HashMap<SocketFlowKey, SocketFlow>,
    /// SOURCE_RANGES.
    pub source_ranges: HashSet<SourceRangeKey>,
    /// NODES.
    pub nodes: HashSet<Address>,
    /// FRAGMENTS.
    pub fragments: HashMap<FragmentKey, FragmentPorts>,
    /// HELD_FRAMES, as bytes.
    pub held: Vec<Vec<u8>>,
    /// Most frames of [`HostTables::held`]; `None` is no bound.
    pub held_max: Option<usize>,
    /// The way to each destination.
    pub routes: HashMap<Address, Route>,
    /// The way to every other destination; `None` is no way.
    pub default_route: Option<Route>,
    /// The largest packet that any of these ways takes; `None` is no bound.
    pub mtu_bytes: Option<u16>,
    /// SERVICE_TRAFFIC.
    pub backend_service_traffic: HashMap<u32, Traffic>,
    /// ENDPOINT_TRAFFIC.
    pub endpoint_traffic: HashMap<u32, Traffic>,
    /// REASONS.
    pub reasons: HashMap<Reason, u64>,
}

impl Tables for HostTables {
    type FlowSlot = HostFlow;

    fn now_s(&self) -> u32 {
        self.now_s
    }

    fn random(&mut self) -> u32 {
        self.random = self.random.wrapping_add(1);
        lb_common::flow_hash::of_u64(u64::from(self.random))
    }

    fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    fn backend_service(&self, id: u32) -> Option<BackendService> {
        self.backend_services.get(&id).copied()
    }

    fn ring(&self, neg: u32) -> Option<Ring> {
        self.rings.get(&neg).copied()
    }

    fn ring_slot(&self, slot: u32) -> Option<u32> {
        self.ring_slots.get(&slot).copied()
    }

    fn endpoint(&self, id: u32) -> Option<Endpoint> {
        self.endpoints.get(&id).copied()
    }

    fn flow(&mut self, key: &FlowKey) -> Option<HostFlow> {
        self.flows.get(key).map(|flow| HostFlow { key: *key, flow: *flow })
    }

    fn record_flow(&mut self, slot: &HostFlow, state: FlowState, now_s: u32) {
        if let Some(flow) = self.flows.get_mut(&slot.key) {
            flow.state = state as u32;
            flow.last_seen_s = now_s;
        }
    }

    fn mark_flow(&mut self, slot: &HostFlow, bits: u32) {
        if let Some(flow) = self.flows.get_mut(&slot.key) {
            flow.flags |= bits;
        }
    }

    fn put_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), TableFull> {
        let is_full = self.flows_max.is_some_and(|most| self.flows.len() >= most);
        if is_full && !self.flows.contains_key(key) {
            return Err(TableFull);
        }
        self.flows.insert(*key, *flow);
        Ok(())
    }

    fn put_new_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<Inserted, TableFull> {
        if self.flows.contains_key(key) {
            return Ok(Inserted::Taken);
        }
        self.put_flow(key, flow).map(|()| Inserted::New)
    }

    fn affinity(&mut self, key: &AffinityKey) -> Option<Affinity> {
        self.affinities.get(key).copied()
    }

    fn put_affinity(&mut self, key: &AffinityKey, affinity: &Affinity) {
        self.affinities.insert(*key, *affinity);
    }

    fn socket_flow(&mut self, key: &SocketFlowKey) -> Option<SocketFlow> {
        self.socket_flows.get(key).copied()
    }

    fn put_socket_flow(&mut self, key: &SocketFlowKey, flow: &SocketFlow) -> Result<(), TableFull> {
        self.socket_flows.insert(*key, *flow);
        Ok(())
    }

    /// The filter of the frontends that are there, without its false positives.
    fn is_maybe_vip(&self, address: &Address) -> bool {
        self.frontends.keys().any(|key| key.address == *address)
    }

    fn is_source_allowed(&self, key: &SourceRangeKey) -> bool {
        let client = u128::from_be_bytes(bytemuck::cast(key.client));
        self.source_ranges.iter().any(|range| {
            let kept_bits = range.prefix_bits - lb_common::source_range::ID_BITS;
            let mask = u128::MAX.checked_shl(128 - kept_bits).unwrap_or(0);
            let network = u128::from_be_bytes(bytemuck::cast(range.client));
            range.backend_service == key.backend_service && (client ^ network) & mask == 0
        })
    }

    fn is_node(&self, address: &Address) -> bool {
        self.nodes.contains(address)
    }

    fn fragment(&mut self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.fragments.get(key).copied()
    }

    fn put_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts) {
        self.fragments.insert(*key, *ports);
    }

    fn hold<P: Packet>(&mut self, packet: &P, _way: HeldWay) -> Result<(), TableFull> {
        if self.held_max.is_some_and(|most| self.held.len() >= most) {
            return Err(TableFull);
        }
        let mut room = [0; HELD_FRAME_BYTES_MAX];
        let length_bytes = packet.copy_to(&mut room).ok_or(TableFull)?;
        self.held.push(room.iter().take(length_bytes as usize).copied().collect());
        Ok(())
    }

    fn can_deliver(&self) -> bool {
        self.can_deliver
    }

    fn route(&mut self, _source: &Address, destination: &Address, length_bytes: u16) -> Route {
        if let Some(mtu_bytes) = self.mtu_bytes.filter(|most| length_bytes > *most) {
            return Route::TooBig { mtu_bytes: mtu_bytes.into() };
        }
        self.routes.get(destination).copied().or(self.default_route).unwrap_or(Route::None)
    }

    fn count_traffic(
        &mut self,
        backend_service: u32,
        endpoint: u32,
        packets: u64,
        bytes: u64,
        new_flows: u64,
    ) {
        let entries = [
            self.backend_service_traffic.entry(backend_service).or_default(),
            self.endpoint_traffic.entry(endpoint).or_default(),
        ];
        for traffic in entries {
            traffic.packets += packets;
            traffic.bytes += bytes;
            traffic.new_flows += new_flows;
        }
    }

    fn count(&mut self, reason: Reason) {
        *self.reasons.entry(reason).or_default() += 1;
    }
}
