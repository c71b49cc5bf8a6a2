//! What the agents of a cluster know of each other, by way of the API server: how far each has come with its
//! maps, and which endpoints its probes find unhealthy.
//!
//! Each agent writes a [`Report`] into a Lease of its own, and one of them, the collector, makes a [`Summary`] of
//! all of them in one more Lease. An agent watches that one alone, the collector all: so what a report costs does not grow
//! with the square of the nodes. [`Collection`] and [`Pacing`] are pure; [`run`] writes and watches.
use std::collections::BTreeSet;
use std::sync::Arc;

mod collection;
mod exchange;
mod lease;
mod pacing;
mod report;

pub use collection::{Collection, Heard};
pub use exchange::{Settings, run};
pub use pacing::{Pacing, renew_ms};
pub use report::{KEYS_MAX, Keys, Report, SERVICES_MAX, Summary};

/// What an agent has to say, and the nodes that it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// What it says; none until its maps hold its first plan.
    pub report: Option<Report>,
    /// The names of all Nodes.
    pub nodes: Arc<BTreeSet<Arc<str>>>,
}

/// The newest summary, and when it was last renewed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// What all agents come to.
    pub summary: Arc<Summary>,
    /// Milliseconds of this node's monotonic clock; `None` before the first.
    pub renewed_ms: Option<u64>,
    /// Whether this agent is the collector.
    pub is_collector: bool,
}

/// How long after its last renewal a collector may do what one agent alone may, milliseconds: no other one is elected
/// sooner than in [`lease::COLLECTOR_HOLDS_S`].
const ALONE_MS: u64 = 10_000;

impl Known {
    /// Whether this agent may do now what one agent alone may.
    #[must_use]
    pub fn is_the_one(&self, now_ms: u64) -> bool {
        self.is_collector && self.renewed_ms.is_some_and(|renewed_ms| now_ms < renewed_ms + ALONE_MS)
    }
}
