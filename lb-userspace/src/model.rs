//! The facts that a plan is made from, in Podway's words: values only, no I/O. A source turns
//! Kubernetes objects into these; `plan` reads nothing else.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

mod backend_config;
mod gated_pod;
mod health_policy;
mod http_policy;
mod ingress;
mod load_balancer;
mod neg_request;
mod proxy_protocol;
mod tls_policy;
mod tls_secret;

pub use backend_config::{BackendConfig, BackendConfigNames, BackendConfigs};
pub use gated_pod::{GatedPod, ReadinessGate};
pub use health_policy::{HealthPolicy, PassivePolicy};
pub use http_policy::{HeaderField, HttpPolicy, RequestAffinity, RequestLogging};
pub use ingress::{
    BackendPort, ClassChoice, Dialect, FrontendConfig, INGRESS_CONTROLLER, Ingress, IngressBackend,
    IngressClass, IngressPath, IngressRule, IngressTls, PathType,
};
pub use load_balancer::{AddressRange, Balancer, BalancerRequest, LOAD_BALANCER_CLASS, LoadBalancerPool};
pub use neg_request::{NegRequest, NegStatus, NegType};
pub use proxy_protocol::{ProxyVersion, ProxyVersions};
pub use tls_policy::{ClientVerification, ClientVerify, TlsVersion};
pub use tls_secret::TlsSecret;

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectName {
    /// Namespace; empty for a cluster-scoped object.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// From its two parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol that Podway forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => lb_common::protocol::TCP,
            Self::Udp => lb_common::protocol::UDP,
            Self::Sctp => lb_common::protocol::SCTP,
        }
    }

    /// The protocol of an IP protocol number.
    #[must_use]
    pub const fn of_number(number: u8) -> Option<Self> {
        match number {
            lb_common::protocol::TCP => Some(Self::Tcp),
            lb_common::protocol::UDP => Some(Self::Udp),
            lb_common::protocol::SCTP => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// `externalTrafficPolicy` and `internalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Endpoints of the whole cluster.
    #[default]
    Cluster,
    /// Endpoints of this node only.
    Local,
}

/// An active health check of a backend service's endpoints, from annotations of the Service or from a
/// BackendConfig.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What a probe asks.
    pub kind: CheckKind,
    /// The port that is probed; `None` is the endpoint's own.
    pub port: Option<u16>,
    /// Time between two probes of one endpoint, milliseconds.
    pub interval_ms: u32,
    /// Time after which a probe has failed, milliseconds.
    pub timeout_ms: u32,
    /// Successes in a row that make an endpoint healthy.
    pub healthy_threshold: u32,
    /// Failures in a row that make an endpoint unhealthy.
    pub unhealthy_threshold: u32,
}

/// What a probe asks an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckKind {
    /// To accept a TCP connection.
    Tcp,
    /// To answer a GET with an expected code.
    Http {
        /// How it is spoken to.
        transport: HttpTransport,
        /// Path and query of the request.
        path: Arc<str>,
        /// Host of the request and server name of TLS; `None` is the endpoint's address.
        host: Option<Arc<str>>,
        /// Ranges of codes, both ends included, that pass.
        expected_codes: Arc<[(u16, u16)]>,
    },
    /// To say that a service is serving (`grpc.health.v1.Health/Check`).
    Grpc {
        /// Whether by TLS.
        is_tls: bool,
        /// The service; an empty name asks for the server as a whole.
        service: Arc<str>,
    },
}

impl CheckKind {
    /// Its word in annotations.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http { transport, .. } => match transport {
                HttpTransport::Http1 => "http",
                HttpTransport::Https => "https",
                HttpTransport::Http2 => "http2",
                HttpTransport::H2c => "h2c",
            },
            Self::Grpc { is_tls: false, .. } => "grpc",
            Self::Grpc { is_tls: true, .. } => "grpcs",
        }
    }
}

/// How an HTTP server is spoken to. No certificate is verified: kubelet's probes and Google's health checks do
/// not either, since what a pod shows is meant for the clients of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpTransport {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/1.1 by TLS.
    Https,
    /// HTTP/2 by TLS.
    Http2,
    /// HTTP/2 without TLS and without an upgrade (RFC 9113 §3.3).
    H2c,
}

/// How long the TCP flows of an endpoint that no slice names any more may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainContract {
    /// Seconds from the moment when the endpoint went until its flows are reset; zero resets them at
    /// once.
    pub deadline_s: u32,
}

/// An hour: longer than most deployments take to roll, short enough that ids come back.
impl Default for DrainContract {
    fn default() -> Self {
        Self { deadline_s: 3_600 }
    }
}

/// How a client outside the cluster reaches an endpoint on another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ExternalMode {
    /// Source NAT: the endpoint sees this node's address, and its reply comes back here.
    #[default]
    Snat,
    /// Direct server return: the endpoint sees the client's address, and its node answers the client.
    Dsr,
}

/// How packets get to a pod of this node at the hooks of tc.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LocalDelivery {
    /// Through the network stack: netfilter, and with it policies of a CNI that are made of it, sees them.
    #[default]
    Stack,
    /// To the pod's interface at once: faster, past netfilter.
    Direct,
}

/// `spec.loadBalancerSourceRanges`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRanges {
    /// The ranges, as network address and prefix length in bits; sorted, each once.
    pub ranges: Vec<(IpAddr, u8)>,
    /// Whether the field has entries that are no address prefix.
    pub has_unreadable: bool,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// `name`; empty when unnamed.
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
    /// `nodePort`, where one is allocated.
    pub node_port: Option<u16>,
    /// `appProtocol`, or what an annotation says in its place: how requests reach an endpoint.
    pub transport: HttpTransport,
}

/// A Service with cluster IPs, or a headless one, which Ingresses alone may lead to. `ExternalName` Services carry no
/// traffic that Podway could forward; the source leaves them out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.resourceVersion`; empty from a manifest without one.
    pub resource_version: Arc<str>,
    /// `metadata.uid`, by which an Event finds it; empty from a manifest without one.
    pub uid: Arc<str>,
    /// `metadata.creationTimestamp`, seconds since 1970; decides which of two Services keeps a
    /// frontend that both ask for.
    pub created_s: Option<i64>,
    /// `metadata.labels`, by which a node may choose the Services that it serves.
    pub labels: Arc<BTreeMap<Arc<str>, Arc<str>>>,
    /// Whether `spec.clusterIPs` is `None`: it has no address of any kind, and no load balancer.
    #[serde(default)]
    pub is_headless: bool,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with `ipMode` other than `Proxy`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.type` and `spec.loadBalancerClass`.
    pub balancer: Balancer,
    /// `spec.ports` with a protocol that Podway forwards.
    pub ports: Vec<ServicePort>,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: TrafficPolicy,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic_policy: TrafficPolicy,
    /// `spec.publishNotReadyAddresses` is already in the slices' conditions; affinity is
    /// `sessionAffinity: ClientIP` with its timeout in seconds.
    pub affinity_timeout_s: Option<u32>,
    /// From annotations; `None` means as the BackendConfig says, else readiness alone decides.
    pub health_check: Option<Arc<HealthCheck>>,
    /// From annotations.
    pub health_policy: HealthPolicy,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: SourceRanges,
    /// `spec.healthCheckNodePort` of a Service that a load balancer checks for local endpoints.
    pub health_check_node_port: Option<u16>,
    /// From annotations; `None` means as the BackendConfig says, else the default.
    pub drain: Option<DrainContract>,
    /// From an annotation.
    pub backend_configs: BackendConfigNames,
    /// From an annotation; `None` means as the agent's flag says.
    pub external_mode: Option<ExternalMode>,
    /// Annotation `podway.io/proxy-protocol`: what the front-end's connections to endpoints begin with.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Weights of endpoints by their address, from an annotation; they go before those of the slices.
    pub endpoint_weights: BTreeMap<IpAddr, u16>,
    /// From an annotation.
    pub neg_request: Option<NegRequest>,
    /// From annotations.
    pub neg_status: NegStatus,
    /// From annotations; `None` means as the agent's flag says.
    pub neg_type: Option<NegType>,
}

impl Service {
    /// One without addresses and ports, and with the API's defaults for all else.
    #[must_use]
    pub fn new(name: ObjectName) -> Self {
        Self {
            name,
            resource_version: "".into(),
            uid: "".into(),
            created_s: None,
            labels: Arc::default(),
            is_headless: false,
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            balancer: Balancer::None,
            ports: Vec::new(),
            external_traffic_policy: TrafficPolicy::Cluster,
            internal_traffic_policy: TrafficPolicy::Cluster,
            affinity_timeout_s: None,
            health_check: None,
            health_policy: HealthPolicy::default(),
            source_ranges: SourceRanges::default(),
            health_check_node_port: None,
            drain: None,
            backend_configs: BackendConfigNames::default(),
            external_mode: None,
            proxy_protocol: None,
            endpoint_weights: BTreeMap::new(),
            neg_request: None,
            neg_status: NegStatus::default(),
            neg_type: None,
        }
    }
}

/// One endpoint of an EndpointSlice (its first address; the API allows no use of the others).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// `addresses[0]`.
    pub address: IpAddr,
    /// `conditions.ready`; unknown counts as true.
    pub ready: bool,
    /// `conditions.serving`; unknown counts as `ready`.
    pub serving: bool,
    /// `conditions.terminating`; unknown counts as false.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
    /// `hints.forZones`.
    pub zone_hints: Vec<Arc<str>>,
    /// `hints.forNodes`.
    pub node_hints: Vec<Arc<str>>,
    /// Share of new flows relative to other endpoints, from the slice's annotations.
    pub weight: Option<u16>,
}

impl SliceEndpoint {
    /// A ready one of which no more than the address is known.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self {
            address,
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            zone: None,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
            weight: None,
        }
    }

    /// Whether it is on the node of this name.
    #[must_use]
    pub fn is_on(&self, node: &str) -> bool {
        self.node.as_ref().is_some_and(|name| **name == *node && !name.is_empty())
    }
}

/// One port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// `name`; empty when unnamed. Matches [`ServicePort::name`].
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`. A slice port without a number means "all ports" and is left out by the source.
    pub port: u16,
}

/// An EndpointSlice with IP addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: ObjectName,
    /// The Service's name, from the label `kubernetes.io/service-name`, in the slice's namespace.
    pub service: Arc<str>,
    /// `metadata.resourceVersion`; empty from a manifest without one.
    pub resource_version: Arc<str>,
    /// Whether the label `service.kubernetes.io/headless` says that it is of a headless Service.
    #[serde(default)]
    pub is_headless: bool,
    /// The change of a pod or Service that the newest version comes from, milliseconds since 1970: the annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`.
    pub change_trigger_unix_ms: Option<u64>,
    /// `endpoints`.
    pub endpoints: Vec<SliceEndpoint>,
    /// `ports`.
    pub ports: Vec<SlicePort>,
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Name.
    pub name: Arc<str>,
    /// `metadata.resourceVersion`; empty from a manifest without one.
    pub resource_version: Arc<str>,
    /// `status.addresses` of type `InternalIP` and `ExternalIP`.
    pub addresses: Vec<IpAddr>,
    /// Those of type `InternalIP` among them.
    pub internal_addresses: Vec<IpAddr>,
    /// Whether balancers outside may send it traffic: its condition `Ready`, absent in manifests, is true, and it has no
    /// label `node.kubernetes.io/exclude-from-external-load-balancers`.
    pub takes_balanced_traffic: bool,
    /// `spec.podCIDRs`, as address and prefix length in bits.
    pub pod_cidrs: Vec<(IpAddr, u8)>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
}

/// A ServiceCIDR: where cluster IPs are taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCidr {
    /// Name.
    pub name: Arc<str>,
    /// `metadata.resourceVersion`; empty from a manifest without one.
    pub resource_version: Arc<str>,
    /// `spec.cidrs`, as address and prefix length in bits.
    pub prefixes: Vec<(IpAddr, u8)>,
}

/// All facts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Services by name.
    #[serde(skip)]
    pub services: BTreeMap<ObjectName, Arc<Service>>,
    /// EndpointSlices by name.
    #[serde(skip)]
    pub endpoint_slices: BTreeMap<ObjectName, Arc<EndpointSlice>>,
    /// Nodes by name.
    #[serde(skip)]
    pub nodes: BTreeMap<Arc<str>, Arc<Node>>,
    /// ServiceCIDRs by name.
    #[serde(skip)]
    pub service_cidrs: BTreeMap<Arc<str>, Arc<ServiceCidr>>,
    /// BackendConfigs by name.
    #[serde(skip)]
    pub backend_configs: BackendConfigs,
    /// Certificates by the name of their Secret.
    #[serde(skip)]
    pub secrets: BTreeMap<ObjectName, Arc<TlsSecret>>,
    /// Ingresses by name.
    #[serde(skip)]
    pub ingresses: BTreeMap<ObjectName, Arc<Ingress>>,
    /// IngressClasses by name.
    #[serde(skip)]
    pub ingress_classes: BTreeMap<Arc<str>, Arc<IngressClass>>,
    /// FrontendConfigs by name.
    #[serde(skip)]
    pub frontend_configs: BTreeMap<ObjectName, Arc<FrontendConfig>>,
    /// LoadBalancerPools by name.
    #[serde(skip)]
    pub load_balancer_pools: BTreeMap<Arc<str>, Arc<LoadBalancerPool>>,
    /// Pods of this node that wait for a readiness gate, by name.
    #[serde(skip)]
    pub gated_pods: BTreeMap<ObjectName, Arc<GatedPod>>,
}

/// A change of one fact, as a source reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The Service is now so.
    Service(Arc<Service>),
    /// The Service is gone, or is one that Podway does not forward for.
    ServiceGone(ObjectName),
    /// The EndpointSlice is now so.
    EndpointSlice(EndpointSlice),
    /// The EndpointSlice is gone, or has no Service.
    EndpointSliceGone(ObjectName),
    /// The Node is now so.
    Node(Node),
    /// The Node is gone.
    NodeGone(Arc<str>),
    /// The ServiceCIDR is now so.
    ServiceCidr(ServiceCidr),
    /// The ServiceCIDR is gone.
    ServiceCidrGone(Arc<str>),
    /// The BackendConfig is now so.
    BackendConfig(BackendConfig),
    /// The BackendConfig is gone.
    BackendConfigGone(ObjectName),
    /// The Secret is now so.
    Secret(TlsSecret),
    /// The Secret is gone, or has no certificate.
    SecretGone(ObjectName),
    /// The Ingress is now so.
    Ingress(Arc<Ingress>),
    /// The Ingress is gone.
    IngressGone(ObjectName),
    /// The IngressClass is now so.
    IngressClass(IngressClass),
    /// The IngressClass is gone.
    IngressClassGone(Arc<str>),
    /// The FrontendConfig is now so.
    FrontendConfig(FrontendConfig),
    /// The FrontendConfig is gone.
    FrontendConfigGone(ObjectName),
    /// The LoadBalancerPool is now so.
    LoadBalancerPool(LoadBalancerPool),
    /// The LoadBalancerPool is gone.
    LoadBalancerPoolGone(Arc<str>),
    /// The pod waits for a readiness gate.
    GatedPod(GatedPod),
    /// The pod is gone, or waits for none.
    GatedPodGone(ObjectName),
}

/// An object, or a part of one, that cannot be used; the rest goes on without it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Kind of the object, as in its manifest.
    pub kind: &'static str,
    /// Its name.
    pub object: ObjectName,
    /// One line: operation, datum, cause, remedy.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.kind, self.object, self.message)
    }
}
