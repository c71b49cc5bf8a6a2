//! How a backend service is off, as people would ask.
use lb_common::neg::NegKind;

use super::{BackendService, NodePorts};

/// What the endpoints of a backend service allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// New flows find an endpoint that passes its check, if there is one.
    Well,
    /// Endpoints are used although they fail their check.
    Panic,
    /// There is no endpoint for a new flow.
    Empty,
    /// Requests are to go to nodes, and the Service port has no node port.
    NoNodePort,
}

impl BackendService {
    /// Its condition in the whole cluster: what `Local` policies leave to this node does not count, so a backend
    /// service without a cluster NEG is always well. A family without endpoints is no want while the other has
    /// some.
    #[must_use]
    pub fn condition(&self) -> Condition {
        match (self.condition_of_pods(), &self.node_ports) {
            (Condition::Well, Some(nodes)) => nodes.condition(),
            (condition, _) => condition,
        }
    }

    fn condition_of_pods(&self) -> Condition {
        let is_cluster = |kind| matches!(kind, NegKind::ClusterV4 | NegKind::ClusterV6);
        let mut negs = self.negs.iter().filter(|neg| is_cluster(neg.kind)).peekable();
        if negs.peek().is_none() {
            return Condition::Well;
        }
        let mut used = negs.flat_map(|neg| &neg.members).peekable();
        if used.peek().is_none() {
            return Condition::Empty;
        }
        match used.all(|index| self.endpoints[*index as usize].passes_health_check) {
            true => Condition::Well,
            false => Condition::Panic,
        }
    }
}

impl NodePorts {
    fn condition(&self) -> Condition {
        if self.port.is_none() {
            return Condition::NoNodePort;
        }
        match self.used() {
            None => Condition::Empty,
            Some(neg) if neg.members().all(|endpoint| endpoint.passes_health_check) => Condition::Well,
            Some(_) => Condition::Panic,
        }
    }
}
