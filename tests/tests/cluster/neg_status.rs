//! NEG statuses as they come to the API server.
use lb_tests::api_server::{ApiServer, Resource};
use lb_userspace::model::ObjectName;
use lb_userspace::neg_status::{Correction, run};
use serde_json::{Value, json};
use tokio::sync::mpsc;

async fn write(server: &ApiServer, text: Option<&str>) -> Value {
    let (sender, receiver) = mpsc::channel(8);
    let service = ObjectName::new("shop", "web");
    sender.send(Correction { service, text: text.map(str::to_owned) }).await.expect("room");
    drop(sender);
    run(kube::Config::new(server.url().parse().expect("a URL")), receiver).await.expect("a client");
    server.objects(Resource::Services)[0]["metadata"]["annotations"].clone()
}

#[tokio::test]
async fn status_stands_beside_other_annotations_and_goes_alone() {
    let server = ApiServer::start().await;
    let annotations = json!({"cloud.google.com/neg": "{\"ingress\":true}"});
    server.put(
        Resource::Services,
        json!({
            "metadata": {"namespace": "shop", "name": "web", "annotations": annotations},
            "spec": {"clusterIP": "192.0.2.1", "ports": [{"port": 80}]},
        }),
    );
    let written = json!({
        "cloud.google.com/neg": "{\"ingress\":true}",
        "cloud.google.com/neg-status": "{}",
        "podway.io/neg-status": "agent",
    });
    assert_eq!(write(&server, Some("{}")).await, written);
    assert_eq!(write(&server, None).await, annotations);
}
