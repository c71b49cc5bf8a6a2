//! A whole cluster under Podway: the topology, manifests, a server in every pod and an agent on every
//! node, ready when [`Cluster::start`] returns.
//!
//! The Services, each over TCP and UDP, at load-balancer, external and cluster addresses:
//!
//! | name | port | pods |
//! | --- | --- | --- |
//! | `web` | 80 (node port 30080) | all |
//! | `near` | 81 (node port 30081) | `web-a-1`, `web-a-2` |
//! | `far` | 82 (node port 30082) | `web-b-1`, `web-b-2` |
//! | `local` | 83 (node port 30083) | all; `externalTrafficPolicy: Local` |
//! | `far-local` | 84 (node port 30084) | `web-b-1`, `web-b-2`; `externalTrafficPolicy: Local` |
//! | `empty` | 85 (node port 30085) | none |
//!
//! `web-a-3` and `web-b-3` are behind no Service of few pods, and so are good clients.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use lb_userspace::model::{CheckKind, HealthCheck, Protocol, TrafficPolicy};
use tempfile::TempDir;

use crate::agent::{Agent, Frontend, Options, Podway, frontend};
use crate::manifests::{EXTERNAL_IP, Families, LOAD_BALANCER_IPS, Manifests, Service};
use crate::topology::{Host, NODE_NAMES, Node, Topology};
use crate::traffic::Server;

/// The pods' port over TCP.
pub const TCP_PORT: u16 = 8080;
/// The pods' port over UDP.
pub const UDP_PORT: u16 = 5353;
/// A port of pods that is for health checks alone.
pub const HEALTH_PORT: u16 = 9_000;
/// Both protocols.
pub const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// The cluster. Dropping it removes everything.
#[derive(Debug)]
pub struct Cluster {
    /// The agents, `node-a`'s first.
    pub agents: Vec<Agent>,
    /// The servers, by the order of [`Topology::pods`].
    pub servers: Vec<(String, Server)>,
    /// The manifests.
    pub manifests: Manifests,
    /// The hosts. Dropped behind what runs on them.
    pub topology: Topology,
    _dir: TempDir,
}

impl Cluster {
    /// Two nodes with three pods each and the Services above.
    ///
    /// # Errors
    /// A part cannot be started, or an agent does not get ready.
    pub fn start(podway: &Podway, options: Options) -> Result<Self> {
        let topology = Topology::two_nodes(3)?;
        let services = services(&topology);
        Self::on(topology, services, podway, options)
    }

    /// These Services on that topology, a server in every pod and an agent on every node.
    ///
    /// # Errors
    /// A part cannot be started, or an agent does not get ready.
    pub fn on(topology: Topology, services: Vec<Service>, podway: &Podway, options: Options) -> Result<Self> {
        let nodes = topology.nodes().len();
        Self::with_agents(nodes, topology, services, podway, options)
    }

    /// As [`Cluster::on`], with an agent on as many nodes, from the first one on: its start is most of a test's work.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn with_agents(
        count: usize,
        topology: Topology,
        services: Vec<Service>,
        podway: &Podway,
        options: Options,
    ) -> Result<Self> {
        let dir = TempDir::with_prefix("podway-manifests-").context("cannot make a folder")?;
        let mut manifests = Manifests::new(dir.path(), &topology)?;
        for service in services {
            manifests.put(service)?;
        }
        let servers = topology
            .pods()
            .map(|pod| Ok((pod.name().to_owned(), Server::start(pod, &ports())?)))
            .collect::<Result<Vec<_>>>()?;
        let mut agents = Vec::new();
        for node in topology.nodes().iter().take(count) {
            agents.push(Agent::start(podway, &topology, node.host().name(), manifests.dir(), options)?);
        }
        let mut cluster = Self { agents, servers, manifests, topology, _dir: dir };
        cluster.wait_for_frontends()?;
        Ok(cluster)
    }

    /// Waits until every agent shows exactly the frontends of the manifests.
    ///
    /// # Errors
    /// One does not in time.
    pub fn wait_for_frontends(&mut self) -> Result<()> {
        for (agent, node) in self.agents.iter_mut().zip(self.topology.nodes()) {
            agent.wait_for(&expected_frontends(&self.manifests, node.host()))?;
        }
        Ok(())
    }

    /// Kills the server of a pod: its connections are reset, its ports refuse.
    ///
    /// # Panics
    /// The pod has none.
    pub fn kill_server(&mut self, pod: &str) {
        let position = self.servers.iter().position(|(name, _)| name == pod);
        let position = position.unwrap_or_else(|| panic!("no server runs in pod {pod}"));
        self.servers.swap_remove(position).1.kill();
    }

    /// Where the client finds a Service: at the node ports of `node-a`, the load-balancer addresses,
    /// the external address and the cluster IPs, with the port of each.
    ///
    /// # Panics
    /// There is no such Service or port.
    #[must_use]
    pub fn addresses(&self, service: &str, protocol: Protocol) -> Vec<SocketAddr> {
        let service = self.manifests.service(service);
        let port = service.ports.iter().find(|port| port.protocol == protocol);
        let port = port.unwrap_or_else(|| panic!("Service {} has no {protocol} port", service.name));
        let node = self.topology.node(NODE_NAMES[0]).host();
        let at_nodes = port.node_port.into_iter().flat_map(|port| {
            [SocketAddr::new(node.v4().into(), port), SocketAddr::new(node.v6().into(), port)]
        });
        let at_vips = vips(service).into_iter().map(|vip| SocketAddr::new(vip, port.port));
        at_nodes.chain(at_vips).collect()
    }

    /// The cluster IPs of a Service, with its port.
    ///
    /// # Panics
    /// There is no such Service or port.
    #[must_use]
    pub fn cluster_addresses(&self, service: &str, protocol: Protocol) -> Vec<SocketAddr> {
        let ips = self.manifests.service(service).cluster_addresses();
        let is_cluster_ip = |address: &SocketAddr| ips.contains(&address.ip());
        self.addresses(service, protocol).into_iter().filter(is_cluster_ip).collect()
    }

    /// The load-balancer addresses of a Service, with its port.
    ///
    /// # Panics
    /// There is no such Service or port.
    #[must_use]
    pub fn load_balancer_addresses(&self, service: &str, protocol: Protocol) -> Vec<SocketAddr> {
        let is_one = |address: &SocketAddr| LOAD_BALANCER_IPS.contains(&address.ip());
        self.addresses(service, protocol).into_iter().filter(is_one).collect()
    }
}

/// The VIPs of a Service that are not node addresses.
fn vips(service: &Service) -> Vec<IpAddr> {
    let cluster_ips = service.cluster_addresses().into_iter();
    let outside = service.external_ips.iter().chain(&service.load_balancer_ips).copied();
    let has_family = |vip: &IpAddr| match service.families {
        Families::Dual => true,
        Families::V4 => vip.is_ipv4(),
        Families::V6 => vip.is_ipv6(),
    };
    cluster_ips.chain(outside.filter(has_family)).collect()
}

/// Every frontend that `node` must have; node ports answer at its own addresses.
fn expected_frontends(manifests: &Manifests, node: &Host) -> BTreeSet<Frontend> {
    let mut frontends = BTreeSet::new();
    for service in manifests.services().filter(|service| !service.is_headless()) {
        for port in &service.ports {
            frontends.extend(vips(service).into_iter().map(|vip| frontend(port.protocol, vip, port.port)));
            let node_port = port.node_port.into_iter();
            frontends.extend(node_port.flat_map(|number| {
                let addresses: [IpAddr; 2] = [node.v4().into(), node.v6().into()];
                service
                    .families
                    .indices()
                    .map(move |family| frontend(port.protocol, addresses[family], number))
            }));
        }
    }
    frontends
}

/// What every pod's server listens on.
fn ports() -> [(Protocol, u16); 2] {
    [(Protocol::Tcp, TCP_PORT), (Protocol::Udp, UDP_PORT)]
}

/// A check by TCP that tells a death within a second: every 200 ms, two faults in a row.
#[must_use]
pub fn quick_check(port: u16) -> HealthCheck {
    HealthCheck {
        kind: CheckKind::Tcp,
        port: Some(port),
        interval_ms: 200,
        timeout_ms: 300,
        healthy_threshold: 1,
        unhealthy_threshold: 2,
    }
}

/// What answers a pod's checks at [`HEALTH_PORT`] as long as it is there.
///
/// # Errors
/// The port cannot be opened.
pub fn start_health(pod: &Host) -> Result<Server> {
    Server::start(pod, &[(Protocol::Tcp, HEALTH_PORT)])
}

/// A Service on `port` of every kind of address; its cluster IPs end in the same digits.
#[must_use]
pub fn service(name: &str, port: u8) -> Service {
    let number = u16::from(port);
    let mut service = Service::new(name, port)
        .port("tcp", Protocol::Tcp, number, TCP_PORT)
        .node_port(30_000 + number)
        .port("udp", Protocol::Udp, number, UDP_PORT)
        .node_port(30_000 + number);
    service.load_balancer_ips = LOAD_BALANCER_IPS.to_vec();
    service.external_ips = vec![EXTERNAL_IP];
    service
}

fn services(topology: &Topology) -> Vec<Service> {
    let [node_a, node_b] = NODE_NAMES.map(|name| topology.node(name));
    let backed_by = |service: Service, node: &Node, pods: [&str; 2]| {
        pods.iter().fold(service, |service, pod| service.backed_by(node, topology.pod(pod)))
    };
    let mut local = service("local", 83).backed_by_all(topology);
    local.external_traffic_policy = TrafficPolicy::Local;
    let mut far_local = backed_by(service("far-local", 84), node_b, ["web-b-1", "web-b-2"]);
    far_local.external_traffic_policy = TrafficPolicy::Local;
    vec![
        service("web", 80).backed_by_all(topology),
        backed_by(service("near", 81), node_a, ["web-a-1", "web-a-2"]),
        backed_by(service("far", 82), node_b, ["web-b-1", "web-b-2"]),
        local,
        far_local,
        service("empty", 85),
    ]
}
