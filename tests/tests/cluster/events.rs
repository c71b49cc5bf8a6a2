//! Events as they come to the API server.
use std::sync::Arc;

use lb_tests::api_server::{ApiServer, Fault, Resource};
use lb_userspace::events::{self, FaultyKind, Report, run};
use lb_userspace::model::{ObjectName, Protocol};
use lb_userspace::plan::{BackendServiceName, Condition};
use serde_json::Value;
use tokio::sync::mpsc;

fn report(condition: Condition) -> Report {
    let backend_service = BackendServiceName {
        service: ObjectName::new("shop", "web"),
        port_name: "http".into(),
        port: 80,
        protocol: Protocol::Tcp,
    };
    Report::Condition { backend_service: Arc::new(backend_service), uid: "0d4f".into(), condition }
}

fn fault(kind: FaultyKind, object: &str, message: &str) -> Report {
    let object = ObjectName::new("shop", object);
    let fault = events::Fault { kind, object, message: message.to_owned() };
    Report::Fault { fault, uid: "0d4f".into() }
}

/// Lets the agents of nodes write these, one agent after the other.
async fn write(server: &ApiServer, nodes: &[&str], conditions: &[Condition]) {
    let reports: Vec<Report> = conditions.iter().copied().map(report).collect();
    write_reports(server, nodes, &reports).await;
}

async fn write_reports(server: &ApiServer, nodes: &[&str], all: &[Report]) {
    for node in nodes {
        let (sender, reports) = mpsc::channel(8);
        for report in all {
            sender.send(report.clone()).await.expect("room");
        }
        drop(sender);
        let config = kube::Config::new(server.url().parse().expect("a URL"));
        run(config, (*node).to_owned(), reports).await.expect("a client");
    }
}

/// The values of a field of all Events.
fn field(server: &ApiServer, pointer: &str) -> Vec<Value> {
    let events = server.objects(Resource::Events);
    events.iter().map(|event| event.pointer(pointer).cloned().unwrap_or_default()).collect()
}

#[tokio::test]
async fn event_names_its_service_as_kubectl_describe_asks_for_it() {
    let server = ApiServer::start().await;
    write(&server, &["node-a"], &[Condition::Empty]).await;
    let regarding = serde_json::json!({
        "apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "uid": "0d4f",
    });
    assert_eq!(field(&server, "/regarding"), [regarding]);
    assert_eq!(field(&server, "/type"), ["Warning"]);
    assert_eq!(field(&server, "/reason"), ["NoEndpoints"]);
    let note = "backend service shop/web:http/TCP has no endpoint left; new flows are refused";
    assert_eq!(field(&server, "/note"), [note]);
    assert_eq!(field(&server, "/reportingInstance"), ["node-a"]);
}

#[tokio::test]
async fn agents_that_tell_the_same_write_one_object() {
    let server = ApiServer::start().await;
    write(&server, &["node-a", "node-b"], &[Condition::Panic]).await;
    assert_eq!(field(&server, "/reason"), ["EndpointsFail"]);
    assert_eq!(field(&server, "/series/count"), [Value::Null]);
}

#[tokio::test]
async fn what_one_agent_tells_again_is_counted_in_the_same_object() {
    let server = ApiServer::start().await;
    write(&server, &["node-a"], &[Condition::Empty, Condition::Well, Condition::Empty]).await;
    assert_eq!(field(&server, "/reason"), ["EndpointsWell", "NoEndpoints"]);
    assert_eq!(field(&server, "/series/count"), [Value::Null, Value::from(2)]);
}

#[tokio::test]
async fn an_event_that_the_server_refuses_is_lost_alone() {
    let server = ApiServer::start().await;
    server.fail_list(Resource::Events, Fault::Status(403, None));
    write(&server, &["node-a"], &[Condition::Empty, Condition::Well]).await;
    assert_eq!(field(&server, "/reason"), ["EndpointsWell"]);
}

#[tokio::test]
async fn faults_are_events_on_their_objects_of_each_kind() {
    let server = ApiServer::start().await;
    let message = "cannot do this with that: it is bad; correct it";
    let faults: Vec<Report> = FaultyKind::ALL.map(|kind| fault(kind, "web", message)).into();
    write_reports(&server, &["node-a", "node-b"], &faults).await;
    let mut found: Vec<String> = server
        .objects(Resource::Events)
        .iter()
        .map(|event| {
            let text =
                |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
            assert_eq!((text("/note"), text("/type")), (message.to_owned(), "Warning".to_owned()));
            assert_eq!(
                (text("/regarding/name"), text("/regarding/uid")),
                ("web".to_owned(), "0d4f".to_owned())
            );
            ["/regarding/apiVersion", "/regarding/kind", "/reason"].map(text).join(" ")
        })
        .collect();
    found.sort();
    assert_eq!(
        found,
        [
            "cloud.google.com/v1 BackendConfig BackendConfigFault",
            "networking.gke.io/v1beta1 FrontendConfig FrontendConfigFault",
            "networking.k8s.io/v1 Ingress IngressFault",
            "v1 Secret SecretFault",
            "v1 Service ServiceFault",
        ]
    );
}

#[tokio::test]
async fn an_event_has_a_name_and_a_note_that_an_api_server_takes() {
    let server = ApiServer::start().await;
    let long = format!("{}-{}", "a".repeat(199), "b".repeat(53));
    write_reports(&server, &["node-a"], &[fault(FaultyKind::Ingress, &long, &"ö".repeat(1_000))]).await;
    let name = field(&server, "/metadata/name")[0].as_str().expect("a name").to_owned();
    assert!(name.len() <= 253 && name.starts_with(&format!("{}.fault-", "a".repeat(199))), "{name}");
    assert_eq!(field(&server, "/note")[0].as_str().map(str::len), Some(1_024));
    assert_eq!(field(&server, "/regarding/name"), [long]);
}
