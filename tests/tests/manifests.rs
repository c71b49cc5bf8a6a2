//! Folders of manifests as a user writes them: what they give, and what is said of their faults.
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lb_tests::api_server::{ApiServer, Resource};
use lb_userspace::health;
use lb_userspace::model::{
    EndpointSlice, FrontendConfig, Ingress, IngressClass, Node, ObjectName, Service, Snapshot,
};
use lb_userspace::plan::{NodeContext, ReadinessAlone, plan};
use lb_userspace::source::files::read_once;
use lb_userspace::source::kube::{Settings, run};
use lb_userspace::source::{SourceEvent, apply};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Longest wait for the API server's facts.
const DEADLINE: Duration = Duration::from_secs(30);

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder for the test");
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).expect("write a manifest");
    }
    dir
}

fn read(dir: &Path) -> (Snapshot, Vec<String>) {
    let (snapshot, problems) = read_once(dir).expect("list the folder");
    (snapshot, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn examples_are_read_without_a_problem() {
    let (snapshot, problems) = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples"));
    assert_eq!(problems, [""; 0]);
    assert!(
        !snapshot.services.is_empty() && !snapshot.endpoint_slices.is_empty() && !snapshot.nodes.is_empty()
    );
}

#[test]
fn folder_that_does_not_exist_is_an_error() {
    let error = read_once(Path::new("/nonexistent/manifests")).expect_err("there is none");
    assert_eq!(
        format!("{error:#}"),
        "cannot list the manifests in /nonexistent/manifests: No such file or directory (os error 2)"
    );
}

#[test]
fn each_bad_object_is_named_and_the_others_go_on() {
    let dir = folder(&[
        ("10-broken.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: broken\n"),
        (
            "20-family.yaml",
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- addresses: ['2001:db8::1']
- addresses: [198.51.100.2]
ports: [{port: 8080}]
",
        ),
        (
            "30-good.yaml",
            "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 192.0.2.1}}",
        ),
        ("40-other.yaml", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}"),
    ]);
    let (snapshot, problems) = read(dir.path());
    assert_eq!(
        problems,
        [
            "EndpointSlice default/web-1: endpoint \"2001:db8::1\" is left out: the slice's addressType is IPv4",
            "File /10-broken.yaml: document 1 (from line 1): did not find expected ',' or '}' at line 4 column 1, \
             while parsing a flow mapping at line 3 column 11",
        ]
    );
    assert_eq!(snapshot.services.keys().map(ToString::to_string).collect::<Vec<_>>(), ["default/web"]);
    assert_eq!(snapshot.endpoint_slices[&ObjectName::new("default", "web-1")].endpoints.len(), 1);
}

#[test]
fn ten_thousand_endpoints_are_read() {
    let mut text = String::new();
    for slice in 0..100 {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: web-{slice}, labels: {{kubernetes.io/service-name: web}}}}\n\
             addressType: IPv6\nports: [{{port: 8080}}]\nendpoints:\n"
        );
        for endpoint in 0..100 {
            text +=
                &format!("- {{addresses: ['2001:db8::{slice:x}:{endpoint:x}'], nodeName: node-{slice}}}\n");
        }
    }
    let (snapshot, problems) = read(folder(&[("web.yaml", &text)]).path());
    assert_eq!(problems, [""; 0]);
    assert_eq!(snapshot.endpoint_slices.values().map(|slice| slice.endpoints.len()).sum::<usize>(), 10_000);
}

#[test]
fn checked_endpoints_are_those_of_tcp_ports_that_could_take_flows() {
    let dir = folder(&[(
        "web.yaml",
        "
apiVersion: v1
kind: Service
metadata: {name: web, annotations: {podway.io/health-check: tcp, podway.io/health-check-interval-ms: '500'}}
spec:
  clusterIP: 192.0.2.1
  ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: unchecked}
spec: {clusterIP: 192.0.2.2, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [198.51.100.1]}
- {addresses: [198.51.100.2], conditions: {ready: false}}
- {addresses: [198.51.100.3], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [198.51.100.4], conditions: {ready: false, serving: false, terminating: true}}
ports: [{name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: unchecked-1, labels: {kubernetes.io/service-name: unchecked}}
addressType: IPv4
endpoints: [{addresses: [198.51.100.9]}]
ports: [{name: http, port: 8080}]
",
    )]);
    let (snapshot, problems) = read(dir.path());
    assert_eq!(problems, [""; 0]);
    let desired = plan(&snapshot, &NodeContext::default(), &ReadinessAlone);
    let found: Vec<_> = desired
        .services()
        .values()
        .flat_map(|plan| health::targets(plan))
        .map(|(t, check)| format!("{} {}:{} {}", t.backend_service, t.address, t.port, check.interval_ms))
        .collect();
    assert_eq!(
        found,
        ["default/web:http/TCP 198.51.100.1:8080 500", "default/web:http/TCP 198.51.100.3:8080 500"]
    );
}

#[tokio::test]
async fn same_objects_give_the_same_facts_from_files_and_from_the_api() {
    let objects = [
        (
            Resource::Services,
            json!({
                "metadata": {"namespace": "shop", "name": "web", "annotations": {"podway.io/health-check": "tcp"}},
                "spec": {
                    "type": "LoadBalancer", "clusterIPs": ["192.0.2.1", "2001:db8::1"], "externalTrafficPolicy": "Local",
                    "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "odd", "port": 5060, "protocol": "DCCP"}],
                },
                "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}},
            }),
        ),
        (
            Resource::EndpointSlices,
            json!({
                "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv6",
                "endpoints": [{"addresses": ["2001:db8::7"], "nodeName": "node-a", "zone": "z", "conditions": {"serving": false}}],
                "ports": [{"name": "http", "port": 8080}],
            }),
        ),
        (
            Resource::Nodes,
            json!({
                "metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "z"}},
                "spec": {"podCIDRs": ["198.51.100.0/24"]},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.10"}]},
            }),
        ),
        (
            Resource::IngressClasses,
            json!({
                "metadata": {
                    "name": "podway", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"},
                },
                "spec": {"controller": "podway.io/ingress"},
            }),
        ),
        (
            Resource::FrontendConfigs,
            json!({
                "metadata": {"namespace": "shop", "name": "redirect"},
                "spec": {"redirectToHttps": {"enabled": true, "responseCodeName": "FOUND"}},
            }),
        ),
        (
            Resource::Ingresses,
            json!({
                "metadata": {
                    "namespace": "shop", "name": "web",
                    "annotations": {
                        "kubernetes.io/ingress.allow-http": "false",
                        "networking.gke.io/v1beta1.FrontendConfig": "redirect",
                        "podway.io/vips": "203.0.113.80",
                    },
                },
                "spec": {
                    "tls": [{"hosts": ["a.example"], "secretName": "cert"}],
                    "rules": [{"host": "a.example", "http": {"paths": [
                        {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}},
                    ]}}],
                },
                "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.81"}]}},
            }),
        ),
    ];
    let server = ApiServer::start().await;
    let dir = folder(&[]);
    for (index, (resource, object)) in objects.into_iter().enumerate() {
        server.put(resource, object.clone());
        let (api_version, kind) = resource.kind();
        let mut manifest: Value = object;
        manifest["apiVersion"] = api_version.into();
        manifest["kind"] = kind.into();
        let text = serde_yaml_ng::to_string(&manifest).expect("YAML");
        std::fs::write(dir.path().join(format!("{index}.yaml")), text).expect("write a manifest");
    }
    let (from_files, problems) = read(dir.path());
    assert_eq!(
        problems,
        [
            "Service shop/web: port \"odd\" (5060) is left out: protocol \"DCCP\" is unknown; use TCP, UDP or SCTP"
        ]
    );
    let from_api = snapshot_of(&server).await;
    assert_eq!(from_api.services.len() + from_api.endpoint_slices.len() + from_api.nodes.len(), 3);
    assert_eq!(without_versions(&from_files), without_versions(&from_api));
    let found = (from_api.ingresses.len(), from_api.ingress_classes.len(), from_api.frontend_configs.len());
    assert_eq!(found, (1, 1, 1));
    assert_eq!(l7_without_versions(&from_files), l7_without_versions(&from_api));
}

/// The same of what URL maps are made of.
fn l7_without_versions(snapshot: &Snapshot) -> (Vec<Ingress>, Vec<IngressClass>, Vec<FrontendConfig>) {
    let none: Arc<str> = "".into();
    let ingress = |i: &Arc<Ingress>| Ingress { resource_version: none.clone(), ..(**i).clone() };
    let class = |c: &Arc<IngressClass>| IngressClass { resource_version: none.clone(), ..(**c).clone() };
    let config = |c: &Arc<FrontendConfig>| FrontendConfig { resource_version: none.clone(), ..(**c).clone() };
    (
        snapshot.ingresses.values().map(ingress).collect(),
        snapshot.ingress_classes.values().map(class).collect(),
        snapshot.frontend_configs.values().map(config).collect(),
    )
}

/// The facts of a server once they are complete.
async fn snapshot_of(server: &ApiServer) -> Snapshot {
    let config = kube::Config::new(server.url().parse().expect("a URL"));
    let (sender, mut receiver) = mpsc::channel(16);
    let source = tokio::spawn(run(config, Settings::default(), sender));
    let mut snapshot = Snapshot::default();
    timeout(DEADLINE, async {
        while let Some(event) = receiver.recv().await {
            match event {
                SourceEvent::Change(change) => apply(&mut snapshot, change),
                SourceEvent::Synced => return,
                SourceEvent::Problems(_) => {}
            }
        }
    })
    .await
    .expect("facts in time");
    source.abort();
    snapshot
}

type Facts = (BTreeMap<ObjectName, Service>, BTreeMap<ObjectName, EndpointSlice>, BTreeMap<Arc<str>, Node>);

/// A manifest has no version.
fn without_versions(snapshot: &Snapshot) -> Facts {
    let none: Arc<str> = "".into();
    let service = |s: &Service| Service { resource_version: none.clone(), ..s.clone() };
    let slice = |s: &EndpointSlice| EndpointSlice { resource_version: none.clone(), ..s.clone() };
    let node = |n: &Node| Node { resource_version: none.clone(), ..n.clone() };
    (
        snapshot.services.iter().map(|(name, fact)| (name.clone(), service(fact))).collect(),
        snapshot.endpoint_slices.iter().map(|(name, fact)| (name.clone(), slice(fact))).collect(),
        snapshot.nodes.iter().map(|(name, fact)| (name.clone(), node(fact))).collect(),
    )
}
