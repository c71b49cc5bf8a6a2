//! Conditions of pods as they come to the API server, and pods as they come from it.
use std::sync::Arc;

use lb_tests::api_server::{ApiServer, Fault, Resource};
use lb_userspace::gates::{GateReason, Met, run};
use lb_userspace::model::{GatedPod, ObjectName, ReadinessGate};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::observer::Observer;

fn pod(name: &str, node: &str, gates: &[&str]) -> Value {
    let gates: Vec<Value> = gates.iter().map(|gate| json!({"conditionType": gate})).collect();
    json!({
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}")},
        "spec": {"nodeName": node, "containers": [], "readinessGates": gates},
        "status": {
            "podIPs": [{"ip": "192.0.2.9"}],
            "conditions": [{"type": "ContainersReady", "status": "True"}],
        },
    })
}

fn met(uid: &str, gates: &[ReadinessGate]) -> Met {
    let pod = GatedPod {
        name: ObjectName::new("shop", "web-1"),
        uid: uid.into(),
        addresses: vec![],
        unmet: gates.into(),
    };
    Met { pod: Arc::new(pod), gates: gates.into(), reason: GateReason::Programmed }
}

async fn write(server: &ApiServer, all: &[Met]) {
    let (sender, receiver) = mpsc::channel(8);
    for met in all {
        sender.send(met.clone()).await.expect("room");
    }
    drop(sender);
    run(kube::Config::new(server.url().parse().expect("a URL")), receiver).await.expect("a client");
}

/// Types of the pod's conditions, with their status and reason.
fn conditions(server: &ApiServer) -> Vec<[Value; 3]> {
    let pods = server.objects(Resource::Pods);
    let conditions = pods[0]["status"]["conditions"].as_array().expect("conditions");
    conditions.iter().map(|c| ["type", "status", "reason"].map(|field| c[field].clone())).collect()
}

#[tokio::test]
async fn met_gate_is_a_condition_beside_the_others() {
    let server = ApiServer::start().await;
    server.put(Resource::Pods, pod("web-1", "node-a", &["podway.io/programmed"]));
    write(&server, &[met("uid-web-1", &ReadinessGate::ALL)]).await;
    let expected = [
        ["ContainersReady", "True", ""],
        ["podway.io/programmed", "True", "Programmed"],
        ["cloud.google.com/load-balancer-neg-ready", "True", "Programmed"],
    ];
    let expected =
        expected.map(|texts| texts.map(|text| if text.is_empty() { Value::Null } else { text.into() }));
    assert_eq!(conditions(&server), expected);
}

#[tokio::test]
async fn successor_of_a_pod_does_not_get_its_condition() {
    let server = ApiServer::start().await;
    server.put(Resource::Pods, pod("web-1", "node-a", &["podway.io/programmed"]));
    write(&server, &[met("uid-of-another", &ReadinessGate::ALL)]).await;
    assert_eq!(conditions(&server).len(), 1);
}

#[tokio::test]
async fn condition_that_the_server_refuses_is_lost_alone() {
    let server = ApiServer::start().await;
    server.put(Resource::Pods, pod("web-1", "node-a", &["podway.io/programmed"]));
    server.fail_list(Resource::Pods, Fault::Status(500, None));
    let [first, second] = ReadinessGate::ALL.map(|gate| met("uid-web-1", &[gate]));
    write(&server, &[first, second]).await;
    assert_eq!(conditions(&server)[1][0], "cloud.google.com/load-balancer-neg-ready");
}

#[tokio::test]
async fn pods_of_the_node_that_wait_are_facts() {
    let server = ApiServer::start().await;
    server.put(Resource::Pods, pod("web-1", "node-a", &["podway.io/programmed"]));
    server.put(Resource::Pods, pod("web-2", "node-a", &["example.net/other"]));
    server.put(Resource::Pods, pod("web-3", "node-b", &["podway.io/programmed"]));
    let mut observer = Observer::of_node(&server.url(), "node-a");
    let names = |o: &Observer| o.snapshot.gated_pods.keys().map(ToString::to_string).collect::<Vec<_>>();
    observer.until("the facts", |o| o.synced == 1).await;
    assert_eq!(names(&observer), ["shop/web-1"]);
    write(&server, &[met("uid-web-1", &[ReadinessGate::Programmed])]).await;
    observer.until("no pod waits", |o| o.snapshot.gated_pods.is_empty()).await;
}

#[tokio::test]
async fn server_that_shows_no_pods_is_no_reason_to_wait() {
    let server = ApiServer::start().await;
    // Asked again after 20 ms, it goes on refusing for longer than the facts may take.
    for _ in 0..5_000 {
        server.fail_watch(Resource::Pods, Fault::Status(403, None));
    }
    let mut observer = Observer::of_node(&server.url(), "node-a");
    observer.until("the facts", |o| o.synced == 1).await;
}
