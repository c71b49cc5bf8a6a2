//! The node that a plan is made for.
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{AddressRange, Dialect, ExternalMode, NegType, Node};

use super::Selection;

/// What a plan must know of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeContext {
    /// Its name, as EndpointSlices name it.
    pub name: Arc<str>,
    /// Its addresses; node ports answer on those that `NodeContext::node_port_addresses` chooses.
    pub addresses: Vec<IpAddr>,
    /// Its zone, for zone hints.
    pub zone: Option<Arc<str>>,
    /// `--nodeport-addresses`.
    pub node_port_addresses: NodePortAddresses,
    /// `--external-mode`.
    pub external_mode: ExternalMode,
    /// `--only-service` and `--service-selector`.
    pub selection: Arc<Selection>,
    /// `--dialect`.
    pub dialect: Dialect,
    /// `--neg-type`.
    pub neg_type: NegType,
    /// `--lb-pool`.
    pub lb_pool: Vec<AddressRange>,
}

impl NodeContext {
    /// From the Node object, with the defaults of an agent's flags.
    #[must_use]
    pub fn of_node(node: &Node) -> Self {
        Self {
            name: node.name.clone(),
            addresses: node.addresses.clone(),
            zone: node.zone.clone(),
            ..Self::default()
        }
    }

    /// The addresses on which this node answers a balancer's health checks: those of its node ports, or
    /// none in particular where these are on all.
    #[must_use]
    pub fn health_check_addresses(&self) -> Vec<IpAddr> {
        match &self.node_port_addresses {
            NodePortAddresses::In(prefixes) if prefixes.iter().all(|(_, bits)| *bits == 0) => Vec::new(),
            _ => self.node_port_addresses(),
        }
    }

    /// The addresses on which node ports answer. Loopback ones never stand in the maps: packets to
    /// them come by no interface.
    pub(super) fn node_port_addresses(&self) -> Vec<IpAddr> {
        let mut chosen = self.node_port_addresses.choose(&self.addresses);
        chosen.retain(|address| !address.is_loopback());
        chosen
    }
}

/// Which addresses of a node its node ports answer on (`--nodeport-addresses` of kube-proxy).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodePortAddresses {
    /// Those in a prefix. A family without a prefix of its own has all of its addresses
    /// (`pkg/proxy/util/nodeport_addresses.go`, `NewNodePortAddresses`).
    In(Vec<(IpAddr, u8)>),
    /// The first address of each family alone.
    Primary,
}

/// All addresses, as in kube-proxy's iptables mode. Its nftables mode takes `primary`
/// (`pkg/proxy/nftables`, `Backend.Init`); a cluster that comes from either loses nothing with all.
impl Default for NodePortAddresses {
    fn default() -> Self {
        Self::In(Vec::new())
    }
}

impl std::str::FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "primary" {
            return Ok(Self::Primary);
        }
        let prefixes = text.split(',').map(|part| prefix_of(part.trim()).ok_or(part));
        prefixes.collect::<Result<_, _>>().map(Self::In).map_err(|part| {
            format!(
                "{part:?} is no address prefix; write \"primary\", or for instance 192.0.2.0/24,2001:db8::/64"
            )
        })
    }
}

impl NodePortAddresses {
    /// Those of a node's addresses.
    pub(super) fn choose(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        match self {
            Self::In(prefixes) => {
                let is_in = |address: &IpAddr| {
                    let mut of_family =
                        prefixes.iter().filter(|p| p.0.is_ipv4() == address.is_ipv4()).peekable();
                    let covers = |(network, bits): &(IpAddr, u8)| {
                        lb_common::Prefix::new(*network, *bits).contains(&(*address).into())
                    };
                    of_family.peek().is_none() || of_family.any(covers)
                };
                addresses.iter().copied().filter(is_in).collect()
            }
            Self::Primary => {
                let first = |is_v4: bool| addresses.iter().find(|address| address.is_ipv4() == is_v4);
                [first(true), first(false)].into_iter().flatten().copied().collect()
            }
        }
    }
}

fn prefix_of(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let bits = bits.parse().ok()?;
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The node-port addresses of a node with two addresses of each family.
    fn chosen(flag: &str) -> Vec<String> {
        let addresses = ["192.0.2.1", "198.51.100.1", "2001:db8::1", "2001:db8:1::1", "127.0.0.1"];
        let node = NodeContext {
            addresses: addresses.map(|text| text.parse().unwrap()).into(),
            node_port_addresses: flag.parse().unwrap(),
            ..NodeContext::default()
        };
        node.node_port_addresses().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn node_ports_answer_in_the_prefixes() {
        assert_eq!(chosen("198.51.100.0/24,2001:db8::1/128"), ["198.51.100.1", "2001:db8::1"]);
    }

    #[test]
    fn a_family_without_a_prefix_has_all_its_addresses() {
        assert_eq!(chosen("192.0.2.0/24"), ["192.0.2.1", "2001:db8::1", "2001:db8:1::1"]);
    }

    #[test]
    fn primary_is_the_first_address_of_each_family() {
        assert_eq!(chosen("primary"), ["192.0.2.1", "2001:db8::1"]);
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in ["", "secondary", "primary,192.0.2.0/24", "192.0.2.0/33", "192.0.2.1"] {
            assert!(text.parse::<NodePortAddresses>().is_err(), "{text}");
        }
    }
}
