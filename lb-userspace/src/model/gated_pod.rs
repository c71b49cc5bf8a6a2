//! Pods that are not ready before an agent says so.
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::ObjectName;

/// A readiness gate (KEP-580) that agents meet: the type of a pod's condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum ReadinessGate {
    /// Podway's own.
    Programmed,
    /// That of GKE's load balancers, met where an agent is asked to.
    NegReady,
}

impl ReadinessGate {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Programmed, Self::NegReady];

    /// The condition's type.
    #[must_use]
    pub const fn condition_type(self) -> &'static str {
        match self {
            Self::Programmed => "podway.io/programmed",
            Self::NegReady => "cloud.google.com/load-balancer-neg-ready",
        }
    }
}

/// A pod whose spec names such gates, while a condition of them is not true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GatedPod {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.uid`, since a pod of a StatefulSet has its predecessor's name.
    pub uid: Arc<str>,
    /// `status.podIPs`; empty while it has none.
    pub addresses: Vec<IpAddr>,
    /// The gates whose condition is not true.
    pub unmet: Vec<ReadinessGate>,
}
