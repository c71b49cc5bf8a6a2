//! The stories of `tests/cases/service-flows.jsonl`, as data.
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use lb_common::Prefix;
use lb_userspace::explain::{Entry, Question};
use lb_userspace::model::Protocol;
use serde::Deserialize;
use serde_json::{Value, json};

/// A node, its Services, and what becomes of packets there.
#[derive(Clone, Debug, Deserialize)]
pub struct Story {
    /// Its name.
    pub story: String,
    /// The node.
    pub node: Node,
    services: Vec<Value>,
    endpoint_slices: Vec<Value>,
    /// The packets.
    pub packets: Vec<Packet>,
}

/// This node.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Where node ports answer.
    pub node_port_addresses: Vec<String>,
    /// Prefix of pod addresses.
    pub cluster_cidr: String,
}

/// The first packet of a flow, and what becomes of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Packet {
    /// What it shows.
    pub name: String,
    src: String,
    dst: String,
    port: u16,
    proto: String,
    expect: String,
    /// Whether the endpoint sees another source.
    pub source_nat: bool,
}

/// Where a packet meets the forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// It arrives at an uplink.
    Uplink,
    /// It comes from a pod of this node.
    Pod,
    /// A process of this node sends it.
    Node,
}

/// What a case expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// `forward`, `refuse`, `drop` or `pass`.
    pub verdict: &'static str,
    /// The endpoints that may be chosen, sorted.
    pub candidates: Vec<String>,
}

/// Prefixes of cluster IPs in all stories.
pub const SERVICE_CIDRS: &str = "172.30.0.0/16,fd00:172:30::/64";

/// All stories.
///
/// # Errors
/// The file cannot be read, or a line of it not understood.
pub fn stories() -> Result<Vec<Story>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/service-flows.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines().map(|line| serde_json::from_str(line).context("a line is no story")).collect()
}

/// Story and packet of each row of the table under "Source NAT" in `docs/differences.md`.
///
/// # Panics
/// When there is no such table.
#[must_use]
pub fn listed_differences() -> BTreeSet<(String, String)> {
    let text = include_str!("../../docs/differences.md");
    let section = text.split("\n## ").find(|section| section.starts_with("Source NAT")).expect("the section");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
        (cells.next().expect("a story"), cells.next().expect("a packet"))
    })
    .collect()
}

impl Story {
    /// Writes its objects as manifests to a folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let whole = |kind: &str, api_version: &str, object: &Value| {
            let mut object = object.clone();
            object["kind"] = json!(kind);
            object["apiVersion"] = json!(api_version);
            object.to_string()
        };
        let services = self.services.iter().map(|object| whole("Service", "v1", object));
        let slices =
            self.endpoint_slices.iter().map(|object| whole("EndpointSlice", "discovery.k8s.io/v1", object));
        let text: String = services.chain(slices).map(|line| line + "\n").collect();
        let path = folder.join("story.json");
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// The flags that describe its node.
    #[must_use]
    pub fn node_flags(&self) -> Vec<String> {
        let Node { name, addresses, node_port_addresses, cluster_cidr } = &self.node;
        let pairs = [
            ("--node-name", name.clone()),
            ("--node-ip", addresses.join(",")),
            ("--nodeport-addresses", node_port_addresses.join(",")),
            ("--cluster-cidr", cluster_cidr.clone()),
            ("--service-cidr", SERVICE_CIDRS.to_owned()),
        ];
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }
}

impl Packet {
    /// The flags of `explain` that ask for it, from a port of the client.
    ///
    /// # Panics
    /// When an address of it is none.
    #[must_use]
    pub fn flags(&self, source_port: u16) -> Vec<String> {
        let place = |text: &str, port| SocketAddr::new(text.parse().expect("an address"), port).to_string();
        let (from, to) = (place(&self.src, source_port), place(&self.dst, self.port));
        ["--from", &from, "--to", &to, "--proto", &self.proto].map(str::to_owned).into()
    }

    /// The question that it asks, from a port of the client. A packet of the node itself leaves by an
    /// interface, as where no socket hook has chosen before.
    ///
    /// # Panics
    /// When an address or the protocol is none.
    #[must_use]
    pub fn question(&self, node: &Node, source_port: u16) -> (Hook, Question) {
        let place = |text: &str, port| SocketAddr::new(text.parse().expect("an address"), port);
        let (from, to) = (place(&self.src, source_port), place(&self.dst, self.port));
        let (network, bits) = node.cluster_cidr.split_once('/').expect("a prefix");
        let pods = Prefix::new(network.parse().expect("an address"), bits.parse().expect("a length"));
        let hook = if node.addresses.contains(&self.src) {
            Hook::Node
        } else if pods.contains(&from.ip().into()) {
            Hook::Pod
        } else {
            Hook::Uplink
        };
        let protocol = match self.proto.as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => panic!("{other:?} is no protocol"),
        };
        (hook, Question { from, to, protocol, entry: Entry::Uplink })
    }

    /// What shall become of it.
    #[must_use]
    pub fn expected(&self) -> Expected {
        let verdict = match self.expect.as_str() {
            "REJECT" => "refuse",
            "DROP" => "drop",
            "untouched" | "ACCEPT" => "pass",
            _ => "forward",
        };
        let mut candidates: Vec<String> = match verdict {
            "forward" => self.expect.split(", ").map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        candidates.sort_unstable();
        Expected { verdict, candidates }
    }
}
