//! A Service as a fact.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service as Object, ServicePort as ObjectPort, ServiceSpec, ServiceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    Converted, Faults, HEADLESS_LABEL, PROXY_NAME_LABEL, annotations, app_protocol, backend_config,
    health_check, health_policy, label, load_balancer, name_of, neg, proxy_protocol,
};
use super::{port_label, port_number, prefix, protocol, uid_of};
use crate::model::{
    Balancer, Change, HttpTransport, ObjectName, Service, ServicePort, SourceRanges, TrafficPolicy,
};
use crate::source::Interner;

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is absent (core/v1
/// `DefaultClientIPServiceAffinitySeconds`).
const AFFINITY_TIMEOUT_DEFAULT_S: u32 = 10_800;

/// Longest `timeoutSeconds` (core/v1 `MaxClientIPServiceAffinitySeconds`).
const AFFINITY_TIMEOUT_MAX_S: u32 = 86_400;

/// The fact that a Service stands for. `ExternalName` Services, and those with [`PROXY_NAME_LABEL`] or
/// [`HEADLESS_LABEL`], give [`Change::ServiceGone`]. Of a headless one the addresses that it may name are not read, as by
/// kube-proxy.
#[must_use]
pub fn service(object: &Object, interner: &mut Interner) -> Converted {
    let name = name_of(&object.metadata);
    let mut faults = Faults::of("Service", &name);
    let Some(spec) = &object.spec else {
        faults.add("has no spec".to_owned());
        return faults.with(Change::ServiceGone(name));
    };
    let is_not_ours = [PROXY_NAME_LABEL, HEADLESS_LABEL].iter().any(|l| label(&object.metadata, l).is_some());
    if is_not_ours || spec.type_.as_deref() == Some("ExternalName") {
        return faults.with(Change::ServiceGone(name));
    }
    let mut fact = fact(name, object, spec, interner, &mut faults);
    if is_headless(spec) {
        fact = Service {
            is_headless: true,
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            balancer: Balancer::None,
            health_check_node_port: None,
            ..fact
        };
        fact.ports.iter_mut().for_each(|port| port.node_port = None);
    }
    faults.with(Change::Service(Arc::new(fact)))
}

fn fact(
    name: ObjectName,
    object: &Object,
    spec: &ServiceSpec,
    interner: &mut Interner,
    faults: &mut Faults,
) -> Service {
    Service {
        resource_version: object.metadata.resource_version.as_deref().unwrap_or_default().into(),
        uid: uid_of(&object.metadata),
        created_s: object.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        labels: labels(&object.metadata, interner),
        is_headless: false,
        cluster_ips: cluster_ips(spec, faults),
        external_ips: addresses("spec.externalIPs", spec.external_ips.iter().flatten(), faults),
        load_balancer_ips: load_balancer_ips(object.status.as_ref(), faults),
        balancer: load_balancer::balancer(object, spec, faults),
        ports: ports(&object.metadata, spec, interner, faults),
        external_traffic_policy: policy(
            "externalTrafficPolicy",
            spec.external_traffic_policy.as_deref(),
            faults,
        ),
        internal_traffic_policy: policy(
            "internalTrafficPolicy",
            spec.internal_traffic_policy.as_deref(),
            faults,
        ),
        affinity_timeout_s: affinity_timeout_s(spec, faults),
        health_check: health_check::of_annotations(&object.metadata, faults).map(Arc::new),
        health_policy: health_policy::of_annotations(&object.metadata, faults),
        source_ranges: source_ranges(spec, faults),
        health_check_node_port: health_check_node_port(spec, faults),
        drain: annotations::drain(&object.metadata, faults),
        backend_configs: backend_config::names(&object.metadata, spec, faults),
        external_mode: annotations::external_mode(&object.metadata, faults),
        proxy_protocol: proxy_protocol::to_endpoints(&object.metadata, faults),
        endpoint_weights: annotations::endpoint_weights(&object.metadata, faults),
        neg_request: neg::request(&object.metadata, faults),
        neg_status: neg::status(&object.metadata),
        neg_type: neg::neg_type(&object.metadata, faults),
        name,
    }
}

/// Many Services share keys and values.
fn labels(meta: &ObjectMeta, interner: &mut Interner) -> Arc<BTreeMap<Arc<str>, Arc<str>>> {
    let labels = meta.labels.iter().flatten();
    Arc::new(labels.map(|(key, value)| (interner.shared(key), interner.shared(value))).collect())
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
        || spec.cluster_ips.as_ref().is_some_and(|ips| ips.first().is_some_and(|ip| ip == "None"))
}

/// `clusterIPs`, or `clusterIP` alone in manifests that predate dual stack (KEP-563).
fn cluster_ips(spec: &ServiceSpec, faults: &mut Faults) -> Vec<IpAddr> {
    match &spec.cluster_ips {
        _ if is_headless(spec) => Vec::new(),
        Some(ips) if !ips.is_empty() => addresses("spec.clusterIPs", ips.iter(), faults),
        _ => {
            let single = spec.cluster_ip.iter().filter(|ip| !ip.is_empty());
            addresses("spec.clusterIP", single, faults)
        }
    }
}

/// Addresses in order, each once.
fn addresses<'a>(field: &str, texts: impl Iterator<Item = &'a String>, faults: &mut Faults) -> Vec<IpAddr> {
    let mut parsed = Vec::new();
    for text in texts {
        match text.parse::<IpAddr>() {
            Ok(ip) if !parsed.contains(&ip) => parsed.push(ip),
            Ok(_) => {}
            Err(_) => faults.add(format!("{field}: {text:?} is not an IP address; it is left out")),
        }
    }
    parsed
}

/// `ipMode: Proxy` addresses are the load balancer's own: traffic to them must go through it, so
/// the node must not take it (KEP-1860). Entries with a host name alone give no address.
fn load_balancer_ips(status: Option<&ServiceStatus>, faults: &mut Faults) -> Vec<IpAddr> {
    let ingress = status.and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    let ips = ingress
        .into_iter()
        .flatten()
        .filter(|entry| entry.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|entry| entry.ip.as_ref())
        .filter(|ip| !ip.is_empty());
    addresses("status.loadBalancer.ingress", ips, faults)
}

fn ports(
    meta: &ObjectMeta,
    spec: &ServiceSpec,
    interner: &mut Interner,
    faults: &mut Faults,
) -> Vec<ServicePort> {
    let app_protocols = app_protocol::of_annotation(meta, faults);
    let mut ports = Vec::new();
    for object in spec.ports.iter().flatten() {
        match port(object, interner, faults) {
            Ok(port) => {
                let transport = app_protocol::of_port(object, &app_protocols);
                ports.push(ServicePort { transport, ..port });
            }
            Err(reason) => {
                let label = port_label(object.name.as_deref(), Some(object.port));
                faults.add(format!("{label} is left out: {reason}"));
            }
        }
    }
    ports
}

fn port(object: &ObjectPort, interner: &mut Interner, faults: &mut Faults) -> Result<ServicePort, String> {
    let protocol = protocol(object.protocol.as_deref())?;
    let port = port_number(object.port)?;
    // The API writes 0 for "none allocated".
    let node_port = match object.node_port.filter(|number| *number != 0).map(port_number).transpose() {
        Ok(node_port) => node_port,
        Err(reason) => {
            let label = port_label(object.name.as_deref(), Some(object.port));
            faults.add(format!("{label} has no node port: {reason}"));
            None
        }
    };
    Ok(ServicePort {
        name: interner.shared(object.name.as_deref().unwrap_or_default()),
        protocol,
        port,
        node_port,
        transport: HttpTransport::default(),
    })
}

fn policy(field: &str, text: Option<&str>, faults: &mut Faults) -> TrafficPolicy {
    match text {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            faults.add(format!("{field} {other:?} is unknown; Cluster is used"));
            TrafficPolicy::Cluster
        }
    }
}

fn affinity_timeout_s(spec: &ServiceSpec, faults: &mut Faults) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            faults.add(format!("sessionAffinity {other:?} is unknown; None is used"));
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = config.and_then(|client_ip| client_ip.timeout_seconds) else {
        return Some(AFFINITY_TIMEOUT_DEFAULT_S);
    };
    match u32::try_from(seconds) {
        Ok(timeout_s) if (1..=AFFINITY_TIMEOUT_MAX_S).contains(&timeout_s) => Some(timeout_s),
        _ => {
            faults.add(format!(
                "affinity timeoutSeconds {seconds} is not between 1 and {AFFINITY_TIMEOUT_MAX_S}; \
                 {AFFINITY_TIMEOUT_DEFAULT_S} is used"
            ));
            Some(AFFINITY_TIMEOUT_DEFAULT_S)
        }
    }
}

/// `loadBalancerSourceRanges`, without the blanks that the API lets through around a range
/// (`pkg/proxy/serviceport.go`, `newBaseServiceInfo`). kube-proxy reads no annotation for it.
fn source_ranges(spec: &ServiceSpec, faults: &mut Faults) -> SourceRanges {
    let mut found = SourceRanges::default();
    for text in spec.load_balancer_source_ranges.iter().flatten() {
        match prefix(text.trim()) {
            Some((address, bits)) => found.ranges.push((network(address, bits), bits)),
            None => {
                found.has_unreadable = true;
                faults.add(format!(
                    "spec.loadBalancerSourceRanges: {text:?} is not an address prefix; nobody comes in by it"
                ));
            }
        }
    }
    found.ranges.sort_unstable();
    found.ranges.dedup();
    found
}

/// The address without the bits past the prefix.
fn network(address: IpAddr, bits: u8) -> IpAddr {
    lb_common::Prefix::new(address, bits).network.into()
}

/// A load balancer asks the port whether the node has endpoints, which is worth knowing with
/// `externalTrafficPolicy: Local` alone (`pkg/api/v1/service`, `NeedsHealthCheck`).
fn health_check_node_port(spec: &ServiceSpec, faults: &mut Faults) -> Option<u16> {
    let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
    if !is_balanced || spec.external_traffic_policy.as_deref() != Some("Local") {
        return None;
    }
    let number = spec.health_check_node_port.filter(|number| *number != 0)?;
    match port_number(number) {
        Ok(port) => Some(port),
        Err(reason) => {
            faults.add(format!("healthCheckNodePort is left out: {reason}"));
            None
        }
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
