//! A `BackendConfig` as a fact, and which ones a Service names. What a field means, and what holds without
//! it, is as in GKE for container-native load balancing (ingress-gce, `pkg/apis/backendconfig/v1` and
//! `pkg/healthchecks`); the bounds are those of Google's health checks.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use http::uri::PathAndQuery;
use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::fields::{Reader, Setting, part};
use super::{Converted, Faults, http_policy, name_of, uid_of};
use crate::model::{
    BackendConfig, BackendConfigNames, Change, CheckKind, DrainContract, HealthCheck, HttpPolicy,
    HttpTransport,
};
use crate::source::Interner;

/// On a Service: `{"default": NAME, "ports": {PORT-NAME-OR-NUMBER: NAME}}`. The first that is there counts.
const ANNOTATIONS: [&str; 2] = ["cloud.google.com/backend-config", "beta.cloud.google.com/backend-config"];

/// Fields of `spec` that mean something in GKE and nothing here.
const NOT_SERVED: [&str; 3] = ["cdn", "iap", "securityPolicy"];

/// Longest `requestPath`, bytes.
const PATH_BYTES_MAX: usize = 1_024;

const CHECK_INTERVAL_S: Setting = Setting { field: "checkIntervalSec", min: 1, max: 300, default: 15 };
const TIMEOUT_S: Setting = Setting { field: "timeoutSec", min: 1, max: 300, default: 15 };
const HEALTHY_THRESHOLD: Setting = Setting { field: "healthyThreshold", min: 1, max: 10, default: 1 };
const UNHEALTHY_THRESHOLD: Setting = Setting { field: "unhealthyThreshold", min: 1, max: 10, default: 2 };
const PORT: Setting = Setting { field: "port", min: 1, max: 65_535, default: 0 };
const DRAINING_TIMEOUT_S: Setting = Setting { field: "drainingTimeoutSec", min: 0, max: 3_600, default: 0 };

/// Success is one code (Google's health checks by HTTP).
const EXPECTED_CODES: [(u16, u16); 1] = [(200, 200)];

/// The object; `spec` stays open, so that one bad field spoils no other.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct BackendConfigObject {
    /// `metadata`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// `spec`.
    #[serde(default)]
    pub spec: Value,
}

impl kube::Resource for BackendConfigObject {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind(&(): &()) -> Cow<'_, str> {
        "BackendConfig".into()
    }

    fn group(&(): &()) -> Cow<'_, str> {
        "cloud.google.com".into()
    }

    fn version(&(): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(&(): &()) -> Cow<'_, str> {
        "backendconfigs".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The fact that a `BackendConfig` stands for.
#[must_use]
pub fn backend_config(object: &BackendConfigObject, _: &mut Interner) -> Converted {
    let name = name_of(&object.metadata);
    let mut faults = Faults::of("BackendConfig", &name);
    let (mut health_check, mut drain) = (None, None);
    let mut http = HttpPolicy::default();
    for (field, value) in part("spec", &object.spec, &mut faults).into_iter().flatten() {
        match field.as_str() {
            _ if value.is_null() => {}
            "healthCheck" => health_check = self::health_check(value, &mut faults).map(Arc::new),
            "connectionDraining" => drain = self::drain(value, &mut faults),
            other if http_policy::read(&mut http, other, value, &mut faults) => {}
            other if NOT_SERVED.contains(&other) => {
                faults.add(format!("spec.{other} is not served; the rest holds"));
            }
            other => faults.add(format!("spec.{other} is unknown; the rest holds")),
        }
    }
    let resource_version = object.metadata.resource_version.as_deref().unwrap_or_default().into();
    let (http, uid) = (Arc::new(http), uid_of(&object.metadata));
    faults.with(Change::BackendConfig(BackendConfig {
        name,
        resource_version,
        uid,
        health_check,
        drain,
        http,
    }))
}

fn health_check(value: &Value, faults: &mut Faults) -> Option<HealthCheck> {
    let mut reader = Reader::of("spec.healthCheck", value, faults)?;
    let transport = reader.transport();
    let path = reader.path();
    let port = reader.number(&PORT).and_then(|port| u16::try_from(port).ok());
    let interval_s = reader.number_or_default(&CHECK_INTERVAL_S);
    let check = HealthCheck {
        kind: CheckKind::Http { transport, path, host: None, expected_codes: EXPECTED_CODES.into() },
        port,
        interval_ms: interval_s * 1_000,
        timeout_ms: reader.timeout_s(interval_s) * 1_000,
        healthy_threshold: reader.number_or_default(&HEALTHY_THRESHOLD),
        unhealthy_threshold: reader.number_or_default(&UNHEALTHY_THRESHOLD),
    };
    reader.name_unknown();
    Some(check)
}

fn drain(value: &Value, faults: &mut Faults) -> Option<DrainContract> {
    let mut reader = Reader::of("spec.connectionDraining", value, faults)?;
    // `omitempty` in Go: a zero that was given may be written as nothing.
    let is_given = reader.has(DRAINING_TIMEOUT_S.field);
    let deadline_s = match reader.number(&DRAINING_TIMEOUT_S) {
        None if is_given => None,
        seconds => Some(seconds.unwrap_or(DRAINING_TIMEOUT_S.default)),
    };
    reader.name_unknown();
    deadline_s.map(|deadline_s| DrainContract { deadline_s })
}

impl Reader<'_> {
    /// Google's API takes none that is longer than the interval.
    fn timeout_s(&mut self, interval_s: u32) -> u32 {
        let Some(timeout_s) = self.number(&TIMEOUT_S) else { return TIMEOUT_S.default.min(interval_s) };
        if timeout_s > interval_s {
            let what = format!("{timeout_s} is longer than the interval; {interval_s} is used");
            self.fault(TIMEOUT_S.field, &what);
        }
        timeout_s.min(interval_s)
    }

    fn transport(&mut self) -> HttpTransport {
        let Some(value) = self.take("type") else { return HttpTransport::Http1 };
        match value.as_str() {
            Some("HTTP") => HttpTransport::Http1,
            Some("HTTPS") => HttpTransport::Https,
            Some("HTTP2") => HttpTransport::Http2,
            _ => {
                self.fault("type", &format!("{value} is not HTTP, HTTPS or HTTP2; HTTP is used"));
                HttpTransport::Http1
            }
        }
    }

    fn path(&mut self) -> Arc<str> {
        let Some(value) = self.take("requestPath") else { return "/".into() };
        let is_path = |text: &&str| {
            text.len() <= PATH_BYTES_MAX && text.starts_with('/') && text.parse::<PathAndQuery>().is_ok()
        };
        if let Some(path) = value.as_str().filter(is_path) {
            return path.into();
        }
        let what = format!(
            "{value} is not a path of up to {PATH_BYTES_MAX} bytes that begins with a slash; / is used"
        );
        self.fault("requestPath", &what);
        "/".into()
    }
}

/// The BackendConfigs that a Service's annotation names.
pub(super) fn names(meta: &ObjectMeta, spec: &ServiceSpec, faults: &mut Faults) -> BackendConfigNames {
    let annotations = meta.annotations.as_ref();
    let given = ANNOTATIONS.iter().find_map(|name| Some((*name, annotations?.get(*name)?)));
    let Some((annotation, text)) = given else { return BackendConfigNames::default() };
    let Ok(Value::Object(fields)) = serde_json::from_str(text) else {
        faults.add(format!(
            "annotation {annotation} {text:?} is no JSON object; write for instance {{\"default\": \"NAME\"}}; it \
             is left out"
        ));
        return BackendConfigNames::default();
    };
    let mut names = BackendConfigNames::default();
    for (field, value) in &fields {
        match (field.as_str(), value) {
            ("default", Value::String(name)) if !name.is_empty() => names.default = Some(name.as_str().into()),
            ("ports", Value::Object(ports)) => names.ports = of_ports(annotation, ports, spec, faults),
            _ => faults.add(format!(
                "annotation {annotation}: {field:?} is not \"default\" with a name, or \"ports\" with a name for \
                 each; it is left out"
            )),
        }
    }
    names
}

fn of_ports(
    annotation: &str,
    ports: &Map<String, Value>,
    spec: &ServiceSpec,
    faults: &mut Faults,
) -> BTreeMap<Arc<str>, Arc<str>> {
    let has_port = |key: &str| {
        let mut ports = spec.ports.iter().flatten();
        ports.any(|port| port.name.as_deref().unwrap_or_default() == key || port.port.to_string() == key)
    };
    let mut names = BTreeMap::new();
    for (key, value) in ports {
        match value.as_str().filter(|name| !name.is_empty()) {
            Some(name) if !key.is_empty() && has_port(key) => {
                names.insert(key.as_str().into(), name.into());
            }
            Some(_) => faults.add(format!(
                "annotation {annotation}: the Service has no port {key:?}; write a port's name or number"
            )),
            None => faults.add(format!("annotation {annotation}: port {key:?} has no name; it is left out")),
        }
    }
    names
}

#[cfg(test)]
#[path = "backend_config_tests.rs"]
mod tests;
