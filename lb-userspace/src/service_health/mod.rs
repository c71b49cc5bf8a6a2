//! What a cloud's load balancer asks a node: has it endpoints of this Service?
//! (`spec.healthCheckNodePort`, allocated with `externalTrafficPolicy: Local`.)
//!
//! [`answer`] is the answer, as kube-proxy's (`pkg/proxy/healthcheck/service_health.go`), and pure;
//! [`run`] has one listener for each address and allocated port and follows [`Wanted`].
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::ObjectName;

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
    /// Ready endpoints on this node, each address once.
    pub local_endpoints: usize,
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
