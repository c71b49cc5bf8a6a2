//! One way of serving a Service, on a simulated cluster of its own.
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::agent::{Agent, Options, Podway, SocketHooks, XdpMode, frontend};
use lb_tests::bench::services::other_service;
use lb_tests::kube_proxy::{iptables, nftables};
use lb_tests::manifests::{Families, Manifests, Service};
use lb_tests::need::Netns;
use lb_tests::process::Process;
use lb_tests::topology::{Host, NODE_NAMES, Topology};
use lb_userspace::model::Protocol;
use tempfile::TempDir;

use super::traffic::{Kind, Measured, READY};

/// The pods of a node: all but the last one serve.
const PODS: u8 = 5;
/// Number of the first Service that nobody dials; the one that is dialled has an address of the first 256.
const FIRST_OTHER: u32 = 256;
/// The CPU of clients and servers.
const CPU: &str = "0";
const DEADLINE: Duration = Duration::from_secs(60);

/// Who serves the Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Nobody: the client dials a pod.
    Direct,
    /// Podway's socket hooks.
    SocketHooks,
    /// Podway's tc programs, at the pods' interfaces.
    Tc,
    /// The rules of kube-proxy's nftables mode.
    Nftables,
    /// The rules of kube-proxy's iptables mode.
    Iptables,
}

impl Way {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Direct, Self::SocketHooks, Self::Tc, Self::Nftables, Self::Iptables];

    /// As a table shows it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct to the pod",
            Self::SocketHooks => "Podway, socket hooks",
            Self::Tc => "Podway, tc",
            Self::Nftables => "kube-proxy rules, nftables",
            Self::Iptables => "kube-proxy rules, iptables",
        }
    }

    /// Whether the number of Services means anything to it.
    pub(crate) const fn has_services(self) -> bool {
        !matches!(self, Self::Direct)
    }
}

/// A cluster with servers, and what serves them. Dropping it removes everything.
pub(crate) struct Arrangement {
    way: Way,
    /// Each serves; dropped in front of the hosts.
    _servers: Vec<Process>,
    _agent: Option<Agent>,
    topology: Topology,
    vip: IpAddr,
    _folder: TempDir,
}

impl Arrangement {
    /// Starts one whose Service is one of `services`.
    pub(crate) fn start(way: Way, services: u32, need: &Netns) -> Result<Self> {
        let topology = Topology::two_nodes(PODS)?;
        let folder = TempDir::with_prefix("podway-bench-").context("cannot make a folder")?;
        let mut manifests = Manifests::new(folder.path(), &topology)?;
        let service = served(&topology);
        let vip = service.cluster_ips[0];
        let others =
            (0..services - 1).map(|number| other_service(&service, FIRST_OTHER + number, NODE_NAMES[0]));
        for service in others.chain([service.clone()]) {
            manifests.put(service)?;
        }
        let all: Vec<&Service> = manifests.services().collect();
        let node = topology.node(NODE_NAMES[0]);
        let mut agent = None;
        match way {
            Way::Direct => {}
            Way::SocketHooks => agent = Some(podway(need, &topology, folder.path(), SocketHooks::On)?),
            Way::Tc => agent = Some(podway(need, &topology, folder.path(), SocketHooks::Off)?),
            Way::Nftables => nftables::load(node, &all)?,
            Way::Iptables => iptables::load(node, &all)?,
        }
        if let Some(agent) = &mut agent {
            let expected = manifests.services().flat_map(|service| {
                let ports = service.ports.iter();
                ports.map(|port| frontend(port.protocol, service.cluster_ips[0], port.port))
            });
            agent.wait_for(&expected.collect())?;
        }
        let servers = node.pods().iter().take(usize::from(PODS) - 1).map(serve);
        let servers = servers.collect::<Result<Vec<_>>>()?;
        Ok(Self { way, _servers: servers, _agent: agent, topology, vip, _folder: folder })
    }

    /// Runs a client in the last pod.
    pub(crate) fn measure(&self, kind: Kind, count: u32) -> Result<Measured> {
        let pods = self.topology.node(NODE_NAMES[0]).pods();
        let (client, server) = (&pods[usize::from(PODS) - 1], &pods[0]);
        let port = kind.port();
        let to = match self.way {
            Way::Direct => SocketAddr::new(server.v4().into(), port),
            _ => SocketAddr::new(self.vip, port),
        };
        let mut command = on_one_cpu(client)?;
        command.args(["client", kind.name(), &to.to_string(), &count.to_string()]);
        let output = command.output().context("cannot run a client")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}", self.way.name(), errors.trim());
        serde_json::from_slice(&output.stdout).context("a client wrote no figures")
    }
}

/// The Service that is dialled: its pods are all of the node but the last.
fn served(topology: &Topology) -> Service {
    let node = topology.node(NODE_NAMES[0]);
    let mut service = Service::new("dialled", 1);
    service.families = Families::V4;
    for (name, protocol, port) in
        [("tcp", Protocol::Tcp, Kind::Connect.port()), ("udp", Protocol::Udp, Kind::Datagram.port())]
    {
        service = service.port(name, protocol, port, port);
    }
    node.pods().iter().take(usize::from(PODS) - 1).fold(service, |service, pod| service.backed_by(node, pod))
}

fn podway(need: &Netns, topology: &Topology, folder: &Path, socket_hooks: SocketHooks) -> Result<Agent> {
    let podway = Podway { binary: need.podway.clone(), ebpf_object: Some(need.ebpf_object.clone()) };
    let options = Options { xdp_mode: XdpMode::Auto, socket_hooks, ..Options::default() };
    Agent::start(&podway, topology, NODE_NAMES[0], folder, options)
}

fn serve(pod: &Host) -> Result<Process> {
    let mut command = on_one_cpu(pod)?;
    command.arg("serve");
    let server = Process::start(command, &format!("the server of {}", pod.name()))?;
    let line = server.line(DEADLINE)?;
    ensure!(line == READY, "the server of {} says {line:?}", pod.name());
    Ok(server)
}

/// This program, on a host.
fn on_one_cpu(host: &Host) -> Result<Command> {
    let mut command = host.command("taskset");
    command.args(["--cpu-list", CPU]).arg(std::env::current_exe().context("no name of this program")?);
    Ok(command)
}
