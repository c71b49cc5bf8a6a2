//! The objects of the folder as Kubernetes writes them.
use lb_userspace::model::HealthCheck;
use serde_json::{Value, json};

use super::{NAMESPACE, Service, ServicePort};
use crate::topology::Node;

pub(super) fn node(node: &Node) -> Value {
    let host = node.host();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": host.name(), "resourceVersion": "1"},
        "spec": {"podCIDRs": node.pod_cidrs()},
        "status": {"addresses": [
            {"type": "InternalIP", "address": host.v4()},
            {"type": "InternalIP", "address": host.v6()},
        ]},
    })
}

/// The Service and a slice for each family.
pub(super) fn service_and_slices(service: &Service, resource_version: u64) -> Vec<Value> {
    vec![
        service_object(service, resource_version),
        slice_object(service, resource_version, "IPv4", 0),
        slice_object(service, resource_version, "IPv6", 1),
    ]
}

fn service_object(service: &Service, resource_version: u64) -> Value {
    let [cluster_v4, cluster_v6] = service.cluster_ips;
    let kind = service_type(service);
    let mut spec = json!({
        "type": kind,
        "clusterIP": cluster_v4,
        "clusterIPs": [cluster_v4, cluster_v6],
        "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "RequireDualStack",
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
    let ingress: Vec<Value> = service.load_balancer_ips.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": NAMESPACE,
            "name": service.name,
            "resourceVersion": resource_version.to_string(),
            "annotations": health_annotations(service.health_check.as_ref()),
        },
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

fn service_type(service: &Service) -> &'static str {
    if !service.load_balancer_ips.is_empty() {
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
    json!({
        "podway.io/health-check": "tcp",
        "podway.io/health-check-interval-ms": check.interval_ms.to_string(),
        "podway.io/health-check-timeout-ms": check.timeout_ms.to_string(),
        "podway.io/health-check-healthy-threshold": check.healthy_threshold.to_string(),
        "podway.io/health-check-unhealthy-threshold": check.unhealthy_threshold.to_string(),
    })
}

/// `family` is the index of the family in [`Endpoint::addresses`].
fn slice_object(service: &Service, resource_version: u64, address_type: &str, family: usize) -> Value {
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| json!({"name": port.name, "protocol": port.protocol, "port": port.target_port}))
        .collect();
    let endpoints: Vec<Value> = service
        .endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "addresses": [endpoint.addresses[family]],
                "conditions": {"ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating},
                "nodeName": endpoint.node,
                "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": endpoint.pod},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE,
            "name": format!("{}-{}", service.name, address_type.to_lowercase()),
            "resourceVersion": resource_version.to_string(),
            "labels": {"kubernetes.io/service-name": service.name},
        },
        "addressType": address_type,
        "ports": ports,
        "endpoints": endpoints,
    })
}

#[cfg(test)]
mod tests {
    use lb_userspace::model::Protocol;

    use super::*;
    use crate::manifests::{Endpoint, LOAD_BALANCER_IPS};

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
}
