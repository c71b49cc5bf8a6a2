//! `podway explain`: why a packet goes where it goes.
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::clock::now_s;
use crate::diff::Tables;
use crate::explain::{
    self, Entry, Explanation, Origins, Question, Run, Slices, TableNames, live, tables::host_tables,
};
use crate::maps::{Maps, Object, Pins};
use crate::model::{Protocol, Snapshot};

use super::Facts;
use super::manifests;
use super::output::{self, Format};

/// Source port of a question that names none: the first ephemeral one.
const PORT_DEFAULT: u16 = 32_768;

/// Tell step by step what happens to the first packet of a flow: on the maps of this node's agent, with the
/// program in the kernel as witness, or with `--manifests` from the plan alone. Writes nothing.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  podway explain --from 203.0.113.7 --to 198.51.100.10:80 --proto tcp\n  \
    podway explain --from 10.244.1.10 --to 10.96.0.10:53 --proto udp --manifests examples --node-name node-a -o json"
)]
pub(super) struct Explain {
    /// The client: IP or IP:PORT.
    #[arg(long, value_parser = client)]
    from: SocketAddr,
    /// What it dials: IP:PORT.
    #[arg(long)]
    to: SocketAddr,
    /// Protocol: tcp, udp or sctp.
    #[arg(long = "proto", value_parser = protocol, default_value = "tcp")]
    protocol: Protocol,
    /// How the packet comes in; without, it follows from the client's address.
    #[arg(long, value_enum)]
    entry: Option<Entry>,
    /// Answer from the plan of this folder of manifests; needs no kernel.
    #[arg(long, requires = "node_name")]
    manifests: Option<PathBuf>,
    /// This node's name, as EndpointSlices name it.
    #[arg(long)]
    node_name: Option<String>,
    /// What the node is like.
    #[command(flatten)]
    node: crate::agent::NodeFlags,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Where the agent pins its maps.
    #[arg(long, default_value = super::PIN_PATH)]
    pin_path: PathBuf,
    /// The agent's --run-dir, where it notes which EndpointSlice an endpoint came from.
    #[arg(long, default_value = super::RUN_DIR)]
    run_dir: PathBuf,
    /// The eBPF object to run instead of the one in this binary.
    #[arg(long)]
    ebpf_object: Option<PathBuf>,
}

fn client(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse::<SocketAddr>();
    let alone = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT_DEFAULT));
    with_port.or(alone).map_err(|_| format!("cannot read {text:?}: want IP or IP:PORT"))
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(format!("cannot forward {text:?}: want tcp, udp or sctp")),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(flatten)]
    explanation: Explanation,
    /// What the program in the kernel did with the same packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<Witness>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Witness {
    program: &'static str,
    verdict: &'static str,
    endpoint: Option<String>,
    agrees: bool,
}

/// Prints the explanation.
///
/// # Errors
/// The addresses are of two families; the maps or manifests cannot be read.
pub(super) fn run(explain: &Explain) -> Result<String> {
    ensure!(
        explain.from.is_ipv4() == explain.to.is_ipv4(),
        "cannot explain a packet from {} to {}: the addresses are of two families",
        explain.from.ip(),
        explain.to.ip()
    );
    let answer = match (&explain.manifests, &explain.node_name) {
        (Some(manifests), Some(node_name)) => from_manifests(explain, manifests, node_name)?,
        _ => from_kernel(explain)?,
    };
    match explain.output {
        Format::Json | Format::Yaml => output::value(&answer, explain.output),
        Format::Table | Format::Wide => Ok(sentences(&answer)),
    }
}

fn from_manifests(explain: &Explain, folder: &std::path::Path, node_name: &str) -> Result<Answer> {
    let facts =
        Facts { manifests: folder.to_owned(), node_name: node_name.to_owned(), node: explain.node.clone() };
    let mut planned = manifests::plan(&facts)?;
    let tables = manifests::tables(&mut planned);
    manifests::warn(&planned.problems);
    let is_elsewhere = pods_elsewhere(&planned.snapshot, node_name, explain.from.ip());
    let question = question(explain, &planned.node.addresses, |client| {
        planned.config.is_in_cluster(&client.into()) && !is_elsewhere
    });
    let names = TableNames { tables: &tables, slices: Slices::Desired(&planned.desired) };
    let mut host = host_tables(&tables, planned.config, now_s());
    Ok(Answer { explanation: explain::explain(&question, &mut host, &names), kernel: None })
}

/// Whether another node's pod CIDR covers the address.
fn pods_elsewhere(snapshot: &Snapshot, node_name: &str, address: IpAddr) -> bool {
    let others = snapshot.nodes.values().filter(|node| &*node.name != node_name);
    others
        .flat_map(|node| &node.pod_cidrs)
        .any(|(network, bits)| lb_common::Prefix::new(*network, *bits).contains(&address.into()))
}

fn from_kernel(explain: &Explain) -> Result<Answer> {
    let pins = Pins::new(&explain.pin_path);
    let maps = Maps::open(&pins)?;
    let tables = maps.tables()?;
    let config = maps.config()?;
    let nodes = [config.node_v4, config.node_v6].map(IpAddr::from);
    let local = local_pods(&tables);
    let question = question(explain, &nodes, |client| local.contains(&client));
    let mut host = host_tables(&tables, config, now_s());
    let key = question.flow_key();
    if let Some(flow) = maps.flow(&key)? {
        host.flows.insert(key, flow);
    }
    let names = TableNames { tables: &tables, slices: Slices::Noted(Origins::new(&explain.run_dir)) };
    let explanation = explain::explain(&question, &mut host, &names);
    let object = Object::choose(explain.ebpf_object.clone())?;
    let run = live::run(&object.bytes()?, &pins, &maps, &question).context("cannot ask the kernel")?;
    let kernel = run.map(|run| witness(&question, &explanation, &run));
    Ok(Answer { explanation, kernel })
}

fn local_pods(tables: &Tables) -> std::collections::BTreeSet<IpAddr> {
    let endpoints = tables.endpoint_ids().map(|id| tables.endpoint(id));
    endpoints
        .filter(lb_common::endpoint::Endpoint::is_local)
        .map(|endpoint| endpoint.address.into())
        .collect()
}

fn question(explain: &Explain, nodes: &[IpAddr], is_local_pod: impl Fn(IpAddr) -> bool) -> Question {
    let client = explain.from.ip();
    let entry = explain.entry.unwrap_or_else(|| {
        if nodes.contains(&client) || client.is_loopback() {
            Entry::Socket
        } else if is_local_pod(client) {
            Entry::Pod
        } else {
            Entry::Uplink
        }
    });
    Question { from: explain.from, to: explain.to, protocol: explain.protocol, entry }
}

/// The host's answer chose by the same hash from the same tables: the endpoint must be the same one.
fn witness(question: &Question, explanation: &Explanation, run: &live::KernelRun) -> Witness {
    let reason = match run.verdict {
        "forward" => lb_common::counters::Reason::ForwardNew,
        _ => lb_common::counters::Reason::PassNotOurs,
    };
    let Run { endpoint, .. } = explain::run_of(question, reason, &run.frame);
    let endpoint = endpoint.map(|endpoint| endpoint.to_string());
    let agrees = run.verdict == explanation.verdict && endpoint == explanation.endpoint;
    Witness { program: run.program, verdict: run.verdict, endpoint, agrees }
}

fn sentences(answer: &Answer) -> String {
    let steps =
        answer.explanation.steps.iter().map(|step| {
            vec![step.stage.to_owned(), step.found.clone(), step.origin.clone().unwrap_or_default()]
        });
    let mut text = output::table(vec!["STEP", "FOUND", "FROM"], steps);
    if let Some(kernel) = &answer.kernel {
        let agrees = if kernel.agrees { "agrees" } else { "DISAGREES" };
        let endpoint = kernel.endpoint.as_deref().unwrap_or("none");
        text.push_str(&format!(
            "\nthe program {} in the kernel {agrees}: {}, endpoint {endpoint}\n",
            kernel.program, kernel.verdict
        ));
    }
    text
}
