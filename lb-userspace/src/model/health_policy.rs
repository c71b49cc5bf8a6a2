//! What is done with what is known of the endpoints' health.
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The policy of a Service, from annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthPolicy {
    /// Panic threshold, percent: where fewer of a NEG's endpoints are healthy, all are used. Zero, the default,
    /// uses all where none is healthy. Envoy has the same setting with a default of 50 %
    /// (`common_lb_config.healthy_panic_threshold`): there a request that fails may be tried elsewhere. A
    /// connection may not, so half of all should not be led to endpoints that are known to be down before
    /// somebody asks for it.
    pub panic_threshold_percent: u32,
    /// Seconds in which an endpoint that is healthy again comes to its whole share of new flows; zero, the
    /// default, gives it at once.
    #[serde(rename = "slowStartSeconds")]
    pub slow_start_s: u32,
    /// Whether and how endpoints are judged by how the flows to them begin.
    pub passive: Option<Arc<PassivePolicy>>,
}

/// When an endpoint is ejected for failures, and for how long. The settings are those of Envoy's outlier
/// detection (`config.cluster.v3.OutlierDetection`), with its defaults but for the share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PassivePolicy {
    /// Failures in a row that eject (`consecutive_5xx`: 5).
    pub consecutive_failures: u32,
    /// Failures of a hundred flows that eject (`failure_percentage_threshold`: 85).
    pub failure_percent: u32,
    /// Flows in an interval of ten seconds without which no percentage is looked at
    /// (`failure_percentage_request_volume`: 50).
    #[serde(rename = "minimumFlows")]
    pub flows_min: u32,
    /// Milliseconds of the first ejection; each further one in a row takes twice as long
    /// (`base_ejection_time`: 30 s, there times the number of ejections).
    #[serde(rename = "ejectionMilliseconds")]
    pub ejection_ms: u32,
    /// Milliseconds of the longest ejection (`max_ejection_time`: 300 s).
    #[serde(rename = "ejectionMaxMilliseconds")]
    pub ejection_max_ms: u32,
    /// Most endpoints of a backend service and family that are ejected at a time, percent, rounded down
    /// (`max_ejection_percent`: 10 for clusters of many hosts; most Services have a few endpoints). Of one alone
    /// none is, and of two one (`always_eject_one_host`: false).
    #[serde(rename = "ejectedMaxPercent")]
    pub ejected_percent_max: u32,
}
