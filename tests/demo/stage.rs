//! The simulated cluster: hosts, a server in every pod, an agent on every node.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lb_tests::agent::{Agent, Options, Podway};
use lb_tests::need::Netns;
use lb_tests::netns::namespace_names;
use lb_tests::topology::{Host, NODE_NAMES, Topology};
use lb_tests::traffic::Server;
use lb_tests::wait::wait_until;
use lb_tests::web::Web;
use lb_userspace::model::Protocol;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::ingress;
use crate::interrupt::Interrupt;

/// Pods of each node.
const PODS_PER_NODE: u8 = 3;
/// All pods, in order.
pub(crate) const PODS: [&str; 6] = ["web-a-1", "web-a-2", "web-a-3", "web-b-1", "web-b-2", "web-b-3"];
/// `targetPort` of the Services in `examples/`.
const POD_PORTS: [(Protocol, u16); 2] = [(Protocol::Tcp, 8080), (Protocol::Udp, 5353)];
/// How long an agent may take from its start to maps that agree with the manifests.
const PROGRAMMED_DEADLINE: Duration = Duration::from_secs(20);

/// `status.loadBalancer.ingress` of `web-lb`, `web-local` and `dns`.
pub(crate) const LOAD_BALANCER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));
/// The same, IPv6.
pub(crate) const LOAD_BALANCER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x10));

/// All that stands while the demo plays. What runs on the hosts is dropped before them.
pub(crate) struct Stage {
    agents: Vec<Agent>,
    servers: BTreeMap<String, Server>,
    webs: BTreeMap<String, Web>,
    runtime: Runtime,
    topology: Topology,
    /// What the agents read: a copy, with an Ingress and a certificate made for it.
    manifests: TempDir,
    certificate: CertificateDer<'static>,
    podway: PathBuf,
}

impl Stage {
    /// Raises it; every agent has programmed the manifests when this returns.
    ///
    /// # Errors
    /// A part cannot be started; what stood is gone again. Or an end was asked for.
    pub(crate) fn raise(need: &Netns, manifests: &Path, interrupt: &Interrupt) -> Result<Self> {
        let topology = Topology::two_nodes(PODS_PER_NODE)?;
        let folder = copy_of(manifests)?;
        let (certificate, objects) = ingress::manifests(&topology)?;
        for (index, object) in objects.iter().enumerate() {
            write_object(folder.path(), index, object)?;
        }
        let cgroup = topology.client().cgroup().parent().context("the client's cgroup has no parent")?;
        interrupt.kill_on_raise(cgroup);
        // The object is inside the binary, as in any release.
        let podway = Podway { binary: need.podway.clone(), ebpf_object: None };
        let mut stage = Self {
            agents: Vec::new(),
            servers: BTreeMap::new(),
            webs: BTreeMap::new(),
            runtime: Builder::new_multi_thread().worker_threads(1).enable_all().build()?,
            topology,
            manifests: folder,
            certificate,
            podway: need.podway.clone(),
        };
        for pod in PODS {
            interrupt.check()?;
            stage.start_server(pod)?;
            stage.start_web(pod)?;
        }
        for node in NODE_NAMES {
            interrupt.check()?;
            let options = Options::default();
            stage.agents.push(Agent::start(&podway, &stage.topology, node, stage.manifests.path(), options)?);
        }
        for node in NODE_NAMES {
            stage.wait_for_agent(node, interrupt)?;
        }
        Ok(stage)
    }

    /// The hosts.
    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The client outside.
    pub(crate) fn client(&self) -> &Host {
        self.topology.client()
    }

    /// The agent of a node, for its commands.
    pub(crate) fn agent(&self, node: &str) -> &Agent {
        &self.agents[index_of(node)]
    }

    /// Kills the agent of a node, as `kill -9` does.
    pub(crate) fn kill_agent(&mut self, node: &str) {
        self.agents[index_of(node)].kill();
    }

    /// Starts the agent of a node again.
    ///
    /// # Errors
    /// It cannot be run.
    pub(crate) fn restart_agent(&mut self, node: &str) -> Result<()> {
        self.agents[index_of(node)].restart()
    }

    /// Waits until the maps of a node agree with the manifests.
    ///
    /// # Errors
    /// They do not in time; the message holds the difference and the agent's log.
    pub(crate) fn wait_for_agent(&mut self, node: &str, interrupt: &Interrupt) -> Result<()> {
        let manifests = self.manifests.path().to_string_lossy().into_owned();
        let agent = &mut self.agents[index_of(node)];
        let mut difference = None;
        let waited = wait_until(PROGRAMMED_DEADLINE, &format!("the maps of {node}"), || {
            let compared = agent.podway(&["verify", "--manifests", &manifests, "--node-name", node]);
            difference = compared.err();
            difference.is_none() || interrupt.is_raised() || !agent.process().is_running()
        });
        interrupt.check()?;
        match difference {
            Some(difference) => {
                let log = agent.log();
                waited.err().map_or_else(|| Err(difference), Err).context(format!("its log:\n{log}"))
            }
            None => Ok(()),
        }
    }

    /// Starts the server of a pod.
    ///
    /// # Errors
    /// It cannot be run.
    pub(crate) fn start_server(&mut self, pod: &str) -> Result<()> {
        let server = Server::start(self.topology.pod(pod), &POD_PORTS)?;
        self.servers.insert(pod.to_owned(), server);
        Ok(())
    }

    /// Kills the server of a pod.
    pub(crate) fn kill_server(&mut self, pod: &str) {
        if let Some(server) = self.servers.remove(pod) {
            server.kill();
        }
    }

    /// Starts the HTTP server of a pod.
    ///
    /// # Errors
    /// Its port cannot be opened.
    pub(crate) fn start_web(&mut self, pod: &str) -> Result<()> {
        let web = Web::start(self.runtime.handle(), self.topology.pod(pod))?;
        self.webs.insert(pod.to_owned(), web);
        Ok(())
    }

    /// Takes the HTTP server out of a pod; it ends when it is dropped.
    ///
    /// # Errors
    /// The pod has none.
    pub(crate) fn take_web(&mut self, pod: &str) -> Result<Web> {
        self.webs.remove(pod).with_context(|| format!("no HTTP server runs in pod {pod}"))
    }

    /// The one certificate that clients of the Ingress trust.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The `podway` binary.
    pub(crate) fn podway(&self) -> &Path {
        &self.podway
    }

    /// What the agents have logged.
    pub(crate) fn logs(&self) -> String {
        self.agents.iter().map(Agent::log).collect()
    }

    /// Takes everything down; gives the number of network namespaces that went.
    ///
    /// # Errors
    /// Something stays.
    pub(crate) fn take_down(self) -> Result<usize> {
        let before = namespace_names().len();
        drop((self.servers, self.webs));
        drop(self.agents);
        self.topology.down()?;
        Ok(before - namespace_names().len())
    }
}

/// A frontend on the load-balancer addresses.
pub(crate) fn load_balancer(port: u16) -> [SocketAddr; 2] {
    [SocketAddr::new(LOAD_BALANCER_V4, port), SocketAddr::new(LOAD_BALANCER_V6, port)]
}

/// A folder with the same manifests, to which others can be added.
fn copy_of(manifests: &Path) -> Result<TempDir> {
    let folder = TempDir::with_prefix("podway-demo-").context("cannot make a folder")?;
    let read = || format!("cannot read the manifests in {}", manifests.display());
    for entry in std::fs::read_dir(manifests).with_context(read)? {
        let entry = entry.with_context(read)?;
        if entry.path().is_file() {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).with_context(read)?;
        }
    }
    Ok(folder)
}

fn write_object(folder: &Path, index: usize, object: &Value) -> Result<()> {
    let path = folder.join(format!("ingress-{index}.json"));
    std::fs::write(&path, object.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

fn index_of(node: &str) -> usize {
    NODE_NAMES.iter().position(|name| *name == node).unwrap_or_default()
}
