//! A world as Kubernetes objects, and these as the facts that Podway's source makes of them.
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use lb_userspace::model::Snapshot;
use lb_userspace::source::{self, Interner, objects};

use super::world::{Endpoint, IpMode, Kind, Node, Policy, Service, Slice, World};

/// Namespace of all objects.
pub const NAMESPACE: &str = "shop";

/// The facts of a world, by the way that all objects take.
#[must_use]
pub fn snapshot(world: &World) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let mut interner = Interner::default();
    for object in &world.nodes {
        source::apply(&mut snapshot, objects::node(&node(object), &mut interner).change);
    }
    for object in &world.services {
        source::apply(&mut snapshot, objects::service(&service(object), &mut interner).change);
    }
    for object in &world.slices {
        source::apply(&mut snapshot, objects::endpoint_slice(&slice(object), &mut interner).change);
    }
    snapshot
}

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), namespace: Some(NAMESPACE.into()), ..ObjectMeta::default() }
}

fn node(node: &Node) -> core::Node {
    let address =
        |ip: &std::net::IpAddr| core::NodeAddress { type_: "InternalIP".into(), address: ip.to_string() };
    core::Node {
        metadata: ObjectMeta {
            name: Some(node.name.clone()),
            labels: node.zone.clone().map(|zone| [("topology.kubernetes.io/zone".to_owned(), zone)].into()),
            ..ObjectMeta::default()
        },
        spec: None,
        status: Some(core::NodeStatus {
            addresses: Some(node.addresses.iter().map(address).collect()),
            ..core::NodeStatus::default()
        }),
    }
}

fn annotate(metadata: &mut ObjectMeta, name: &str, value: Option<String>) {
    if let Some(value) = value {
        metadata.annotations.get_or_insert_default().insert(format!("podway.io/{name}"), value);
    }
}

fn weights(weights: &[(std::net::IpAddr, u32)]) -> Option<String> {
    let entries: Vec<String> =
        weights.iter().map(|(address, weight)| format!("{address}={weight}")).collect();
    (!entries.is_empty()).then(|| entries.join(","))
}

fn policy(policy: Policy) -> Option<String> {
    match policy {
        Policy::Absent => None,
        Policy::Cluster => Some("Cluster".into()),
        Policy::Local => Some("Local".into()),
    }
}

fn service(service: &Service) -> core::Service {
    let mut metadata = metadata(&service.name);
    metadata.creation_timestamp =
        service.created_s.map(|seconds| Time(Timestamp::from_second(seconds).expect("a time")));
    if service.is_of_other_proxy {
        let label = ("service.kubernetes.io/service-proxy-name".to_owned(), "other".to_owned());
        metadata.labels = Some([label].into());
    }
    annotate(&mut metadata, "endpoint-weights", weights(&service.weights));
    annotate(&mut metadata, "drain", service.drain.map(Into::into));
    annotate(&mut metadata, "drain-deadline-seconds", service.drain_deadline_s.map(|s| s.to_string()));
    let kind = match service.kind {
        Kind::ClusterIp | Kind::Headless => "ClusterIP",
        Kind::NodePort => "NodePort",
        Kind::LoadBalancer => "LoadBalancer",
        Kind::ExternalName => "ExternalName",
    };
    let cluster_ips: Vec<String> = match service.kind {
        Kind::Headless => vec!["None".into()],
        Kind::ExternalName => Vec::new(),
        _ => service.cluster_ips.iter().map(ToString::to_string).collect(),
    };
    let ports = service.ports.iter().map(|port| core::ServicePort {
        name: port.name.clone(),
        protocol: Some(port.protocol.to_string()),
        port: port.port.into(),
        node_port: port.node_port.map(Into::into),
        ..core::ServicePort::default()
    });
    let source_ranges = service.source_ranges.iter().map(|(network, bits)| format!("{network}/{bits}"));
    let spec = core::ServiceSpec {
        type_: Some(kind.into()),
        cluster_ip: cluster_ips.first().cloned(),
        cluster_ips: Some(cluster_ips),
        external_ips: Some(service.external_ips.iter().map(ToString::to_string).collect()),
        external_traffic_policy: policy(service.external_policy),
        internal_traffic_policy: policy(service.internal_policy),
        load_balancer_source_ranges: Some(source_ranges.collect()),
        ports: Some(ports.collect()),
        ..core::ServiceSpec::default()
    };
    let ingress = service.ingress.iter().map(|(ip, mode)| core::LoadBalancerIngress {
        ip: Some(ip.to_string()),
        ip_mode: match mode {
            IpMode::Absent => None,
            IpMode::Vip => Some("VIP".into()),
            IpMode::Proxy => Some("Proxy".into()),
        },
        ..core::LoadBalancerIngress::default()
    });
    let load_balancer = core::LoadBalancerStatus { ingress: Some(ingress.collect()) };
    core::Service {
        metadata,
        spec: Some(spec),
        status: Some(core::ServiceStatus {
            load_balancer: Some(load_balancer),
            ..core::ServiceStatus::default()
        }),
    }
}

fn slice(slice: &Slice) -> discovery::EndpointSlice {
    let mut metadata = metadata(&slice.name);
    metadata.labels = Some([("kubernetes.io/service-name".to_owned(), slice.service.clone())].into());
    annotate(&mut metadata, "weight", slice.weight.map(|weight| weight.to_string()));
    annotate(&mut metadata, "endpoint-weights", weights(&slice.weights));
    let ports = slice.ports.iter().map(|port| discovery::EndpointPort {
        name: port.name.clone(),
        protocol: Some(port.protocol.to_string()),
        port: port.port.map(Into::into),
        ..discovery::EndpointPort::default()
    });
    discovery::EndpointSlice {
        metadata,
        address_type: if slice.is_v4 { "IPv4" } else { "IPv6" }.into(),
        endpoints: Some(slice.endpoints.iter().map(endpoint).collect()),
        ports: Some(ports.collect()),
    }
}

fn endpoint(endpoint: &Endpoint) -> discovery::Endpoint {
    discovery::Endpoint {
        addresses: vec![endpoint.address.to_string()],
        conditions: Some(discovery::EndpointConditions {
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
        }),
        node_name: endpoint.node.clone(),
        hints: Some(discovery::EndpointHints {
            for_zones: Some(
                endpoint.zone_hints.iter().map(|name| discovery::ForZone { name: name.clone() }).collect(),
            ),
            for_nodes: Some(
                endpoint.node_hints.iter().map(|name| discovery::ForNode { name: name.clone() }).collect(),
            ),
        }),
        ..discovery::Endpoint::default()
    }
}
