//! NEGs of type `GCE_VM_IP_PORT`: nodes and the node port of a Service port, in place of pods.
//!
//! Requests to Ingresses alone use them, so a backend service has them beside the NEGs of pods that its frontends use, and
//! no BPF map holds them: a frontend that led to a node port of its own Service would lead to itself. A node port belongs to
//! one Service port (the API server gives no other one the same), so a node and node port are one endpoint of one backend
//! service, however many Ingresses lead to it.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::Address;

use crate::model::{
    CheckKind, HealthCheck, HttpTransport, NegType, Node, Problem, Protocol, Service, TrafficPolicy,
};

use super::{BackendService, EndpointState, Family, HealthView, NodeContext, ServicePlan};

/// What a node answers on `healthCheckNodePort` (`cloud-provider`, `GetServiceHealthCheckPathPort`).
const NODE_CHECK_PATH: &str = "/healthz";

/// The nodes that requests to a backend service go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePorts {
    /// The node port; `None` where the Service port has none, and so no NEG an endpoint.
    pub port: Option<u16>,
    /// How the endpoints are asked, where the nodes' readiness alone does not decide.
    pub check: Option<Arc<HealthCheck>>,
    /// One for each family of the Service, IPv4 first.
    pub negs: Vec<NodePortNeg>,
}

/// The endpoints of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortNeg {
    /// The family.
    pub family: Family,
    /// All, usable or not, in the order of their addresses.
    pub endpoints: Vec<NodePortEndpoint>,
    /// Whether fewer of the endpoints are healthy than the panic threshold asks for, so that all are used.
    pub is_panic: bool,
}

/// A node's IP and the node port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortEndpoint {
    /// The node's name.
    pub node: Arc<str>,
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// Its IP.
    pub address: IpAddr,
    /// The node port.
    pub port: u16,
    /// Whether it passes its health check and is not ejected, or nobody judges it.
    pub passes_health_check: bool,
    /// Percent of its share of requests that it takes: less than 100 while it warms up.
    pub share_percent: u8,
    /// Whether it is this node.
    pub is_local: bool,
}

impl NodePorts {
    /// The endpoints of both families.
    pub fn endpoints(&self) -> impl Iterator<Item = &NodePortEndpoint> {
        self.negs.iter().flat_map(|neg| &neg.endpoints)
    }

    /// The NEG that requests go to, the first with an endpoint: a node of both families is one endpoint to them.
    #[must_use]
    pub fn used(&self) -> Option<&NodePortNeg> {
        self.negs.iter().find(|neg| neg.members().next().is_some())
    }
}

impl NodePortNeg {
    /// Its kind's name in output.
    #[must_use]
    pub const fn kind_name(&self) -> &'static str {
        match self.family {
            Family::V4 => "nodesV4",
            Family::V6 => "nodesV6",
        }
    }

    /// The endpoints that requests may go to.
    pub fn members(&self) -> impl Iterator<Item = &NodePortEndpoint> {
        self.endpoints.iter().filter(move |endpoint| self.is_panic || endpoint.passes_health_check)
    }
}

impl NodePortEndpoint {
    /// Its state.
    #[must_use]
    pub const fn state(&self) -> EndpointState {
        match (self.passes_health_check, self.share_percent) {
            (false, _) => EndpointState::Unhealthy,
            (true, ..100) => EndpointState::Warming,
            (true, _) => EndpointState::Healthy,
        }
    }
}

impl BackendService {
    /// What requests go to.
    #[must_use]
    pub const fn neg_type(&self) -> NegType {
        match self.node_ports {
            None => NegType::Pod,
            Some(_) => NegType::NodePort,
        }
    }
}

/// What Ingresses send requests to a Service to: as it says itself, else as this node's flag says.
#[must_use]
pub fn neg_type(service: &Service, node: &NodeContext) -> NegType {
    service.neg_type.unwrap_or(node.neg_type)
}

/// Gives the TCP ports of a Service's plan their nodes, where it has the type for it. For Services that an Ingress leads to:
/// those of others would be probed for nobody.
pub fn add_node_ports(
    plan: &mut ServicePlan,
    service: &Service,
    nodes: &BTreeMap<Arc<str>, Arc<Node>>,
    context: &NodeContext,
    health: &dyn HealthView,
) {
    if neg_type(service, context) != NegType::NodePort {
        return;
    }
    let mut problems = Vec::new();
    if service.is_headless {
        problems.push(headless(service));
    }
    let is_tcp = |planned: &&mut BackendService| planned.name.protocol == Protocol::Tcp;
    for planned in plan.backend_services.iter_mut().filter(is_tcp) {
        let is_it = |port: &&crate::model::ServicePort| {
            port.port == planned.name.port && port.protocol == planned.name.protocol
        };
        let port = service.ports.iter().find(is_it).and_then(|port| port.node_port);
        if port.is_none() && !service.is_headless {
            problems.push(without_node_port(planned));
        }
        planned.node_ports = Some(NodePorts {
            port,
            check: planned.health_check.as_deref().map(|check| Arc::new(node_check(check, service))),
            negs: port.map(|port| negs(planned, port, service, nodes, context, health)).unwrap_or_default(),
        });
    }
    plan.problems.extend(problems);
}

/// Once for all of its ports, none of which can have a node port.
fn headless(service: &Service) -> Problem {
    Problem {
        kind: "Service",
        object: service.name.clone(),
        message: format!(
            "cannot serve requests: its NEG has the type {}, and a headless Service has no node ports; give it \
             podway.io/neg-type: {}, or a cluster IP and the type NodePort; requests are answered with 503",
            NegType::NodePort.name(),
            NegType::Pod.name()
        ),
    }
}

fn without_node_port(planned: &BackendService) -> Problem {
    Problem {
        kind: "Service",
        object: planned.name.service.clone(),
        message: format!(
            "cannot serve requests by port {}: its NEG has the type {} and the port has no node port; make the Service one \
             of type NodePort or LoadBalancer, or give it podway.io/neg-type: {}; requests are answered with 503",
            planned.name.port,
            NegType::NodePort.name(),
            NegType::Pod.name()
        ),
    }
}

fn negs(
    planned: &BackendService,
    port: u16,
    service: &Service,
    nodes: &BTreeMap<Arc<str>, Arc<Node>>,
    context: &NodeContext,
    health: &dyn HealthView,
) -> Vec<NodePortNeg> {
    let is_judged = planned.health_check.is_some() || planned.health_policy.passive.is_some();
    let endpoint = |node: &Arc<Node>, address: IpAddr| NodePortEndpoint {
        node: Arc::clone(&node.name),
        zone: node.zone.clone(),
        address,
        port,
        passes_health_check: !is_judged || health.is_healthy(&planned.name, address, port),
        share_percent: if is_judged { health.share_percent(&planned.name, address, port) } else { 100 },
        is_local: node.name == context.name,
    };
    let of_family = |family: &Family| {
        let with_pods = nodes_with_pods(planned, *family);
        let is_eligible = |node: &&Arc<Node>| match service.external_traffic_policy {
            TrafficPolicy::Cluster => node.takes_balanced_traffic,
            TrafficPolicy::Local => node.takes_balanced_traffic && with_pods.contains(&node.name),
        };
        let eligible = nodes.values().filter(is_eligible);
        let mut endpoints: Vec<NodePortEndpoint> =
            eligible.filter_map(|node| Some(endpoint(node, address(node, *family, context)?))).collect();
        endpoints.sort_by_key(|endpoint| Address::from(endpoint.address));
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        let is_panic = is_panic(&endpoints, planned.health_policy.panic_threshold_percent);
        NodePortNeg { family: *family, endpoints, is_panic }
    };
    let families = Family::ALL
        .into_iter()
        .filter(|family| service.cluster_ips.iter().any(|address| Family::of(*address) == *family));
    families.map(|family| of_family(&family)).collect()
}

/// With `externalTrafficPolicy: Local` a node serves its own ready pods alone.
fn nodes_with_pods(planned: &BackendService, family: Family) -> BTreeSet<&Arc<str>> {
    let ready = planned.endpoints.iter().filter(|endpoint| endpoint.facts().ready);
    ready.filter(|endpoint| endpoint.family() == family).filter_map(|endpoint| endpoint.node()).collect()
}

/// The first of a node's internal addresses that its node ports answer on; all nodes have the same flag.
fn address(node: &Node, family: Family, context: &NodeContext) -> Option<IpAddr> {
    let chosen = context.node_port_addresses.choose(&node.addresses);
    chosen
        .into_iter()
        .find(|address| Family::of(*address) == family && node.internal_addresses.contains(address))
}

/// As for the NEGs of pods: where none is healthy, or a share below the threshold, all are used.
fn is_panic(endpoints: &[NodePortEndpoint], threshold_percent: u32) -> bool {
    let healthy = endpoints.iter().filter(|endpoint| endpoint.passes_health_check).count();
    let is_below = healthy as u64 * 100 < endpoints.len() as u64 * u64::from(threshold_percent);
    healthy < endpoints.len() && (healthy == 0 || is_below)
}

/// The backend service's check, made of a node: where the Service has a port on which nodes say whether they have pods of
/// it, that is asked, else the node port. The check's own port is one of the pods'.
fn node_check(check: &HealthCheck, service: &Service) -> HealthCheck {
    let of_pods = HealthCheck { port: None, ..check.clone() };
    match (service.external_traffic_policy, service.health_check_node_port) {
        (TrafficPolicy::Local, Some(port)) => HealthCheck {
            kind: CheckKind::Http {
                transport: HttpTransport::Http1,
                path: NODE_CHECK_PATH.into(),
                host: None,
                expected_codes: [(200, 200)].into(),
            },
            port: Some(port),
            ..of_pods
        },
        _ => of_pods,
    }
}

#[cfg(test)]
#[path = "node_ports_tests.rs"]
mod tests;
