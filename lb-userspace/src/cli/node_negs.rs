//! NEGs whose endpoints are nodes, as commands show them: no BPF map has them, so the agent is asked.
use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::model::{NegType, Protocol};
use crate::plan::{BackendService, Desired, EndpointState, NodePortNeg};

use super::get::{EndpointRow, NegRow};
use super::health::KnownHealth;
use super::output::Format;
use super::url_maps::Topic;
use super::{ReadFrom, UrlMapQuestion};

/// One NEG.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeNeg {
    pub(super) backend_service: String,
    pub(super) kind: String,
    pub(super) is_panic: bool,
    pub(super) endpoints: Vec<NodeEndpoint>,
}

/// One of its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeEndpoint {
    pub(super) address: SocketAddr,
    pub(super) node: String,
    pub(super) state: String,
    /// Whether it takes requests for its own sake.
    pub(super) is_healthy: bool,
    /// Whether requests may go to it.
    pub(super) is_used: bool,
    pub(super) is_local: bool,
}

impl NodeNeg {
    fn new(service: &BackendService, neg: &NodePortNeg) -> Self {
        let endpoints = neg.endpoints.iter().map(|endpoint| NodeEndpoint {
            address: SocketAddr::new(endpoint.address, endpoint.port),
            node: endpoint.node.to_string(),
            state: endpoint.state().name().to_owned(),
            is_healthy: endpoint.state() != EndpointState::Unhealthy,
            is_used: neg.is_panic || endpoint.passes_health_check,
            is_local: endpoint.is_local,
        });
        Self {
            backend_service: service.name.to_string(),
            kind: neg.kind_name().to_owned(),
            is_panic: neg.is_panic,
            endpoints: endpoints.collect(),
        }
    }

    /// As `podway get negs` has it.
    pub(super) fn row(&self) -> NegRow {
        NegRow {
            backend_service: self.backend_service.clone(),
            kind: self.kind.clone(),
            neg_type: NegType::NodePort,
            id: None,
            endpoints: self.used().count(),
            healthy: self.used().filter(|endpoint| endpoint.is_healthy).count(),
            panic: self.is_panic,
            ring_length: None,
            ring_position: None,
        }
    }

    /// Its endpoints as `podway get endpoints` has them: requests to Ingresses alone go there, over TCP.
    pub(super) fn endpoint_rows(&self, known: &KnownHealth) -> impl Iterator<Item = EndpointRow> {
        self.endpoints.iter().map(move |endpoint| EndpointRow {
            address: endpoint.address.to_string(),
            protocol: Protocol::Tcp.to_string(),
            health: known.of(&self.backend_service, endpoint.address),
            backend_service: self.backend_service.clone(),
            neg_type: NegType::NodePort,
            state: endpoint.state.clone(),
            local: endpoint.is_local,
            flows_left: None,
            seconds_left: None,
            traffic: None,
            place: None,
        })
    }

    /// The endpoints that requests may go to.
    fn used(&self) -> impl Iterator<Item = &NodeEndpoint> {
        self.endpoints.iter().filter(|endpoint| endpoint.is_used)
    }
}

/// All of a plan, in the order of their backend services.
pub(super) fn of_plan(desired: &Desired) -> Vec<NodeNeg> {
    let with_nodes =
        desired.backend_services().filter_map(|service| Some((service, service.node_ports.as_ref()?)));
    with_nodes.flat_map(|(service, nodes)| nodes.negs.iter().map(|neg| NodeNeg::new(service, neg))).collect()
}

/// All that the agent of a node has.
///
/// # Errors
/// No agent answers there, or it does not know the question.
pub(super) fn ask(from: &ReadFrom) -> Result<Vec<NodeNeg>> {
    let text = from.ask_of_url_maps(&UrlMapQuestion { topic: Topic::NodeNegs, output: Format::Json })?;
    serde_json::from_str(&text).with_context(|| format!("the agent says {text:?} of NEGs of nodes"))
}

/// As [`ask`]; where no agent answers that is said on standard error, and there are none.
pub(super) fn ask_or_say(from: &ReadFrom) -> Vec<NodeNeg> {
    ask(from).unwrap_or_else(|error| {
        eprintln!("podway: only what stands in the maps is shown, no NEG of nodes: {error:#}");
        Vec::new()
    })
}

/// What two sets of NEGs differ in, but for the health of their endpoints, from the first to the second.
pub(super) fn differences(planned: &[NodeNeg], found: &[NodeNeg]) -> Vec<String> {
    let lines = |negs: &[NodeNeg]| -> BTreeSet<String> {
        let line = |neg: &NodeNeg, endpoint: &NodeEndpoint| {
            format!("endpoint {} of {} in NEG {}", endpoint.address, neg.backend_service, neg.kind)
        };
        negs.iter().flat_map(|neg| neg.endpoints.iter().map(move |endpoint| line(neg, endpoint))).collect()
    };
    let (planned, found) = (lines(planned), lines(found));
    let missing = planned.difference(&found).map(|line| format!("put {line}"));
    let surplus = found.difference(&planned).map(|line| format!("delete {line}"));
    missing.chain(surplus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neg(endpoints: &[(&str, &str)]) -> NodeNeg {
        let endpoint = |(address, state): &(&str, &str)| NodeEndpoint {
            address: address.parse().expect("an address"),
            node: "node-a".to_owned(),
            state: (*state).to_owned(),
            is_healthy: *state == "healthy",
            is_used: *state == "healthy",
            is_local: false,
        };
        NodeNeg {
            backend_service: "shop/web:http/TCP".to_owned(),
            kind: "nodesV4".to_owned(),
            is_panic: false,
            endpoints: endpoints.iter().map(endpoint).collect(),
        }
    }

    #[test]
    fn endpoints_differ_by_their_addresses_and_not_by_their_health() {
        let planned = [neg(&[("192.0.2.1:30080", "healthy"), ("192.0.2.2:30080", "healthy")])];
        let found = [neg(&[("192.0.2.2:30080", "unhealthy"), ("192.0.2.3:30080", "healthy")])];
        assert_eq!(
            differences(&planned, &found),
            [
                "put endpoint 192.0.2.1:30080 of shop/web:http/TCP in NEG nodesV4",
                "delete endpoint 192.0.2.3:30080 of shop/web:http/TCP in NEG nodesV4"
            ]
        );
        assert_eq!(differences(&found, &found), [""; 0]);
    }
}
