//! What active health checks have found.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{EndpointSlice, Service};

use super::{BackendServiceName, Family, NodeContext};

/// What a load balancer is told that asks whether this node has endpoints of a Service
/// (`spec.healthCheckNodePort`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheckNodePort {
    /// The port.
    pub port: u16,
    /// Ready endpoints on this node for each family of the Service.
    pub local_endpoints: BTreeMap<Family, u32>,
}

impl HealthCheckNodePort {
    /// Counts addresses, so that a pod with two ports is one endpoint, and one that is terminating is
    /// none (`endpointschangetracker.go`, `LocalReadyEndpoints`).
    pub(super) fn new(
        service: &Service,
        families: &[Family],
        slices: &[Arc<EndpointSlice>],
        node: &NodeContext,
    ) -> Option<Self> {
        let port = service.health_check_node_port?;
        let with_ports = slices.iter().filter(|slice| !slice.ports.is_empty());
        let local: BTreeSet<IpAddr> = with_ports
            .flat_map(|slice| &slice.endpoints)
            .filter(|endpoint| endpoint.ready && endpoint.is_on(&node.name))
            .map(|endpoint| endpoint.address)
            .collect();
        let count = |family: &Family| local.iter().filter(|address| Family::of(**address) == *family).count();
        let local_endpoints = families.iter().map(|family| (*family, count(family) as u32)).collect();
        Some(Self { port, local_endpoints })
    }
}

/// Answers how an endpoint of a backend service is that has a health check or is judged by its flows. An endpoint of
/// which nothing is known counts as healthy: its readiness has already said so.
pub trait HealthView {
    /// Whether the endpoint may take new flows.
    fn is_healthy(&self, backend_service: &BackendServiceName, address: IpAddr, port: u16) -> bool;

    /// Whether the endpoint fails its check: then its flows end by the drain contract. One that is ejected and does
    /// not has them go on, since nothing says that they fare ill.
    fn fails_check(&self, backend_service: &BackendServiceName, address: IpAddr, port: u16) -> bool {
        !self.is_healthy(backend_service, address, port)
    }

    /// Percent of its share of new flows that an endpoint takes, while it warms up.
    fn share_percent(&self, _: &BackendServiceName, _: IpAddr, _: u16) -> u8 {
        100
    }
}

/// The view without probes: readiness alone decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadinessAlone;

impl HealthView for ReadinessAlone {
    fn is_healthy(&self, _: &BackendServiceName, _: IpAddr, _: u16) -> bool {
        true
    }
}
