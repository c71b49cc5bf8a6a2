//! An object as it is taken from the API: one that does not decode is an error of that object, not
//! of the list or the watch that carries it.
use std::borrow::Cow;
use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Annotations with these prefixes are kept; others can be large and say nothing about forwarding.
const ANNOTATION_PREFIXES: [&str; 7] = [
    "podway.io/",
    "cloud.google.com/",
    "beta.cloud.google.com/",
    "ingress.gcp.kubernetes.io/",
    "networking.gke.io/",
    "kubernetes.io/ingress.",
    "ingressclass.kubernetes.io/",
];

/// An object of kind `K`, or its identity and the reason why it does not decode.
#[derive(Clone, Debug)]
pub(super) struct Lenient<K> {
    meta: ObjectMeta,
    /// The object without its metadata, which is in `meta`.
    decoded: Result<K, String>,
}

/// What can be said of an object that does not decode.
#[derive(Debug)]
pub(super) struct Undecodable {
    /// Namespace, name and version alone.
    pub(super) meta: ObjectMeta,
    pub(super) reason: String,
}

impl<K: Resource> Lenient<K> {
    /// The whole object.
    pub(super) fn into_object(self) -> Result<K, Box<Undecodable>> {
        match self.decoded {
            Ok(mut object) => {
                *object.meta_mut() = self.meta;
                Ok(object)
            }
            Err(reason) => Err(Box::new(Undecodable { meta: self.meta, reason })),
        }
    }
}

/// Goes by way of a [`Value`], since the deserializers that lists and watch events use cannot go on
/// after an error inside an object. One object's value lives at a time.
impl<'de, K: Resource + DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        drop_ballast(&mut value);
        match K::deserialize(&value) {
            Ok(mut object) => Ok(Self { meta: std::mem::take(object.meta_mut()), decoded: Ok(object) }),
            Err(error) => {
                let meta = identity(&value);
                if meta.name.is_none() {
                    return Err(D::Error::custom(format!("object without a name: {error}")));
                }
                Ok(Self { meta, decoded: Err(error.to_string()) })
            }
        }
    }
}

/// Removes what is often the larger part of an object before it is decoded.
fn drop_ballast(value: &mut Value) {
    let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    metadata.remove("managedFields");
    metadata.remove("ownerReferences");
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|name, _| ANNOTATION_PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        // The images that a Node holds are the most of it. Of its conditions one says whether it is ready; a fact has no heartbeat.
        let is_kept = |field: &str| matches!(field, "addresses" | "loadBalancer" | "podIPs" | "conditions");
        status.retain(|field, _| is_kept(field));
    }
}

fn identity(value: &Value) -> ObjectMeta {
    let text = |field: &str| value.get("metadata")?.get(field)?.as_str().map(str::to_owned);
    ObjectMeta {
        namespace: text("namespace"),
        name: text("name"),
        resource_version: text("resourceVersion"),
        ..ObjectMeta::default()
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Lenient<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(dt: &()) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &()) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &()) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &()) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Node, Service};
    use serde_json::json;

    #[test]
    fn object_loses_its_ballast_and_nothing_else() {
        let object: Lenient<Service> = serde_json::from_value(json!({
            "metadata": {
                "namespace": "shop", "name": "web", "resourceVersion": "7",
                "managedFields": [{"manager": "x", "operation": "Update"}],
                "annotations": {
                    "podway.io/health-check": "tcp",
                    "cloud.google.com/backend-config": "{}",
                    "example.net/large": "…",
                },
                "fieldOfTheFuture": 1,
            },
            "spec": {"clusterIP": "192.0.2.1", "fieldOfTheFuture": {"a": []}},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}]}},
        }))
        .expect("decodes");
        let object = object.into_object().expect("is whole");
        assert_eq!(object.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(object.metadata.managed_fields, None);
        let annotations = object.metadata.annotations.expect("has annotations");
        assert_eq!(
            annotations.keys().collect::<Vec<_>>(),
            ["cloud.google.com/backend-config", "podway.io/health-check"]
        );
        assert_eq!(object.spec.expect("has a spec").cluster_ip.as_deref(), Some("192.0.2.1"));
        assert!(object.status.expect("has a status").load_balancer.is_some());
    }

    #[test]
    fn an_ingress_keeps_what_is_said_of_it() {
        let kept = [
            "ingress.gcp.kubernetes.io/pre-shared-cert",
            "ingressclass.kubernetes.io/is-default-class",
            "kubernetes.io/ingress.class",
            "networking.gke.io/v1beta1.FrontendConfig",
            "podway.io/vips",
        ];
        let mut annotations: serde_json::Map<String, Value> =
            kept.iter().map(|name| ((*name).to_owned(), json!("a"))).collect();
        annotations.insert("kubectl.kubernetes.io/last-applied-configuration".to_owned(), json!("{}"));
        let object: Lenient<k8s_openapi::api::networking::v1::Ingress> = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "web", "annotations": annotations},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}},
        }))
        .expect("decodes");
        let object = object.into_object().expect("is whole");
        let annotations = object.metadata.annotations.expect("has annotations");
        assert_eq!(annotations.keys().collect::<Vec<_>>(), kept.each_ref());
        assert!(object.status.expect("has a status").load_balancer.is_some());
    }

    #[test]
    fn node_keeps_its_addresses_and_conditions_of_its_status() {
        let object: Lenient<Node> = serde_json::from_value(json!({
            "metadata": {"name": "node-a", "resourceVersion": "7"},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}],
                "images": [{"names": ["registry.example.net/a"], "sizeBytes": 1}],
            },
        }))
        .expect("decodes");
        let status = object.into_object().expect("is whole").status.expect("has a status");
        assert_eq!(status.addresses.expect("has addresses").len(), 1);
        assert_eq!(status.conditions.expect("has conditions")[0].status, "True");
        assert_eq!(status.images, None);
    }

    #[test]
    fn object_that_does_not_decode_keeps_its_identity() {
        let object: Lenient<Service> = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "web", "resourceVersion": "7"},
            "spec": {"ports": [{"port": "eighty"}]},
        }))
        .expect("is an object");
        assert_eq!(object.meta().resource_version.as_deref(), Some("7"));
        let undecodable = object.into_object().expect_err("has a bad port");
        let meta = undecodable.meta;
        assert_eq!((meta.namespace.as_deref(), meta.name.as_deref()), (Some("shop"), Some("web")));
        assert_eq!(undecodable.reason, "invalid type: string \"eighty\", expected i32");
    }
}
