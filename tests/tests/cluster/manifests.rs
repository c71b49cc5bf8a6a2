//! A release's manifests and chart as a real kube-apiserver takes them.
use std::path::Path;
use std::process::Command;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use lb_tests::control_plane::ControlPlane;
use lb_tests::need;
use serde_json::{Value, json};

use crate::real::control_plane;

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/podway.yaml");
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart/podway");

fn apply(plane: &ControlPlane, further: &[&str]) -> anyhow::Result<String> {
    plane.kubectl(&[&["apply", "--validate=strict", "-f"], further].concat())
}

#[tokio::test]
async fn real_api_server_takes_the_manifests_as_they_are_and_has_nothing_to_add() {
    let Some(need) = need::cluster() else { return };
    let (plane, client) = control_plane(&need).await;
    let taken = apply(&plane, &[MANIFESTS]).unwrap();
    assert!(taken.lines().all(|line| line.ends_with(" created")), "{taken}");
    assert_eq!(taken.lines().count(), 11, "{taken}");
    let again = apply(&plane, &[MANIFESTS]).unwrap();
    assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    the_daemon_set_makes_pods(&client).await;
}

/// What the controller of DaemonSets would make is a pod that the server lets in.
async fn the_daemon_set_makes_pods(client: &Client) {
    let daemon_sets = Api::<DaemonSet>::namespaced(client.clone(), "podway");
    let template = daemon_sets.get("podway").await.unwrap().spec.unwrap().template;
    let pod = json!({"metadata": {"name": "podway-1", "labels": template.metadata.unwrap().labels}, "spec": template.spec});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let pods = Api::<Pod>::namespaced(client.clone(), "podway");
    pods.create(&PostParams::default(), &pod).await.unwrap();
}

fn helm(program: &Path, plane: &ControlPlane, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).args(["--namespace", "podway", "--kubeconfig"]).arg(plane.administrator());
    let output = command.output().expect("run helm");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn helm_installs_the_chart_changes_its_values_and_removes_it() {
    let (Some(need), Some(program)) = (need::cluster(), need::helm()) else { return };
    let (plane, client) = control_plane(&need).await;
    let daemon_sets = Api::<DaemonSet>::namespaced(client.clone(), "podway");
    let arguments = |of: DaemonSet| -> Vec<String> {
        of.spec.unwrap().template.spec.unwrap().containers.remove(0).args.unwrap_or_default()
    };
    helm(&program, &plane, &["install", "podway", CHART, "--create-namespace"]);
    let installed = arguments(daemon_sets.get("podway").await.unwrap());
    assert!(installed.contains(&"--xdp-mode=auto".to_owned()), "{installed:?}");
    let values = [
        "uplinks=[\"eth0\"]",
        "xdpMode=\"generic\"",
        "socketHooks=false",
        "ingress.secretNamespaces=[\"default\"]",
        "loadBalancer.pools=[\"192.0.2.200-192.0.2.207\"]",
        "kubernetesApi.host=\"192.0.2.1\"",
        "metrics.listen=\"node\"",
        "seccomp.type=\"Localhost\"",
        "podAnnotations={\"a.example/b\":\"c\"}",
    ];
    let set = values.iter().flat_map(|value| ["--set-json", *value]);
    helm(&program, &plane, &["upgrade", "podway", CHART].into_iter().chain(set).collect::<Vec<_>>());
    let changed = arguments(daemon_sets.get("podway").await.unwrap());
    assert!(changed.contains(&"--xdp-mode=generic".to_owned()), "{changed:?}");
    helm(&program, &plane, &["uninstall", "podway"]);
    assert_eq!(daemon_sets.list(&ListParams::default()).await.unwrap().items, []);
    let accounts = Api::<ServiceAccount>::namespaced(client, "podway");
    assert_eq!(accounts.list(&ListParams::default()).await.unwrap().items, []);
}

/// An object of one of the definitions, in a file.
fn custom(dir: &Path, api_version: &str, kind: &str, spec: &Value) -> String {
    let object = json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": "given"}, "spec": spec,
    });
    let path = dir.join("object.json");
    std::fs::write(&path, object.to_string()).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn the_definitions_let_in_what_the_agent_reads_and_refuse_what_is_none() {
    let Some(need) = need::cluster() else { return };
    let (plane, _) = control_plane(&need).await;
    apply(&plane, &[MANIFESTS]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let backend = ("cloud.google.com/v1", "BackendConfig");
    let frontend = ("networking.gke.io/v1beta1", "FrontendConfig");
    let pool = ("podway.io/v1alpha1", "LoadBalancerPool");
    let check = |seconds: i64| {
        json!({
            "healthCheck": {"type": "HTTP", "requestPath": "/healthy", "checkIntervalSec": seconds},
            "sessionAffinity": {"affinityType": "GENERATED_COOKIE", "affinityCookieTtlSec": 50},
            "connectionDraining": {"drainingTimeoutSec": 60}, "timeoutSec": 40,
        })
    };
    let redirect = |name: &str| json!({"redirectToHttps": {"enabled": true, "responseCodeName": name}});
    let addresses = |text: &str| json!({"addresses": [text]});
    let cases = [
        (backend, check(5), None),
        (backend, check(0), Some("spec.healthCheck.checkIntervalSec")),
        (frontend, redirect("FOUND"), None),
        (frontend, redirect("MAYBE"), Some("spec.redirectToHttps.responseCodeName")),
        (pool, addresses("192.0.2.200-192.0.2.207"), None),
        (pool, json!({"addresses": 7}), Some("spec.addresses")),
    ];
    for ((api_version, kind), spec, refused_for) in cases {
        let file = custom(dir.path(), api_version, kind, &spec);
        let taken = apply(&plane, &[&file]);
        match refused_for {
            None => assert!(taken.is_ok(), "{taken:?}"),
            Some(field) => {
                let error = taken.expect_err(field).to_string();
                assert!(error.contains(field), "{error}");
            }
        }
    }
}
