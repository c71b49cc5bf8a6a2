//! Random worlds: small ones, from few names, addresses and ports, so that things meet.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_userspace::model::Protocol;

use super::world::{
    Endpoint, From, IpMode, Kind, Node, NodePorts, Policy, Port, Question, Service, Slice, SlicePort, World,
};
use crate::packet::Random;

const PORT_NAMES: [Option<&str>; 3] = [None, Some("http"), Some("metrics")];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
const ZONES: [&str; 2] = ["east", "west"];
/// Of the cluster IPs; `true` for IPv4.
const FAMILIES: [&[bool]; 4] = [&[true], &[false], &[true, false], &[false, true]];
const PORTS: [u16; 3] = [80, 443, 30_080];
const NODE_PORTS: [u16; 3] = [30_080, 30_081, 80];
const TARGET_PORTS: [u16; 2] = [8_080, 9_090];

/// The world of a seed.
#[must_use]
pub fn world(seed: u64) -> World {
    let mut random = Random::new(seed);
    let nodes: Vec<Node> = (0..3).map(|index| node(index, &mut random)).collect();
    let here = random.below(nodes.len());
    let services: Vec<Service> = (0..1 + random.below(3)).map(|index| service(index, &mut random)).collect();
    let mut slices = Vec::new();
    for service in &services {
        for index in 0..random.below(6) {
            slices.push(slice(service, index, &nodes, &mut random));
        }
    }
    let node_ports = match random.below(4) {
        0 => NodePorts::OnPrimary,
        1 => NodePorts::In(address(random.chance(50), 8 + random.below(3)), *random.pick(&[0, 29, 32])),
        _ => NodePorts::OnAll,
    };
    World { nodes, here, node_ports, services, slices }
}

/// An address of 192.0.2.0/24 or 2001:db8::/64.
fn address(is_v4: bool, last: usize) -> IpAddr {
    if is_v4 {
        Ipv4Addr::new(192, 0, 2, last as u8).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last as u16).into()
    }
}

fn pod(is_v4: bool, last: usize) -> IpAddr {
    if is_v4 {
        Ipv4Addr::new(198, 51, 100, last as u8).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last as u16).into()
    }
}

fn outsider(is_v4: bool, last: usize) -> IpAddr {
    if is_v4 {
        Ipv4Addr::new(203, 0, 113, last as u8).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, last as u16).into()
    }
}

fn node(index: usize, random: &mut Random) -> Node {
    let mut addresses = Vec::new();
    for is_v4 in [true, false] {
        for number in 0..random.below(3) {
            addresses.push(address(is_v4, 10 + 10 * index + number));
        }
    }
    let zone = random.chance(80).then(|| (*random.pick(&ZONES)).to_owned());
    Node { name: format!("node-{index}"), addresses, zone }
}

fn policy(random: &mut Random) -> Policy {
    *random.pick(&[Policy::Absent, Policy::Cluster, Policy::Local])
}

fn service(index: usize, random: &mut Random) -> Service {
    let kinds = [
        (30, Kind::ClusterIp),
        (30, Kind::NodePort),
        (30, Kind::LoadBalancer),
        (5, Kind::Headless),
        (5, Kind::ExternalName),
    ];
    let mut draw = random.below(100);
    let kind = kinds.iter().find(|(share, _)| {
        let is_it = draw < *share;
        draw = draw.saturating_sub(*share);
        is_it
    });
    let kind = kind.map_or(Kind::ClusterIp, |(_, kind)| *kind);
    let families = *random.pick(&FAMILIES);
    // The external addresses are shared by all Services; 10 to 12 are node addresses of node-0.
    let outer = |random: &mut Random| address(random.chance(50), 10 + random.below(4) * 30);
    Service {
        name: format!("service-{index}"),
        created_s: random.chance(70).then(|| random.below(3) as i64),
        kind,
        is_of_other_proxy: random.chance(5),
        cluster_ips: families.iter().map(|is_v4| address(*is_v4, 200 + index)).collect(),
        external_ips: (0..random.below(3)).map(|_| outer(random)).collect(),
        ingress: (0..if kind == Kind::LoadBalancer { random.below(3) } else { 0 })
            .map(|_| (outer(random), *random.pick(&[IpMode::Absent, IpMode::Vip, IpMode::Proxy])))
            .collect(),
        ports: ports(kind, random),
        external_policy: policy(random),
        internal_policy: policy(random),
        source_ranges: (0..if random.chance(30) { 1 + random.below(2) } else { 0 })
            .map(|_| {
                let last = *random.pick(&[0, 64, 128]);
                let network = if random.chance(50) { outsider(true, last) } else { outsider(false, last) };
                (network, *random.pick(if network.is_ipv4() { &[24, 26, 32] } else { &[0, 122, 128] }))
            })
            .collect(),
        weights: if random.chance(20) { weights(random) } else { Vec::new() },
        drain: *random.pick(&[None, Some("keep"), Some("reset"), Some("never")]),
        drain_deadline_s: *random.pick(&[None, Some(0), Some(1), Some(604_800), Some(604_801)]),
    }
}

/// Weights of a few pods; a thousand is the most that one may have.
fn weights(random: &mut Random) -> Vec<(IpAddr, u32)> {
    let mut weights: Vec<(IpAddr, u32)> = Vec::new();
    for _ in 0..1 + random.below(4) {
        let address = pod(random.chance(50), 1 + random.below(8));
        if weights.iter().all(|(known, _)| *known != address) {
            weights.push((address, *random.pick(&[0, 0, 3, 1_000, 1_001])));
        }
    }
    weights
}

/// One to three ports; the API refuses two of one name, or of one number and protocol.
fn ports(kind: Kind, random: &mut Random) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    for _ in 0..1 + random.below(3) {
        let port = Port {
            name: random.pick(&PORT_NAMES).map(Into::into),
            protocol: *random.pick(&PROTOCOLS),
            port: *random.pick(&PORTS),
            node_port: (kind != Kind::ClusterIp && random.chance(80)).then(|| *random.pick(&NODE_PORTS)),
        };
        let meets = ports.iter().any(|known| {
            known.name == port.name
                || (known.protocol == port.protocol
                    && (known.port == port.port
                        || (known.node_port.is_some() && known.node_port == port.node_port)))
        });
        if !meets {
            ports.push(port);
        }
    }
    ports
}

fn slice(service: &Service, index: usize, nodes: &[Node], random: &mut Random) -> Slice {
    let is_v4 = random.chance(50);
    let mut ports: Vec<SlicePort> = Vec::new();
    for port in &service.ports {
        if random.chance(90) {
            let number = random.chance(95).then(|| *random.pick(&TARGET_PORTS));
            // Seldom, a slice from before the Service's protocol was changed.
            let protocol = if random.chance(95) { port.protocol } else { *random.pick(&PROTOCOLS) };
            ports.push(SlicePort { name: port.name.clone(), protocol, port: number });
        }
    }
    let hinted = *random.pick(&[Hinted::No, Hinted::No, Hinted::ForZones, Hinted::ForBoth]);
    let endpoints = (0..random.below(5)).map(|_| endpoint(is_v4, hinted, nodes, random)).collect();
    Slice {
        name: format!("{}-{index}", service.name),
        service: service.name.clone(),
        is_v4,
        endpoints,
        ports,
        weight: random.chance(20).then(|| *random.pick(&[0, 0, 5, 1_000, 1_001])),
        weights: if random.chance(20) { weights(random) } else { Vec::new() },
    }
}

/// Which hints the endpoints of a slice have, but for a few that were forgotten.
#[derive(Clone, Copy)]
enum Hinted {
    No,
    ForZones,
    ForBoth,
}

fn endpoint(is_v4: bool, hinted: Hinted, nodes: &[Node], random: &mut Random) -> Endpoint {
    let condition = |random: &mut Random, yes: usize| match random.below(100) {
        draw if draw < yes => Some(true),
        draw if draw < 90 => Some(false),
        _ => None,
    };
    let ready = condition(random, 40);
    Endpoint {
        address: pod(is_v4, 1 + random.below(8)),
        ready,
        serving: condition(random, 50),
        terminating: condition(random, 40),
        node: random.chance(90).then(|| random.pick(nodes).name.clone()),
        zone_hints: match hinted {
            Hinted::ForZones | Hinted::ForBoth if random.chance(97) => {
                vec![(*random.pick(&ZONES)).to_owned()]
            }
            _ => Vec::new(),
        },
        node_hints: match hinted {
            Hinted::ForBoth if random.chance(97) => vec![random.pick(nodes).name.clone()],
            _ => Vec::new(),
        },
    }
}

/// Questions about a world: every address that anybody has with every port, and some that nobody has.
#[must_use]
pub fn questions(world: &World) -> Vec<Question> {
    let mut addresses = vec![address(true, 250), address(false, 250)];
    addresses.extend(world.nodes.iter().flat_map(|node| &node.addresses));
    for service in &world.services {
        addresses.extend(&service.cluster_ips);
        addresses.extend(&service.external_ips);
        addresses.extend(service.ingress.iter().map(|(ip, _)| ip));
    }
    addresses.sort_unstable();
    addresses.dedup();
    let mut ports: Vec<(u16, Protocol)> = world
        .services
        .iter()
        .flat_map(|service| &service.ports)
        .flat_map(|port| [Some(port.port), port.node_port].map(|number| (number, port.protocol)))
        .filter_map(|(number, protocol)| Some((number?, protocol)))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    let mut questions = Vec::new();
    for address in addresses {
        for (port, protocol) in &ports {
            let is_v4 = address.is_ipv4();
            for (from, source) in [
                (From::Pod, pod(is_v4, 99)),
                (From::Outside, outsider(is_v4, 64)),
                (From::Outside, outsider(is_v4, 200)),
            ] {
                questions.push(Question { from, source, address, port: *port, protocol: *protocol });
            }
        }
    }
    questions
}
