//! A `FrontendConfig` as a fact. What a field means is as in GKE (ingress-gce, `pkg/apis/frontendconfig/v1beta1`).
use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::fields::{Reader, part};
use super::tls_policy::MIN_TLS_VERSION;
use super::{Converted, Faults, name_of, tls_policy, uid_of};
use crate::model::{Change, FrontendConfig};
use crate::source::Interner;

/// `responseCodeName` and the code that it stands for; the first holds without one.
const REDIRECT_CODES: [(&str, u16); 5] = [
    ("MOVED_PERMANENTLY_DEFAULT", 301),
    ("FOUND", 302),
    ("SEE_OTHER", 303),
    ("TEMPORARY_REDIRECT", 307),
    ("PERMANENT_REDIRECT", 308),
];

/// `sslPolicy`: the profiles of Google Cloud ("SSL policies overview"). All come to what is served: TLS 1.2 with forward
/// secrecy and authenticated encryption, which is what RESTRICTED allows, and TLS 1.3.
const PROFILES: [&str; 3] = ["COMPATIBLE", "MODERN", "RESTRICTED"];

/// The object; `spec` stays open, so that one bad field spoils no other.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct FrontendConfigObject {
    /// `metadata`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// `spec`.
    #[serde(default)]
    pub spec: Value,
}

impl kube::Resource for FrontendConfigObject {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind(&(): &()) -> Cow<'_, str> {
        "FrontendConfig".into()
    }

    fn group(&(): &()) -> Cow<'_, str> {
        "networking.gke.io".into()
    }

    fn version(&(): &()) -> Cow<'_, str> {
        "v1beta1".into()
    }

    fn plural(&(): &()) -> Cow<'_, str> {
        "frontendconfigs".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The fact that a `FrontendConfig` stands for.
#[must_use]
pub fn frontend_config(object: &FrontendConfigObject, _: &mut Interner) -> Converted {
    let name = name_of(&object.metadata);
    let mut faults = Faults::of("FrontendConfig", &name);
    let mut redirect_code = None;
    for (field, value) in part("spec", &object.spec, &mut faults).into_iter().flatten() {
        match field.as_str() {
            _ if value.is_null() => {}
            "redirectToHttps" => redirect_code = redirect(value, &mut faults),
            "sslPolicy" if value.as_str().is_some_and(|name| PROFILES.contains(&name)) => {}
            "sslPolicy" => faults.add(format!(
                "spec.sslPolicy {value} is not followed: it is none of {}, and policies of Google Cloud are not read; TLS \
                 1.2 and 1.3 are served; the annotation {MIN_TLS_VERSION} sets the least version",
                PROFILES.join(", ")
            )),
            other => faults.add(format!("spec.{other} is unknown; the rest holds")),
        }
    }
    let resource_version = object.metadata.resource_version.as_deref().unwrap_or_default().into();
    let min_tls_version = tls_policy::min_tls_version(&object.metadata, &mut faults);
    let uid = uid_of(&object.metadata);
    let config = FrontendConfig { name, resource_version, uid, redirect_code, min_tls_version };
    faults.with(Change::FrontendConfig(config))
}

fn redirect(value: &Value, faults: &mut Faults) -> Option<u16> {
    let mut reader = Reader::of("spec.redirectToHttps", value, faults)?;
    let is_enabled = reader.boolean("enabled").unwrap_or(false);
    let name = reader.take("responseCodeName");
    let name = name.as_ref().map(|name| name.as_str().unwrap_or_default()).filter(|name| !name.is_empty());
    let (default_name, default_code) = REDIRECT_CODES[0];
    let known = REDIRECT_CODES.iter().find(|(known, _)| *known == name.unwrap_or(default_name));
    if known.is_none() {
        let names = REDIRECT_CODES.map(|(name, _)| name).join(", ");
        let what =
            format!("{name:?} is none of {names}; {default_name} is used", name = name.unwrap_or_default());
        reader.fault("responseCodeName", &what);
    }
    reader.name_unknown();
    is_enabled.then(|| known.map_or(default_code, |(_, code)| *code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(spec: &str) -> (Option<u16>, Vec<String>) {
        let yaml =
            format!("{{metadata: {{namespace: shop, name: web, resourceVersion: '3'}}, spec: {spec}}}");
        let object = serde_yaml_ng::from_str(&yaml).expect("test YAML");
        let converted = frontend_config(&object, &mut Interner::default());
        let Change::FrontendConfig(config) = converted.change else { panic!("{:?}", converted.change) };
        assert_eq!((config.name.to_string(), &*config.resource_version), ("shop/web".to_owned(), "3"));
        (config.redirect_code, converted.problems.into_iter().map(|problem| problem.message).collect())
    }

    #[test]
    fn a_redirect_is_on_only_where_it_is_enabled_and_permanent_unless_named() {
        let of = |text: &str| converted(&format!("{{redirectToHttps: {text}}}"));
        assert_eq!(of("{enabled: true}"), (Some(301), vec![]));
        assert_eq!(of("{enabled: false, responseCodeName: FOUND}"), (None, vec![]));
        assert_eq!(of("{responseCodeName: FOUND}"), (None, vec![]));
        let codes =
            ["MOVED_PERMANENTLY_DEFAULT", "FOUND", "SEE_OTHER", "TEMPORARY_REDIRECT", "PERMANENT_REDIRECT"]
                .map(|name| of(&format!("{{enabled: true, responseCodeName: {name}}}")).0);
        assert_eq!(codes, [301, 302, 303, 307, 308].map(Some));
        assert_eq!(converted("null"), (None, vec![]));
    }

    #[test]
    fn the_profiles_of_ssl_policies_are_known_and_the_least_version_is_an_annotation() {
        for profile in ["COMPATIBLE", "MODERN", "RESTRICTED"] {
            assert_eq!(converted(&format!("{{sslPolicy: {profile}}}")), (None, vec![]), "{profile}");
        }
        let yaml =
            "{metadata: {namespace: shop, name: web, annotations: {podway.io/min-tls-version: '1.3'}}}";
        let object = serde_yaml_ng::from_str(yaml).expect("test YAML");
        let Change::FrontendConfig(config) = frontend_config(&object, &mut Interner::default()).change else {
            panic!("no FrontendConfig")
        };
        assert_eq!(config.min_tls_version, Some(crate::model::TlsVersion::V1_3));
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        let spec = "{redirectToHttps: {enabled: true, responseCodeName: GONE}, sslPolicy: modern, other: 1}";
        let expected = [
            "spec.other is unknown; the rest holds",
            "spec.redirectToHttps.responseCodeName \"GONE\" is none of MOVED_PERMANENTLY_DEFAULT, FOUND, SEE_OTHER, \
             TEMPORARY_REDIRECT, PERMANENT_REDIRECT; MOVED_PERMANENTLY_DEFAULT is used",
            "spec.sslPolicy \"modern\" is not followed: it is none of COMPATIBLE, MODERN, RESTRICTED, and policies of \
             Google Cloud are not read; TLS 1.2 and 1.3 are served; the annotation podway.io/min-tls-version sets the \
             least version",
        ];
        assert_eq!(converted(spec), (Some(301), expected.map(str::to_owned).into()));
        assert_eq!(converted("7"), (None, vec!["spec is not an object; nothing of it holds".to_owned()]));
    }
}
