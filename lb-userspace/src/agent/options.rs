//! The flags of `podway agent`.
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lb_common::maps as bounds;

use crate::attach::{PodInterface, PortRange, Settings, SocketHooks, XdpChoice};
use crate::diff::Limits;
use crate::health::PROBERS_DEFAULT;
use crate::maps::{PIN_PATH_DEFAULT, Sizes};
use crate::metrics;
use crate::plain_server::Address;
use crate::web;

use super::{FrontEndOptions, LbOptions, NodeFlags};

/// `--run-dir`, unless it is given.
pub const RUN_DIR_DEFAULT: &str = "/run/podway";

/// `--xdp-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum XdpMode {
    /// In the driver, else in the network stack, else tc alone.
    #[default]
    Auto,
    /// In the driver, else tc alone.
    Native,
    /// In the network stack, else tc alone.
    Generic,
    /// tc alone.
    Off,
}

/// Run the node agent: it watches Services, `EndpointSlices` and Nodes, fills the BPF maps and attaches the
/// programs. Killed, it leaves everything in place; started again, it takes over what it finds.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  podway agent --node-name $(hostname) --uplink eth0 --pod-interface 'cali*'\n  \
    podway agent --manifests examples --node-name node-a --uplink eth0 --pod-interface 'vethpod*'"
)]
pub struct Options {
    /// Read Services, `EndpointSlices` and Nodes from this folder of YAML instead of a cluster; watched.
    #[arg(long, conflicts_with = "kubeconfig")]
    pub manifests: Option<PathBuf>,
    /// Kubeconfig whose current context names the API server; without, the pod's service account.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// This node's name, as EndpointSlices name it.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// What the node is like.
    #[command(flatten)]
    pub node: NodeFlags,
    /// How Ingresses are served.
    #[command(flatten)]
    pub front_end: FrontEndOptions,
    /// How load-balancer addresses become known outside.
    #[command(flatten)]
    pub lb: LbOptions,
    /// Interfaces that lead out of the node; without, those of the default routes.
    #[arg(long, value_delimiter = ',')]
    pub uplink: Vec<String>,
    /// Names of the pods' interfaces on the node's side; `*` stands for any text. `auto` is those that the usual
    /// CNIs make.
    #[arg(long, value_delimiter = ',')]
    pub pod_interface: Vec<PodInterface>,
    /// Cgroup whose processes get the socket hooks; without, the root of cgroup2.
    #[arg(long, conflicts_with = "no_socket_hooks")]
    pub cgroup: Option<PathBuf>,
    /// Attach no socket hooks: pods are served by tc, processes of the node are not.
    #[arg(long)]
    pub no_socket_hooks: bool,
    /// How XDP is attached to the uplinks.
    #[arg(long, value_enum, default_value_t)]
    pub xdp_mode: XdpMode,
    /// Directory on a BPF file system for the pins.
    #[arg(long, default_value = PIN_PATH_DEFAULT)]
    pub pin_path: PathBuf,
    /// Source ports that outside clients of endpoints on other nodes get: not the host's, no node ports. An
    /// endpoint has as many flows of such clients by this node at most.
    #[arg(long, default_value_t)]
    pub snat_ports: PortRange,
    /// Least time between two applies, milliseconds; the first change is applied at once.
    #[arg(long, default_value_t = 10)]
    pub apply_interval_ms: u64,
    /// Where other commands read problems and which `EndpointSlices` endpoints are of, and ask the agent.
    #[arg(long, default_value = RUN_DIR_DEFAULT)]
    pub run_dir: PathBuf,
    /// Namespace of the Leases by which agents tell each other how far they are.
    #[arg(long, default_value = "podway")]
    pub report_namespace: String,
    /// Agents that probe each endpoint where they share the probing; the same on all nodes.
    #[arg(long, default_value_t = PROBERS_DEFAULT, value_parser = probers)]
    pub probers: usize,
    /// Live agents from which on they share the probing; fewer probe all endpoints each. The same on all nodes.
    #[arg(long, default_value_t = 8)]
    pub share_probing_from: usize,
    /// Also meet GKE's readiness gate `cloud.google.com/load-balancer-neg-ready`, beside `podway.io/programmed`; not
    /// where GKE's own controller does.
    #[arg(long)]
    pub neg_readiness_gate: bool,
    /// Where Prometheus reads metrics, over HTTP at /metrics; empty for nowhere.
    #[arg(long, default_value = metrics::ADDRESS_DEFAULT)]
    pub metrics_address: Address,
    /// Where this node's chains are shown to a browser; empty for nowhere. Who reaches it sees names and addresses of
    /// the cluster.
    #[arg(long, default_value = web::ADDRESS_DEFAULT)]
    pub web_address: Address,
    /// Backend services that have metrics of their own; those of all further ones are added up.
    #[arg(long, default_value_t = metrics::BACKEND_SERVICES_TOLD_MAX)]
    pub metrics_backend_services_max: u32,
    /// The eBPF object to load instead of the one in this binary.
    #[arg(long)]
    pub ebpf_object: Option<PathBuf>,
    /// Take over from the agent that runs with the same run directory, with its listening sockets, so that no
    /// connection to an Ingress is refused; without such an agent, start as ever. That one then waits to be told to end.
    #[arg(long, conflicts_with = "detach_on_exit")]
    pub take_over: bool,
    /// Remove programs, maps and pins on SIGTERM or SIGINT; traffic is no longer forwarded then.
    #[arg(long)]
    pub detach_on_exit: bool,
    /// Bound on frontends.
    #[arg(long, default_value_t = bounds::FRONTENDS_MAX, value_parser = clap::value_parser!(u32).range(1..))]
    pub frontends_max: u32,
    /// Bound on backend services.
    #[arg(long, default_value_t = bounds::BACKEND_SERVICES_MAX, value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    pub backend_services_max: u32,
    /// Bound on endpoints.
    #[arg(long, default_value_t = bounds::ENDPOINTS_MAX, value_parser = clap::value_parser!(u32).range(1..))]
    pub endpoints_max: u32,
    /// Slots for all rings together, 4 bytes each.
    #[arg(long, default_value_t = bounds::RING_SLOTS_MAX, value_parser = clap::value_parser!(u32).range(1..))]
    pub ring_slots_max: u32,
    /// Bound on conntrack entries, two per flow. Flows are moved to a larger map where a former agent's is
    /// smaller; a larger one is kept.
    #[arg(long, default_value_t = bounds::CONNTRACK_MAX, value_parser = clap::value_parser!(u32).range(16..))]
    pub conntrack_max: u32,
    /// Entries up to which conntrack doubles by itself, each time three quarters of it are in use.
    #[arg(long, default_value_t = bounds::CONNTRACK_LIMIT, value_parser = clap::value_parser!(u32).range(16..))]
    pub conntrack_limit: u32,
    /// Seconds between two sweeps, which remove what is over and see how full the maps are.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub sweep_interval_seconds: u32,
    /// Bound on client affinities.
    #[arg(long, default_value_t = bounds::AFFINITY_MAX, value_parser = clap::value_parser!(u32).range(16..))]
    pub affinity_max: u32,
    /// Bound on sockets with a translated peer.
    #[arg(long, default_value_t = bounds::SOCKET_FLOWS_MAX, value_parser = clap::value_parser!(u32).range(16..))]
    pub socket_flows_max: u32,
    /// Bound on `loadBalancerSourceRanges`, of all Services together.
    #[arg(long, default_value_t = bounds::SOURCE_RANGES_MAX, value_parser = clap::value_parser!(u32).range(1..))]
    pub source_ranges_max: u32,
}

/// At least one; with more than a few nothing is gained.
fn probers(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=9).contains(number));
    number.ok_or_else(|| "want a number between 1 and 9".to_owned())
}

impl Options {
    /// The sizes of the maps.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            limits: Limits {
                frontends_max: self.frontends_max,
                backend_services_max: self.backend_services_max,
                endpoints_max: self.endpoints_max,
                ring_slots_max: self.ring_slots_max,
                source_ranges_max: self.source_ranges_max,
            },
            conntrack_max: self.conntrack_max,
            affinity_max: self.affinity_max,
            socket_flows_max: self.socket_flows_max,
        }
    }

    /// What is to be attached where.
    #[must_use]
    pub fn attach_settings(&self) -> Settings {
        Settings {
            uplinks: self.uplink.clone(),
            pod_interfaces: self.pod_interface.clone(),
            xdp: match self.xdp_mode {
                XdpMode::Auto => XdpChoice::Auto,
                XdpMode::Native => XdpChoice::Native,
                XdpMode::Generic => XdpChoice::Generic,
                XdpMode::Off => XdpChoice::Off,
            },
            sockets: if self.no_socket_hooks {
                SocketHooks::Off
            } else {
                SocketHooks::At(self.cgroup.clone())
            },
        }
    }
}
