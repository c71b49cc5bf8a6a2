//! The facts that a plan is made from, in Podway's words: values only, no I/O. A source turns
//! Kubernetes objects into these; `plan` reads nothing else.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => lb_common::protocol::TCP,
            Self::Udp => lb_common::protocol::UDP,
        }
    }

    /// The protocol of an IP protocol number.
    #[must_use]
    pub const fn of_number(number: u8) -> Option<Self> {
        match number {
            lb_common::protocol::TCP => Some(Self::Tcp),
            lb_common::protocol::UDP => Some(Self::Udp),
            _ => None,
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// `externalTrafficPolicy` and `internalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum TrafficPolicy {
    /// Endpoints of the whole cluster.
    #[default]
    Cluster,
    /// Endpoints of this node only.
    Local,
}

/// An active TCP health check of a backend service's endpoints, from annotations of the Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// Time between two probes of one endpoint, milliseconds.
    pub interval_ms: u32,
    /// Time after which a probe has failed, milliseconds.
    pub timeout_ms: u32,
    /// Successes in a row that make an endpoint healthy.
    pub healthy_threshold: u32,
    /// Failures in a row that make an endpoint unhealthy.
    pub unhealthy_threshold: u32,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    /// `name`; empty when unnamed.
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
    /// `nodePort`, where one is allocated.
    pub node_port: Option<u16>,
}

/// A Service with cluster IPs. Headless and `ExternalName` Services carry no traffic that Podway
/// could forward; the source leaves them out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.resourceVersion`; empty from a manifest without one.
    pub resource_version: Arc<str>,
    /// `metadata.creationTimestamp`, seconds since 1970; decides which of two Services keeps a
    /// frontend that both ask for.
    pub created_s: Option<i64>,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with `ipMode` other than `Proxy`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.ports` with a protocol that Podway forwards.
    pub ports: Vec<ServicePort>,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: TrafficPolicy,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic_policy: TrafficPolicy,
    /// `spec.publishNotReadyAddresses` is already in the slices' conditions; affinity is
    /// `sessionAffinity: ClientIP` with its timeout in seconds.
    pub affinity_timeout_s: Option<u32>,
    /// From annotations; `None` means readiness alone decides.
    pub health_check: Option<HealthCheck>,
}

/// One endpoint of an EndpointSlice (its first address; the API allows no use of the others).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
}

/// One port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlicePort {
    /// `name`; empty when unnamed. Matches [`ServicePort::name`].
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`. A slice port without a number means "all ports" and is left out by the source.
    pub port: u16,
}

/// An EndpointSlice with IP addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: ObjectName,
    /// The Service's name, from the label `kubernetes.io/service-name`, in the slice's namespace.
    pub service: Arc<str>,
    /// `metadata.resourceVersion`; empty from a manifest without one.
    pub resource_version: Arc<str>,
    /// `endpoints`.
    pub endpoints: Vec<SliceEndpoint>,
    /// `ports`.
    pub ports: Vec<SlicePort>,
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Name.
    pub name: Arc<str>,
    /// `metadata.resourceVersion`; empty from a manifest without one.
    pub resource_version: Arc<str>,
    /// `status.addresses` of type `InternalIP` and `ExternalIP`.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`, as address and prefix length in bits.
    pub pod_cidrs: Vec<(IpAddr, u8)>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
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
}

/// A change of one fact, as a source reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The Service is now so.
    Service(Service),
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
