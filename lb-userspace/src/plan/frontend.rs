//! A frontend: VIP, port and protocol, and which NEGs its clients use.
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::Be16;
use lb_common::frontend::{FrontendKey, Kind};
use serde::Serialize;

use crate::model::{ExternalMode, Protocol};

use super::BackendServiceName;

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in the order of their NEGs' ids.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address; of an IPv4-mapped one that is IPv4, as on the wire.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Which endpoints of its family a NEG holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Those of the whole cluster.
    Cluster,
    /// Those on this node.
    Local,
}

/// What becomes of a new flow whose NEG has no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EmptyAction {
    /// The client is told: nobody serves this.
    Refuse,
    /// Silence: other nodes serve this, so a client or a load balancer that tries again reaches one.
    Drop,
}

/// VIP, port and protocol, and where a client that dials them is led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// The VIP.
    pub address: IpAddr,
    /// The port that the client dials.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The field that the address comes from.
    pub kind: Kind,
    /// The backend service.
    pub backend_service: Arc<BackendServiceName>,
    /// The NEG for pods and nodes of the cluster.
    pub neg_internal: Scope,
    /// The NEG for clients outside the cluster.
    pub neg_external: Scope,
    /// What becomes of a flow from inside the cluster when its NEG is empty.
    pub empty_internal: EmptyAction,
    /// What becomes of a flow from outside the cluster when its NEG is empty.
    pub empty_external: EmptyAction,
    /// Whether a client must be in a source range of the backend service.
    pub checks_source: bool,
    /// How a client outside the cluster reaches an endpoint on another node.
    pub external_mode: ExternalMode,
}

impl Frontend {
    /// Its key in FRONTENDS.
    #[must_use]
    pub fn key(&self) -> FrontendKey {
        FrontendKey::new(self.address.into(), Be16::new(self.port), self.protocol.number())
    }
}

/// A kind's name, as Kubernetes writes it.
#[must_use]
pub const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::ClusterIp => "ClusterIP",
        Kind::NodePort => "NodePort",
        Kind::ExternalIp => "ExternalIP",
        Kind::LoadBalancer => "LoadBalancer",
    }
}

/// The field of the Service that gives a frontend of this kind.
#[must_use]
pub const fn kind_field(kind: Kind) -> &'static str {
    match kind {
        Kind::ClusterIp => "spec.clusterIPs",
        Kind::NodePort => "spec.ports[].nodePort",
        Kind::ExternalIp => "spec.externalIPs",
        Kind::LoadBalancer => "status.loadBalancer.ingress[].ip",
    }
}
