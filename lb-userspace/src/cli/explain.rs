//! `podway explain`: why a packet goes where it goes.
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Serialize;

use crate::clock::now_s;
use crate::diff::Tables;
use crate::explain::{
    self, Entry, Explanation, Question, Run, Slices, TableNames, live, tables::host_tables,
};
use crate::maps::Object;
use crate::model::{Protocol, Snapshot};
use crate::snapshot::{Pinned, Reading};

use super::output::{self, Format};
use super::url_maps::Topic;
use super::{Facts, GivenFacts, ReadFrom, UrlMapQuestion, manifests};

/// Source port of a question that names none: the first ephemeral one.
const PORT_DEFAULT: u16 = 32_768;

/// Tell step by step what happens to a request (--url), or to the first packet of a flow: on the maps of this node's agent, with the
/// program in the kernel as witness, on those of a snapshot (--snapshot), or with --manifests from the plan alone. Writes
/// nothing.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  podway explain --from 203.0.113.7 --to 198.51.100.10:80 --proto tcp\n  \
    podway explain --from 10.244.1.10 --to 10.96.0.10:53 --proto udp --manifests examples --node-name node-a -o json\n  \
    podway explain --url https://shop.example.com/cart --manifests examples --node-name node-a"
)]
pub(super) struct Explain {
    /// A request in place of a packet: `https://HOST/PATH`, taken as it stands; on the URL maps of the
    /// agent, or from --manifests.
    #[arg(long, conflicts_with_all = ["from", "to"])]
    url: Option<String>,
    /// The VIP that the request comes to; without, those whose rules name the host.
    #[arg(long, requires = "url")]
    vip: Option<IpAddr>,
    /// The client: IP or IP:PORT.
    #[arg(long, value_parser = client, required_unless_present = "url")]
    from: Option<SocketAddr>,
    /// What it dials: IP:PORT.
    #[arg(long, required_unless_present = "url")]
    to: Option<SocketAddr>,
    /// Protocol: tcp, udp or sctp.
    #[arg(long = "proto", value_parser = protocol, default_value = "tcp")]
    protocol: Protocol,
    /// How the packet comes in; without, it follows from the client's address.
    #[arg(long, value_enum)]
    entry: Option<Entry>,
    #[command(flatten)]
    given: GivenFacts,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    place: ReadFrom,
    /// The eBPF object to run instead of the one in this binary.
    #[arg(long)]
    ebpf_object: Option<PathBuf>,
}

fn client(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse::<SocketAddr>();
    let alone = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT_DEFAULT));
    with_port.or(alone).map_err(|_| format!("cannot read {text:?}: want IP or IP:PORT"))
}

pub(super) fn protocol(text: &str) -> Result<Protocol, String> {
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
    if let Some(url) = &explain.url {
        let topic = Topic::Request { url: url.clone(), vip: explain.vip };
        let question = UrlMapQuestion { topic, output: explain.output };
        return explain.given.ask_of_url_maps(&question, &explain.place);
    }
    let (Some(from), Some(to)) = (explain.from, explain.to) else {
        bail!("cannot explain nothing: give --url, or --from and --to")
    };
    ensure!(
        from.is_ipv4() == to.is_ipv4(),
        "cannot explain a packet from {} to {}: the addresses are of two families",
        from.ip(),
        to.ip()
    );
    let packet = Packet { from, to };
    let answer = match explain.given.facts() {
        Some(facts) => from_manifests(explain, packet, &facts)?,
        None => from_maps(explain, packet)?,
    };
    match explain.output {
        Format::Json | Format::Yaml => output::value(&answer, explain.output),
        Format::Table | Format::Wide => Ok(sentences(&answer)),
    }
}

/// Whose packet is asked about.
#[derive(Clone, Copy)]
struct Packet {
    from: SocketAddr,
    to: SocketAddr,
}

fn from_manifests(explain: &Explain, packet: Packet, facts: &Facts) -> Result<Answer> {
    ensure!(!facts.node_name.is_empty(), "cannot tell which node the packet meets: give --node-name");
    let mut planned = manifests::plan(facts)?;
    let tables = manifests::tables(&mut planned);
    manifests::warn(&planned.problems);
    let is_elsewhere = pods_elsewhere(&planned.snapshot, &facts.node_name, packet.from.ip());
    let question = question(explain.entry, explain.protocol, packet, &planned.node.addresses, |client| {
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

fn from_maps(explain: &Explain, packet: Packet) -> Result<Answer> {
    let reading = explain.place.open()?;
    let tables = reading.tables()?;
    let config = reading.config()?;
    let nodes = [config.node_v4, config.node_v6].map(IpAddr::from);
    let local = local_pods(&tables);
    let question =
        question(explain.entry, explain.protocol, packet, &nodes, |client| local.contains(&client));
    let mut host = host_tables(&tables, config, reading.now_s());
    let key = question.flow_key();
    if let Some(flow) = reading.flow(&key)? {
        host.flows.insert(key, flow);
    }
    let names = TableNames { tables: &tables, slices: reading.slices() };
    let explanation = explain::explain(&question, &mut host, &names);
    // A snapshot has no kernel that could be asked.
    let kernel = match &reading {
        Reading::Pinned(pinned) => asked_of_kernel(explain, pinned, &question, &explanation)?,
        Reading::Recorded(_) => None,
    };
    Ok(Answer { explanation, kernel })
}

fn asked_of_kernel(
    explain: &Explain,
    pinned: &Pinned,
    question: &Question,
    explanation: &Explanation,
) -> Result<Option<Witness>> {
    let object = Object::choose(explain.ebpf_object.clone())?;
    let run = live::run(&object.bytes()?, &pinned.pins, &pinned.maps, question);
    let run = run.context("cannot ask the kernel")?;
    Ok(run.map(|run| witness(question, explanation, &run)))
}

fn local_pods(tables: &Tables) -> std::collections::BTreeSet<IpAddr> {
    let endpoints = tables.endpoint_ids().map(|id| tables.endpoint(id));
    endpoints
        .filter(lb_common::endpoint::Endpoint::is_local)
        .map(|endpoint| endpoint.address.into())
        .collect()
}

fn question(
    entry: Option<Entry>,
    protocol: Protocol,
    packet: Packet,
    nodes: &[IpAddr],
    is_local_pod: impl Fn(IpAddr) -> bool,
) -> Question {
    let client = packet.from.ip();
    let entry = entry.unwrap_or_else(|| {
        if nodes.contains(&client) || client.is_loopback() {
            Entry::Socket
        } else if is_local_pod(client) {
            Entry::Pod
        } else {
            Entry::Uplink
        }
    });
    Question { from: packet.from, to: packet.to, protocol, entry }
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
