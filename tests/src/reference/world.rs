//! What a world is made of: objects as a user writes them, with the fields that decide where packets go.
use std::net::IpAddr;

use lb_userspace::model::Protocol;

/// `spec.type`, and how a Service can be none that a node proxy serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ClusterIP`.
    ClusterIp,
    /// `NodePort`.
    NodePort,
    /// `LoadBalancer`.
    LoadBalancer,
    /// `clusterIP: None`.
    Headless,
    /// `ExternalName`.
    ExternalName,
}

/// `ipMode` of a load balancer's address (KEP-1860).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpMode {
    /// Absent.
    Absent,
    /// `VIP`.
    Vip,
    /// `Proxy`.
    Proxy,
}

/// A traffic policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Absent.
    Absent,
    /// `Cluster`.
    Cluster,
    /// `Local`.
    Local,
}

/// A port of a Service.
#[derive(Clone, Debug)]
pub struct Port {
    /// `name`.
    pub name: Option<String>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
    /// `nodePort`.
    pub node_port: Option<u16>,
}

/// A Service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name; all are in one namespace.
    pub name: String,
    /// `metadata.creationTimestamp`, seconds since 1970.
    pub created_s: Option<i64>,
    /// Its type.
    pub kind: Kind,
    /// Whether the label `service.kubernetes.io/service-proxy-name` gives it to somebody else.
    pub is_of_other_proxy: bool,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`.
    pub ingress: Vec<(IpAddr, IpMode)>,
    /// `spec.ports`.
    pub ports: Vec<Port>,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: Policy,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: Policy,
    /// `spec.loadBalancerSourceRanges`, as networks and lengths.
    pub source_ranges: Vec<(IpAddr, u8)>,
    /// The annotation `podway.io/endpoint-weights`.
    pub weights: Vec<(IpAddr, u32)>,
    /// The annotation `podway.io/drain`.
    pub drain: Option<&'static str>,
    /// The annotation `podway.io/drain-deadline-seconds`.
    pub drain_deadline_s: Option<u32>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `addresses[0]`.
    pub address: IpAddr,
    /// `conditions.ready`.
    pub ready: Option<bool>,
    /// `conditions.serving`.
    pub serving: Option<bool>,
    /// `conditions.terminating`.
    pub terminating: Option<bool>,
    /// `nodeName`.
    pub node: Option<String>,
    /// `hints.forZones`.
    pub zone_hints: Vec<String>,
    /// `hints.forNodes`.
    pub node_hints: Vec<String>,
}

/// A port of a slice.
#[derive(Clone, Debug)]
pub struct SlicePort {
    /// `name`.
    pub name: Option<String>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`; absent it means all ports, which no Service of a node proxy uses.
    pub port: Option<u16>,
}

/// An EndpointSlice.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Its name.
    pub name: String,
    /// The Service of its label.
    pub service: String,
    /// `addressType`: IPv4 where true, else IPv6.
    pub is_v4: bool,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
    /// `ports`.
    pub ports: Vec<SlicePort>,
    /// The annotation `podway.io/weight`.
    pub weight: Option<u32>,
    /// The annotation `podway.io/endpoint-weights`.
    pub weights: Vec<(IpAddr, u32)>,
}

/// A Node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// `status.addresses` of type `InternalIP`.
    pub addresses: Vec<IpAddr>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

/// `--nodeport-addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePorts {
    /// Not given.
    OnAll,
    /// `primary`.
    OnPrimary,
    /// This network and length.
    In(IpAddr, u8),
}

/// All objects, and the node that the question is put to.
#[derive(Clone, Debug)]
pub struct World {
    /// The Nodes.
    pub nodes: Vec<Node>,
    /// The index of this node.
    pub here: usize,
    /// Where its node ports answer.
    pub node_ports: NodePorts,
    /// The Services.
    pub services: Vec<Service>,
    /// The EndpointSlices.
    pub slices: Vec<Slice>,
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// A pod of the cluster.
    Pod,
    /// A client outside the cluster.
    Outside,
}

/// The first packet of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Who sends it.
    pub from: From,
    /// The sender's address.
    pub source: IpAddr,
    /// The address that it dials.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}
