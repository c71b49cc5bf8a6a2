//! Every metric family, with its help.
use prometheus_client::metrics::MetricType;

/// What kind of numbers a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, but for a restart of what counts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Times by size.
    Histogram,
    /// Always one: its labels are what it says.
    Info,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Pieces.
    None,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

/// One metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name without unit, and without the ending that its kind gives it.
    stem: &'static str,
    /// What its numbers count.
    pub unit: Unit,
    /// What kind of numbers they are.
    pub kind: Kind,
    /// The labels that each sample has.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }

    pub(super) const fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
            Self::Info => MetricType::Info,
        }
    }
}

impl Unit {
    pub(super) const fn registered(self) -> Option<prometheus_client::registry::Unit> {
        match self {
            Self::None => None,
            Self::Bytes => Some(prometheus_client::registry::Unit::Bytes),
            Self::Seconds => Some(prometheus_client::registry::Unit::Seconds),
        }
    }
}

impl Family {
    pub(super) const fn stem(&self) -> &'static str {
        self.stem
    }

    /// The name that a query gives: of a histogram without `_bucket`, `_sum` and `_count`.
    #[must_use]
    pub fn name(&self) -> String {
        let unit = match self.unit {
            Unit::None => "",
            Unit::Bytes => "_bytes",
            Unit::Seconds => "_seconds",
        };
        let ending = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{}{unit}{ending}", self.stem)
    }

    const fn seconds(self) -> Self {
        Self { unit: Unit::Seconds, ..self }
    }

    const fn bytes(self) -> Self {
        Self { unit: Unit::Bytes, ..self }
    }
}

const fn family(
    kind: Kind,
    stem: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family { stem, unit: Unit::None, kind, labels, help }
}

const SERVICE: &[&str] = &["namespace", "service", "port", "protocol"];
const SERVICE_STATE: &[&str] = &["namespace", "service", "port", "protocol", "state"];
const SERVICE_CLASS: &[&str] = &["namespace", "service", "port", "protocol", "code_class"];
const ENDPOINT: &[&str] = &["namespace", "service", "port", "protocol", "endpoint"];

pub(super) const BUILD: Family = family(
    Kind::Info,
    "podway_build",
    &["version", "layout"],
    "Version of the agent and of the maps' layout.",
);
pub(super) const START: Family =
    family(Kind::Gauge, "podway_start_time", &[], "When the agent started, since 1970.").seconds();
pub(super) const SYNCED: Family =
    family(Kind::Gauge, "podway_facts_synced", &[], "1 once all facts are read; before, nothing is changed.");
pub(super) const OBJECTS: Family =
    family(Kind::Gauge, "podway_objects", &["kind"], "Objects that are known.");
pub(super) const PROBLEMS: Family =
    family(Kind::Gauge, "podway_problems", &["kind"], "Problems with objects that cannot be used in full.");
pub(super) const INTERRUPTIONS: Family = family(
    Kind::Counter,
    "podway_watch_failures",
    &["kind"],
    "Watches and lists of the API server that failed; each was begun again.",
);
pub(super) const PROGRAMMING: Family = family(
    Kind::Histogram,
    "kubeproxy_network_programming_duration",
    &[],
    "From the change of a pod or Service, as its EndpointSlice says it, to the maps.",
)
.seconds();
pub(super) const APPLY: Family = family(
    Kind::Histogram,
    "podway_apply_duration",
    &[],
    "From the beginning of a plan to the last of its writes.",
)
.seconds();
pub(super) const APPLY_FAILURES: Family = family(
    Kind::Counter,
    "podway_apply_failures",
    &[],
    "Applies in which the kernel refused an operation; they are tried again.",
);
pub(super) const LAST_APPLY: Family = family(
    Kind::Gauge,
    "podway_last_apply_timestamp",
    &[],
    "The last apply without a refusal, since 1970; 0 before the first.",
)
.seconds();
pub(super) const PENDING: Family = family(
    Kind::Gauge,
    "podway_services_pending",
    &[],
    "Services whose part of the plan is not in the maps yet.",
);
pub(super) const VIPS_ANNOUNCED: Family =
    family(Kind::Gauge, "podway_vips_announced", &[], "VIPs that this node announces on the local network.");
pub(super) const VIP_TAKEOVERS: Family = family(
    Kind::Counter,
    "podway_vip_takeovers",
    &[],
    "Times that this node began to announce a group of VIPs.",
);
pub(super) const PACKETS: Family = family(
    Kind::Counter,
    "podway_packets",
    &["outcome", "reason"],
    "Packets by what became of them; outcome note is beside another one.",
);
pub(super) const MAP_ENTRIES: Family =
    family(Kind::Gauge, "podway_map_entries", &["map"], "Entries of a map in use.");
pub(super) const MAP_ENTRIES_MAX: Family =
    family(Kind::Gauge, "podway_map_entries_max", &["map"], "Entries that a map has room for.");
pub(super) const SERVICES: Family =
    family(Kind::Gauge, "podway_backend_services", &[], "Backend services in the maps.");
pub(super) const SERVICES_IN_PANIC: Family = family(
    Kind::Gauge,
    "podway_backend_services_in_panic",
    &[],
    "Backend services that use unhealthy endpoints, since too few are healthy.",
);
pub(super) const SERVICE_PACKETS: Family = family(
    Kind::Counter,
    "podway_backend_service_packets",
    SERVICE,
    "Packets forwarded from clients to a backend service.",
);
pub(super) const SERVICE_BYTES: Family = family(
    Kind::Counter,
    "podway_backend_service",
    SERVICE,
    "Bytes of those packets, from the Ethernet header on.",
)
.bytes();
pub(super) const SERVICE_FLOWS: Family = family(
    Kind::Counter,
    "podway_backend_service_new_flows",
    SERVICE,
    "Flows begun to a backend service, with connects of processes of the node.",
);
pub(super) const SERVICE_ENDPOINTS: Family = family(
    Kind::Gauge,
    "podway_backend_service_endpoints",
    SERVICE_STATE,
    "Endpoints of a backend service by state.",
);
pub(super) const TARGETS: Family =
    family(Kind::Gauge, "podway_health_targets", &[], "Endpoints that this node probes.");
pub(super) const TARGETS_UNHEALTHY: Family =
    family(Kind::Gauge, "podway_health_targets_unhealthy", &[], "Probed endpoints that fail their check.");
pub(super) const PROBES: Family =
    family(Kind::Counter, "podway_health_probes", &["result"], "Probes that are over, by what they saw.");
pub(super) const PROBE_TIME: Family =
    family(Kind::Histogram, "podway_health_probe_duration", &[], "From the beginning of a probe to its end.")
        .seconds();
pub(super) const PROBE_LATENESS: Family = family(
    Kind::Histogram,
    "podway_health_probe_lateness",
    &[],
    "From the time at which a probe was due to its beginning.",
)
.seconds();
pub(super) const EFFECT: Family = family(
    Kind::Histogram,
    "podway_health_effect_duration",
    &[],
    "From the probe that found an endpoint unhealthy to the store that ends new flows to it.",
)
.seconds();
pub(super) const STATE_CHANGES: Family = family(
    Kind::Counter,
    "podway_health_state_changes",
    &["state", "reason"],
    "Changes of endpoints' health, by the new state and its reason.",
);
pub(super) const FRONT_END_CONNECTIONS: Family =
    family(Kind::Gauge, "podway_front_end_connections", &["state"], "Clients' connections to the front-end.");
pub(super) const FRONT_END_REFUSALS: Family = family(
    Kind::Counter,
    "podway_front_end_refusals",
    &["reason"],
    "Connections and requests that the front-end refused before a URL map was asked.",
);
pub(super) const FRONT_END_DROPS: Family = family(
    Kind::Counter,
    "podway_front_end_drops",
    &["what"],
    "What the front-end could not tell, for want of room.",
);
pub(super) const FRONT_END_SPANS: Family = family(
    Kind::Counter,
    "podway_front_end_spans",
    &["outcome"],
    "Spans of recorded requests, by what became of them.",
);
pub(super) const URL_MAP_REQUESTS: Family = family(
    Kind::Counter,
    "podway_url_map_requests",
    &["url_map", "code_class"],
    "Requests by URL map and the first digit of the answer's code.",
);
pub(super) const SERVICE_REQUESTS: Family = family(
    Kind::Counter,
    "podway_backend_service_requests",
    SERVICE_CLASS,
    "Requests by backend service and the first digit of the answer's code.",
);
pub(super) const SERVICE_REQUEST_TIME: Family = family(
    Kind::Histogram,
    "podway_backend_service_request_duration",
    SERVICE,
    "From a request's head to the last byte of its answer.",
)
.seconds();
pub(super) const SERVICE_RETRIES: Family =
    family(Kind::Counter, "podway_backend_service_request_retries", SERVICE, "Further tries of requests.");
pub(super) const SERVICE_CONNECT_FAILURES: Family = family(
    Kind::Counter,
    "podway_backend_service_connect_failures",
    SERVICE,
    "Connections of the front-end to endpoints that did not come about.",
);
pub(super) const SERVICE_UPGRADES: Family = family(
    Kind::Counter,
    "podway_backend_service_upgrades",
    SERVICE,
    "Requests that went over to another protocol.",
);
pub(super) const SERVICE_ANSWER_BYTES: Family =
    family(Kind::Counter, "podway_backend_service_answer", SERVICE, "Bytes of the bodies of answers.")
        .bytes();
pub(super) const ENDPOINT_PACKETS: Family = family(
    Kind::Counter,
    "podway_endpoint_packets",
    ENDPOINT,
    "Packets forwarded from clients to an endpoint.",
);
pub(super) const ENDPOINT_BYTES: Family = family(
    Kind::Counter,
    "podway_endpoint",
    ENDPOINT,
    "Bytes of those packets, from the Ethernet header on.",
)
.bytes();
pub(super) const ENDPOINT_FLOWS: Family =
    family(Kind::Counter, "podway_endpoint_new_flows", ENDPOINT, "Flows begun to an endpoint.");

/// All, in the order of the text; those of single endpoints, which are on a page of their own, at the end.
pub const FAMILIES: [Family; 43] = [
    BUILD,
    START,
    SYNCED,
    OBJECTS,
    PROBLEMS,
    INTERRUPTIONS,
    PROGRAMMING,
    APPLY,
    APPLY_FAILURES,
    LAST_APPLY,
    PENDING,
    VIPS_ANNOUNCED,
    VIP_TAKEOVERS,
    PACKETS,
    MAP_ENTRIES,
    MAP_ENTRIES_MAX,
    SERVICES,
    SERVICES_IN_PANIC,
    SERVICE_PACKETS,
    SERVICE_BYTES,
    SERVICE_FLOWS,
    SERVICE_ENDPOINTS,
    TARGETS,
    TARGETS_UNHEALTHY,
    PROBES,
    PROBE_TIME,
    PROBE_LATENESS,
    EFFECT,
    STATE_CHANGES,
    FRONT_END_CONNECTIONS,
    FRONT_END_REFUSALS,
    FRONT_END_DROPS,
    FRONT_END_SPANS,
    URL_MAP_REQUESTS,
    SERVICE_REQUESTS,
    SERVICE_REQUEST_TIME,
    SERVICE_RETRIES,
    SERVICE_CONNECT_FAILURES,
    SERVICE_UPGRADES,
    SERVICE_ANSWER_BYTES,
    ENDPOINT_PACKETS,
    ENDPOINT_BYTES,
    ENDPOINT_FLOWS,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the tables of `docs/metrics.md` that are about a metric: name, type, labels.
    fn documented() -> Vec<[String; 3]> {
        let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md"));
        let cells = |line: &str| -> Vec<String> {
            line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
        };
        let is_row = |line: &&str| line.starts_with("| `podway_") || line.starts_with("| `kubeproxy_");
        // Rows of two cells are queries.
        let rows = page.lines().filter(is_row).map(cells).filter(|cells| cells.len() == 4);
        rows.map(|cells| [cells[0].clone(), cells[1].clone(), cells[2].clone()]).collect()
    }

    #[test]
    fn page_and_code_have_the_same_metrics() {
        let of_code =
            FAMILIES.map(|family| [family.name(), family.kind.name().to_owned(), family.labels.join(", ")]);
        assert_eq!(documented(), of_code);
    }

    /// The metrics that a text names.
    fn named(text: &str) -> Vec<&str> {
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        words.filter(|word| word.starts_with("podway_") || word.starts_with("kubeproxy_")).collect()
    }

    #[test]
    fn dashboard_and_alerts_ask_for_metrics_that_there_are() {
        let series: Vec<String> = FAMILIES
            .iter()
            .map(|family| match family.kind {
                Kind::Histogram => family.name() + "_bucket",
                _ => family.name(),
            })
            .collect();
        let dashboard = include_str!("../../../deploy/monitoring/dashboard.json");
        let alerts = include_str!("../../../deploy/monitoring/alerts.yaml");
        let of_dashboard: serde_json::Value = serde_json::from_str(dashboard).expect("JSON");
        let expressions = |panel: &serde_json::Value| -> Vec<String> {
            let targets = panel["targets"].as_array().cloned().unwrap_or_default();
            targets.iter().filter_map(|target| target["expr"].as_str().map(str::to_owned)).collect()
        };
        let panels = of_dashboard["panels"].as_array().expect("panels");
        let of_alerts: serde_json::Value = serde_yaml_ng::from_str(alerts).expect("YAML");
        let rules = of_alerts["groups"][0]["rules"].as_array().expect("rules");
        let mut asked: Vec<String> = panels.iter().flat_map(expressions).collect();
        asked.extend(rules.iter().map(|rule| rule["expr"].as_str().expect("an expression").to_owned()));
        assert!(asked.len() > 40, "{} expressions", asked.len());
        for expression in &asked {
            let names = named(expression);
            assert!(!names.is_empty(), "{expression}");
            for name in names {
                assert!(series.iter().any(|known| known == name), "{name} in {expression}");
            }
        }
        // What a rule's text sends its reader to is there too.
        let plain = FAMILIES.map(|family| family.name());
        for name in named(alerts) {
            assert!(series.iter().chain(&plain).any(|known| known == name), "{name} in the alerts");
        }
    }

    #[test]
    fn each_name_is_there_once() {
        let names = FAMILIES.map(|family| family.name());
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
        }
    }
}
