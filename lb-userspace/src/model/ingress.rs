//! Ingress, IngressClass and FrontendConfig.
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BalancerRequest, ClientVerification, ObjectName, ProxyVersions, TlsVersion};

/// Whose rules hold where the Ingress specification and Google's load balancers differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// The Ingress specification.
    #[default]
    Spec,
    /// Google's load balancers.
    Gce,
}

/// `pathType` of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathType {
    /// The path alone.
    Exact,
    /// By elements.
    Prefix,
    /// As the [`Dialect`] says.
    ImplementationSpecific,
}

/// The port of an Ingress backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackendPort {
    /// `port.name`.
    Name(Arc<str>),
    /// `port.number`.
    Number(u16),
}

impl std::fmt::Display for BackendPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// Where an Ingress sends requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IngressBackend {
    /// `service`: a port of a Service in the Ingress's namespace.
    Service(Arc<str>, BackendPort),
    /// Nothing that can be used: a `resource`, or a faulty `service`, which the source has named.
    Unusable,
}

/// One path of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressPath {
    /// `pathType`.
    pub path_type: PathType,
    /// `path`; empty when absent.
    pub path: Arc<str>,
    /// `backend`.
    pub backend: IngressBackend,
}

/// One of `spec.rules`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressRule {
    /// `host`; empty for all hosts.
    pub host: Arc<str>,
    /// `http.paths`; without any the default backend gets all requests to the host.
    pub paths: Vec<IngressPath>,
}

/// One of `spec.tls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressTls {
    /// `hosts`; none stands for all.
    pub hosts: Vec<Arc<str>>,
    /// `secretName`, in the Ingress's namespace.
    pub secret: Arc<str>,
}

/// How an Ingress names its class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClassChoice {
    /// Not at all: the default class is meant.
    Default,
    /// `spec.ingressClassName`.
    Field(Arc<str>),
    /// The annotation `kubernetes.io/ingress.class`, which is older.
    Annotation(Arc<str>),
}

/// An Ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingress {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.resourceVersion`; empty from a manifest without one.
    pub resource_version: Arc<str>,
    /// `metadata.uid`, by which an Event finds it; empty from a manifest without one.
    #[serde(default)]
    pub uid: Arc<str>,
    /// `metadata.creationTimestamp`, seconds since 1970; decides which of two Ingresses keeps a path.
    pub created_s: Option<i64>,
    /// Its class.
    pub class: ClassChoice,
    /// `spec.defaultBackend`.
    pub default_backend: Option<IngressBackend>,
    /// `spec.rules`.
    pub rules: Vec<IngressRule>,
    /// `spec.tls` with a Secret.
    pub tls: Vec<IngressTls>,
    /// Annotation `kubernetes.io/ingress.allow-http`.
    pub allows_http: bool,
    /// Annotation `networking.gke.io/v1beta1.FrontendConfig`, in the Ingress's namespace.
    pub frontend_config: Option<Arc<str>>,
    /// Annotation `podway.io/min-tls-version`.
    pub min_tls_version: Option<TlsVersion>,
    /// Annotations `podway.io/client-ca` and `podway.io/client-verify`.
    pub client_verification: Option<ClientVerification>,
    /// Annotation `podway.io/proxy-protocol`.
    pub proxy_protocol: Option<ProxyVersions>,
    /// Annotation `podway.io/vips`.
    pub vips: Vec<IpAddr>,
    /// Annotations `podway.io/load-balancer-ips` and `podway.io/allow-shared-ip`: what is asked of a pool, where there
    /// is one and `vips` says nothing.
    pub balancer: BalancerRequest,
    /// `status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Whether an entry of `status.loadBalancer.ingress` has no address, as those with a host name.
    pub has_load_balancer_hosts: bool,
}

impl Ingress {
    /// One without rules, and with the defaults for all else.
    #[must_use]
    pub fn new(name: ObjectName) -> Self {
        Self {
            name,
            resource_version: "".into(),
            uid: "".into(),
            created_s: None,
            class: ClassChoice::Default,
            default_backend: None,
            rules: Vec::new(),
            tls: Vec::new(),
            allows_http: true,
            frontend_config: None,
            min_tls_version: None,
            client_verification: None,
            proxy_protocol: None,
            vips: Vec::new(),
            balancer: BalancerRequest::default(),
            load_balancer_ips: Vec::new(),
            has_load_balancer_hosts: false,
        }
    }
}

/// `spec.controller` of the IngressClasses whose Ingresses are served.
pub const INGRESS_CONTROLLER: &str = "podway.io/ingress";

/// An IngressClass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressClass {
    /// Name.
    pub name: Arc<str>,
    /// `metadata.resourceVersion`; empty from a manifest without one.
    pub resource_version: Arc<str>,
    /// `spec.controller`.
    pub controller: Arc<str>,
    /// Annotation `ingressclass.kubernetes.io/is-default-class`.
    pub is_default: bool,
}

/// What a FrontendConfig says of the Ingresses that name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendConfig {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.resourceVersion`; empty from a manifest without one.
    pub resource_version: Arc<str>,
    /// `metadata.uid`, by which an Event finds it; empty from a manifest without one.
    #[serde(default)]
    pub uid: Arc<str>,
    /// `spec.redirectToHttps`: the code of the redirect, where it is enabled.
    pub redirect_code: Option<u16>,
    /// Annotation `podway.io/min-tls-version`.
    pub min_tls_version: Option<TlsVersion>,
}
