//! CONFIG: what the programs must know of this node, from its flags or its Node objects.
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use lb_common::config::{CLUSTER_PREFIXES_MAX, Config, SERVICE_PREFIXES_MAX, flags};
use lb_common::{Be16, Prefix};

/// Most cluster prefixes of one family.
const PREFIXES_PER_FAMILY_MAX: usize = CLUSTER_PREFIXES_MAX / 2;

/// The ports that Kubernetes gives to `nodePort` (`--service-node-port-range`'s default).
const NODE_PORTS: PortRange = PortRange { first: 30_000, last: 32_767 };

/// Where the kernel says which ports it gives to sockets.
const LOCAL_PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// A range of ports with both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// Below the node ports and the host's own ephemeral ports (`net.ipv4.ip_local_port_range`, 32768 to 60999), above
/// the ports on which the parts of Kubernetes listen (10250 to 10259). As many flows can be open from one node's
/// clients to one endpoint on another node.
impl Default for PortRange {
    fn default() -> Self {
        Self { first: 11_000, last: 29_999 }
    }
}

impl PortRange {
    /// Whether a port is in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('-').and_then(|(first, last)| {
            Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
        });
        match parsed {
            Some(range) if range.first > 0 && range.first <= range.last => Ok(range),
            _ => Err("not a range of ports; write for instance 11000-29999".into()),
        }
    }
}

/// An address prefix as flags and `podCIDRs` write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(pub IpAddr, pub u8);

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(address, bits)| {
            let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
            (bits <= family_bits(address)).then_some(Self(address, bits))
        });
        parsed.ok_or_else(|| "not a prefix; write for instance 10.244.0.0/16".into())
    }
}

fn family_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Checks that source NAT takes no port that this node gives to somebody else.
///
/// # Errors
/// It does; the message says whose ports they are.
pub fn check_snat_ports(ports: PortRange) -> Result<()> {
    check_snat_range(ports, local_ports()?)
}

/// The ports that this node gives to its own sockets.
///
/// # Errors
/// They cannot be read.
pub fn local_ports() -> Result<PortRange> {
    let text = std::fs::read_to_string(LOCAL_PORT_RANGE);
    let text = text.with_context(|| format!("cannot read {LOCAL_PORT_RANGE}"))?;
    let mut numbers = text.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(first)), Some(Ok(last))) = (numbers.next(), numbers.next()) else {
        bail!("cannot read {LOCAL_PORT_RANGE}: {:?} are not two ports", text.trim());
    };
    Ok(PortRange { first, last })
}

fn check_snat_range(ports: PortRange, local: PortRange) -> Result<()> {
    ensure!(
        !ports.overlaps(local),
        "cannot use --snat-ports {ports}: this node gives the ports {local} to its own sockets \
         (net.ipv4.ip_local_port_range); choose a range outside of it or change the sysctl"
    );
    ensure!(
        !ports.overlaps(NODE_PORTS),
        "cannot use --snat-ports {ports}: Services have the node ports {NODE_PORTS}; choose a range outside of \
         them, for instance 11000-29999"
    );
    Ok(())
}

/// What CONFIG is made from.
#[derive(Clone, Copy, Debug)]
pub struct NodeConfig<'a> {
    /// This node's addresses; the first one of each family is for source NAT.
    pub addresses: &'a [IpAddr],
    /// Prefixes of pod addresses.
    pub cluster: &'a [Cidr],
    /// Prefixes of cluster IPs.
    pub services: &'a [Cidr],
    /// Ports of source NAT.
    pub snat_ports: PortRange,
    /// UDP port of the encapsulation between nodes.
    pub dsr_port: u16,
    /// `SO_NETNS_COOKIE` of this node's namespace.
    pub namespace_cookie: u64,
    /// Whether another proxy serves some of the Services.
    pub is_beside_proxy: bool,
    /// Whether packets to pods of this node go past the network stack.
    pub delivers_directly: bool,
}

/// The value of CONFIG.
#[must_use]
pub fn config(node: &NodeConfig<'_>) -> Config {
    let mut config = Config {
        snat_port_first: node.snat_ports.first,
        // A range of all 65,536 ports cannot be: port 0 is refused.
        snat_ports: node.snat_ports.last - node.snat_ports.first + 1,
        dsr_port: Be16::new(node.dsr_port),
        node_namespace_cookie: node.namespace_cookie,
        ..Config::default()
    };
    if node.delivers_directly {
        config.flags |= flags::DELIVER_DIRECTLY;
    }
    if node.is_beside_proxy {
        config.flags |= flags::BESIDE_PROXY;
    }
    if let Some(address) = node.addresses.iter().find(|address| address.is_ipv4()) {
        config.node_v4 = (*address).into();
        config.flags |= flags::NODE_V4;
    }
    if let Some(address) = node.addresses.iter().find(|address| address.is_ipv6()) {
        config.node_v6 = (*address).into();
        config.flags |= flags::NODE_V6;
    }
    config.cluster_prefixes_count = fill(&mut config.cluster_prefixes, &merged(node.cluster));
    config.service_prefixes_count = fill(&mut config.service_prefixes, &exact(node.services));
    config
}

/// Writes prefixes to their places; returns how many there are.
fn fill(places: &mut [Prefix], prefixes: &[Cidr]) -> u32 {
    let written = places.iter_mut().zip(prefixes).map(|(place, Cidr(address, bits))| {
        *place = Prefix::new(*address, *bits);
    });
    written.count() as u32
}

/// Prefixes of cluster IPs may not be joined: what lies between them is none, and would be dropped. So
/// of more than fit, those that cover most hold.
fn exact(services: &[Cidr]) -> Vec<Cidr> {
    let mut all = services.to_vec();
    all.iter_mut().for_each(|cidr| *cidr = cut(*cidr, cidr.1));
    all.sort_by_key(|cidr| (cidr.1, cidr.0));
    let mut kept: Vec<Cidr> = Vec::new();
    for cidr in all {
        let is_covered =
            kept.iter().any(|wider| wider.0.is_ipv4() == cidr.0.is_ipv4() && cut(cidr, wider.1) == *wider);
        let of_family = kept.iter().filter(|other| other.0.is_ipv4() == cidr.0.is_ipv4()).count();
        if !is_covered && of_family < SERVICE_PREFIXES_MAX / 2 {
            kept.push(cidr);
        }
    }
    kept
}

/// The prefixes, joined until at most two of each family are left: a cluster has one for each node, and
/// they have a common one. The two neighbours that are most alike are joined first, so what is covered
/// besides is the least there can be.
fn merged(cluster: &[Cidr]) -> Vec<Cidr> {
    let mut all = Vec::new();
    for is_v4 in [true, false] {
        let mut family: Vec<Cidr> =
            cluster.iter().copied().filter(|cidr| cidr.0.is_ipv4() == is_v4).collect();
        family.iter_mut().for_each(|cidr| *cidr = cut(*cidr, cidr.1));
        family.sort_by_key(|cidr| (cidr.0, cidr.1));
        family.dedup_by(|next, kept| cut(*next, kept.1) == *kept);
        while family.len() > PREFIXES_PER_FAMILY_MAX {
            let common = |index: &usize| common_bits(family[*index], family[index + 1]);
            let Some(index) = (0..family.len() - 1).max_by_key(common) else { break };
            let bits = common(&index);
            family[index] = cut(family[index], bits);
            family.remove(index + 1);
        }
        all.extend(family);
    }
    all
}

/// The prefix of the first `bits` of another one, if it has so many.
fn cut(Cidr(address, own_bits): Cidr, bits: u8) -> Cidr {
    let bits = bits.min(own_bits);
    let address = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::from((v4.to_bits() & mask).to_be_bytes())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::from((v6.to_bits() & mask).to_be_bytes())
        }
    };
    Cidr(address, bits)
}

fn common_bits(a: Cidr, b: Cidr) -> u8 {
    let alike = match (a.0, b.0) {
        (IpAddr::V4(x), IpAddr::V4(y)) => (x.to_bits() ^ y.to_bits()).leading_zeros() as u8,
        (IpAddr::V6(x), IpAddr::V6(y)) => (x.to_bits() ^ y.to_bits()).leading_zeros() as u8,
        _ => 0,
    };
    alike.min(a.1).min(b.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidrs(texts: &[&str]) -> Vec<Cidr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn few_prefixes_stay_as_they_are() {
        let given = cidrs(&["10.244.1.7/24", "10.244.9.0/24", "2001:db8:1::/64"]);
        assert_eq!(merged(&given), cidrs(&["10.244.1.0/24", "10.244.9.0/24", "2001:db8:1::/64"]));
    }

    #[test]
    fn many_prefixes_are_joined_where_they_are_most_alike() {
        let given = cidrs(&["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24", "10.9.0.0/24"]);
        assert_eq!(merged(&given), cidrs(&["10.9.0.0/24", "10.244.0.0/22"]));
    }

    #[test]
    fn a_prefix_inside_another_one_adds_nothing() {
        let given = cidrs(&["10.244.1.0/24", "10.244.0.0/16", "10.244.0.0/24", "10.244.0.0/16"]);
        assert_eq!(merged(&given), cidrs(&["10.244.0.0/16"]));
    }

    #[test]
    fn config_has_one_address_of_each_family_and_the_range_of_ports() {
        let addresses = ["192.0.2.11", "192.0.2.12", "2001:db8::11"].map(|text| text.parse().unwrap());
        let config = config(&NodeConfig {
            addresses: &addresses,
            cluster: &cidrs(&["10.244.0.0/16"]),
            services: &cidrs(&["10.96.0.0/12", "2001:db8:96::/112"]),
            snat_ports: "61000-65535".parse().unwrap(),
            dsr_port: 6_081,
            namespace_cookie: 7,
            is_beside_proxy: true,
            delivers_directly: true,
        });
        assert_eq!(config.node_v4.to_string(), "192.0.2.11");
        assert_eq!(config.node_v6.to_string(), "2001:db8::11");
        assert_eq!(
            config.flags,
            flags::NODE_V4 | flags::NODE_V6 | flags::BESIDE_PROXY | flags::DELIVER_DIRECTLY
        );
        assert_eq!((config.snat_port_first, config.snat_ports), (61_000, 4_536));
        assert_eq!(config.cluster_prefixes_count, 1);
        assert!(config.is_in_cluster(&IpAddr::from([10, 244, 255, 1]).into()));
        assert_eq!(config.service_prefixes_count, 2);
        assert!(config.is_service_address(&IpAddr::from([10, 111, 255, 1]).into()));
        assert_eq!((config.dsr_port.get(), config.node_namespace_cookie), (6_081, 7));
    }

    #[test]
    fn service_prefixes_are_never_joined_and_the_widest_hold() {
        let given =
            cidrs(&["10.96.3.0/24", "10.96.1.0/24", "10.96.8.0/22", "10.96.8.0/24", "2001:db8:96::/112"]);
        assert_eq!(exact(&given), cidrs(&["10.96.8.0/22", "10.96.1.0/24", "2001:db8:96::/112"]));
    }

    #[test]
    fn a_range_with_ports_of_others_is_refused() {
        let range = |text: &str| text.parse::<PortRange>().unwrap();
        let local = range("32768-60999");
        assert!(check_snat_range(range("61000-65535"), local).is_ok());
        let error = check_snat_range(range("60000-61000"), local).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot use --snat-ports 60000-61000: this node gives the ports 32768-60999 to its own sockets \
             (net.ipv4.ip_local_port_range); choose a range outside of it or change the sysctl"
        );
        let error = check_snat_range(range("31000-32000"), local).unwrap_err().to_string();
        assert!(error.contains("node ports 30000-32767"), "{error}");
    }

    #[test]
    fn what_is_no_range_or_prefix_is_refused() {
        for text in ["", "61000", "0-5", "9-5", "1-70000"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
        for text in ["10.0.0.0", "10.0.0.0/33", "2001:db8::/129", "x/8"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
