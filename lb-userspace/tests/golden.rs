//! Manifests in, desired state and operations out. `golden/NAME.yaml` is what a user applies,
//! `golden/NAME.expected.yaml` what node-a makes of it from empty maps. With `PODWAY_UPDATE_GOLDEN=1`
//! the latter is written instead of compared; read the difference before it is committed.
use std::path::{Path, PathBuf};

use lb_userspace::diff::{self, Limits, Tables};
use lb_userspace::model::Problem;
use lb_userspace::plan::{self, Desired, NodeContext, ReadinessAlone};
use lb_userspace::source::files;
use serde::Serialize;

#[derive(Serialize)]
struct Outcome {
    desired: Desired,
    operations: Vec<String>,
    problems: Vec<String>,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn outcome(manifest: &Path) -> Outcome {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::copy(manifest, folder.path().join("manifest.yaml")).expect("the manifest is copied");
    let (snapshot, mut problems) = files::read_once(folder.path()).expect("the folder is read");
    let node = NodeContext::of_node(&snapshot.nodes["node-a"]);
    let desired = plan::plan(&snapshot, &node, &ReadinessAlone);
    let diff = diff::full(&desired, &Tables::new(Limits::default()), 0);
    problems.extend(desired.problems());
    problems.extend(diff.problems);
    Outcome {
        desired,
        operations: diff.ops.iter().map(ToString::to_string).collect(),
        problems: problems.iter().map(Problem::to_string).collect(),
    }
}

fn check(name: &str) {
    let text = serde_yaml_ng::to_string(&outcome(&golden(&format!("{name}.yaml")))).expect("YAML");
    let path = golden(&format!("{name}.expected.yaml"));
    if std::env::var_os("PODWAY_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("the expected outcome is written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == expected,
        "{name}: not as in {}. PODWAY_UPDATE_GOLDEN=1 writes it.\n{text}",
        path.display()
    );
}

#[test]
fn dual_stack_service_of_every_kind() {
    check("dual-stack");
}

#[test]
fn local_policy_with_endpoints_on_another_node() {
    check("local-policy");
}

#[test]
fn external_ip_of_two_services() {
    check("contended-vip");
}

#[test]
fn named_port_with_two_numbers_and_one_that_no_slice_has() {
    check("named-ports");
}

#[test]
fn ingress_to_nodes_in_place_of_pods() {
    check("node-negs");
}
