//! The manifests by which agents are deployed, as the chart renders them with its defaults.
use std::collections::BTreeSet;

use anyhow::{Context, Result};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api_server::Right;

/// The text of `deploy/podway.yaml`.
pub const MANIFESTS: &str = include_str!("../../deploy/podway.yaml");

/// The objects of a text of YAML documents, in its order; empty documents are none.
///
/// # Errors
/// It is not YAML.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    let documents = serde_yaml_ng::Deserializer::from_str(text);
    let values = documents.map(|document| Value::deserialize(document).context("not YAML"));
    values.filter(|value| !matches!(value, Ok(Value::Null))).collect()
}

/// The objects of a kind among others.
///
/// # Errors
/// One of them has no such form.
pub fn of_kind<T: DeserializeOwned>(objects: &[Value], kind: &str) -> Result<Vec<T>> {
    let found = objects.iter().filter(|object| object["kind"] == kind);
    found
        .map(|object| {
            serde_json::from_value(object.clone()).with_context(|| format!("not a {kind}: {object}"))
        })
        .collect()
}

/// What the manifests grant an agent.
///
/// # Errors
/// They cannot be read.
pub fn rights() -> Result<BTreeSet<Right>> {
    rights_of(&objects(MANIFESTS)?)
}

/// What the roles among these objects grant, each in its own reach; all of them are the agent's.
///
/// # Errors
/// A role cannot be read.
pub fn rights_of(objects: &[Value]) -> Result<BTreeSet<Right>> {
    let everywhere = of_kind::<ClusterRole>(objects, "ClusterRole")?;
    let mut rights: BTreeSet<Right> =
        everywhere.into_iter().flat_map(|role| granted(None, role.rules)).collect();
    for role in of_kind::<Role>(objects, "Role")? {
        rights.extend(granted(role.metadata.namespace.as_deref(), role.rules));
    }
    Ok(rights)
}

fn granted(namespace: Option<&str>, rules: Option<Vec<PolicyRule>>) -> Vec<Right> {
    let mut rights = Vec::new();
    for rule in rules.into_iter().flatten() {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                rights.extend(rule.verbs.iter().map(|verb| Right {
                    namespace: namespace.map(str::to_owned),
                    group: group.clone(),
                    resource: resource.clone(),
                    verb: verb.clone(),
                }));
            }
        }
    }
    rights
}
