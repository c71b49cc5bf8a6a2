//! Which endpoints each scope of a Service port may use, and who uses which scope.
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::frontend::Kind;

use crate::model::{ExternalMode, Service, ServicePort, TrafficPolicy};
use crate::ring::{self, Reach};

use super::{BackendServiceName, EmptyAction, Endpoint, Family, Frontend, Neg, NodeContext, Scope, neg_kind};

/// The endpoints of one family that each scope may use, before health: ready ones, else those that
/// are serving and terminating, decided for each scope alone (`topology.go`, `CategorizeEndpoints`;
/// KEP-1669). Those of them that weigh nothing take no new flows.
pub(super) struct Usable {
    cluster: Vec<u32>,
    local: Vec<u32>,
}

impl Usable {
    pub(super) fn new(endpoints: &[Endpoint], family: Family, node: &NodeContext) -> Self {
        let of_family = |e: &Endpoint| e.family() == family;
        let nearby = Nearby::of_hints(endpoints, family, node);
        Self {
            // Where no hinted endpoint were ready, the hints would not be followed: so this falls back to
            // terminating ones only where no endpoint at all is ready, and those are all taken.
            cluster: first_choice(endpoints, |e| of_family(e) && (!e.facts().ready || nearby.admits(e))),
            local: first_choice(endpoints, |e| e.is_local && of_family(e)),
        }
    }
}

/// Which ready endpoints the hints leave to the cluster scope (`topology.go`, `topologyModeFromHints`;
/// KEP-2433, KEP-4444, KEP-3015). The local scope knows no hints.
enum Nearby<'a> {
    /// Those hinted for this node.
    Node(&'a str),
    /// Those hinted for this node's zone.
    Zone(&'a str),
    /// All.
    Everywhere,
}

impl<'a> Nearby<'a> {
    /// Hints count only if every ready endpoint has some and one of them is for us: else some nodes or
    /// zones would get more than their share, or nothing. One for us that takes no new flows, by its
    /// health check or its weight, is as good as none.
    fn of_hints(endpoints: &[Endpoint], family: Family, node: &'a NodeContext) -> Self {
        let ready = || endpoints.iter().filter(|e| e.family() == family && e.facts().ready);
        let holds = |hints: fn(&Endpoint) -> &[Arc<str>], ours: &str| {
            ready().all(|e| !hints(e).is_empty()) && ready().any(|e| takes_flows(e) && has(hints(e), ours))
        };
        if holds(node_hints, &node.name) {
            return Self::Node(&node.name);
        }
        match &node.zone {
            Some(zone) if holds(zone_hints, zone) => Self::Zone(zone),
            _ => Self::Everywhere,
        }
    }

    fn admits(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Node(node) => has(node_hints(endpoint), node),
            Self::Zone(zone) => has(zone_hints(endpoint), zone),
            Self::Everywhere => true,
        }
    }
}

fn takes_flows(endpoint: &Endpoint) -> bool {
    endpoint.passes_health_check && endpoint.weight > 0
}

fn node_hints(endpoint: &Endpoint) -> &[Arc<str>] {
    &endpoint.facts().node_hints
}

fn zone_hints(endpoint: &Endpoint) -> &[Arc<str>] {
    &endpoint.facts().zone_hints
}

fn has(hints: &[Arc<str>], name: &str) -> bool {
    hints.iter().any(|hint| **hint == *name)
}

fn first_choice(endpoints: &[Endpoint], is_in_scope: impl Fn(&Endpoint) -> bool) -> Vec<u32> {
    let choose = |is_usable: &dyn Fn(&Endpoint) -> bool| -> Vec<u32> {
        let numbered = (0u32..).zip(endpoints);
        numbered.filter(|(_, e)| is_in_scope(e) && is_usable(e)).map(|(index, _)| index).collect()
    };
    let ready = choose(&|e| e.facts().ready);
    let mut usable = if ready.is_empty() { choose(&Endpoint::serves_while_terminating) } else { ready };
    usable.retain(|index| endpoints[*index as usize].weight > 0);
    usable
}

/// Endpoints that fail their health check leave the ring while enough that pass it remain. Where none passes, or
/// a share below the threshold, all stay: refusing everybody is worse than trying, and so may be leading
/// everybody to a few. Envoy counts like this ("Panic threshold", architecture overview of its load balancing):
/// endpoints, not weights. The second value is whether it is so.
fn in_ring(endpoints: &[Endpoint], usable: &[u32], panic_threshold_percent: u32) -> (Vec<u32>, bool) {
    let passes = |index: &&u32| endpoints[**index as usize].passes_health_check;
    let healthy: Vec<u32> = usable.iter().filter(passes).copied().collect();
    let is_below = (healthy.len() as u64) * 100 < (usable.len() as u64) * u64::from(panic_threshold_percent);
    let is_panic = healthy.len() < usable.len() && (healthy.is_empty() || is_below);
    if is_panic { (usable.to_vec(), true) } else { (healthy, false) }
}

/// Which NEGs a port uses, and who uses which.
pub(super) struct PortPolicy {
    internal: Scope,
    external: Scope,
    is_externally_accessible: bool,
    external_mode: ExternalMode,
    panic_threshold_percent: u32,
}

impl PortPolicy {
    pub(super) fn new(service: &Service, port: &ServicePort, node: &NodeContext) -> Self {
        Self {
            external_mode: service.external_mode.unwrap_or(node.external_mode),
            panic_threshold_percent: service.health_policy.panic_threshold_percent,
            internal: scope(service.internal_traffic_policy),
            external: scope(service.external_traffic_policy),
            // `serviceport.go`, `ExternallyAccessible`.
            is_externally_accessible: port.node_port.is_some()
                || !service.external_ips.is_empty()
                || !service.load_balancer_ips.is_empty(),
        }
    }

    /// `serviceport.go`, `UsesClusterEndpoints`: also with `externalTrafficPolicy: Local`, for pods and
    /// nodes that dial an external address.
    fn uses(&self, scope: Scope) -> bool {
        match scope {
            Scope::Cluster => self.internal == Scope::Cluster || self.is_externally_accessible,
            Scope::Local => self.internal == Scope::Local || self.reach(Scope::Local) == Reach::External,
        }
    }

    /// Whether clients outside the cluster choose from the NEG, so that nodes have to agree on it.
    fn reach(&self, scope: Scope) -> Reach {
        if self.is_externally_accessible && self.external == scope {
            Reach::External
        } else {
            Reach::Internal
        }
    }

    pub(super) fn negs(&self, endpoints: &[Endpoint], usable: &Usable, family: Family) -> Vec<Neg> {
        let scopes = [(Scope::Cluster, &usable.cluster), (Scope::Local, &usable.local)];
        let used = scopes.into_iter().filter(|(scope, _)| self.uses(*scope));
        used.map(|(scope, usable)| {
            let (members, is_panic) = in_ring(endpoints, usable, self.panic_threshold_percent);
            let weights = members.iter().map(|index| endpoints[*index as usize].weight);
            let ring_length = ring::length(self.reach(scope), weights);
            Neg { kind: neg_kind(scope, family), members, is_panic, ring_length }
        })
        .collect()
    }

    pub(super) fn frontend(
        &self,
        kind: Kind,
        address: IpAddr,
        port: u16,
        name: &Arc<BackendServiceName>,
        usable: &Usable,
    ) -> Frontend {
        // A cluster IP follows the internal policy whoever dials it. Pods and nodes that dial one of
        // the others use the cluster NEG whatever the policy (`nftables/proxier.go`: they
        // short-circuit to the cluster policy chain).
        let (neg_internal, neg_external) = match kind {
            Kind::ClusterIp => (self.internal, self.internal),
            Kind::NodePort | Kind::ExternalIp | Kind::LoadBalancer => (Scope::Cluster, self.external),
        };
        Frontend {
            address,
            port,
            protocol: name.protocol,
            kind,
            backend_service: Arc::clone(name),
            neg_internal,
            neg_external,
            empty_internal: when_empty(neg_internal, usable),
            empty_external: when_empty(neg_external, usable),
            checks_source: false,
            external_mode: match kind {
                Kind::ClusterIp => ExternalMode::Snat,
                Kind::NodePort | Kind::ExternalIp | Kind::LoadBalancer => self.external_mode,
            },
        }
    }
}

/// `nftables/proxier.go`: with no endpoint anywhere reject; with none on this node alone drop.
fn when_empty(scope: Scope, usable: &Usable) -> EmptyAction {
    let is_served_elsewhere = !usable.cluster.is_empty() && usable.local.is_empty();
    match scope {
        Scope::Local if is_served_elsewhere => EmptyAction::Drop,
        Scope::Local | Scope::Cluster => EmptyAction::Refuse,
    }
}

const fn scope(policy: TrafficPolicy) -> Scope {
    match policy {
        TrafficPolicy::Cluster => Scope::Cluster,
        TrafficPolicy::Local => Scope::Local,
    }
}

/// The addresses and ports of one family on which a Service port answers.
pub(super) fn vips(
    service: &Service,
    port: &ServicePort,
    node: &NodeContext,
    family: Family,
) -> Vec<(Kind, IpAddr, u16)> {
    let mut vips = Vec::new();
    let mut add = |kind, addresses: &[IpAddr], number: u16| {
        let of_family = addresses.iter().filter(|address| Family::of(**address) == family);
        vips.extend(of_family.map(|address| (kind, *address, number)));
    };
    add(Kind::ClusterIp, &service.cluster_ips, port.port);
    add(Kind::ExternalIp, &service.external_ips, port.port);
    add(Kind::LoadBalancer, &service.load_balancer_ips, port.port);
    if let Some(number) = port.node_port {
        add(Kind::NodePort, &node.node_port_addresses(), number);
    }
    vips
}
