//! The Services that the stories are about.
use std::net::{IpAddr, Ipv6Addr};

use anyhow::Result;
use lb_tests::cluster;
use lb_tests::manifests::{Families, Service};
use lb_tests::topology::Topology;
use lb_tests::traffic::Server;
use lb_userspace::model::{Protocol, TrafficPolicy};
use serde_json::json;

/// The external address in IPv6.
const EXTERNAL_IP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x20));
/// Where a second server of `web-c-1` listens, over TCP and UDP.
const OTHER_PORTS: [u16; 2] = [9090, 9091];
/// Where no pod listens.
const CLOSED_PORT: u16 = 9;
/// Where pods would listen over SCTP.
pub(crate) const SCTP_PORT: u16 = 3868;
/// Where nodes tell of the pods of the Service `checked`.
pub(crate) const HEALTH_CHECK_NODE_PORT: u16 = 32_111;
/// The host that stands for a load balancer with `ipMode: Proxy`: its own servers answer there.
pub(crate) const PROXY: &str = "web-c-3";
/// What that server calls itself.
pub(crate) const OTHER_SERVER: &str = "web-c-1-at-its-other-ports";
/// The pods behind most Services: two on each node.
pub(crate) const PODS: [&str; 6] = ["web-a-1", "web-a-2", "web-b-1", "web-b-2", "web-c-1", "web-c-2"];

/// Servers beside those of all pods: host-network endpoints, and one at other ports.
pub(crate) fn further_servers(topology: &Topology) -> Result<Vec<Server>> {
    let usual = [(Protocol::Tcp, cluster::TCP_PORT), (Protocol::Udp, cluster::UDP_PORT)];
    let other = [(Protocol::Tcp, OTHER_PORTS[0]), (Protocol::Udp, OTHER_PORTS[1])];
    Ok(vec![
        Server::start(topology.host("node-c"), &usual)?,
        Server::start_as(topology.host("web-c-1"), OTHER_SERVER, &other)?,
    ])
}

/// A Service at every kind of address, without pods.
pub(crate) fn bare(name: &str, port: u8) -> Service {
    let mut service = cluster::service(name, port);
    service.external_ips.push(EXTERNAL_IP_V6);
    service
}

/// With these hosts behind it, ready; a pod or a node itself.
pub(crate) fn backed_by(service: Service, topology: &Topology, hosts: &[&str]) -> Service {
    hosts.iter().fold(service, |service, name| {
        let host = topology.host(name);
        let has = |node: &&lb_tests::topology::Node| {
            node.host().name() == *name || node.pods().iter().any(|pod| pod.name() == *name)
        };
        match topology.nodes().iter().find(has) {
            Some(node) => service.backed_by(node, host),
            None => panic!("{name} is neither a node nor a pod"),
        }
    })
}

fn of(service: &'static str, port: u8, topology: &Topology, hosts: &[&str]) -> Service {
    backed_by(bare(service, port), topology, hosts)
}

/// All of them. The port is the end of the cluster IPs, and of the node port.
pub(crate) fn all(topology: &Topology) -> Vec<Service> {
    let of = |name, port, hosts: &[&str]| of(name, port, topology, hosts);
    let mut services = vec![
        of("web", 80, &PODS),
        of("near", 81, &["web-a-1", "web-a-2"]),
        of("far", 82, &["web-b-1", "web-b-2"]),
        of("west", 83, &["web-c-1", "web-c-2"]),
        of("empty", 86, &[]),
        of("host", 90, &["node-c"]),
        of("own", 96, &["web-b-1"]),
        of("moving", 93, &["web-b-1"]),
        of("restless", 94, &["web-b-1", "web-c-1"]),
    ];
    services.extend(with_policies(topology));
    services.extend(with_entrance(topology));
    services.extend(with_hints(topology));
    services.extend(with_affinity(topology));
    services.push(with_slices(topology));
    services.extend(at_other_ports(topology));
    services.extend(with_sctp(topology));
    services.extend(single_stack(topology));
    services.extend(untouched(topology));
    services
}

fn with_policies(topology: &Topology) -> Vec<Service> {
    let of = |name, port, hosts: &[&str]| of(name, port, topology, hosts);
    let mut external = of("local", 84, &["web-a-1", "web-c-1"]);
    external.external_traffic_policy = TrafficPolicy::Local;
    let mut internal = of("internal-local", 85, &["web-a-1", "web-c-1"]);
    internal.internal_traffic_policy = TrafficPolicy::Local;
    let mut fading = of("fading", 91, &["web-a-1", "web-b-1"]);
    for pod in ["web-a-1", "web-b-1"] {
        terminate(&mut fading, pod);
    }
    let mut fading_local = of("fading-local", 92, &["web-a-1", "web-b-1"]);
    fading_local.external_traffic_policy = TrafficPolicy::Local;
    terminate(&mut fading_local, "web-a-1");
    let mut checked = of("checked", 111, &["web-a-1", "web-a-2", "web-c-1"])
        .with_spec("healthCheckNodePort", HEALTH_CHECK_NODE_PORT.into());
    checked.external_traffic_policy = TrafficPolicy::Local;
    vec![external, internal, fading, fading_local, checked]
}

fn terminate(service: &mut Service, pod: &str) {
    let endpoint = service.endpoint(pod);
    (endpoint.ready, endpoint.terminating) = (false, true);
}

/// Source ranges, weights, direct server return, and drain contracts.
fn with_entrance(topology: &Topology) -> Vec<Service> {
    let of = |name, port, hosts: &[&str]| of(name, port, topology, hosts);
    let ranges = "loadBalancerSourceRanges";
    let client = topology.client();
    // The client's segment, whose last host it is not.
    let segment = [format!("{}/25", client.v4()), format!("{}/64", client.v6())];
    let [light, heavy] = ["web-a-1", "web-b-1"].map(|pod| topology.pod(pod));
    let weights = format!("{}=0,{}=0,{}=2", light.v4(), light.v6(), heavy.v4());
    vec![
        of("closed", 97, &["web-a-1", "web-b-1"])
            .with_spec(ranges, json!(["198.18.0.0/15", "2001:db8:2::/48"])),
        of("open", 98, &["web-a-1", "web-b-1"]).with_spec(ranges, json!(segment)),
        of("direct", 99, &["web-b-1", "web-c-1"]).annotated("podway.io/external-mode", "dsr"),
        of("weighted", 100, &["web-a-1", "web-b-1"]).annotated("podway.io/endpoint-weights", &weights),
        of("impatient", 103, &["web-b-1"]).annotated("podway.io/drain", "reset"),
        of("draining", 109, &["web-b-1"]),
        of("hasty", 110, &["web-b-1"]).annotated("podway.io/drain-deadline-seconds", "1"),
    ]
}

/// Pods with hints for their own zone, one Service in which one pod has none, and two with hints for nodes
/// too: one has pods on every node.
fn with_hints(topology: &Topology) -> Vec<Service> {
    let of_zones = |name, port, hosts: &[&str]| {
        let mut service = of(name, port, topology, hosts);
        for endpoint in &mut service.endpoints {
            endpoint.zone_hints = vec![topology.node(&endpoint.node).zone().to_owned()];
        }
        service
    };
    let zonal = of_zones("zonal", 101, &PODS).with_spec("trafficDistribution", "PreferClose".into());
    let of_nodes = |name, port, hosts: &[&str]| {
        let mut service =
            of_zones(name, port, hosts).with_spec("trafficDistribution", "PreferSameNode".into());
        for endpoint in &mut service.endpoints {
            endpoint.node_hints = vec![endpoint.node.clone()];
        }
        service
    };
    let nodal = of_nodes("nodal", 114, &["web-a-1", "web-b-1", "web-c-1"]);
    let half_nodal = of_nodes("half-nodal", 117, &["web-a-1", "web-c-1"]);
    let mut half = Service { endpoints: zonal.endpoints.clone(), ..of("half-zonal", 102, topology, &[]) };
    half.endpoint("web-b-2").zone_hints.clear();
    vec![zonal, half, nodal, half_nodal]
}

fn with_affinity(topology: &Topology) -> Vec<Service> {
    let with_timeout = |name, port, timeout_s| {
        let mut service = of(name, port, topology, &PODS);
        service.affinity_timeout_s = Some(timeout_s);
        service
    };
    vec![
        with_timeout("sticky", 87, 10_800),
        with_timeout("forgetful", 88, 1),
        with_timeout("broken-affinity", 95, 10_800),
    ]
}

/// Two slices for each family; in the second, the ports of the same names have other numbers.
fn with_slices(topology: &Topology) -> Service {
    let mut service = of("slices", 89, topology, &["web-a-1", "web-c-1"]);
    service.endpoint("web-c-1").slice = 1;
    for (name, port) in ["tcp", "udp"].into_iter().zip(OTHER_PORTS) {
        service.slice_ports.insert((1, name.to_owned()), port);
    }
    service
}

/// Pods that do not listen where they are said to, and the server that other pods do not have.
fn at_other_ports(topology: &Topology) -> [Service; 3] {
    let at = |mut service: Service, ports: [u16; 2]| {
        service.slice_ports =
            ["tcp", "udp"].map(|name| (0, name.to_owned())).into_iter().zip(ports).collect();
        service
    };
    let deaf = of("deaf", 104, topology, &["web-a-1"]);
    let direct = of("direct-deaf", 112, topology, &["web-b-1"]).annotated("podway.io/external-mode", "dsr");
    let crowded = of("crowded", 113, topology, &["web-c-1"]);
    [at(deaf, [CLOSED_PORT; 2]), at(direct, [CLOSED_PORT; 2]), at(crowded, OTHER_PORTS)]
}

/// Services of one family.
fn single_stack(topology: &Topology) -> [Service; 2] {
    [("only-v4", 115, Families::V4), ("only-v6", 116, Families::V6)].map(|(name, port, families)| Service {
        families,
        ..of(name, port, topology, &["web-a-1", "web-b-1"])
    })
}

fn with_sctp(topology: &Topology) -> [Service; 2] {
    [("signals", 105, "web-a-1"), ("far-signals", 106, "web-c-1")].map(|(name, port, pod)| {
        let mut service = bare(name, port);
        service.ports.clear();
        let number = u16::from(port);
        let service = service.port("sctp", Protocol::Sctp, number, SCTP_PORT).node_port(30_000 + number);
        backed_by(service, topology, &[pod])
    })
}

/// A headless Service, and one whose load balancer forwards by itself.
fn untouched(topology: &Topology) -> [Service; 2] {
    let ports = |name, last| {
        let tcp = Service::new(name, last).port("tcp", Protocol::Tcp, cluster::TCP_PORT, cluster::TCP_PORT);
        tcp.port("udp", Protocol::Udp, cluster::UDP_PORT, cluster::UDP_PORT)
    };
    let headless = ports("headless", 107).with_spec("clusterIP", "None".into());
    let mut proxied = ports("proxied", 108);
    let proxy = topology.pod(PROXY);
    proxied.proxy_ips = vec![proxy.v4().into(), proxy.v6().into()];
    [headless.with_spec("clusterIPs", json!(["None"])), proxied]
        .map(|service| backed_by(service, topology, &["web-b-1"]))
}
