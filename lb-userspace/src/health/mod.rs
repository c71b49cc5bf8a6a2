//! Active health checks: what this node finds when it asks endpoints itself.
//!
//! [`CheckState`] and the schedule are pure; [`run`] does the probing. It knows its targets from the
//! plan and reports what it finds as [`HealthEvent`]s; [`Findings`] adds these up for the next plan.
//! An endpoint without a finding counts as healthy: its readiness has already said so.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::model::{HealthCheck, ObjectName, Protocol};
use crate::plan::{BackendService, BackendServiceName, ServicePlan};

mod check;
mod findings;
mod grpc;
mod passive;
mod probe;
mod prober;
mod reason;
mod schedule;
mod shared_results;
mod sharing;
mod state;
mod stats;
pub(crate) mod tls;

pub use check::{CheckState, Outcome};
pub use findings::Findings;
pub use passive::{Outlier, Signal, WINDOW_MS, may_eject};
pub use prober::{Probing, run};
pub use reason::ReasonCode;
pub use shared_results::{Resolved, SharedResults, Standing};
pub use sharing::{Electorate, PROBERS_DEFAULT, Share, target_key};
pub use state::{EndpointHealth, Health, HealthState, Moment, Reporter, StateReason, WARMING_STEPS};
pub use stats::{Histogram, ProbingStats};

/// An endpoint of one backend service: a pod, or a node by its node port. A pod in two backend services is two targets, since each may
/// have its own check.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The backend service.
    pub backend_service: Arc<BackendServiceName>,
    /// The pod's IP, or the node's.
    pub address: IpAddr,
    /// The container's port, or the node port.
    pub port: u16,
}

/// What is to be probed of one Service, and how.
pub type Targets = BTreeMap<Target, Arc<HealthCheck>>;

/// The targets of Services that changed and that the prober has not taken yet: for each what was said last.
pub type ChangedTargets = Mutex<BTreeMap<ObjectName, Targets>>;

/// A change in what is known of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthEvent {
    /// The target became unhealthy, or healthy again.
    Found(Target, Finding),
    /// What was found no longer holds: the target is no target any more.
    Forgotten(Target),
}

/// What probes have found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether the target may take new flows.
    pub is_healthy: bool,
    /// Time of the probe that decided.
    pub since: SystemTime,
    /// What that probe saw.
    pub reason: Arc<str>,
}

/// Who said that an endpoint is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecidedBy {
    /// The API server's conditions: no probe has said anything yet.
    Readiness,
    /// This node's probes.
    Probe,
}

/// What a prober knows of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetHealth {
    /// Name of the backend service.
    pub backend_service: String,
    /// The endpoint's address and port.
    pub endpoint: SocketAddr,
    /// Whether it may take new flows.
    pub healthy: bool,
    /// Since when, milliseconds since 1970; not before the agent's start.
    pub since_unix_ms: u64,
    /// Who says so.
    pub decided_by: DecidedBy,
    /// The newest probe; `None` before the first.
    pub last_probe: Option<LastProbe>,
}

/// A probe that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastProbe {
    /// When it ended, milliseconds since 1970.
    pub at_unix_ms: u64,
    /// From its beginning to its end, microseconds.
    pub latency_us: u64,
    /// The kind of what it saw.
    pub reason_code: ReasonCode,
    /// What it saw: the endpoint's own words, or the kernel's.
    pub detail: String,
}

/// The targets of a Service: the endpoints of backend services with a check that are ready, or still serve on
/// their way out; where the check names no port, of those over TCP alone. One that is neither takes no flow,
/// and a probe of a pod that starts would only make it late.
#[must_use]
pub fn targets(plan: &ServicePlan) -> Targets {
    let mut targets = BTreeMap::new();
    for backend_service in &plan.backend_services {
        let Some(check) = &backend_service.health_check else { continue };
        if backend_service.name.protocol != Protocol::Tcp && check.port.is_none() {
            continue;
        }
        for endpoint in &backend_service.endpoints {
            if endpoint.facts().ready || endpoint.serves_while_terminating() {
                let name = Arc::clone(&backend_service.name);
                let target = Target { backend_service: name, address: endpoint.address, port: endpoint.port };
                targets.insert(target, Arc::clone(check));
            }
        }
    }
    targets.extend(plan.backend_services.iter().flat_map(node_targets));
    targets
}

/// The nodes that requests to a backend service go to, where they are asked.
fn node_targets(backend_service: &BackendService) -> impl Iterator<Item = (Target, Arc<HealthCheck>)> {
    let asked = backend_service.node_ports.iter().filter_map(|nodes| Some((nodes, nodes.check.as_ref()?)));
    asked.flat_map(move |(nodes, check)| {
        nodes.endpoints().map(move |endpoint| {
            let name = Arc::clone(&backend_service.name);
            let target = Target { backend_service: name, address: endpoint.address, port: endpoint.port };
            (target, Arc::clone(check))
        })
    })
}
