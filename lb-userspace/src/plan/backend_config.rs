//! What holds for a Service port: the Service's own annotations, else the BackendConfig that it names.
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{
    BackendConfig, BackendConfigs, DrainContract, HealthCheck, HttpPolicy, ObjectName, Problem, Service,
    ServicePort,
};

/// What of a port a BackendConfig may settle.
pub(super) struct Settings {
    pub(super) health_check: Option<Arc<HealthCheck>>,
    pub(super) drain: DrainContract,
    pub(super) http: Arc<HttpPolicy>,
}

impl Settings {
    /// Annotations go before the BackendConfig, for the check and the drain each.
    pub(super) fn new(service: &Service, port: &ServicePort, configs: &BackendConfigs) -> Self {
        let name = service.backend_configs.of_port(port);
        let config = name.and_then(|name| config(service, name, configs));
        let of_config = |config: &BackendConfig| config.health_check.clone();
        Self {
            health_check: service.health_check.clone().or_else(|| config.and_then(of_config)),
            drain: service.drain.or_else(|| config?.drain).unwrap_or_default(),
            http: config.map(|config| Arc::clone(&config.http)).unwrap_or_default(),
        }
    }
}

fn config<'a>(service: &Service, name: &Arc<str>, configs: &'a BackendConfigs) -> Option<&'a BackendConfig> {
    configs.get(&in_namespace_of(service, name)).map(|config| &**config)
}

fn in_namespace_of(service: &Service, name: &Arc<str>) -> ObjectName {
    ObjectName { namespace: Arc::clone(&service.name.namespace), name: Arc::clone(name) }
}

/// The BackendConfigs that a Service names and that are not there, one problem each.
pub(super) fn missing(service: &Service, configs: &BackendConfigs) -> Vec<Problem> {
    let names = &service.backend_configs;
    let names: BTreeSet<_> = names.default.iter().chain(names.ports.values()).collect();
    let missing = names.into_iter().filter(|name| config(service, name, configs).is_none());
    let problem = |name: &Arc<str>| Problem {
        kind: "Service",
        object: service.name.clone(),
        message: format!(
            "cannot find BackendConfig {}; create it or correct annotation cloud.google.com/backend-config; \
             without it the defaults hold",
            in_namespace_of(service, name)
        ),
    };
    missing.map(problem).collect()
}
