//! The flags that say what a node is like: those of the agent, and of every command that plans for a
//! node without one.
use std::net::IpAddr;
use std::sync::Arc;

use clap::Args;
use lb_common::config::Config;

use crate::attach::{self, Cidr, NodeConfig, PortRange};
use crate::model::{AddressRange, Dialect, ExternalMode, LocalDelivery, NegType, Node, ObjectName, Snapshot};
use crate::plan::{LabelSelector, NodeContext, NodePortAddresses, Selection};

/// What a node is like, where its Node object shall not say it.
#[derive(Args, Clone, Debug)]
pub struct NodeFlags {
    /// This node's addresses, for node ports and source NAT; without, those of its Node object.
    #[arg(long, value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Prefixes of pod addresses; without, `spec.podCIDRs` of all Nodes.
    #[arg(long, value_delimiter = ',')]
    pub cluster_cidr: Vec<Cidr>,
    /// Prefixes of cluster IPs, where addresses that no Service has are dropped; without, those of the
    /// `ServiceCIDR` objects.
    #[arg(long, value_delimiter = ',')]
    pub service_cidr: Vec<Cidr>,
    /// Node addresses on which node ports answer: prefixes, or `primary` for the first address of each
    /// family; without, all (as kube-proxy's iptables mode; its nftables mode has `primary`).
    #[arg(long, default_value = "0.0.0.0/0,::/0", hide_default_value = true)]
    pub nodeport_addresses: NodePortAddresses,
    /// How outside clients reach endpoints on other nodes, unless a Service says otherwise with
    /// `podway.io/external-mode`.
    #[arg(long, value_enum, default_value_t)]
    pub external_mode: ExternalMode,
    /// How tc brings packets of Services to pods of this node; `direct` goes past netfilter, so past network
    /// policies that a CNI makes of it.
    #[arg(long, value_enum, default_value_t)]
    pub local_delivery: LocalDelivery,
    /// Serve this Service, NAMESPACE/NAME, and leave all others to kube-proxy; may be given more than once.
    #[arg(long, value_parser = object_name)]
    pub only_service: Vec<ObjectName>,
    /// Serve the Services whose labels match, and leave all others to kube-proxy: `app=web`,
    /// `tier in (a,b),!legacy`. With --only-service too, those that either names.
    #[arg(long)]
    pub service_selector: Option<LabelSelector>,
    /// Whose rules Ingresses follow where the Ingress specification and Google's load balancers differ: host
    /// wildcards and paths of type `ImplementationSpecific`.
    #[arg(long, value_enum, default_value_t)]
    pub dialect: Dialect,
    /// What Ingresses send requests to, unless a Service says otherwise: pods, or, where pod IPs cannot be routed, nodes and
    /// the Service's node port (`podway.io/neg-type`, `cloud.google.com/neg`).
    #[arg(long, value_enum, default_value_t)]
    pub neg_type: NegType,
    /// Addresses for Services of type `LoadBalancer` and for Ingresses, beside those of `LoadBalancerPools`:
    /// `192.0.2.0/28,192.0.2.32-192.0.2.40`; the same on all nodes; may be given more than once.
    #[arg(long, value_delimiter = ',')]
    pub lb_pool: Vec<AddressRange>,
    /// UDP port of the encapsulation between nodes, the same on all of them.
    #[arg(long, default_value_t = DSR_PORT_DEFAULT, value_parser = clap::value_parser!(u16).range(1..))]
    pub dsr_port: u16,
}

/// RFC 8926 §3.3.
const DSR_PORT_DEFAULT: u16 = 6_081;

impl NodeFlags {
    /// What a plan must know of the node of a name, with what its Node object says where there is one.
    #[must_use]
    pub fn context(&self, name: Arc<str>, object: Option<&Node>) -> NodeContext {
        let addresses = match (&self.node_ip[..], object) {
            ([], Some(node)) => node.addresses.clone(),
            (given, _) => given.to_vec(),
        };
        NodeContext {
            name,
            addresses,
            zone: object.and_then(|node| node.zone.clone()),
            node_port_addresses: self.nodeport_addresses.clone(),
            external_mode: self.external_mode,
            selection: Arc::new(self.selection()),
            dialect: self.dialect,
            neg_type: self.neg_type,
            lb_pool: self.lb_pool.clone(),
        }
    }

    fn selection(&self) -> Selection {
        let names = self.only_service.iter().cloned().collect();
        Selection { names, selector: self.service_selector.clone() }
    }

    /// The value of CONFIG for a node with these addresses.
    #[must_use]
    pub fn config(
        &self,
        addresses: &[IpAddr],
        snapshot: &Snapshot,
        snat_ports: PortRange,
        namespace_cookie: u64,
    ) -> Config {
        let pods = snapshot.nodes.values().flat_map(|node| &node.pod_cidrs);
        let services = snapshot.service_cidrs.values().flat_map(|cidr| &cidr.prefixes);
        // Beside another proxy, an address that this node does not serve may be that one's.
        let services = match self.selection().is_all() {
            true => given_or(&self.service_cidr, services),
            false => Vec::new(),
        };
        attach::config(&NodeConfig {
            addresses,
            cluster: &given_or(&self.cluster_cidr, pods),
            services: &services,
            snat_ports,
            dsr_port: self.dsr_port,
            namespace_cookie,
            is_beside_proxy: !self.selection().is_all(),
            delivers_directly: self.local_delivery == LocalDelivery::Direct,
        })
    }
}

/// As a command line without these flags has them.
#[cfg(test)]
impl Default for NodeFlags {
    fn default() -> Self {
        Self {
            node_ip: Vec::new(),
            cluster_cidr: Vec::new(),
            service_cidr: Vec::new(),
            nodeport_addresses: NodePortAddresses::default(),
            external_mode: ExternalMode::default(),
            local_delivery: LocalDelivery::default(),
            only_service: Vec::new(),
            service_selector: None,
            dialect: Dialect::default(),
            neg_type: NegType::default(),
            lb_pool: Vec::new(),
            dsr_port: DSR_PORT_DEFAULT,
        }
    }
}

/// NAMESPACE/NAME on a command line.
fn object_name(text: &str) -> Result<ObjectName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(ObjectName::new(namespace, name))
        }
        _ => Err("want NAMESPACE/NAME".to_owned()),
    }
}

fn given_or<'a>(given: &[Cidr], read: impl Iterator<Item = &'a (IpAddr, u8)>) -> Vec<Cidr> {
    if given.is_empty() {
        read.map(|(address, bits)| Cidr(*address, *bits)).collect()
    } else {
        given.to_vec()
    }
}
