//! What a cloud's load balancer asks a node: has it endpoints of this Service?
//! (`spec.healthCheckNodePort`, allocated with `externalTrafficPolicy: Local`.)
//!
//! `answer` is the answer, as kube-proxy's (`pkg/proxy/healthcheck/service_health.go`), and pure;
//! [`run`] has one listener for each address and allocated port and follows [`Wanted`].
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{ObjectName, Problem};
use crate::plan::{Desired, Family};

mod answer;
mod listener;
mod server;

pub use answer::answer;
pub use server::run;

/// One Service with a health check node port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHealth {
    /// The Service.
    pub service: ObjectName,
    /// Ready endpoints on this node for each family of the Service.
    pub local_endpoints: BTreeMap<Family, u32>,
}

impl ServiceHealth {
    /// What a balancer counts that asks over `family`. One that asks over a family that the Service has not
    /// is told of the other.
    fn count(&self, family: Family) -> u32 {
        let counts = &self.local_endpoints;
        counts.get(&family).or_else(|| counts.values().next()).copied().unwrap_or_default()
    }
}

/// The ports of a plan. The API server gives no port twice; manifests may.
#[must_use]
pub fn services(desired: &Desired) -> (BTreeMap<u16, ServiceHealth>, Vec<Problem>) {
    let mut services: BTreeMap<u16, ServiceHealth> = BTreeMap::new();
    let mut problems = Vec::new();
    for plan in desired.with_health_check_port() {
        let (name, Some(check)) = (&plan.name, &plan.health_check_node_port) else { continue };
        let health = ServiceHealth { service: name.clone(), local_endpoints: check.local_endpoints.clone() };
        match services.get(&check.port) {
            None => drop(services.insert(check.port, health)),
            Some(first) => problems.push(Problem {
                kind: "Service",
                object: name.clone(),
                message: format!(
                    "cannot answer health checks on port {} (healthCheckNodePort): Service {} has it; change \
                     one of the two",
                    check.port, first.service
                ),
            }),
        }
    }
    (services, problems)
}

/// What is to be answered, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The addresses to listen on; none means all of the node.
    pub addresses: Vec<IpAddr>,
    /// By `healthCheckNodePort`.
    pub services: Arc<BTreeMap<u16, ServiceHealth>>,
    /// Whether the node forwards by the newest facts. Where it does not, balancers are told to go
    /// elsewhere, whatever the endpoints.
    pub is_proxy_healthy: bool,
}
