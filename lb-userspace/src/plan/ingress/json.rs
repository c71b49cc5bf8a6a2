//! How URL maps are written: JSON with stable names, which scripts and tests read.
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use crate::l7::{HostRule, PathPattern};

use super::{PlainHttp, Target, TlsDemandText, UrlMapPlan};

/// A URL map.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UrlMapText {
    /// Its name.
    pub name: String,
    /// Its Ingresses, the oldest first.
    pub ingresses: Vec<String>,
    /// Its VIPs.
    pub vips: Vec<VipText>,
    /// Whether port 80 is open.
    pub http: bool,
    /// Whether port 443 is open.
    pub https: bool,
    /// Its certificates.
    pub certificates: Vec<CertificateText>,
    /// What each host asks of TLS, where one asks for something.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<TlsDemandText>,
    /// The PROXY protocol with which connections begin: `v1`, `v2` or `any`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<&'static str>,
    /// Its hosts.
    pub hosts: Vec<HostText>,
    /// Where requests lead that no rule is for.
    pub default: Option<TargetText>,
}

/// A VIP.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VipText {
    /// The address.
    pub address: IpAddr,
    /// The field that it comes from.
    pub source: &'static str,
}

/// A certificate.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateText {
    /// The Secret.
    pub secret: String,
    /// The hosts that it is for; none stands for those that it names.
    pub hosts: Vec<String>,
}

/// A host.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostText {
    /// The name, the wildcard, or `*` for all.
    pub host: String,
    /// Its paths.
    pub paths: Vec<PathText>,
    /// Where its other paths lead, where that is not where the URL map's default leads.
    pub default: Option<TargetText>,
}

/// A path.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PathText {
    /// The path; `/foo/*` is what begins with `/foo/`.
    pub path: String,
    /// `exact`, `prefix` or `below`.
    pub kind: &'static str,
    /// Where it leads.
    #[serde(flatten)]
    pub target: TargetText,
}

/// Where a rule leads.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetText {
    /// The backend service.
    pub backend_service: Option<String>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The Ingress that has the rule.
    pub ingress: String,
    /// Without TLS: `served`, `redirected` or `refused`.
    pub plain_http: &'static str,
    /// The code of the redirect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect_code: Option<u16>,
}

impl From<&Target> for TargetText {
    fn from(target: &Target) -> Self {
        let (plain_http, redirect_code) = match target.plain_http {
            PlainHttp::Served => ("served", None),
            PlainHttp::Redirected(code) => ("redirected", Some(code)),
            PlainHttp::Refused => ("refused", None),
        };
        Self {
            backend_service: target.backend.as_ref().ok().map(ToString::to_string),
            reason: target.backend.as_ref().err().map(ToString::to_string),
            ingress: target.ingress.to_string(),
            plain_http,
            redirect_code,
        }
    }
}

impl From<&HostRule<Target>> for HostText {
    fn from(rule: &HostRule<Target>) -> Self {
        let path = |path: &crate::l7::PathRule<Target>| PathText {
            path: path.pattern.to_string(),
            kind: match path.pattern {
                PathPattern::Exact(_) => "exact",
                PathPattern::Prefix(_) => "prefix",
                PathPattern::Below(_) => "below",
            },
            target: (&path.target).into(),
        };
        Self {
            host: rule.host.to_string(),
            paths: rule.paths.iter().map(path).collect(),
            default: rule.default.as_ref().map(Into::into),
        }
    }
}

impl From<&UrlMapPlan> for UrlMapText {
    fn from(plan: &UrlMapPlan) -> Self {
        let certificate = |certificate: &super::CertificateUse| CertificateText {
            secret: certificate.secret.to_string(),
            hosts: certificate.hosts.iter().map(ToString::to_string).collect(),
        };
        Self {
            name: plan.name.to_string(),
            ingresses: plan.ingresses.iter().map(|origin| origin.object.to_string()).collect(),
            vips: plan
                .vips
                .iter()
                .map(|(address, source)| VipText { address: *address, source: source.name() })
                .collect(),
            http: plan.has_http,
            https: plan.has_https,
            certificates: plan.certificates.iter().map(certificate).collect(),
            tls: plan.tls.iter().map(Into::into).collect(),
            proxy_protocol: plan.proxy_protocol.map(crate::model::ProxyVersions::name),
            hosts: plan.map.hosts().map(Into::into).collect(),
            default: plan.map.default_target().map(Into::into),
        }
    }
}

impl Serialize for UrlMapPlan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        UrlMapText::from(self).serialize(serializer)
    }
}
