//! Traffic of layer 4, of which nothing may be lost.
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_userspace::model::Protocol;

use crate::cluster::Cluster;
use crate::topology::Host;
use crate::traffic::{Hold, Load, Loaded, UdpStream};

/// Services whose VIPs are connected to. The pods of all but the first one may change.
const SERVICES: [&str; 3] = ["web", "near", "far"];
/// The pod that connects from inside; it is behind the first Service alone.
const INSIDE: &str = "web-a-3";

/// Frames that wait before a client's link.
const QUEUE_FRAMES: &str = "10000";

/// How much traffic there is.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Short connections a second, a quarter of them by a pod.
    pub connections_per_second: u32,
    /// Connections that stay open; over all of them lines go to and fro without a pause.
    pub held: u32,
    /// Over how many of those a line is under way at a time.
    pub at_once: u32,
    /// Time from one datagram to the next.
    pub datagram_interval: Duration,
}

impl Default for Rates {
    /// Little enough for two CPUs that run an agent without optimisation beside it.
    fn default() -> Self {
        Self {
            connections_per_second: 200,
            held: 50,
            at_once: 1,
            datagram_interval: Duration::from_millis(2),
        }
    }
}

/// Short connections from outside and inside, connections that stay open, a stream of datagrams.
#[derive(Debug)]
pub struct Flows {
    short: [(&'static str, Load); 2],
    held: Hold,
    datagrams: UdpStream,
    rates: Rates,
    client: Host,
}

/// How much was carried, all of it without a failure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Carried {
    /// Short connections.
    pub connections: u64,
    /// These, a second.
    pub connections_per_second: f64,
    /// Lines that went to and fro over the connections that stay open.
    pub echoes: u64,
    /// Datagrams that were answered.
    pub datagrams: u64,
}

impl Flows {
    /// Begins; all connections that stay open are open when this returns.
    ///
    /// # Errors
    /// A client cannot be run, or not every connection was opened.
    pub fn start(cluster: &Cluster, rates: Rates) -> Result<Self> {
        let (client, pod) = (cluster.topology.client(), cluster.topology.pod(INSIDE));
        [client, pod].into_iter().try_for_each(queue)?;
        let outside: Vec<_> =
            SERVICES.iter().flat_map(|name| cluster.load_balancer_addresses(name, Protocol::Tcp)).collect();
        let inside: Vec<_> =
            SERVICES.iter().flat_map(|name| cluster.cluster_addresses(name, Protocol::Tcp)).collect();
        let [tcp, udp] = [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| cluster.load_balancer_addresses(SERVICES[0], protocol)[0]);
        let held = Hold::start_at_once(client, tcp, rates.held, rates.at_once)?;
        let opened: u32 = held.opened().by.values().sum();
        ensure!(opened == rates.held, "{opened} of {} connections are open: {:?}", rates.held, held.opened());
        let rate = rates.connections_per_second;
        Ok(Self {
            short: [
                ("the client", Load::start(client, &outside, rate - rate / 4)?),
                (INSIDE, Load::start(pod, &inside, rate / 4)?),
            ],
            held,
            datagrams: UdpStream::start(client, udp, rates.datagram_interval)?,
            rates,
            client: client.clone(),
        })
    }

    /// Ends, and says how much was carried.
    ///
    /// # Errors
    /// A connection or a datagram failed, or a flow moved; the message holds which.
    pub fn finish(self) -> Result<Carried> {
        let datagrams = self.datagrams.finish()?;
        let held = self.held.finish()?;
        let mut carried = Carried {
            connections: 0,
            connections_per_second: 0.0,
            echoes: u64::from(held.rounds) * u64::from(self.rates.held),
            datagrams: datagrams.by.values().sum(),
        };
        for (who, load) in self.short {
            let loaded: Loaded = load.finish()?;
            ensure!(loaded.failed.is_empty(), "connections of {who} failed: {loaded:?}");
            carried.connections += loaded.greeted();
            carried.connections_per_second += loaded.greeted() as f64 / (loaded.elapsed_us as f64 / 1e6);
        }
        ensure!(held.lost.is_empty(), "connections that were open broke: {held:?}");
        ensure!(
            datagrams.missing.is_empty() && datagrams.failed.is_empty(),
            "datagrams are missing: {datagrams:?}; the client's own link lost {} frames",
            frames_lost(&self.client)?
        );
        ensure!(datagrams.by.len() == 1, "the flow of datagrams moved: {datagrams:?}");
        Ok(carried)
    }
}

/// Gives the host's link a queue. A veth pair has room for 256 frames, which many senders fill while the receiver gets
/// no CPU; since Linux 6.16 what finds no room goes back to the queue, and without one it is lost before it is sent.
fn queue(host: &Host) -> Result<()> {
    let arguments = ["qdisc", "replace", "dev", "eth0", "root", "pfifo", "limit", QUEUE_FRAMES];
    let output = host.command("tc").args(arguments).output().context("cannot run tc; install iproute2")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the link of {} takes no queue: {}", host.name(), said.trim());
    Ok(())
}

/// Frames that the host's link did not take.
fn frames_lost(host: &Host) -> Result<u64> {
    let table = host.run_in_netns(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
    let row = table.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("no eth0")?;
    // Eight numbers of what came, then of what went: bytes, packets, errors, drops (proc_net(5)).
    let drops = row.split_whitespace().nth(11).context("a short row of eth0")?;
    drops.parse().with_context(|| format!("not a number of frames: {drops:?}"))
}
