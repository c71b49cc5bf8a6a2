//! `podway top`: what goes where at this moment. [`Sampler`] looks at the counters, [`View`] is what two looks come to,
//! [`Page`] what the user has asked for, [`draw`] a screen of both; all but the look is pure.
use std::net::SocketAddr;

use lb_common::counters::{Reason, Traffic};

use crate::maps::{Occupancy, StoredState};

mod draw;
mod page;
mod sample;
#[cfg(test)]
mod tests;
mod view;

pub use draw::{draw, text};
pub use page::{Mode, Next, Page, Sort};
pub use sample::Sampler;
pub use view::{Drop, Rate, Row, View};

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// When, milliseconds of the monotonic clock.
    pub at_ms: u64,
    /// The backend services, by rising id.
    pub services: Vec<ServiceSample>,
    /// The endpoints, by rising id.
    pub endpoints: Vec<EndpointSample>,
    /// How many packets had each reason.
    pub reasons: Vec<(Reason, u64)>,
    /// How full maps are, as of some seconds ago.
    pub maps: Vec<(&'static str, Occupancy)>,
    /// Why no requests are known; `None` where they are.
    pub no_requests: Option<String>,
}

/// A backend service at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSample {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its endpoints that slices name.
    pub endpoints: u32,
    /// Those of them that take new flows for their own sake.
    pub healthy: u32,
    /// What went to it by packets.
    pub traffic: Traffic,
    /// Requests that the front-end has answered, where an Ingress leads to it and the agent tells.
    pub requests: Option<u64>,
}

/// An endpoint at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSample {
    /// Its id.
    pub id: u32,
    /// Address and port.
    pub address: SocketAddr,
    /// The id of its backend service.
    pub service: u32,
    /// Its state in the maps.
    pub state: StoredState,
    /// What went to it.
    pub traffic: Traffic,
}
