//! What active health checks have found.
use std::net::IpAddr;

use super::BackendServiceName;

/// Answers whether an endpoint of a backend service with a health check passes it. An endpoint that
/// has not been probed yet counts as healthy: its readiness has already said so.
pub trait HealthView {
    /// Whether the endpoint may take new flows.
    fn is_healthy(&self, backend_service: &BackendServiceName, address: IpAddr, port: u16) -> bool;
}

/// The view without probes: readiness alone decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadinessAlone;

impl HealthView for ReadinessAlone {
    fn is_healthy(&self, _: &BackendServiceName, _: IpAddr, _: u16) -> bool {
        true
    }
}
