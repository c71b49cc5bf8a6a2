//! The objects of the folder as Kubernetes writes them.
use std::collections::BTreeSet;

use lb_userspace::model::{CheckKind, HealthCheck};
use serde_json::{Value, json};

use super::{Endpoint, NAMESPACE, Service, ServicePort};
use crate::topology::Node;

pub(super) fn node(node: &Node) -> Value {
    let host = node.host();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": host.name(),
            "resourceVersion": "1",
            "labels": {"kubernetes.io/hostname": host.name(), "topology.kubernetes.io/zone": node.zone()},
        },
        "spec": {"podCIDRs": node.pod_cidrs()},
        "status": {"addresses": [
            {"type": "InternalIP", "address": host.v4()},
            {"type": "InternalIP", "address": host.v6()},
        ]},
    })
}

/// What the controller of EndpointSlices writes.
const CHANGE_TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

/// The Service and its slices: at least one for each family.
pub(super) fn service_and_slices(service: &Service, resource_version: u64) -> Vec<Value> {
    let slices: BTreeSet<u8> = service.endpoints.iter().map(|endpoint| endpoint.slice).chain([0]).collect();
    let slices =
        service.families.indices().flat_map(|family| slices.iter().map(move |slice| (family, *slice)));
    let slices = slices.map(|(family, slice)| slice_object(service, resource_version, family, slice));
    std::iter::once(service_object(service, resource_version)).chain(slices).collect()
}

fn service_object(service: &Service, resource_version: u64) -> Value {
    let kind = service_type(service);
    let cluster_ips = service.cluster_addresses();
    let families: Vec<&str> = service.families.indices().map(|family| FAMILIES[family]).collect();
    let mut spec = json!({
        "type": kind,
        "clusterIP": cluster_ips.first(),
        "clusterIPs": cluster_ips,
        "ipFamilies": families,
        "ipFamilyPolicy": if families.len() == 2 { "RequireDualStack" } else { "SingleStack" },
        "externalIPs": service.external_ips,
        "internalTrafficPolicy": format!("{:?}", service.internal_traffic_policy),
        "ports": service.ports.iter().map(port_object).collect::<Vec<_>>(),
    });
    if kind != "ClusterIP" || !service.external_ips.is_empty() {
        spec["externalTrafficPolicy"] = format!("{:?}", service.external_traffic_policy).into();
    }
    if let Some(timeout_s) = service.affinity_timeout_s {
        spec["sessionAffinity"] = "ClientIP".into();
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": timeout_s}});
    }
    for (field, value) in &service.spec {
        spec[field] = value.clone();
    }
    let mut annotations = health_annotations(service.health_check.as_ref());
    for (name, value) in &service.annotations {
        annotations[name] = value.as_str().into();
    }
    let vips = service.load_balancer_ips.iter().map(|ip| json!({"ip": ip}));
    let proxies = service.proxy_ips.iter().map(|ip| json!({"ip": ip, "ipMode": "Proxy"}));
    let ingress: Vec<Value> = vips.chain(proxies).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": NAMESPACE,
            "name": service.name,
            "resourceVersion": resource_version.to_string(),
            "labels": service.labels,
            "annotations": annotations,
        },
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

fn service_type(service: &Service) -> &'static str {
    if !service.load_balancer_ips.is_empty() || !service.proxy_ips.is_empty() {
        "LoadBalancer"
    } else if service.ports.iter().any(|port| port.node_port.is_some()) {
        "NodePort"
    } else {
        "ClusterIP"
    }
}

fn port_object(port: &ServicePort) -> Value {
    let mut object = json!({
        "name": port.name,
        "protocol": port.protocol,
        "port": port.port,
        "targetPort": port.target_port,
    });
    if let Some(node_port) = port.node_port {
        object["nodePort"] = node_port.into();
    }
    object
}

fn health_annotations(check: Option<&HealthCheck>) -> Value {
    let Some(check) = check else { return json!({}) };
    let mut annotations = json!({
        "podway.io/health-check": check.kind.name(),
        "podway.io/health-check-interval-ms": check.interval_ms.to_string(),
        "podway.io/health-check-timeout-ms": check.timeout_ms.to_string(),
        "podway.io/health-check-healthy-threshold": check.healthy_threshold.to_string(),
        "podway.io/health-check-unhealthy-threshold": check.unhealthy_threshold.to_string(),
    });
    if let Some(port) = check.port {
        annotations["podway.io/health-check-port"] = port.to_string().into();
    }
    match &check.kind {
        CheckKind::Http { path, .. } => annotations["podway.io/health-check-path"] = (&**path).into(),
        CheckKind::Grpc { service, .. } => {
            annotations["podway.io/health-check-grpc-service"] = (&**service).into();
        }
        CheckKind::Tcp => {}
    }
    annotations
}

/// `family` is the index of the family in [`Endpoint::addresses`].
fn slice_object(service: &Service, resource_version: u64, family: usize, slice: u8) -> Value {
    let target_port = |port: &ServicePort| {
        *service.slice_ports.get(&(slice, port.name.clone())).unwrap_or(&port.target_port)
    };
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| json!({"name": port.name, "protocol": port.protocol, "port": target_port(port)}))
        .collect();
    let endpoints = service.endpoints.iter().filter(|endpoint| endpoint.slice == slice);
    let endpoints: Vec<Value> = endpoints.map(|endpoint| endpoint_object(endpoint, family)).collect();
    let address_type = FAMILIES[family];
    let name = match slice {
        0 => format!("{}-{}", service.name, address_type.to_lowercase()),
        slice => format!("{}-{}-{slice}", service.name, address_type.to_lowercase()),
    };
    let trigger = service.change_trigger.as_ref();
    let annotations: Value = trigger.map_or(json!({}), |at| json!({CHANGE_TRIGGER: at}));
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE,
            "name": name,
            "resourceVersion": resource_version.to_string(),
            "labels": {"kubernetes.io/service-name": service.name},
            "annotations": annotations,
        },
        "addressType": address_type,
        "ports": ports,
        "endpoints": endpoints,
    })
}

fn endpoint_object(endpoint: &Endpoint, family: usize) -> Value {
    let mut object = json!({
        "addresses": [endpoint.addresses[family]],
        "conditions": {"ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating},
        "nodeName": endpoint.node,
        "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": endpoint.pod},
    });
    for (field, names) in [("forZones", &endpoint.zone_hints), ("forNodes", &endpoint.node_hints)] {
        if !names.is_empty() {
            object["hints"][field] = names.iter().map(|name| json!({"name": name})).collect();
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use lb_userspace::model::Protocol;

    use super::*;
    use crate::manifests::{Families, LOAD_BALANCER_IPS};

    fn service() -> Service {
        let mut service = Service::new("web", 10).port("http", Protocol::Tcp, 80, 8080).node_port(30080);
        service.load_balancer_ips = LOAD_BALANCER_IPS.to_vec();
        service.endpoints.push(Endpoint {
            pod: "web-a-1".to_owned(),
            node: "node-a".to_owned(),
            addresses: [[10, 244, 1, 11].into(), "2001:db8:244:1::11".parse().unwrap()],
            ready: true,
            serving: true,
            terminating: false,
            slice: 0,
            node_hints: Vec::new(),
            zone_hints: Vec::new(),
        });
        service
    }

    #[test]
    fn service_reads_as_kubernetes_writes_it() {
        let object = service_object(&service(), 7);
        assert_eq!(object["metadata"]["resourceVersion"], "7");
        assert_eq!(object["spec"]["type"], "LoadBalancer");
        assert_eq!(object["spec"]["clusterIPs"], json!(["10.96.0.10", "2001:db8:96::10"]));
        assert_eq!(object["spec"]["externalTrafficPolicy"], "Cluster");
        let port =
            json!({"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": 30080});
        assert_eq!(object["spec"]["ports"], json!([port]));
        let ingress = json!([{"ip": "198.51.100.10"}, {"ip": "2001:db8:51::10"}]);
        assert_eq!(object["status"]["loadBalancer"]["ingress"], ingress);
    }

    #[test]
    fn slices_have_the_pods_of_their_family_and_the_target_ports() {
        let mut service = service();
        service.endpoint("web-a-1").ready = false;
        let [_, v4, v6] = service_and_slices(&service, 7).try_into().unwrap();
        assert_eq!(v4["endpoints"][0]["addresses"], json!(["10.244.1.11"]));
        assert_eq!(v6["endpoints"][0]["addresses"], json!(["2001:db8:244:1::11"]));
        assert_eq!(v6["endpoints"][0]["conditions"]["ready"], false);
        assert_eq!(v6["ports"], json!([{"name": "http", "protocol": "TCP", "port": 8080}]));
        assert_eq!(v6["metadata"]["labels"]["kubernetes.io/service-name"], "web");
    }

    #[test]
    fn endpoint_of_another_slice_has_the_target_ports_of_that() {
        let mut service = service();
        service.endpoints.push(Endpoint { slice: 1, ..service.endpoints[0].clone() });
        service.slice_ports.insert((1, "http".to_owned()), 9090);
        let objects = service_and_slices(&service, 7);
        let ports: Vec<(&Value, &Value)> = objects[1..]
            .iter()
            .map(|slice| (&slice["metadata"]["name"], &slice["ports"][0]["port"]))
            .collect();
        let name = |name: &str| Value::from(name);
        assert_eq!(
            ports,
            [
                (&name("web-ipv4"), &json!(8080)),
                (&name("web-ipv4-1"), &json!(9090)),
                (&name("web-ipv6"), &json!(8080)),
                (&name("web-ipv6-1"), &json!(9090)),
            ]
        );
    }

    #[test]
    fn single_stack_service_has_one_cluster_ip_and_slices_of_its_family() {
        let objects = service_and_slices(&Service { families: Families::V6, ..service() }, 7);
        assert_eq!(objects[0]["spec"]["clusterIPs"], json!(["2001:db8:96::10"]));
        assert_eq!(objects[0]["spec"]["ipFamilies"], json!(["IPv6"]));
        assert_eq!(objects[1]["addressType"], "IPv6");
        assert_eq!(objects.len(), 2);
    }

    #[test]
    fn further_fields_and_annotations_are_written() {
        let service = service().with_spec("trafficDistribution", "PreferClose".into()).annotated("a/b", "c");
        let object = service_object(&service, 7);
        assert_eq!(object["spec"]["trafficDistribution"], "PreferClose");
        assert_eq!(object["metadata"]["annotations"]["a/b"], "c");
    }
}
