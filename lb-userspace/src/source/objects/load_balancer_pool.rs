//! A `LoadBalancerPool` as a fact.
use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::Deserialize;
use serde_json::Value;

use super::fields::Reader;
use super::{Converted, Faults, name_of};
use crate::model::{AddressRange, Change, LoadBalancerPool};
use crate::source::Interner;

/// Most entries of `spec.addresses`; further ones are left out.
const RANGES_MAX: usize = 64;

/// The object; `spec` stays open, so that one bad field spoils no other.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct LoadBalancerPoolObject {
    /// `metadata`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// `spec`.
    #[serde(default)]
    pub spec: Value,
}

impl kube::Resource for LoadBalancerPoolObject {
    type DynamicType = ();
    type Scope = kube::core::ClusterResourceScope;

    fn kind(&(): &()) -> Cow<'_, str> {
        "LoadBalancerPool".into()
    }

    fn group(&(): &()) -> Cow<'_, str> {
        "podway.io".into()
    }

    fn version(&(): &()) -> Cow<'_, str> {
        "v1alpha1".into()
    }

    fn plural(&(): &()) -> Cow<'_, str> {
        "loadbalancerpools".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The fact that a `LoadBalancerPool` stands for. A selector that cannot be read takes no object, rather than all.
#[must_use]
pub fn load_balancer_pool(object: &LoadBalancerPoolObject, _: &mut Interner) -> Converted {
    let name = name_of(&object.metadata);
    let mut faults = Faults::of("LoadBalancerPool", &name);
    let mut pool = LoadBalancerPool {
        name: name.name,
        resource_version: object.metadata.resource_version.as_deref().unwrap_or_default().into(),
        ranges: Vec::new(),
        service_selector: None,
        is_auto_assigned: true,
    };
    if let Some(mut reader) = Reader::of("spec", &object.spec, &mut faults) {
        pool.is_auto_assigned = reader.boolean("autoAssign").unwrap_or(true);
        pool.ranges = ranges(&mut reader);
        if let Some(value) = reader.take("serviceSelector") {
            match selector(&value) {
                Ok(text) => pool.service_selector = Some(text.into()),
                Err(reason) => {
                    reader.fault(
                        "serviceSelector",
                        &format!("{reason}; no object gets an address of the pool"),
                    );
                    pool.service_selector = Some(NOBODY.into());
                }
            }
        }
        reader.name_unknown();
    }
    faults.with(Change::LoadBalancerPool(pool))
}

/// A selector that nothing meets.
const NOBODY: &str = "podway.io/nobody,!podway.io/nobody";

fn ranges(reader: &mut Reader<'_>) -> Vec<AddressRange> {
    let value = reader.take("addresses").unwrap_or_default();
    let empty = Vec::new();
    let entries = value.as_array().unwrap_or(&empty);
    if entries.is_empty() {
        reader.fault("addresses", "has no range; give for instance [192.0.2.0/28, 192.0.2.32-192.0.2.40]");
    }
    if entries.len() > RANGES_MAX {
        reader.fault("addresses", &format!("has more than {RANGES_MAX} entries; the first of them hold"));
    }
    let mut ranges = Vec::new();
    for entry in entries.iter().take(RANGES_MAX) {
        match entry.as_str().unwrap_or_default().parse::<AddressRange>() {
            Ok(range) => ranges.push(range),
            Err(reason) => reader.fault("addresses", &format!("has an entry that is left out: {reason}")),
        }
    }
    ranges
}

/// A label selector of the API as kubectl writes one.
fn selector(value: &Value) -> Result<String, String> {
    let selector = LabelSelector::deserialize(value).map_err(|error| format!("cannot be read ({error})"))?;
    let mut terms: Vec<String> = Vec::new();
    terms.extend(selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}")));
    for expression in selector.match_expressions.iter().flatten() {
        let key = &expression.key;
        let values = expression.values.as_deref().unwrap_or_default().join(",");
        terms.push(match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            "DoesNotExist" => format!("!{key}"),
            other => return Err(format!("has the unknown operator {other:?}")),
        });
    }
    Ok(terms.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(spec: &str) -> (LoadBalancerPool, Vec<String>) {
        let yaml = format!("{{metadata: {{name: outside, resourceVersion: '3'}}, spec: {spec}}}");
        let object = serde_yaml_ng::from_str(&yaml).expect("test YAML");
        let converted = load_balancer_pool(&object, &mut Interner::default());
        let Change::LoadBalancerPool(pool) = converted.change else { panic!("{:?}", converted.change) };
        (pool, converted.problems.into_iter().map(|problem| problem.message).collect())
    }

    #[test]
    fn everything_that_a_pool_says_is_read() {
        let (pool, faults) = converted(
            "{addresses: [192.0.2.0/30, '2001:db8::1-2001:db8::9'], autoAssign: false, serviceSelector: {
               matchLabels: {app: web}, matchExpressions: [{key: tier, operator: In, values: [a, b]},
               {key: old, operator: DoesNotExist}]}}",
        );
        let ranges: Vec<_> = pool.ranges.iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["192.0.2.0-192.0.2.3", "2001:db8::1-2001:db8::9"]);
        assert_eq!(pool.service_selector.as_deref(), Some("app=web,tier in (a,b),!old"));
        assert_eq!((&*pool.name, &*pool.resource_version, pool.is_auto_assigned), ("outside", "3", false));
        assert_eq!(faults, [""; 0]);
    }

    #[test]
    fn a_bad_range_is_named_and_the_others_hold() {
        let (pool, faults) = converted("{addresses: [192.0.2.0/40, 192.0.2.9], colour: red}");
        assert_eq!(pool.ranges.len(), 1);
        assert!(pool.is_auto_assigned);
        assert_eq!(
            faults,
            [
                "spec.addresses has an entry that is left out: \"192.0.2.0/40\" is no range of addresses; write for \
                 instance 192.0.2.0/28 or 192.0.2.10-192.0.2.20",
                "spec.colour is unknown; the rest holds",
            ]
        );
    }

    #[test]
    fn a_selector_that_cannot_be_read_is_met_by_nobody() {
        let (pool, faults) = converted(
            "{addresses: [192.0.2.9], serviceSelector: {matchExpressions: [{key: a, operator: Gt}]}}",
        );
        assert_eq!(pool.service_selector.as_deref(), Some(NOBODY));
        assert_eq!(
            faults,
            ["spec.serviceSelector has the unknown operator \"Gt\"; no object gets an address of the pool"]
        );
    }
}
