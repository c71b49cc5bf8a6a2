//! ENDPOINTS: where an endpoint is and whether new flows may go there.
use bytemuck::{Pod, Zeroable};

use crate::{Address, Be16};

/// Value of ENDPOINTS, an array by endpoint id. An endpoint belongs to one backend service: a pod
/// port that two Services use has an id in each, since health, weight and counters are per service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Endpoint {
    /// The pod's IP.
    pub address: Address,
    /// The container's port.
    pub port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub padding: u8,
    /// The backend service it belongs to.
    pub backend_service: u32,
    /// Rises by one each time the id is given up, and when the flows of an endpoint that its health check took
    /// out are ended. A flow remembers the one it began with, and so sees with one read that it is over.
    pub generation: u32,
    /// When the endpoint was withdrawn, or its health check took it out; seconds of the monotonic clock. It
    /// stays over the agent's restarts. Zero while it is neither.
    pub withdrawn_s: u32,
    /// When its drain ends, seconds of the monotonic clock; [`DRAINED`] where it has ended and a slice still
    /// names the endpoint; zero without a drain.
    pub drain_until_s: u32,
    /// Bits of [`state`]. One aligned word: taking the endpoint out of every ring is one store.
    pub state: u32,
}

const _: () = assert!(size_of::<Endpoint>() == 40);

/// [`Endpoint::drain_until_s`] of an endpoint whose drain has ended.
pub const DRAINED: u32 = u32::MAX;

/// Bits of [`Endpoint::state`].
pub mod state {
    /// The id is in use.
    pub const PRESENT: u32 = 1 << 0;
    /// May take new flows: passes its health check, or has none, or is used all the same ([`PANIC`]).
    pub const HEALTHY: u32 = 1 << 1;
    /// Terminating: flows that it has go on, new ones come only where no ready endpoint is left.
    pub const DRAINING: u32 = 1 << 2;
    /// On this node.
    pub const LOCAL: u32 = 1 << 3;
    /// No EndpointSlice names it any more. Its TCP flows go on until the agent gives the id up, at the
    /// drain deadline of its backend service; no new flow begins here.
    pub const WITHDRAWN: u32 = 1 << 4;
    /// Fails its health check, and is used since too few endpoints of its NEG pass theirs; a new flow here is
    /// counted.
    pub const PANIC: u32 = 1 << 5;
    /// While the endpoint warms up, how many of 256 new flows go on to another one, from this bit on.
    pub const TURNED_AWAY_SHIFT: u32 = 8;
    /// These bits.
    pub const TURNED_AWAY: u32 = 0xff << TURNED_AWAY_SHIFT;

    /// The bits of [`TURNED_AWAY`] for an endpoint that takes a part of its share, percent; 100 and more is all.
    #[must_use]
    pub const fn turned_away(share_percent: u8) -> u32 {
        let taken = if share_percent < 100 { share_percent as u32 * 256 / 100 } else { 256 };
        let turned_away = 256 - taken;
        (if turned_away > 255 { 255 } else { turned_away }) << TURNED_AWAY_SHIFT
    }
}

impl Endpoint {
    /// Whether the id is in use.
    #[must_use]
    #[inline(always)]
    pub const fn is_present(&self) -> bool {
        self.state & state::PRESENT != 0
    }

    /// Whether no EndpointSlice names it any more, though flows go on.
    #[must_use]
    #[inline(always)]
    pub const fn is_withdrawn(&self) -> bool {
        self.state & (state::PRESENT | state::WITHDRAWN) == state::PRESENT | state::WITHDRAWN
    }

    /// Whether the id is in use and an EndpointSlice names the endpoint.
    #[must_use]
    #[inline(always)]
    pub const fn is_named(&self) -> bool {
        self.state & (state::PRESENT | state::WITHDRAWN) == state::PRESENT
    }

    /// Whether a new flow may begin here.
    #[must_use]
    #[inline(always)]
    pub const fn takes_new_flows(&self) -> bool {
        self.state & (state::PRESENT | state::HEALTHY | state::WITHDRAWN) == state::PRESENT | state::HEALTHY
    }

    /// Whether the endpoint, which takes new flows, leaves this one to another since it warms up. Of the flow's point
    /// on the ring the low bits say so, which no ring is long enough to look at: all nodes agree, and a flow that it
    /// takes it takes at every greater share.
    #[must_use]
    #[inline(always)]
    pub const fn turns_away(&self, point: u32) -> bool {
        (point & 0xff) < (self.state & state::TURNED_AWAY) >> state::TURNED_AWAY_SHIFT
    }

    /// When its drain ends, while it has one.
    #[must_use]
    pub const fn drain_until_s(&self) -> Option<u32> {
        match self.drain_until_s {
            0 | DRAINED => None,
            seconds => Some(seconds),
        }
    }

    /// Whether its health check has taken it out and its flows are still to be ended.
    #[must_use]
    pub const fn is_drained_by_health(&self) -> bool {
        self.is_named() && self.state & state::HEALTHY == 0 && self.drain_until_s().is_some()
    }

    /// Whether the endpoint is on this node.
    #[must_use]
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.state & state::LOCAL != 0
    }
}
