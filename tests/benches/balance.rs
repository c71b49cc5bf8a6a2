//! How evenly flows fall on endpoints, and how many move when an endpoint leaves, by real datagrams of a client
//! outside: `cargo xtask bench --only balance`.
//!
//! A Service of ten pods on two nodes. Where a flow went is read from the node's CONNTRACK.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::agent::{Options, Podway};
use lb_tests::bench::Bench;
use lb_tests::bench::data::{Better, Parameter};
use lb_tests::cluster::{Cluster, UDP_PORT, service};
use lb_tests::manifests::LOAD_BALANCER_IPS;
use lb_tests::need;
use lb_tests::packet::PacketBuilder;
use lb_tests::raw;
use lb_tests::topology::{NODE_NAMES, Topology};
use lb_tests::wait::wait_until;

const PODS_PER_NODE: u8 = 5;
const PORT: u8 = 80;
const FIRST_PORT: u16 = 10_000;
/// Flows from one source address.
const PORTS: u16 = 50_000;
/// Sources are spoofed: nobody has these addresses, so nothing but the datagram is on the way.
const FIRST_SOURCE: [u8; 4] = [192, 0, 2, 120];
/// How often a flow's datagram is sent until it has arrived.
const PASSES_MAX: usize = 8;
/// Flows that may find no source NAT port, of a thousand: more means that datagrams are lost.
const REFUSED_PER_MILLE_MAX: usize = 1;
const DEADLINE: Duration = Duration::from_secs(30);
/// The one that leaves.
const LEAVING: &str = "web-b-5";

/// Client addresses with ports, and the endpoint of each.
type Flows = BTreeMap<SocketAddr, SocketAddr>;

fn main() -> Result<()> {
    let need = need::find_netns().map_err(anyhow::Error::msg)?;
    let mut bench = Bench::new("balance")?;
    let rounds = bench.choose(3, 1);
    let sources: u8 = bench.choose(2, 1);
    let flows = u32::from(sources) * u32::from(PORTS);
    let parameters = || [("flows", Parameter::from(flows)), ("endpoints", Parameter::from(10_u32))];
    let group = "Balance, flows of a client outside";
    let mut row = |case, unit| bench.row(group, case, parameters(), unit, Better::Less);
    let spread = row("greatest share beside the mean", "max/mean");
    let variation = row("variation", "% of the mean");
    let stayed = row("flows moved at their node, of those whose endpoint stays", "%");
    let elsewhere = row("flows moved if another node takes them over", "%");
    let refused = row("flows refused, whose source NAT ports were all taken", "%");
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    for round in 0..rounds {
        let mut scene = Scene::start(&podway)?;
        let [a, b, c, d] = FIRST_SOURCE;
        let senders: Vec<IpAddr> = (0..sources).map(|n| [a, b, c, d + round * sources + n].into()).collect();
        let first = scene.flows_at(0, &senders)?;
        bench.add(refused, 100.0 * (1.0 - first.len() as f64 / f64::from(flows)));
        let leaving = scene.address_of(LEAVING);
        let counts = counts(&first);
        let mean = first.len() as f64 / counts.len() as f64;
        let squares: f64 = counts.values().map(|count| (f64::from(*count) - mean).powi(2)).sum();
        bench.add(spread, f64::from(counts.values().copied().max().unwrap_or_default()) / mean);
        bench.add(variation, 100.0 * (squares / counts.len() as f64).sqrt() / mean);
        scene.remove(LEAVING)?;
        bench.add(stayed, moved(&first, &scene.flows_at(0, &senders)?, leaving));
        bench.add(elsewhere, moved(&first, &scene.flows_at(1, &senders)?, leaving));
    }
    bench.finish()
}

/// Of the flows whose endpoint stays, how many have another one now, per cent.
fn moved(before: &Flows, after: &Flows, leaving: IpAddr) -> f64 {
    let stays = before.iter().filter(|(_, endpoint)| endpoint.ip() != leaving);
    let both = stays.filter_map(|(client, endpoint)| Some((endpoint, after.get(client)?)));
    let (moved, all) = both
        .fold((0_u32, 0_u32), |(moved, all), (endpoint, now)| (moved + u32::from(now != endpoint), all + 1));
    100.0 * f64::from(moved) / f64::from(all)
}

fn counts(flows: &Flows) -> BTreeMap<SocketAddr, u32> {
    let mut counts = BTreeMap::new();
    for endpoint in flows.values() {
        *counts.entry(*endpoint).or_default() += 1;
    }
    counts
}

/// The cluster with its Service.
struct Scene {
    cluster: Cluster,
    vip: SocketAddr,
}

impl Scene {
    fn start(podway: &Podway) -> Result<Self> {
        let topology = Topology::two_nodes(PODS_PER_NODE)?;
        let web = service("web", PORT).backed_by_all(&topology);
        let cluster = Cluster::on(topology, vec![web], podway, Options::default())?;
        Ok(Self { cluster, vip: SocketAddr::new(LOAD_BALANCER_IPS[0], u16::from(PORT)) })
    }

    fn address_of(&self, pod: &str) -> IpAddr {
        self.cluster.topology.pod(pod).v4().into()
    }

    /// Takes a pod from the Service, and waits until no node leads a new flow there.
    fn remove(&mut self, pod: &str) -> Result<()> {
        let gone = SocketAddr::new(self.address_of(pod), UDP_PORT).to_string();
        self.cluster.manifests.edit("web", |web| web.endpoints.retain(|endpoint| endpoint.pod != pod))?;
        for agent in &self.cluster.agents {
            let is_gone = || {
                let endpoints = agent.get("endpoints").unwrap_or_default();
                let mut all = endpoints.as_array().into_iter().flatten();
                !all.any(|row| row["address"] == gone.as_str() && row["state"] != "withdrawn")
            };
            wait_until(DEADLINE, "the endpoint has left", is_gone)?;
        }
        Ok(())
    }

    /// Sends a datagram of each flow by a node; where each went.
    fn flows_at(&self, node: usize, senders: &[IpAddr]) -> Result<Flows> {
        self.cluster.topology.route_services_via(NODE_NAMES[node])?;
        let clients = || {
            let ports = FIRST_PORT..FIRST_PORT + PORTS;
            senders.iter().flat_map(move |source| ports.clone().map(|port| SocketAddr::new(*source, port)))
        };
        let all = clients().count();
        let mut flows = Flows::new();
        for _ in 0..PASSES_MAX {
            // Again for those too whose endpoint has left: a flow chooses anew with its next datagram.
            let frames: Vec<Vec<u8>> = clients()
                .filter(|client| !flows.contains_key(client))
                .map(|client| PacketBuilder::udp(client, self.vip).payload(b"x").build())
                .collect();
            let client = self.cluster.topology.client();
            let vip = self.vip.ip();
            client.run_in_netns(|| raw::send(vip, &frames))?.context("cannot send")?;
            flows = self.read_flows(node)?;
            flows.retain(|client, _| senders.contains(&client.ip()));
            if flows.len() == all {
                return Ok(flows);
            }
        }
        let missing = all - flows.len();
        ensure!(
            missing * 1_000 <= all * REFUSED_PER_MILLE_MAX,
            "{missing} of {all} flows are not in CONNTRACK"
        );
        Ok(flows)
    }

    fn read_flows(&self, node: usize) -> Result<Flows> {
        let rows = self.cluster.agents[node].get("conntrack")?;
        let mut flows = Flows::new();
        for row in rows.as_array().into_iter().flatten().filter(|row| row["direction"] == "to-backend") {
            let at = |field: &str| -> Result<SocketAddr> {
                row[field]
                    .as_str()
                    .with_context(|| format!("no {field} in {row}"))?
                    .parse()
                    .context("no address")
            };
            if row["protocol"] == "UDP" && at("destination")? == self.vip {
                flows.insert(at("source")?, at("newDestination")?);
            }
        }
        Ok(flows)
    }
}
