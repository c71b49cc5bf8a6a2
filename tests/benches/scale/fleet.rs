//! Many Services of many endpoints, as Kubernetes writes them: small Services, large slices.
use std::net::{IpAddr, Ipv4Addr};

use lb_tests::manifests::NAMESPACE;
use lb_userspace::model::{ObjectName, Protocol};
use lb_userspace::plan::BackendServiceName;
use serde_json::{Value, json};

/// Endpoints of each Service: one slice holds them.
pub(crate) const ENDPOINTS: u32 = 50;
/// The port of the cluster IPs.
pub(crate) const PORT: u16 = 80;
/// The port of the pods.
pub(crate) const POD_PORT: u16 = 8080;

/// The cluster IP of a Service: 10.96.1.0 and those that follow, since an API server takes the prefix's first for itself.
pub(crate) fn cluster_ip(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a60_0100 + number).into()
}

/// The address of an endpoint.
pub(crate) fn pod(number: u32, endpoint: u32) -> IpAddr {
    Ipv4Addr::from(0x0b00_0000 + number * ENDPOINTS + endpoint).into()
}

/// The backend service of a Service. Names rise with the number.
pub(crate) fn backend_service(number: u32) -> BackendServiceName {
    BackendServiceName {
        service: ObjectName::new(NAMESPACE, &name(number)),
        port_name: "http".into(),
        port: PORT,
        protocol: Protocol::Tcp,
    }
}

fn name(number: u32) -> String {
    format!("service-{number:05}")
}

pub(crate) fn service(number: u32) -> Value {
    let name = name(number);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": NAMESPACE,
            "name": name,
            "uid": format!("5a1e0000-0000-4000-8000-{number:012}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": name},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip(number),
            "clusterIPs": [cluster_ip(number)],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "selector": {"app": name},
            "ports": [{"name": "http", "protocol": "TCP", "port": PORT, "targetPort": POD_PORT}],
        },
        "status": {"loadBalancer": {}},
    })
}

/// The slice of a Service, without one of its endpoints where one is given.
pub(crate) fn slice(number: u32, without: Option<u32>) -> Value {
    let name = name(number);
    let endpoints = (0..ENDPOINTS).filter(|endpoint| Some(*endpoint) != without);
    let endpoints: Vec<Value> = endpoints
        .map(|endpoint| {
            json!({
                "addresses": [pod(number, endpoint)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{:04}", endpoint % 1_000),
                "zone": "east",
                "targetRef": {
                    "kind": "Pod",
                    "namespace": NAMESPACE,
                    "name": format!("{name}-6d4cf56db6-{endpoint:05}"),
                    "uid": format!("5a1e0000-0000-4000-9000-{:012}", number * ENDPOINTS + endpoint),
                },
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE,
            "name": format!("{name}-slice"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"kubernetes.io/service-name": name, "app": name},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "protocol": "TCP", "port": POD_PORT}],
    })
}
