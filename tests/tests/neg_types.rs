//! NEGs of both types from manifests to what `podway describe`, `explain` and `plan` print of them.
use lb_userspace::cli::printed;
use serde_json::{Value, json};

/// `pods`, `nodes` and `headless` have the same pods, `bare` has no node port; node-c is not ready.
const MANIFESTS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: node-a, labels: {topology.kubernetes.io/zone: zone-1}},
 status: {addresses: [{type: InternalIP, address: 192.0.2.11}, {type: ExternalIP, address: 203.0.113.11}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-b, resourceVersion: '7'},
 status: {addresses: [{type: ExternalIP, address: 203.0.113.12}, {type: InternalIP, address: 192.0.2.12}],
          conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-c},
 status: {addresses: [{type: InternalIP, address: 192.0.2.13}], conditions: [{type: Ready, status: 'False'}]}}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: pods, annotations: {cloud.google.com/neg: '{\"ingress\": true}'}}
spec: {type: NodePort, clusterIP: 10.96.0.10, ports: [{name: http, port: 80, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata:
  namespace: shop
  name: nodes
  annotations: {cloud.google.com/neg: '{\"ingress\": false}', podway.io/health-check: tcp, podway.io/health-check-port: '8081'}
spec: {type: NodePort, clusterIP: 10.96.0.11, ports: [{name: http, port: 80, nodePort: 30081}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: bare, annotations: {podway.io/neg-type: GCE_VM_IP_PORT}}
spec: {clusterIP: 10.96.0.12, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: pods-1, labels: {kubernetes.io/service-name: pods}}
addressType: IPv4
endpoints: [{addresses: [10.244.2.8], nodeName: node-b}]
ports: [{name: http, port: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: nodes-1, labels: {kubernetes.io/service-name: nodes}}
addressType: IPv4
endpoints: [{addresses: [10.244.2.8], nodeName: node-b}]
ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: headless}
spec: {clusterIP: None, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  {namespace: shop, name: headless-1, labels: {kubernetes.io/service-name: headless, service.kubernetes.io/headless: ''}}
addressType: IPv4
endpoints: [{addresses: [10.244.2.8], nodeName: node-b}]
ports: [{name: http, port: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  namespace: shop
  name: shop
  annotations: {kubernetes.io/ingress.class: podway, podway.io/vips: 203.0.113.80}
spec:
  rules:
  - host: shop.example
    http:
      paths:
      - {path: /pods, pathType: Prefix, backend: {service: {name: pods, port: {number: 80}}}}
      - {path: /nodes, pathType: Prefix, backend: {service: {name: nodes, port: {number: 80}}}}
      - {path: /headless, pathType: Prefix, backend: {service: {name: headless, port: {name: http}}}}
      - {path: /bare, pathType: Prefix, backend: {service: {name: bare, port: {number: 80}}}}
";

/// What a command prints of the manifests on node-a.
fn print(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("all.yaml"), MANIFESTS).expect("the manifests");
    let folder = folder.path().display().to_string();
    printed([arguments, &["--node-name", "node-a", "--manifests", &folder]].concat()).expect("an answer")
}

fn json_of(arguments: &[&str]) -> Value {
    serde_json::from_str(&print(&[arguments, &["-o", "json"]].concat())).expect("JSON")
}

/// The only answer to a URL of the Ingress.
fn explain(path: &str, flags: &[&str]) -> Value {
    let url = format!("http://shop.example/{path}");
    json_of(&[&["explain", "--url", &url], flags].concat())["answers"][0].take()
}

fn steps(told: &Value, stage: &str) -> Vec<(String, Value)> {
    let steps = told["steps"].as_array().expect("steps").iter().filter(|step| step["stage"] == stage);
    steps.map(|step| (step["found"].as_str().expect("a text").to_owned(), step["origin"].clone())).collect()
}

#[test]
fn an_ingress_is_described_with_the_endpoints_of_either_type() {
    let text = print(&["describe", "ingress", "shop/shop"]);
    let expected = "\
Backend services
NAME                    SPOKEN TO BY  NEG TYPE        ENDPOINTS  TIMEOUT  AFFINITY
shop/bare:http/TCP      HTTP          GCE_VM_IP_PORT  0          -        -
shop/headless:http/TCP  HTTP          GCE_POD         1          -        -
shop/nodes:http/TCP     HTTP          GCE_VM_IP_PORT  2          -        -
shop/pods:http/TCP      HTTP          GCE_POD         1          -        -

Endpoints
BACKEND SERVICE         ENDPOINT          STATE    NODE
shop/headless:http/TCP  10.244.2.8:8080   healthy  node-b
shop/nodes:http/TCP     192.0.2.11:30081  healthy  node-a
shop/nodes:http/TCP     192.0.2.12:30081  healthy  node-b
shop/pods:http/TCP      10.244.2.8:8080   healthy  node-b
";
    assert!(text.ends_with(expected), "{text}");
    assert_eq!(print(&["describe", "url-map", "shop/shop"]), text);
}

#[test]
fn a_request_is_led_to_pods_or_to_nodes() {
    let told = explain("pods", &[]);
    assert_eq!((&told["verdict"], &told["negType"]), (&"forward".into(), &"GCE_POD".into()));
    assert_eq!((&told["negs"], &told["endpoints"]), (&json!(["clusterV4"]), &json!(["10.244.2.8:8080"])));
    assert_eq!(steps(&told, "NEG"), [("clusterV4, GCE_POD: 1 endpoints".to_owned(), Value::Null)]);
    let told = explain("nodes", &[]);
    assert_eq!((&told["verdict"], &told["negType"]), (&"forward".into(), &"GCE_VM_IP_PORT".into()));
    assert_eq!(told["negs"], json!(["nodesV4"]));
    assert_eq!(told["endpoints"], json!(["192.0.2.11:30081", "192.0.2.12:30081"]));
    assert_eq!(steps(&told, "NEG"), [("nodesV4, GCE_VM_IP_PORT: 2 endpoints".to_owned(), Value::Null)]);
    let endpoints =
        [("192.0.2.11:30081, healthy", "Node node-a"), ("192.0.2.12:30081, healthy", "Node node-b")];
    let endpoints = endpoints.map(|(found, origin)| (found.to_owned(), origin.into()));
    assert_eq!(steps(&told, "endpoint"), endpoints);
}

#[test]
fn a_request_is_led_to_the_pods_of_a_headless_service_which_has_no_frontend() {
    let told = explain("headless", &[]);
    assert_eq!((&told["verdict"], &told["negType"]), (&"forward".into(), &"GCE_POD".into()));
    assert_eq!((&told["negs"], &told["endpoints"]), (&json!(["clusterV4"]), &json!(["10.244.2.8:8080"])));
    let plan = json_of(&["plan"]);
    let frontends = plan["frontends"].as_array().expect("frontends");
    assert!(
        frontends.iter().all(|frontend| frontend["backendService"] != "shop/headless:http/TCP"),
        "{plan:#}"
    );
    assert!(!frontends.is_empty());
}

#[test]
fn a_headless_service_has_no_neg_of_nodes() {
    let told = explain("headless", &["--neg-type", "GCE_VM_IP_PORT"]);
    assert_eq!((&told["verdict"], &told["status"]), (&"refuse".into(), &503.into()));
    assert_eq!(
        steps(&told, "NEG"),
        [("GCE_VM_IP_PORT, and the port has no node port".to_owned(), Value::Null)]
    );
}

#[test]
fn a_port_without_a_node_port_is_refused_with_its_reason() {
    let told = explain("bare", &[]);
    assert_eq!((&told["verdict"], &told["status"]), (&"refuse".into(), &503.into()));
    assert_eq!(
        steps(&told, "NEG"),
        [("GCE_VM_IP_PORT, and the port has no node port".to_owned(), Value::Null)]
    );
    let problems = json_of(&["plan"])["problems"].take();
    let [problem] = &problems.as_array().expect("problems")[..] else { panic!("{problems:#}") };
    assert_eq!((&problem["kind"], &problem["object"]["name"]), (&"Service".into(), &"bare".into()));
}

#[test]
fn where_pods_cannot_be_routed_nodes_are_the_default() {
    let told = explain("pods", &["--neg-type", "GCE_VM_IP_PORT"]);
    assert_eq!(told["endpoints"], json!(["192.0.2.11:30080", "192.0.2.12:30080"]));
}

#[test]
fn the_plan_has_the_negs_of_either_type_and_how_they_are_asked() {
    let plan = json_of(&["plan"]);
    let service = |name: &str| {
        let services = plan["backendServices"].as_array().expect("backend services");
        services.iter().find(|service| service["name"] == name).expect("a backend service").clone()
    };
    let pods = service("shop/pods:http/TCP");
    assert_eq!((&pods["negs"][0]["type"], &pods["nodePorts"]), (&"GCE_POD".into(), &Value::Null));
    let nodes = service("shop/nodes:http/TCP");
    assert_eq!(nodes["negs"][0]["members"], json!(["10.244.2.8:8080"]), "packets go to pods");
    let node_ports = &nodes["nodePorts"];
    assert_eq!(node_ports["port"], 30_081);
    assert_eq!(
        (&nodes["healthCheck"]["port"], &node_ports["healthCheck"]["port"]),
        (&8_081.into(), &Value::Null)
    );
    let members = json!(["192.0.2.11:30081", "192.0.2.12:30081"]);
    let neg = json!({"type": "GCE_VM_IP_PORT", "kind": "nodesV4", "panic": false, "members": members});
    assert_eq!(node_ports["negs"], json!([neg]));
    let node_a = json!({
        "address": "192.0.2.11", "port": 30_081, "node": "node-a", "zone": "zone-1", "state": "healthy", "local": true,
    });
    assert_eq!(node_ports["endpoints"][0], node_a);
}
