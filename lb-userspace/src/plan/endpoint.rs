//! An endpoint of a backend service.
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::endpoint::state;
use serde::Serialize;

use crate::model::{EndpointSlice, SliceEndpoint};

use super::{Family, Origin};

/// The weight of an endpoint that nothing gives another one.
pub(super) const WEIGHT_DEFAULT: u16 = 1;

/// What a new flow may expect of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// Ready, and passes its health check where it has one.
    Healthy,
    /// Healthy again, and takes a share that rises.
    Warming,
    /// Not ready, or fails its health check.
    Unhealthy,
    /// Terminating and no longer ready: the flows that it has go on.
    Draining,
}

impl EndpointState {
    /// Its word in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Warming => "warming",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
        }
    }
}

/// One pod IP and port. It keeps the slice that it was read from, so that its origin costs no copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's IP.
    pub address: IpAddr,
    /// The container's port.
    pub port: u16,
    /// Share of the NEG's flows, relative to the other endpoints' weights.
    pub weight: u16,
    /// Whether it passes its health check and is not ejected, or nobody judges it.
    pub passes_health_check: bool,
    /// Whether it does not, and a NEG uses it all the same ([`super::Neg::is_panic`]).
    pub is_used_in_panic: bool,
    /// Percent of its share of new flows that it takes: less than 100 while it warms up.
    pub share_percent: u8,
    /// Whether it is on this node.
    pub is_local: bool,
    /// The slice that names it.
    pub slice: Arc<EndpointSlice>,
    /// Its index in the slice's endpoints.
    pub index: u32,
}

impl Endpoint {
    /// The endpoint as its slice has it.
    #[must_use]
    pub fn facts(&self) -> &SliceEndpoint {
        &self.slice.endpoints[self.index as usize]
    }

    /// Its IP family.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// Name of its node.
    #[must_use]
    pub fn node(&self) -> Option<&Arc<str>> {
        self.facts().node.as_ref()
    }

    /// Its zone.
    #[must_use]
    pub fn zone(&self) -> Option<&Arc<str>> {
        self.facts().zone.as_ref()
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> EndpointState {
        let facts = self.facts();
        if facts.terminating && !facts.ready {
            EndpointState::Draining
        } else if facts.ready && self.passes_health_check && self.share_percent < 100 {
            EndpointState::Warming
        } else if facts.ready && self.passes_health_check {
            EndpointState::Healthy
        } else {
            EndpointState::Unhealthy
        }
    }

    /// Its state as the ABI's bits ([`lb_common::endpoint::state`]).
    #[must_use]
    pub fn state_bits(&self) -> u32 {
        let facts = self.facts();
        let mut bits = state::PRESENT | state::turned_away(self.share_percent);
        if self.passes_health_check && (facts.ready || self.serves_while_terminating()) {
            bits |= state::HEALTHY;
        }
        if self.is_used_in_panic {
            bits |= state::HEALTHY | state::PANIC;
        }
        if self.state() == EndpointState::Draining {
            bits |= state::DRAINING;
        }
        if self.is_local {
            bits |= state::LOCAL;
        }
        bits
    }

    /// Whether it still serves on its way out; used where no endpoint is ready (KEP-1669).
    #[must_use]
    pub fn serves_while_terminating(&self) -> bool {
        let facts = self.facts();
        facts.serving && facts.terminating
    }

    /// The slice that names it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin {
            kind: "EndpointSlice",
            object: self.slice.name.clone(),
            resource_version: self.slice.resource_version.clone(),
        }
    }
}
