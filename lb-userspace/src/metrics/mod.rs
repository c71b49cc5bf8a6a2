//! What Podway measures, for Prometheus. [`FAMILIES`] is all of it, `docs/metrics.md` the same for operators.
//!
//! What passes through the agent's loop it notes in [`Observed`]. What programs count is read from the maps when
//! somebody asks, on a thread of its own, in a few system calls for each map however many Services there are: neither
//! the loop nor a probe waits for a scrape.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::admin::ServiceRequests;
use crate::health::{HealthState, StateReason};
use crate::maps::Occupancy;
use crate::plan::BackendServiceName;

mod buckets;
mod exposition;
mod families;
mod front_end;
mod page;
mod scrape;
mod server;

pub use buckets::Buckets;
pub use families::{FAMILIES, Family, Kind, Unit};
pub use front_end::FrontEndCounters;
pub use page::{Format, Page};
pub use scrape::Scraper;
pub use server::start;

/// Where metrics are served, unless it is said: beside the ports of the kubelet and of kube-proxy, and none of them.
pub const ADDRESS_DEFAULT: &str = "127.0.0.1:10247";

/// Backend services that have series of their own, unless it is said. Of more, those with the least ids have, and
/// all others together have one of each under [`OTHERS`].
pub const BACKEND_SERVICES_TOLD_MAX: u32 = 10_000;

/// Endpoints that have series of their own on [`Page::Endpoints`]; of more, as with backend services.
pub const ENDPOINTS_TOLD_MAX: usize = 50_000;

/// The name under which all are added up that have none of their own. No object can have it.
pub const OTHERS: &str = "(others)";

/// What the agent has done and knows, as of a moment ago.
#[derive(Clone, Debug)]
pub struct Observed {
    /// When the agent started.
    pub started: SystemTime,
    /// Whether all facts are read.
    pub is_synced: bool,
    /// From the beginning of a plan to the last of its operations.
    pub apply: Buckets,
    /// Applies in which the kernel refused an operation.
    pub apply_failures: u64,
    /// The last apply in which it did not.
    pub last_apply: Option<SystemTime>,
    /// Services whose part of the plan is not in the maps yet.
    pub services_pending: u64,
    /// From the change of a pod or Service to the maps.
    pub programming: Buckets,
    /// Objects that are known, by kind.
    pub objects: Vec<(&'static str, u64)>,
    /// Problems that there are, by the kind of their objects.
    pub problems: BTreeMap<&'static str, u64>,
    /// Watches that failed, by kind.
    pub interruptions: BTreeMap<&'static str, u64>,
    /// VIPs that this node announces on the local network.
    pub vips_announced: u64,
    /// How often it took VIPs over.
    pub vip_takeovers: u64,
    /// How full maps are.
    pub maps: BTreeMap<&'static str, Occupancy>,
    /// Changes of endpoints' health, by the new state and its reason.
    pub state_changes: BTreeMap<(HealthState, StateReason), u64>,
    /// Endpoints that are ejected now, where there are some.
    pub ejected: BTreeMap<Arc<BackendServiceName>, u32>,
    /// What the front-end counts, where there is one.
    pub front_end: Option<Arc<FrontEndCounters>>,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            is_synced: false,
            apply: Buckets::new(&buckets::APPLY_BOUNDS_S),
            apply_failures: 0,
            last_apply: None,
            services_pending: 0,
            programming: Buckets::new(&buckets::PROGRAMMING_BOUNDS_S),
            objects: Vec::new(),
            problems: BTreeMap::new(),
            interruptions: BTreeMap::new(),
            vips_announced: 0,
            vip_takeovers: 0,
            maps: BTreeMap::new(),
            state_changes: BTreeMap::new(),
            ejected: BTreeMap::new(),
            front_end: None,
        }
    }
}

/// [`Observed`], shared by the loop and scrapes.
#[derive(Clone, Debug, Default)]
pub struct Observations(Arc<Mutex<Observed>>);

impl Observations {
    /// Held for moments only.
    pub fn lock(&self) -> MutexGuard<'_, Observed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests the front-end has answered, by backend service.
    #[must_use]
    pub fn service_requests(&self) -> Vec<ServiceRequests> {
        let counters = self.lock().front_end.clone();
        counters.map_or_else(Vec::new, |counters| counters.requests())
    }
}
