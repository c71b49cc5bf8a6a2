//! What kube-proxy asks an API server beside lists and watches of all: one Node by its name.
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use lb_tests::api_server::ApiServer;

use crate::observer::server;

fn nodes(server: &ApiServer) -> Api<Node> {
    let config = kube::Config::new(server.url().parse().expect("a URL"));
    Api::all(config.try_into().expect("a client"))
}

#[tokio::test]
async fn a_node_is_read_by_its_name() {
    let server = server().await;
    let node = nodes(&server).get("b").await.unwrap();
    assert_eq!(node.metadata.name.as_deref(), Some("b"));
}

#[tokio::test]
async fn a_field_selector_takes_the_node_of_that_name_alone() {
    let server = server().await;
    let list = nodes(&server).list(&ListParams::default().fields("metadata.name=b")).await.unwrap();
    let names: Vec<_> = list.items.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
    assert_eq!(names, ["b"]);
}
