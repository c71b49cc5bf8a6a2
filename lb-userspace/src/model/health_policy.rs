//! What is done with what is known of the endpoints' health.
use serde::Serialize;

/// The policy of a Service, from annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HealthPolicy {
    /// Panic threshold, percent: where fewer of a NEG's endpoints are healthy, all are used. Zero, the default,
    /// uses all where none is healthy. Envoy has the same setting with a default of 50 %
    /// (`common_lb_config.healthy_panic_threshold`): there a request that fails may be tried elsewhere. A
    /// connection may not, so half of all should not be led to endpoints that are known to be down before
    /// somebody asks for it.
    pub panic_threshold_percent: u32,
}
