//! `BackendConfig` of `cloud.google.com/v1`: settings that Services name in an annotation.
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{DrainContract, HealthCheck, HttpPolicy, ObjectName, ServicePort};

/// The BackendConfigs by name.
pub type BackendConfigs = BTreeMap<ObjectName, Arc<BackendConfig>>;

/// What a BackendConfig says of the backend services that name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendConfig {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.resourceVersion`; empty from a manifest without one.
    pub resource_version: Arc<str>,
    /// `metadata.uid`, by which an Event finds it; empty from a manifest without one.
    #[serde(default)]
    pub uid: Arc<str>,
    /// `spec.healthCheck`.
    pub health_check: Option<Arc<HealthCheck>>,
    /// `spec.connectionDraining`.
    pub drain: Option<DrainContract>,
    /// What it says of requests.
    pub http: Arc<HttpPolicy>,
}

/// The BackendConfigs that a Service names, all of its own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendConfigNames {
    /// The one for ports without their own.
    pub default: Option<Arc<str>>,
    /// Those of single ports, by the port's name or number.
    pub ports: BTreeMap<Arc<str>, Arc<str>>,
}

impl BackendConfigNames {
    /// The one for a port. Its name goes before its number, as in ingress-gce (`pkg/annotations`,
    /// `GetBackendConfigs`, and `pkg/backendconfig`, `BackendConfigName`).
    #[must_use]
    pub fn of_port(&self, port: &ServicePort) -> Option<&Arc<str>> {
        let by_number = || self.ports.get(port.port.to_string().as_str());
        self.ports.get(&port.name).or_else(by_number).or(self.default.as_ref())
    }

    /// Whether it names a BackendConfig.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.default.iter().chain(self.ports.values()).any(|named| **named == *name)
    }
}
