//! A client, nodes and their pods on one machine: every host is a network namespace.
//!
//! Two nodes, and a client on their own segment:
//!
//! ```text
//!                     192.0.2.0/24, 2001:db8:0:1::/64          (a bridge in a namespace of its own)
//!        ┌──────────────────────────┬──────────────────────────┐
//!     client .100                node-a .11                 node-b .12
//!                                   │ vethpod1, vethpod2 …     │
//!                          web-a-1 10.244.1.11          web-b-1 10.244.2.11
//!                          2001:db8:244:1::11           2001:db8:244:2::11
//! ```
//!
//! Three nodes in two zones, and a router between them and the client:
//!
//! ```text
//!     203.0.113.0/24, 2001:db8:113::/64                192.0.2.0/24, 2001:db8:0:1::/64
//!     client .100 ──────── .1 eth1 router eth0 .1 ──┬───────────────┬───────────────┐
//!                                              node-a .11      node-b .12      node-c .13
//!                                                (east)          (east)          (west)
//! ```
//!
//! Pods are wired as Calico does it: the pod has a /32 and a /128, its gateway is an address that the
//! node's end of the veth pair answers for, and the node has a route per pod. Nodes route each other's
//! pod prefixes. The client reaches the VIPs of Services through one of the nodes.
//!
//! All processes of a node and of its pods run in one cgroup, so that socket hooks of one simulated
//! node do not see the others.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use aya::programs::xdp::XdpLink;

use crate::cgroup::Cgroup;
use crate::footprint::Footprint;
use crate::netns::{self, Namespace};
use crate::wiring::{CLIENT_SEGMENT, GATEWAY_LAST, SEGMENT, Segment};
use crate::{wiring, xdp_pass};

/// Most pods on one node: their addresses end in .11 to .19.
pub const PODS_PER_NODE_MAX: u8 = 9;
/// Names of the first two nodes, in the order of their numbers.
pub const NODE_NAMES: [&str; 2] = ["node-a", "node-b"];
/// The nodes with their zones, in the order of their numbers. Two nodes are the first two.
const NODES: [(&str, &str); 3] = [("node-a", "east"), ("node-b", "east"), ("node-c", "west")];
/// What the client reaches through a node: the Service prefix, load-balancer and external addresses, and an Ingress's.
pub const SERVICE_PREFIXES: [&str; 8] = [
    "10.96.0.0/16",
    "198.51.100.10/32",
    "198.51.100.20/32",
    "198.51.100.81/32",
    "2001:db8:96::/112",
    "2001:db8:51::10/128",
    "2001:db8:51::20/128",
    "2001:db8:51::81/128",
];

/// A host: the client, a node or a pod.
#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    namespace: Namespace,
    cgroup: Cgroup,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Host {
    /// Its name, for instance `node-a` or `web-a-1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The cgroup of its processes; a pod's is that of its node.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn v6(&self) -> Ipv6Addr {
        self.v6
    }

    /// Its address in the family of `peer`.
    #[must_use]
    pub fn address_for(&self, peer: IpAddr) -> IpAddr {
        match peer {
            IpAddr::V4(_) => self.v4.into(),
            IpAddr::V6(_) => self.v6.into(),
        }
    }

    /// A command whose process runs on this host: in its namespace and its cgroup.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        self.namespace.command(program.as_ref(), Some(self.cgroup.procs()))
    }

    /// Runs `work` on a thread in this host's namespace, but in the cgroup of this process: socket
    /// hooks of the node do not see it.
    ///
    /// # Errors
    /// The thread cannot enter the namespace.
    pub fn run_in_netns<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.run(work)
    }
}

/// A node with its pods.
#[derive(Debug)]
pub struct Node {
    host: Host,
    zone: &'static str,
    /// 1 for the first node: the third number of its pods' addresses.
    number: u8,
    pods: Vec<Host>,
}

impl Node {
    /// A node in a namespace that is there already, without pods, outside any topology.
    ///
    /// # Errors
    /// There is no such namespace; no cgroup2 is mounted.
    pub(crate) fn alone(footprint: &Footprint, name: &str, last: u8) -> Result<Self> {
        let host = host(footprint, name, name, SEGMENT, last)?;
        Ok(Self { host, zone: NODES[0].1, number: 1, pods: Vec::new() })
    }

    /// The node itself.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its zone.
    #[must_use]
    pub fn zone(&self) -> &str {
        self.zone
    }

    /// Its pods, in the order in which they were added.
    #[must_use]
    pub fn pods(&self) -> &[Host] {
        &self.pods
    }

    /// The node's end of the veth pair of its `index`th pod (from 0).
    #[must_use]
    pub fn pod_interface(&self, index: usize) -> String {
        format!("vethpod{}", index + 1)
    }

    /// Its pod prefixes, `spec.podCIDRs` of its Node object.
    #[must_use]
    pub fn pod_cidrs(&self) -> [String; 2] {
        [format!("10.244.{}.0/24", self.number), format!("2001:db8:244:{}::/64", self.number)]
    }
}

/// All hosts of one simulated cluster. Dropping it kills their processes and removes everything.
#[derive(Debug)]
pub struct Topology {
    footprint: Footprint,
    /// Keep the far ends of the uplinks awake; see [`crate::xdp_pass`].
    uplink_programs: Vec<XdpLink>,
    switch: Namespace,
    /// Between the client and the nodes' segment, where the client is not on that itself.
    router: Option<Host>,
    client: Host,
    nodes: Vec<Node>,
}

impl Topology {
    /// A client and two nodes with `pods_per_node` pods each: `web-a-1`, `web-a-2` … on `node-a`,
    /// `web-b-1` … on `node-b`. First removes what dead processes have left behind.
    ///
    /// # Errors
    /// More than [`PODS_PER_NODE_MAX`] pods; not root; no iproute2 or ethtool; no cgroup2 mount.
    pub fn two_nodes(pods_per_node: u8) -> Result<Self> {
        let footprint = Footprint::new()?;
        create_namespaces(&footprint, &["client"])?;
        let client = host(&footprint, "client", "outside", SEGMENT, 100)?;
        Self::connect(footprint, client, None, &NODES[..2], pods_per_node)
    }

    /// A client behind a router, and three nodes in two zones: `node-a` and `node-b` in `east`, `node-c` in
    /// `west`. The router leads [`SERVICE_PREFIXES`] to one of the nodes.
    ///
    /// # Errors
    /// As [`Topology::two_nodes`].
    pub fn three_nodes(pods_per_node: u8) -> Result<Self> {
        let footprint = Footprint::new()?;
        create_namespaces(&footprint, &["client", "router"])?;
        let client = host(&footprint, "client", "outside", CLIENT_SEGMENT, 100)?;
        let router = host(&footprint, "router", "outside", SEGMENT, GATEWAY_LAST)?;
        Self::connect(footprint, client, Some(router), &NODES, pods_per_node)
    }

    fn connect(
        footprint: Footprint,
        client: Host,
        router: Option<Host>,
        nodes: &[(&'static str, &'static str)],
        pods_per_node: u8,
    ) -> Result<Self> {
        let names = || nodes.iter().map(|(name, _)| *name);
        create_namespaces(&footprint, &std::iter::once("switch").chain(names()).collect::<Vec<_>>())?;
        let node = |(number, (name, zone)): (u8, &(&'static str, &'static str))| -> Result<Node> {
            let host = host(&footprint, name, name, SEGMENT, 10 + number)?;
            Ok(Node { host, zone, number, pods: Vec::new() })
        };
        let mut topology = Self {
            switch: Namespace::open(&footprint.namespace("switch"))?,
            nodes: (1..).zip(nodes).map(node).collect::<Result<_>>()?,
            client,
            router,
            footprint,
            uplink_programs: Vec::new(),
        };
        let Self { switch, client, router, .. } = &topology;
        wiring::connect_outside(switch, client, router.as_ref(), &topology.nodes)?;
        topology.uplink_programs = xdp_pass::attach(&topology.switch, names())?;
        topology.route_services_via(NODE_NAMES[0])?;
        let pods: Vec<(&str, String)> = names()
            .zip('a'..)
            .flat_map(|(node, letter)| (1..=pods_per_node).map(move |i| (node, format!("web-{letter}-{i}"))))
            .collect();
        topology.add_pods(&pods)?;
        Ok(topology)
    }

    /// Adds pods, each given as the name of its node and its own.
    ///
    /// # Errors
    /// No such node; more than [`PODS_PER_NODE_MAX`] pods on a node; a command failed.
    pub fn add_pods(&mut self, names: &[(&str, String)]) -> Result<()> {
        let pods: Vec<&str> = names.iter().map(|(_, pod)| pod.as_str()).collect();
        create_namespaces(&self.footprint, &pods)?;
        for (node, name) in names {
            let node = self.nodes.iter_mut().find(|candidate| candidate.host.name == *node);
            let node = node.with_context(|| format!("no such node to put pod {name} on"))?;
            let last = node.pods.len() as u8 + 11;
            ensure!(node.pods.len() < usize::from(PODS_PER_NODE_MAX), "no room for pod {name} on its node");
            node.pods.push(Host {
                name: name.clone(),
                namespace: Namespace::open(&self.footprint.namespace(name))?,
                cgroup: node.host.cgroup.clone(),
                v4: Ipv4Addr::new(10, 244, node.number, last),
                v6: wiring::v6([0x2001, 0xdb8, 0x244, node.number.into()], last),
            });
        }
        wiring::connect_pods(&self.nodes, &pods)
    }

    /// A node.
    ///
    /// # Panics
    /// There is none of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        let node = self.nodes.iter().find(|node| node.host.name == name);
        node.unwrap_or_else(|| panic!("no node {name} in the topology"))
    }

    /// All nodes, in the order of their numbers.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A pod.
    ///
    /// # Panics
    /// There is none of this name.
    #[must_use]
    pub fn pod(&self, name: &str) -> &Host {
        let pod = self.pods().find(|pod| pod.name == name);
        pod.unwrap_or_else(|| panic!("no pod {name} in the topology"))
    }

    /// All pods, those of `node-a` first.
    pub fn pods(&self) -> impl Iterator<Item = &Host> {
        self.nodes.iter().flat_map(|node| &node.pods)
    }

    /// A host of any kind.
    ///
    /// # Panics
    /// There is none of this name.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        let nodes = self.nodes.iter().map(Node::host);
        let mut hosts = std::iter::once(&self.client).chain(&self.router).chain(nodes).chain(self.pods());
        hosts.find(|host| host.name == name).unwrap_or_else(|| panic!("no host {name} in the topology"))
    }

    /// The client outside the cluster.
    #[must_use]
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// Runs `work` on a thread at the gateway of the nodes' segment: whoever has 192.0.2.1 and
    /// 2001:db8:0:1::1.
    ///
    /// # Errors
    /// The thread cannot enter the namespace.
    pub fn run_at_gateway<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.gateway().run(work)
    }

    /// The namespace of whoever has 192.0.2.1 and 2001:db8:0:1::1.
    #[must_use]
    pub fn gateway(&self) -> &Namespace {
        self.router.as_ref().map_or(&self.switch, Host::namespace)
    }

    /// The directory on bpffs for the pins of a node, removed with the topology.
    #[must_use]
    pub fn pins(&self, node: &str) -> PathBuf {
        self.footprint.pins(node)
    }

    /// The directory for `--run-dir` of a node's agent, removed with the topology.
    #[must_use]
    pub fn run_dir(&self, node: &str) -> PathBuf {
        self.footprint.run_dir(node)
    }

    /// Leads what the client sends to [`SERVICE_PREFIXES`] to `node` from now on.
    ///
    /// # Errors
    /// A command failed.
    ///
    /// # Panics
    /// There is no such node.
    pub fn route_services_via(&self, node: &str) -> Result<()> {
        let node = &self.node(node).host;
        let routes: String = SERVICE_PREFIXES
            .iter()
            .map(|prefix| match prefix.contains(':') {
                true => format!("route replace {prefix} via {}\n", node.v6),
                false => format!("route replace {prefix} via {}\n", node.v4),
            })
            .collect();
        self.router.as_ref().unwrap_or(&self.client).namespace.ip_batch(&routes)
    }

    /// Takes everything down; dropping does the same, but only prints what fails.
    ///
    /// # Errors
    /// Something could not be removed.
    pub fn down(mut self) -> Result<()> {
        self.footprint.remove()
    }
}

/// A host on a segment outside the nodes; `last` is the end of its addresses.
fn host(footprint: &Footprint, name: &str, group: &str, segment: Segment, last: u8) -> Result<Host> {
    let (v4, v6) = segment.addresses(last);
    Ok(Host {
        name: name.to_owned(),
        namespace: Namespace::open(&footprint.namespace(name))?,
        cgroup: Cgroup::create(footprint.cgroup(group))?,
        v4,
        v6,
    })
}

/// Makes a namespace for each host, all in one step.
fn create_namespaces(footprint: &Footprint, hosts: &[&str]) -> Result<()> {
    let commands: String =
        hosts.iter().map(|host| format!("netns add {}\n", footprint.namespace(host))).collect();
    netns::ip_batch(&[], &commands)
}
