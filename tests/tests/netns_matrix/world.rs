//! The cluster that the stories are told on, and what they expect of it.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::agent::{Options, Podway, SocketHooks, XdpMode};
use lb_tests::cluster::{Cluster, PROTOCOLS};
use lb_tests::topology::{Host, Topology};
use lb_tests::traffic::{Answered, Dial, Failure, Server, answerers, ask, dial};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;

use crate::services;

/// When a request to a silent address has failed.
const SILENCE: Duration = Duration::from_millis(300);
/// How long a change may take from the manifest to the maps.
pub(crate) const CHANGE_DEADLINE: Duration = Duration::from_secs(30);

/// Of every agent. CONNTRACK has room for the flows of all stories but those that make it grow.
const FLAGS: &[&str] = &[
    "--service-cidr",
    "10.96.0.0/16,2001:db8:96::/112",
    "--conntrack-max",
    "16384",
    "--snat-ports",
    "20000-23999",
    "--sweep-interval-seconds",
    "1",
];

/// A way of attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// XDP in the driver, and socket hooks.
    Native,
    /// XDP in the network stack, and socket hooks.
    Generic,
    /// No XDP, but socket hooks.
    Tc,
    /// XDP in the driver, and tc for what starts on the node.
    NoSocketHooks,
}

impl Mode {
    fn options(self) -> Options {
        let (xdp_mode, socket_hooks) = match self {
            Self::Native => (XdpMode::Native, SocketHooks::On),
            Self::Generic => (XdpMode::Generic, SocketHooks::On),
            Self::Tc => (XdpMode::Off, SocketHooks::On),
            Self::NoSocketHooks => (XdpMode::Native, SocketHooks::Off),
        };
        Options { xdp_mode, socket_hooks, further: FLAGS }
    }

    /// Whether `connect()` is translated.
    pub(crate) fn has_socket_hooks(self) -> bool {
        self != Self::NoSocketHooks
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// A promise.
pub(crate) struct Story {
    /// What it promises.
    pub(crate) name: &'static str,
    /// In which modes it does.
    pub(crate) has_meaning: fn(Mode) -> bool,
    /// Sees whether it is kept, in the world's family.
    pub(crate) tell: fn(&mut World) -> Result<()>,
}

/// A story of every mode.
pub(crate) const fn story(name: &'static str, tell: fn(&mut World) -> Result<()>) -> Story {
    Story { name, has_meaning: |_| true, tell }
}

/// A story of the modes with socket hooks.
pub(crate) const fn with_socket_hooks(name: &'static str, tell: fn(&mut World) -> Result<()>) -> Story {
    Story { name, has_meaning: Mode::has_socket_hooks, tell }
}

/// A kind of address of a Service.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    Cluster,
    LoadBalancer,
    External,
    /// The node port of this node.
    Node(&'static str),
}

/// What outside clients dial, of `node-a`.
pub(crate) const OUTSIDE: [At; 4] = [At::Cluster, At::LoadBalancer, At::External, At::Node("node-a")];

/// The cluster, and what the story being told is about.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) mode: Mode,
    pub(crate) family: Family,
    _servers: Vec<Server>,
}

impl World {
    /// Three nodes with three pods each; the third of each is behind no Service.
    pub(crate) fn start(podway: &Podway, mode: Mode) -> Result<Self> {
        let topology = Topology::three_nodes(3)?;
        let servers = services::further_servers(&topology)?;
        let services = services::all(&topology);
        let cluster = Cluster::on(topology, services, podway, mode.options())?;
        Ok(Self { cluster, mode, family: Family::V4, _servers: servers })
    }

    pub(crate) fn host(&self, name: &str) -> &Host {
        self.cluster.topology.host(name)
    }

    /// Where a Service is, in the family of the story.
    pub(crate) fn address(&self, service: &str, at: At, protocol: Protocol) -> Result<SocketAddr> {
        let service = self.cluster.manifests.service(service);
        let port = service.ports.iter().find(|port| port.protocol == protocol);
        let port = port.with_context(|| format!("Service {} has no {protocol} port", service.name))?;
        let of_family = |addresses: &[IpAddr]| addresses.iter().copied().find(|vip| self.family.has(*vip));
        let (address, number) = match at {
            At::Cluster => (of_family(&service.cluster_ips), port.port),
            At::LoadBalancer => (of_family(&service.load_balancer_ips), port.port),
            At::External => (of_family(&service.external_ips), port.port),
            At::Node(node) => {
                let node = self.host(node);
                (of_family(&[node.v4().into(), node.v6().into()]), port.node_port.unwrap_or(0))
            }
        };
        let address = address.with_context(|| format!("Service {} is not at {at:?}", service.name))?;
        Ok(SocketAddr::new(address, number))
    }

    /// `from` asks over both protocols: one of `by` answers and sees the address of the host `sees`.
    pub(crate) fn expect(&self, from: &str, service: &str, at: At, by: &[&str], sees: &str) -> Result<()> {
        for protocol in PROTOCOLS {
            let to = self.address(service, at, protocol)?;
            let answered = ask(self.host(from), protocol, to);
            let answered = answered.with_context(|| format!("{service} at {at:?}"))?;
            self.judge(&answered, by, sees, to)
                .with_context(|| format!("{from} to {service} at {at:?} over {protocol}: {answered:?}"))?;
        }
        Ok(())
    }

    fn judge(&self, answered: &Answered, by: &[&str], sees: &str, to: SocketAddr) -> Result<()> {
        ensure!(by.contains(&&*answered.by), "expected an answer of {by:?}");
        ensure!(answered.peer == to, "expected to be answered from {to}");
        ensure!(
            answered.seen_source.ip() == self.host(sees).address_for(to.ip()),
            "expected the pod to see {sees}"
        );
        Ok(())
    }

    /// As [`World::expect`], with so many requests that each of `by` has answered.
    pub(crate) fn expect_all(&self, from: &str, service: &str, at: At, by: &[&str]) -> Result<()> {
        // Six pods all answer but once in ten million.
        let count = if by.len() == 1 { 8 } else { 17 * by.len() as u32 };
        for protocol in PROTOCOLS {
            let to = self.address(service, at, protocol)?;
            let names = answerers(self.host(from), &Dial::times(count, protocol, to))?;
            let expected: BTreeSet<String> = by.iter().map(|name| (*name).to_owned()).collect();
            let what = || format!("{from} to {service} at {at:?} over {protocol}");
            ensure!(names == expected, "{}: expected {expected:?}, answered: {names:?}", what());
        }
        Ok(())
    }

    /// `from` asks over both protocols and sees `failure`; `node` counts it as `reason`.
    pub(crate) fn expect_failure(
        &self,
        from: &str,
        service: &str,
        at: At,
        failure: Failure,
        counted: Option<(&str, &str)>,
    ) -> Result<()> {
        for protocol in PROTOCOLS {
            let to = self.address(service, at, protocol)?;
            self.expect_failure_at(from, to, protocol, failure, counted)
                .with_context(|| format!("{service} at {at:?}"))?;
        }
        Ok(())
    }

    /// As [`World::expect_failure`], over one protocol and wherever.
    pub(crate) fn expect_failure_at(
        &self,
        from: &str,
        to: SocketAddr,
        protocol: Protocol,
        failure: Failure,
        counted: Option<(&str, &str)>,
    ) -> Result<()> {
        let timeout = if failure == Failure::TimedOut { SILENCE } else { Duration::from_secs(3) };
        let request = Dial { timeout, ..Dial::times(1, protocol, to) };
        let count = || counted.map_or(Ok(0), |(node, reason)| self.count(node, reason));
        let before = count()?;
        let answers = dial(self.host(from), &request)?;
        let outcome = answers.first().context("no request was made")?.outcome.clone();
        let what = format!("{from} to {to} over {protocol}");
        ensure!(outcome.as_ref() == Err(&failure), "{what}: expected {failure:?}, saw {outcome:?}");
        ensure!(counted.is_none() || count()? > before, "{what}: not counted as {counted:?}");
        Ok(())
    }

    /// What a node has counted for a reason.
    pub(crate) fn count(&self, node: &str, reason: &str) -> Result<u64> {
        let nodes = self.cluster.topology.nodes();
        let agent = nodes.iter().zip(&self.cluster.agents).find(|(of, _)| of.host().name() == node);
        agent.context("no such node")?.1.count(reason)
    }

    /// Puts these hosts behind a Service, ready.
    pub(crate) fn replace_endpoints(&mut self, service: &str, by: &[&str]) -> Result<()> {
        let endpoints = services::backed_by(services::bare("any", 1), &self.cluster.topology, by).endpoints;
        self.cluster.manifests.edit(service, |service| service.endpoints = endpoints)
    }

    /// Replaces the endpoints of a Service, and waits until exactly these answer at its cluster address.
    pub(crate) fn change_endpoints(&mut self, from: &str, service: &str, by: &[&str]) -> Result<()> {
        self.replace_endpoints(service, by)?;
        let mut last = Ok(());
        let waited = wait_until(CHANGE_DEADLINE, &format!("{by:?} to answer for {service}"), || {
            last = self.expect_all(from, service, At::Cluster, by);
            last.is_ok()
        });
        waited.with_context(|| format!("last seen: {last:?}"))?;
        last
    }

    /// Asks over TCP until the answer is `wanted`; every request must be answered.
    pub(crate) fn wait_for_answer(
        &self,
        from: &str,
        service: &str,
        at: At,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let to = self.address(service, at, Protocol::Tcp)?;
        let mut last = Ok(String::new());
        let waited = wait_until(CHANGE_DEADLINE, &format!("another answer from {service} at {at:?}"), || {
            last = ask(self.host(from), Protocol::Tcp, to).map(|answered| answered.by);
            last.as_ref().map_or(true, |by| wanted(by))
        });
        waited.with_context(|| format!("last seen: {last:?}"))?;
        last
    }

    /// Runs `work` while the router leads the client to `node`.
    pub(crate) fn routed_via(&self, node: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.cluster.topology.route_services_via(node)?;
        let outcome = work();
        self.cluster.topology.route_services_via("node-a").and(outcome)
    }
}
