//! What `explain --manifests` says besides verdict and endpoint.
use std::net::SocketAddr;

use lb_userspace::cli::explanation;
use serde_json::Value;

const MANIFESTS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: node-a}, spec: {podCIDR: 10.244.1.0/24},
 status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-b}, spec: {podCIDR: 10.244.2.0/24},
 status: {addresses: [{type: InternalIP, address: 192.0.2.12}]}}
---
{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: kubernetes}, spec: {cidrs: [10.96.0.0/16]}}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: cart}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  loadBalancerSourceRanges: [198.51.100.0/24, 198.51.100.128/25]
  ports: [{name: http, port: 80}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.5}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: cart-1, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
endpoints: [{addresses: [10.244.2.8], nodeName: node-b}]
ports: [{name: http, port: 8080}]
";

/// The explanation of a TCP packet on node-a.
fn explain(from: &str, to: &str, flags: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("all.yaml"), MANIFESTS).expect("the manifests");
    let folder = folder.path().display().to_string();
    let fixed = ["-o", "json", "--node-name", "node-a", "--manifests", &folder];
    let asked = ["--from", from, "--to", to];
    let text = explanation([&fixed[..], &asked, flags].concat()).expect("an explanation");
    serde_json::from_str(&text).expect("JSON")
}

fn found<'a>(told: &'a Value, stage: &str) -> Option<&'a str> {
    let steps = told["steps"].as_array().expect("steps");
    steps.iter().find(|step| step["stage"] == stage).and_then(|step| step["found"].as_str())
}

#[test]
fn a_client_in_a_range_is_let_in_by_the_longest_one() {
    let told = explain("198.51.100.200", "203.0.113.5:80", &[]);
    assert_eq!(found(&told, "source range"), Some("198.51.100.128/25 lets 198.51.100.200 in"));
    assert_eq!(told["endpoint"], "10.244.2.8:8080");
}

#[test]
fn a_client_in_no_range_is_dropped_and_told_so() {
    let told = explain("192.0.2.200", "203.0.113.5:80", &[]);
    assert_eq!(found(&told, "source range"), Some("no range covers 192.0.2.200"));
    assert_eq!((&told["verdict"], &told["reason"]), (&"drop".into(), &"source-range".into()));
}

#[test]
fn a_frontend_that_checks_nobody_has_no_such_step() {
    assert_eq!(found(&explain("10.244.1.9", "10.96.0.10:80", &[]), "source range"), None);
}

#[test]
fn with_direct_server_return_the_endpoint_sees_the_client() {
    let told = explain("198.51.100.200:40000", "203.0.113.5:80", &["--external-mode", "dsr"]);
    assert_eq!(told["reason"], "encapsulated");
    assert_eq!((&told["endpoint"], &told["sourceNat"]), (&"10.244.2.8:8080".into(), &false.into()));
    assert!(found(&told, "direct server return").is_some());
    let snat = explain("198.51.100.200:40000", "203.0.113.5:80", &[]);
    let source: SocketAddr =
        snat["sourceNatAddress"].as_str().expect("a source").parse().expect("an address");
    assert_eq!(source.ip().to_string(), "192.0.2.11");
}

#[test]
fn an_unused_port_of_a_cluster_ip_is_named() {
    let told = explain("10.244.1.9", "10.96.0.10:81", &[]);
    let expected = "none has this address, port and protocol; the address is a cluster IP, whose unused ports are refused";
    assert_eq!(found(&told, "frontend"), Some(expected));
}

#[test]
fn an_address_that_no_service_has_is_named() {
    let told = explain("10.244.1.9", "10.96.0.11:80", &[]);
    let expected =
        "none has this address, port and protocol; no Service has this address of a service prefix";
    assert_eq!(found(&told, "frontend"), Some(expected));
}
