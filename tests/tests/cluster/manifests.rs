//! The manifests of a release as a real kube-apiserver takes them.
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use lb_tests::deployment::{MANIFESTS, objects};
use lb_tests::need::{self, Cluster};

use crate::real::ControlPlane;

#[tokio::test]
async fn real_api_server_takes_every_object_of_the_manifests_as_it_is() {
    let Some(Cluster { assets }) = need::cluster() else { return };
    let plane = ControlPlane::start(assets).await;
    let client = plane.client();
    for object in objects(MANIFESTS).expect("YAML") {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let api = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        // Strict: a field that the kind has not is refused.
        let params = PatchParams::apply("podway").validation_strict();
        let name = text(&object["metadata"]["name"]);
        let taken = api.patch(&name, &params, &Patch::Apply(&object)).await;
        assert!(taken.is_ok(), "{kind} {name}: {taken:?}");
    }
}
