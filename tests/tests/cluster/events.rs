//! Events as they come to the API server.
use std::sync::Arc;

use lb_tests::api_server::{ApiServer, Fault, Resource};
use lb_userspace::events::{Report, run};
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
    Report { backend_service: Arc::new(backend_service), uid: "0d4f".into(), condition }
}

/// Lets the agents of nodes write these, one agent after the other.
async fn write(server: &ApiServer, nodes: &[&str], conditions: &[Condition]) {
    for node in nodes {
        let (sender, reports) = mpsc::channel(8);
        for condition in conditions {
            sender.send(report(*condition)).await.expect("room");
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
