//! A backend service: one Service port with its policies, endpoints and NEGs.
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::neg::NegKind;

use crate::model::{
    DrainContract, HealthCheck, HealthPolicy, HttpPolicy, HttpTransport, ObjectName, Protocol, ProxyVersion,
};

use super::{Endpoint, Neg, NodePorts, Origin};

/// The name of a backend service: `namespace/service:port-name-or-number/protocol`. Ordered by
/// Service first, so that one Service's backend services are neighbours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendServiceName {
    /// The Service.
    pub service: ObjectName,
    /// `spec.ports[].name`; empty when unnamed.
    pub port_name: Arc<str>,
    /// `spec.ports[].port`.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl std::fmt::Display for BackendServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.port_name.is_empty() {
            write!(f, "{}:{}/{}", self.service, self.port, self.protocol)
        } else {
            write!(f, "{}:{}/{}", self.service, self.port_name, self.protocol)
        }
    }
}

/// One Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendService {
    /// Its name.
    pub name: Arc<BackendServiceName>,
    /// The Service's `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// Seconds for which a client keeps its endpoint; `None` without `sessionAffinity: ClientIP`.
    pub affinity_timeout_s: Option<u32>,
    /// The health check, where readiness alone does not decide.
    pub health_check: Option<Arc<HealthCheck>>,
    /// What is done with what is known of the endpoints' health.
    pub health_policy: HealthPolicy,
    /// How requests reach an endpoint.
    pub transport: HttpTransport,
    /// What the front-end's connections to endpoints begin with.
    pub proxy_protocol: Option<ProxyVersion>,
    /// How requests are treated.
    pub http: Arc<HttpPolicy>,
    /// How long the TCP flows of an endpoint that is gone may go on.
    pub drain: DrainContract,
    /// Whom those of its frontends let in that check sources, as network and length in bits.
    pub source_ranges: Vec<(IpAddr, u8)>,
    /// Every endpoint that a slice names, usable or not: flows that an endpoint already has go on
    /// while it is there. In the order of address and port.
    pub endpoints: Vec<Endpoint>,
    /// The NEGs that its frontends use, in the order of [`NegKind`].
    pub negs: Vec<Neg>,
    /// The nodes that requests to Ingresses go to in place of its pods, where its NEG has the type for it.
    pub node_ports: Option<NodePorts>,
}

impl BackendService {
    /// Its NEG of a kind, where a frontend uses one.
    #[must_use]
    pub fn neg(&self, kind: NegKind) -> Option<&Neg> {
        self.negs.iter().find(|neg| neg.kind == kind)
    }

    /// Whether new flows may come to one of its endpoints, by its index.
    #[must_use]
    pub fn uses(&self, endpoint: u32) -> bool {
        self.negs.iter().any(|neg| neg.members.binary_search(&endpoint).is_ok())
    }

    /// The Service.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin {
            kind: "Service",
            object: self.name.service.clone(),
            resource_version: self.resource_version.clone(),
        }
    }
}
