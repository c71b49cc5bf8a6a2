//! What kube-proxy's live rules on this node say, in the words of the plan, so that both can be compared.
//!
//! `nftables` and `iptables` read the two kinds of rules; both come to `Chains`, which are walked
//! once for a client inside the cluster and once for one outside. `podway` says the same of Podway's
//! tables, and `compare` lists what differs. All of it is pure but `live`, which runs `nft` and
//! `iptables-save`.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::model::{ObjectName, Protocol};

mod chains;
mod compare;
mod iptables;
pub mod leftovers;
pub mod live;
mod nftables;
mod podway;

pub use compare::{Difference, compare};
pub use podway::frontends as podway_frontends;

use chains::Chains;

/// What a client dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The VIP.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port), self.protocol)
    }
}

/// What becomes of a new flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes to one of these.
    OneOf(BTreeSet<SocketAddr>),
    /// The client is refused.
    Refuse,
    /// It is dropped.
    Drop,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OneOf(endpoints) => {
                f.write_str(&endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
            }
            Self::Refuse => f.write_str("refuse"),
            Self::Drop => f.write_str("drop"),
        }
    }
}

/// A network address and its prefix length in bits.
pub type Range = (IpAddr, u8);

/// How one frontend is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handling {
    /// Whose it is, as far as the rules say.
    pub service: Option<ObjectName>,
    /// For pods and nodes of the cluster.
    pub internal: Outcome,
    /// For clients outside the cluster.
    pub external: Outcome,
    /// Seconds for which a client keeps its endpoint.
    pub affinity_timeout_s: Option<u32>,
    /// The clients that may dial it, where these are bounded.
    pub source_ranges: Option<BTreeSet<Range>>,
}

/// All frontends of one side.
pub type Frontends = BTreeMap<Place, Handling>;

/// Where kube-proxy's node ports answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NodePortAddresses {
    /// On each address of the node.
    All,
    /// On these.
    These(BTreeSet<IpAddr>),
}

/// The frontends of one family as the rules have them: node ports have no address of their own.
#[derive(Debug)]
struct Rules {
    frontends: Frontends,
    node_ports: BTreeMap<(Protocol, u16), Handling>,
    node_port_addresses: NodePortAddresses,
}

impl Rules {
    /// Gives the node ports their addresses: `node` has those of the family, for rules that take all.
    fn on_node(self, node: &BTreeSet<IpAddr>) -> Frontends {
        let addresses = match self.node_port_addresses {
            NodePortAddresses::All => node.clone(),
            NodePortAddresses::These(addresses) => addresses,
        };
        let mut frontends = self.frontends;
        for ((protocol, port), handling) in &self.node_ports {
            for address in &addresses {
                let place = Place { address: *address, port: *port, protocol: *protocol };
                frontends.insert(place, handling.clone());
            }
        }
        frontends
    }
}

/// Where a flow is led, or why it ends before: for one address and port, or one node port.
#[derive(Debug, Default)]
struct Entry {
    service: Option<ObjectName>,
    /// The chain that chooses the endpoint.
    chain: Option<String>,
    /// The verdict on what no chain led anywhere.
    without_endpoints: Option<Outcome>,
    source_ranges: Option<BTreeSet<Range>>,
}

/// By address, which node ports have none of, protocol and port.
type Entries = BTreeMap<(Option<IpAddr>, Protocol, u16), Entry>;

impl Rules {
    /// What the entries come to.
    fn of(entries: Entries, addresses: NodePortAddresses, chains: &Chains) -> anyhow::Result<Self> {
        let mut rules =
            Self { frontends: BTreeMap::new(), node_ports: BTreeMap::new(), node_port_addresses: addresses };
        for ((address, protocol, port), entry) in entries {
            let handling = entry.handling(chains)?;
            match address {
                Some(address) => drop(rules.frontends.insert(Place { address, port, protocol }, handling)),
                None => drop(rules.node_ports.insert((protocol, port), handling)),
            }
        }
        Ok(rules)
    }
}

impl Entry {
    /// Walks the chains for both kinds of clients.
    fn handling(self, chains: &Chains) -> anyhow::Result<Handling> {
        let mut affinity_timeout_s = None;
        let mut walk = |scope| -> anyhow::Result<Outcome> {
            let led = match &self.chain {
                Some(chain) => chains.walk(chain, scope, &mut affinity_timeout_s)?,
                None => None,
            };
            // What falls through all rules meets nobody on the address: the node drops or refuses it by
            // its own rules, which for a service address comes to a refusal at best.
            Ok(led.or_else(|| self.without_endpoints.clone()).unwrap_or(Outcome::Refuse))
        };
        let internal = walk(chains::Scope::Internal)?;
        let external = walk(chains::Scope::External)?;
        Ok(Handling {
            service: self.service,
            internal,
            external,
            affinity_timeout_s,
            source_ranges: self.source_ranges,
        })
    }
}

/// `NAMESPACE/NAME`, with or without a port after a colon.
fn service_name(text: &str) -> Option<ObjectName> {
    let (namespace, name) = text.split_once('/')?;
    let name = name.split_once(':').map_or(name, |(name, _)| name);
    Some(ObjectName::new(namespace, name))
}

fn protocol(text: &str) -> anyhow::Result<Protocol> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        other => anyhow::bail!("the protocol {other:?} is unknown"),
    }
}
