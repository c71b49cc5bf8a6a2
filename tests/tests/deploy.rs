//! What is in `deploy/`: the definitions and roles must agree with the agent.
use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionSpec, JSONSchemaProps,
};
use lb_tests::api_server::Resource;
use lb_tests::deployment;
use lb_userspace::source::files;
use serde::de::DeserializeOwned;
use serde_json::Value;

const CRD: &str = include_str!("../../deploy/chart/podway/crds/backendconfigs.cloud.google.com.yaml");
const FRONTEND_CONFIG_CRD: &str =
    include_str!("../../deploy/chart/podway/crds/frontendconfigs.networking.gke.io.yaml");
const POOL_CRD: &str = include_str!("../../deploy/chart/podway/crds/loadbalancerpools.podway.io.yaml");

fn definition() -> CustomResourceDefinition {
    serde_yaml_ng::from_str(CRD).expect("a definition")
}

/// The schema of a field, by its path from the object.
fn schema(path: &[&str]) -> JSONSchemaProps {
    let root = definition().spec.versions[0].schema.clone().expect("a schema");
    path.iter().fold(root.open_api_v3_schema.expect("a schema"), |schema, field| {
        schema
            .properties
            .and_then(|mut of| of.remove(*field))
            .unwrap_or_else(|| panic!("no {field} in {path:?}"))
    })
}

/// The problems of a BackendConfig with one field.
fn problems(path: &[&str], value: &Value) -> Vec<String> {
    let spec = path.iter().rev().fold(value.clone(), |value, field| serde_json::json!({ *field: value }));
    let mut object = serde_json::json!({
        "apiVersion": "cloud.google.com/v1", "kind": "BackendConfig", "metadata": {"name": "web"},
    });
    object["spec"] = spec["spec"].clone();
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("config.json"), object.to_string()).expect("write a manifest");
    let (snapshot, problems) = files::read_once(dir.path()).expect("read the folder");
    assert_eq!(snapshot.backend_configs.len(), 1);
    problems.into_iter().map(|problem| problem.message).collect()
}

#[test]
fn bounds_of_the_definition_are_those_of_the_agent() {
    let check = ["checkIntervalSec", "timeoutSec", "healthyThreshold", "unhealthyThreshold", "port"];
    let mut paths: Vec<Vec<&str>> = check.iter().map(|field| vec!["spec", "healthCheck", field]).collect();
    paths.push(vec!["spec", "connectionDraining", "drainingTimeoutSec"]);
    paths.push(vec!["spec", "sessionAffinity", "affinityCookieTtlSec"]);
    paths.push(vec!["spec", "timeoutSec"]);
    for path in paths {
        let schema = schema(&path);
        let (min, max) = (schema.minimum.expect("a minimum"), schema.maximum.expect("a maximum"));
        let refused = |number: f64| {
            let found = problems(&path, &Value::from(number as i64));
            found.iter().any(|problem| problem.contains("is not a whole number"))
        };
        let found = [min - 1.0, min, max, max + 1.0].map(refused);
        assert_eq!(found, [true, false, false, true], "{path:?}");
    }
}

#[test]
fn types_of_the_definition_are_those_of_the_agent() {
    let path = ["spec", "healthCheck", "type"];
    let types: Vec<Value> =
        schema(&path).enum_.expect("an enumeration").into_iter().map(|json| json.0).collect();
    assert_eq!(types, ["HTTP", "HTTPS", "HTTP2"]);
    for kind in types {
        assert_eq!(problems(&path, &kind), [""; 0]);
    }
}

#[test]
fn the_definitions_name_what_the_agent_watches() {
    let frontend_configs = serde_yaml_ng::from_str(FRONTEND_CONFIG_CRD).expect("a definition");
    let pools = serde_yaml_ng::from_str(POOL_CRD).expect("a definition");
    let watched = [
        (definition(), Resource::BackendConfigs),
        (frontend_configs, Resource::FrontendConfigs),
        (pools, Resource::LoadBalancerPools),
    ];
    for (definition, resource) in watched {
        let spec: CustomResourceDefinitionSpec = definition.spec;
        let version = &spec.versions[0];
        let path = format!("/apis/{}/{}/{}", spec.group, version.name, spec.names.plural);
        assert_eq!(path, resource.path());
        assert_eq!(format!("{}/{}", spec.group, version.name), resource.kind().0);
        assert_eq!(spec.names.kind, resource.kind().1);
    }
}

#[test]
fn the_redirects_of_the_definition_are_those_of_the_agent() {
    let definition: CustomResourceDefinition =
        serde_yaml_ng::from_str(FRONTEND_CONFIG_CRD).expect("a definition");
    let schema = definition.spec.versions[0].schema.clone().expect("a schema");
    let path = ["spec", "redirectToHttps", "responseCodeName"];
    let field = path.iter().fold(schema.open_api_v3_schema.expect("a schema"), |schema, field| {
        schema.properties.and_then(|mut of| of.remove(*field)).expect("the field")
    });
    let names: Vec<Value> = field.enum_.expect("an enumeration").into_iter().map(|json| json.0).collect();
    let codes = names.iter().map(|name| {
        let object = serde_json::json!({
            "apiVersion": "networking.gke.io/v1beta1", "kind": "FrontendConfig", "metadata": {"name": "web"},
            "spec": {"redirectToHttps": {"enabled": true, "responseCodeName": name}},
        });
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("config.json"), object.to_string()).expect("write a manifest");
        let (snapshot, problems) = files::read_once(dir.path()).expect("read the folder");
        assert_eq!(problems, []);
        snapshot.frontend_configs.values().next().and_then(|config| config.redirect_code)
    });
    assert_eq!(codes.collect::<Vec<_>>(), [301, 302, 303, 307, 308].map(Some));
}

#[test]
fn the_cluster_role_writes_what_is_written_and_nothing_else() {
    let role: ClusterRole = role("ClusterRole");
    let reads = ["list", "watch"];
    let writes = |verbs: &[String]| verbs.iter().any(|verb| !reads.contains(&verb.as_str()));
    let writing = role.rules.into_iter().flatten().filter(|rule| writes(&rule.verbs));
    let texts = writing.map(|rule| {
        let parts = [rule.api_groups, rule.resources, Some(rule.verbs)];
        parts.map(|part| part.unwrap_or_default().join(" ")).join("/")
    });
    let expected = [
        "networking.k8s.io/ingresses/status/patch",
        "events.k8s.io/events/create patch",
        "/pods/status/patch",
        "/services/patch",
        "/services/status/patch",
    ];
    assert_eq!(texts.collect::<Vec<_>>(), expected);
}

#[test]
fn leases_are_written_in_a_namespace_of_their_own() {
    let role: Role = role("Role");
    assert_eq!(role.metadata.namespace.as_deref(), Some("podway"));
    let rules = role.rules.unwrap_or_default();
    let [rule] = &rules[..] else { panic!("{rules:?}") };
    assert_eq!(rule.resources.as_deref(), Some(&["leases".to_owned()][..]));
    assert_eq!(rule.verbs, ["list", "watch", "create", "update", "patch", "delete"]);
}

/// The first object of a kind among the manifests.
fn role<T: DeserializeOwned>(kind: &str) -> T {
    let objects = deployment::objects(deployment::MANIFESTS).expect("YAML");
    deployment::of_kind(&objects, kind).expect("objects").remove(0)
}

#[test]
fn the_role_lets_the_agent_watch_every_kind() {
    let role: ClusterRole = role("ClusterRole");
    let mut verbs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for rule in role.rules.into_iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            verbs.entry(resource.clone()).or_default().extend(rule.verbs.clone());
        }
    }
    for resource in Resource::ALL.into_iter().chain([Resource::Pods]) {
        let plural = resource.path().rsplit('/').next().expect("a plural");
        let has = |verb: &str| verbs.get(plural).is_some_and(|verbs| verbs.iter().any(|given| given == verb));
        assert!(has("list") && has("watch"), "{plural}: {verbs:?}");
    }
}
