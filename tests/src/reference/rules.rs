//! The rules, one sentence of the API's documentation after the other.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::world::{Endpoint, From, IpMode, Kind, NodePorts, Policy, Port, Question, Service, Slice, World};

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No Service has the address and port.
    NotAService,
    /// It goes to one of these, by their weights.
    OneOf(BTreeMap<SocketAddr, u32>),
    /// The client is told that nobody serves.
    Refused,
    /// Nobody is told anything.
    Dropped,
}

/// An endpoint, where it listens, with its weight.
#[derive(Clone, Debug)]
struct Place {
    at: SocketAddr,
    endpoint: Endpoint,
    weight: u32,
}

/// How a Service came to the address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Through {
    ClusterIp,
    Balancer,
    Outer,
}

/// What the node of the world does with a first packet.
#[must_use]
pub fn answer(world: &World, question: &Question) -> Answer {
    let mut askers: Vec<&Service> =
        world.services.iter().filter(|service| place(world, service, question).is_some()).collect();
    // Two Services may ask for one external address and port; the API leaves open who gets it. Podway
    // gives it to the older one, one without an age last, then to the lesser name.
    askers.sort_by_key(|service| (service.created_s.unwrap_or(i64::MAX), service.name.clone()));
    let Some(service) = askers.first() else { return Answer::NotAService };
    let Some((through, port)) = place(world, service, question) else { return Answer::NotAService };
    if through == Through::Balancer && is_kept_out(service, question.source) {
        return Answer::Dropped;
    }
    if wants_local(service, through, question.from) {
        of_this_node(world, service, port, question.address)
    } else {
        of_the_cluster(world, service, port, question.address)
    }
}

/// Where the Service has the address and port that were dialled.
fn place<'a>(world: &World, service: &'a Service, question: &Question) -> Option<(Through, &'a Port)> {
    // "Headless Services: a cluster IP is not allocated, kube-proxy does not handle these Services";
    // "ExternalName: without any proxying"; the label hands the Service to another proxy.
    if matches!(service.kind, Kind::Headless | Kind::ExternalName) || service.is_of_other_proxy {
        return None;
    }
    // `ipFamilies`: a Service is of the families of its cluster IPs.
    if !service.cluster_ips.iter().any(|ip| ip.is_ipv4() == question.address.is_ipv4()) {
        return None;
    }
    service.ports.iter().filter(|port| port.protocol == question.protocol).find_map(|port| {
        if port.port == question.port && service.cluster_ips.contains(&question.address) {
            return Some((Through::ClusterIp, port));
        }
        // `externalIPs`: "nodes in the cluster will also accept traffic for this service".
        let is_external = service.external_ips.contains(&question.address);
        // KEP-1860: "Proxy": the node does not take the balancer's address.
        let is_ingress =
            service.ingress.iter().any(|(ip, mode)| *ip == question.address && *mode != IpMode::Proxy);
        if port.port == question.port && is_ingress {
            return Some((Through::Balancer, port));
        }
        if port.port == question.port && is_external {
            return Some((Through::Outer, port));
        }
        // `nodePort`: "the port on each node on which this service is exposed".
        let is_node_port = port.node_port == Some(question.port);
        (is_node_port && answers_node_ports(world, question.address)).then_some((Through::Outer, port))
    })
}

/// `--nodeport-addresses`: "a list of CIDR ranges that contain valid node IPs, or, if set to the single string
/// 'primary', only the node's primary IP(s)". A list without a range of a family leaves that family alone.
fn answers_node_ports(world: &World, address: IpAddr) -> bool {
    let addresses = &world.nodes[world.here].addresses;
    let is_own = addresses.contains(&address);
    match world.node_ports {
        NodePorts::OnAll => is_own,
        NodePorts::OnPrimary => {
            addresses.iter().find(|own| own.is_ipv4() == address.is_ipv4()) == Some(&address)
        }
        NodePorts::In(network, _) if network.is_ipv4() != address.is_ipv4() => is_own,
        NodePorts::In(network, bits) => is_own && contains(network, bits, address),
    }
}

/// `loadBalancerSourceRanges`: "traffic through the load balancer will be restricted to the specified client
/// IPs"; kube-proxy takes the ranges of each family for that family alone.
fn is_kept_out(service: &Service, source: IpAddr) -> bool {
    let mut ranges =
        service.source_ranges.iter().filter(|(network, _)| network.is_ipv4() == source.is_ipv4()).peekable();
    ranges.peek().is_some() && !ranges.any(|(network, bits)| contains(*network, *bits, source))
}

/// Bit by bit.
fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    let text = |ip: IpAddr| -> String {
        match ip {
            IpAddr::V4(ip) => format!("{:032b}", u32::from(ip)),
            IpAddr::V6(ip) => format!("{:0128b}", u128::from(ip)),
        }
    };
    let bits = usize::from(bits);
    network.is_ipv4() == address.is_ipv4() && text(network)[..bits] == text(address)[..bits]
}

/// `internalTrafficPolicy`: "how nodes distribute service traffic they receive on the ClusterIP".
/// `externalTrafficPolicy`: "traffic they receive on one of the Service's externally-facing addresses
/// (NodePorts, ExternalIPs, and LoadBalancer IPs)"; "traffic sent to an External IP or LoadBalancer IP
/// from within the cluster will always get Cluster semantics".
fn wants_local(service: &Service, through: Through, from: From) -> bool {
    match (through, from) {
        (Through::ClusterIp, _) => service.internal_policy == Policy::Local,
        (Through::Balancer | Through::Outer, From::Outside) => service.external_policy == Policy::Local,
        (Through::Balancer | Through::Outer, From::Pod) => false,
    }
}

fn of_the_cluster(world: &World, service: &Service, port: &Port, dialled: IpAddr) -> Answer {
    let usable = usable(&near(world, endpoints(world, service, port, dialled)));
    if usable.is_empty() { Answer::Refused } else { Answer::OneOf(usable) }
}

/// Hints (KEP-4444, KEP-3015): "if all ready endpoints have hints and at least one is for this node, use those";
/// else the same for this node's zone; else all. Hints say nothing of endpoints that are not ready.
/// "An endpoint for this node or zone that weighs nothing counts as none."
fn near(world: &World, all: Vec<Place>) -> Vec<Place> {
    let node = &world.nodes[world.here];
    let by = |hints: fn(&Endpoint) -> &Vec<String>, ours: &String| -> Option<Vec<Place>> {
        let ready: Vec<_> = all.iter().filter(|place| is_ready(&place.endpoint)).collect();
        let all_have_hints = ready.iter().all(|place| !hints(&place.endpoint).is_empty());
        let is_for_us = |place: &&Place| hints(&place.endpoint).contains(ours);
        let for_us: Vec<_> = ready.into_iter().filter(is_for_us).cloned().collect();
        let one_takes_flows = for_us.iter().any(|place| place.weight > 0);
        (all_have_hints && one_takes_flows).then_some(for_us)
    };
    if let Some(chosen) = by(|e| &e.node_hints, &node.name) {
        return chosen;
    }
    if let Some(chosen) = node.zone.as_ref().and_then(|zone| by(|e| &e.zone_hints, zone)) {
        return chosen;
    }
    all
}

/// `Local`: "preserves the client source IP by routing only to endpoints on the same node as the traffic
/// was received on (dropping the traffic if there are no local endpoints)". With no endpoint anywhere the
/// connection is refused as for any Service without endpoints.
fn of_this_node(world: &World, service: &Service, port: &Port, dialled: IpAddr) -> Answer {
    let all = endpoints(world, service, port, dialled);
    let name = &world.nodes[world.here].name;
    let local: Vec<_> =
        all.iter().filter(|place| place.endpoint.node.as_ref() == Some(name)).cloned().collect();
    let here = usable(&local);
    if !here.is_empty() {
        return Answer::OneOf(here);
    }
    if usable(&all).is_empty() { Answer::Refused } else { Answer::Dropped }
}

/// KEP-1669: ready endpoints; where none is ready, those that still serve while they terminate. Of these,
/// "an endpoint of weight 0 takes no new flows".
fn usable(places: &[Place]) -> BTreeMap<SocketAddr, u32> {
    let ready: Vec<&Place> = places.iter().filter(|place| is_ready(&place.endpoint)).collect();
    let still_serving =
        |place: &&Place| is_serving(&place.endpoint) && place.endpoint.terminating == Some(true);
    let usable = if ready.is_empty() { places.iter().filter(still_serving).collect() } else { ready };
    usable.into_iter().filter(|place| place.weight > 0).map(|place| (place.at, place.weight)).collect()
}

/// "The Service's goes before the slice's, and this before `podway.io/weight`"; 1 is the default. A value that
/// cannot be used is left out.
fn weight(service: &Service, slice: &Slice, address: IpAddr) -> u32 {
    let is_usable = |weight: &u32| *weight <= 1_000;
    let of = |weights: &[(IpAddr, u32)]| {
        weights.iter().find(|(of, _)| *of == address).map(|(_, weight)| *weight).filter(is_usable)
    };
    of(&service.weights).or(of(&slice.weights)).or(slice.weight.filter(is_usable)).unwrap_or(1)
}

/// Seconds for which a Service's TCP flows go on when their endpoint is gone. `keep`: "until the deadline";
/// `reset`: "they end at once".
#[must_use]
pub fn drain_s(service: &Service) -> u32 {
    let deadline_s = service.drain_deadline_s.filter(|seconds| (1..=604_800).contains(seconds));
    if service.drain == Some("reset") { 0 } else { deadline_s.unwrap_or(3_600) }
}

/// EndpointConditions: "a nil value should be interpreted as true".
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.ready != Some(false)
}

/// EndpointConditions: "if nil, consumers should defer to the ready condition".
fn is_serving(endpoint: &Endpoint) -> bool {
    endpoint.serving.unwrap_or_else(|| is_ready(endpoint))
}

/// The endpoints behind a Service port in the family of the address that was dialled: those of all
/// slices with the Service's label, at the slice's port of the same name and protocol.
fn endpoints(world: &World, service: &Service, port: &Port, dialled: IpAddr) -> Vec<Place> {
    let mut found = Vec::new();
    let mut slices: Vec<_> = world.slices.iter().filter(|slice| slice.service == service.name).collect();
    slices.sort_by_key(|slice| slice.name.clone());
    for slice in slices {
        if slice.is_v4 != dialled.is_ipv4() {
            continue;
        }
        let name = port.name.clone().unwrap_or_default();
        let number = slice.ports.iter().find_map(|candidate| {
            let is_it =
                candidate.name.clone().unwrap_or_default() == name && candidate.protocol == port.protocol;
            candidate.port.filter(|_| is_it)
        });
        let Some(number) = number else { continue };
        for endpoint in &slice.endpoints {
            found.push(Place {
                at: SocketAddr::new(endpoint.address, number),
                endpoint: endpoint.clone(),
                weight: weight(service, slice, endpoint.address),
            });
        }
    }
    without_doubles(world, found)
}

/// "Endpoints may appear in several slices at once" while they move; a consumer takes each once. Which one
/// holds is left open: Podway takes the one on its own node, then a ready, then a serving one.
fn without_doubles(world: &World, found: Vec<Place>) -> Vec<Place> {
    let here = &world.nodes[world.here].name;
    let rank = |e: &Endpoint| (e.node.as_ref() == Some(here), is_ready(e), is_serving(e));
    let mut kept: Vec<Place> = Vec::new();
    for place in found {
        match kept.iter_mut().find(|known| known.at == place.at) {
            None => kept.push(place),
            Some(known) if rank(&place.endpoint) > rank(&known.endpoint) => *known = place,
            Some(_) => {}
        }
    }
    kept
}
