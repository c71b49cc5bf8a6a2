//! The same against a real kube-apiserver with etcd, from the folder that `KUBEBUILDER_ASSETS` names
//! (as `setup-envtest` fills it).
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use lb_tests::control_plane::{ControlPlane, Place};
use lb_tests::need;
use serde_json::{Value, json};

use crate::observer::{Observer, SERVICES, SLICES, Versions};

/// One on loopback, and a client to whom all is granted.
pub(crate) async fn control_plane(need: &need::Cluster) -> (ControlPlane, Client) {
    let mut plane = ControlPlane::start(need, Place::Loopback).expect("a control plane");
    let client = Client::try_from(plane.config()).expect("a client");
    plane.ready(&client).await.expect("the API server is ready");
    (plane, client)
}

/// Names and versions of the objects that a selector takes.
async fn versions<K>(client: &Client, selector: &str) -> Vec<(String, String)>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let list = Api::<K>::all(client.clone()).list(&ListParams::default().labels(selector)).await;
    let objects = list.expect("list objects").items;
    let named = objects.iter().map(|object| {
        let namespace = object.namespace().unwrap_or_default();
        (format!("{namespace}/{}", object.name_any()), object.resource_version().unwrap_or_default())
    });
    let mut versions: Vec<_> = named.collect();
    versions.sort();
    versions
}

/// Takes events until the facts are what a list of the server says.
async fn until_equal(observer: &mut Observer, client: &Client) {
    let services = versions::<Service>(client, SERVICES).await;
    let slices = versions::<EndpointSlice>(client, SLICES).await;
    let nodes = versions::<Node>(client, "").await;
    observer
        .until("facts equal the server's objects", |o| {
            let Versions { services: found_services, slices: found_slices, nodes: found_nodes, .. } =
                o.versions();
            o.synced == 1
                && found_services.into_iter().collect::<Vec<_>>() == services
                && found_slices.into_iter().collect::<Vec<_>>() == slices
                && found_nodes.iter().eq(nodes.iter().map(|(name, _)| name.trim_start_matches('/')))
        })
        .await;
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    let object: K = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("create an object");
}

#[tokio::test]
async fn real_api_server_gives_its_state_also_after_a_restart() {
    let Some(need) = need::cluster() else { return };
    let (mut plane, client) = control_plane(&need).await;
    let services = Api::<Service>::namespaced(client.clone(), "default");
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "default");
    let nodes = Api::<Node>::all(client.clone());
    for name in ["a", "b", "c", "d", "e"] {
        create(&services, json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}})).await;
        let labels = json!({"kubernetes.io/service-name": name});
        let endpoints = json!([{"addresses": ["198.51.100.200"], "conditions": {"ready": true}}]);
        create(
            &slices,
            json!({
                "metadata": {"name": name, "labels": labels},
                "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 8080}],
            }),
        )
        .await;
        create(&nodes, json!({"metadata": {"name": name}})).await;
    }
    let headless =
        json!({"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    create(&services, headless).await;
    let mut observer = Observer::with_config(plane.config());
    observer.until("six Services and the API server's own", |o| o.snapshot.services.len() == 7).await;
    observer.until("all Nodes", |o| o.synced == 1 && o.snapshot.nodes.len() == 5).await;

    services.delete("a", &DeleteParams::default()).await.expect("delete a Service");
    observer.until("one Service less", |o| o.snapshot.services.len() == 6).await;
    services.delete("headless", &DeleteParams::default()).await.expect("delete a Service");
    until_equal(&mut observer, &client).await;

    let gone_before = observer.gone.len();
    plane.kill_api_server();
    plane.start_api_server().expect("the same API server");
    plane.ready(&client).await.expect("the API server is ready again");
    create(&services, json!({"metadata": {"name": "f"}, "spec": {"ports": [{"port": 80}]}})).await;
    until_equal(&mut observer, &client).await;
    assert_eq!(observer.gone.len(), gone_before, "{:?}", observer.gone);
}
