//! Interfaces, addresses and routes of a topology.
//!
//! Two things that veth pairs need before XDP works on them:
//! - A frame with a checksum that is left to the hardware loses that mark at an XDP program and is
//!   then wrong, so offloads are off where TCP meets XDP: at the client and on the uplinks, both ends.
//! - A frame that XDP redirects arrives at the other end only if that end has NAPI, which `gro on`
//!   gives it. One that XDP transmits needs more: see [`crate::xdp_pass`].
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::netns::{self, Namespace};
use crate::topology::{Host, Node};

/// MAC address of the node's end of every pod's veth pair, as Calico has it. Pods take the link-local
/// address that follows from it as their IPv6 gateway (RFC 4291 appendix A).
const GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";
const GATEWAY_V6: &str = "fe80::ecee:eeff:feee:eeee";
/// The pods' IPv4 gateway: an address nobody has, for which the node's end answers ARP.
const GATEWAY_V4: &str = "169.254.1.1";
/// The end of the addresses of a segment's gateway. Where no router has them, the segment itself does, and
/// forwards nothing.
pub(crate) const GATEWAY_LAST: u8 = 1;

/// A /24 and a /64 outside the nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    v4: [u8; 3],
    v6: [u16; 4],
}

/// The nodes' segment.
pub(crate) const SEGMENT: Segment = Segment { v4: [192, 0, 2], v6: [0x2001, 0xdb8, 0, 1] };
/// The client's, where a router is between.
pub(crate) const CLIENT_SEGMENT: Segment = Segment { v4: [203, 0, 113], v6: [0x2001, 0xdb8, 0x113, 0] };

impl Segment {
    /// The addresses that end in `last`.
    pub(crate) fn addresses(self, last: u8) -> (Ipv4Addr, Ipv6Addr) {
        let [a, b, c] = self.v4;
        (Ipv4Addr::new(a, b, c, last), v6(self.v6, last))
    }
}

const OFFLOADS_OFF: &[&str] = &["tx", "off", "tso", "off", "gso", "off", "gro", "on"];
const NAPI_ON: &[&str] = &["gro", "on"];

/// Set before a namespace gets its interfaces: no waiting for duplicate address detection (RFC 4862
/// §5.4) or routers, no filter by reverse path, no redirects.
const HOST_SYSCTLS: &[(&str, &str)] = &[
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
];
/// Set on nodes and the router in addition.
const ROUTER_SYSCTLS: &[(&str, &str)] = &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// The address in a /64 whose end reads as the decimal number `last`: host 11 is `::11`, which keeps
/// both families alike to the eye.
#[must_use]
pub(crate) fn v6(prefix: [u16; 4], last: u8) -> Ipv6Addr {
    let last = u16::from(last);
    let digits = last / 100 * 0x100 + last / 10 % 10 * 0x10 + last % 10;
    let [a, b, c, d] = prefix;
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, digits)
}

/// Connects the nodes to a bridge in the switch's namespace, and the client, or the router before it.
///
/// # Errors
/// A command failed.
pub(crate) fn connect_outside(
    switch: &Namespace,
    client: &Host,
    router: Option<&Host>,
    nodes: &[Node],
) -> Result<()> {
    let nodes_hosts = || nodes.iter().map(Node::host);
    let hosts: Vec<&Host> = std::iter::once(router.unwrap_or(client)).chain(nodes_hosts()).collect();
    switch.set_sysctls(HOST_SYSCTLS)?;
    for host in hosts.iter().chain(&[client]) {
        host.namespace().set_sysctls(HOST_SYSCTLS)?;
    }
    for host in nodes_hosts().chain(router) {
        host.namespace().set_sysctls(ROUTER_SYSCTLS)?;
    }
    let pairs: String =
        hosts.iter().map(|host| veth_pair(host.namespace(), "eth0", switch, host.name())).collect();
    netns::ip_batch(&[], &pairs)?;
    switch.ip_batch(&switch_commands(&hosts, router.is_none()))?;
    let mut ends: Vec<(&Namespace, &str)> =
        hosts.iter().flat_map(|host| [(host.namespace(), "eth0"), (switch, host.name())]).collect();
    if let Some(router) = router {
        connect_client(client, router)?;
        ends.extend([(client.namespace(), "eth0"), (router.namespace(), "eth1")]);
    }
    for host in hosts {
        let gateway = if nodes_hosts().any(|node| node.name() == host.name()) {
            default_routes(SEGMENT)
        } else {
            String::new()
        };
        host.namespace().ip_batch(&(outside_commands(host) + &routes_to_pods(nodes, host) + &gateway))?;
    }
    set_features(ends.into_iter(), OFFLOADS_OFF)
}

/// The client's own segment is one cable to the router.
fn connect_client(client: &Host, router: &Host) -> Result<()> {
    netns::ip_batch(&[], &veth_pair(client.namespace(), "eth0", router.namespace(), "eth1"))?;
    client.namespace().ip_batch(&(outside_commands(client) + &default_routes(CLIENT_SEGMENT)))?;
    let (v4, v6) = CLIENT_SEGMENT.addresses(GATEWAY_LAST);
    router
        .namespace()
        .ip_batch(&format!("link set eth1 up\naddr add {v4}/24 dev eth1\naddr add {v6}/64 dev eth1 nodad\n"))
}

/// Connects the pods of these names to their nodes.
///
/// # Errors
/// A command failed.
pub(crate) fn connect_pods(nodes: &[Node], names: &[&str]) -> Result<()> {
    let mut ends = Vec::new();
    for node in nodes {
        let namespace = node.host().namespace();
        let new = || node.pods().iter().enumerate().filter(|(_, pod)| names.contains(&pod.name()));
        for (_, pod) in new() {
            pod.namespace().set_sysctls(HOST_SYSCTLS)?;
        }
        let pairs: String = new()
            .map(|(index, pod)| veth_pair(namespace, &node.pod_interface(index), pod.namespace(), "eth0"))
            .collect();
        netns::ip_batch(&[], &pairs)?;
        let commands: String =
            new().map(|(index, pod)| node_commands(&node.pod_interface(index), pod)).collect();
        namespace.ip_batch(&commands)?;
        for (index, pod) in new() {
            let interface = node.pod_interface(index);
            let proxy_arp = format!("ipv4/conf/{interface}/proxy_arp");
            // Proxied ARP replies are otherwise delayed by up to 0.8 s.
            let proxy_delay = format!("ipv4/neigh/{interface}/proxy_delay");
            namespace.set_sysctls(&[(&proxy_arp, "1"), (&proxy_delay, "0")])?;
            pod.namespace().ip_batch(&pod_commands(pod))?;
            ends.push((pod.namespace(), "eth0"));
        }
    }
    set_features(ends.into_iter(), NAPI_ON)
}

fn veth_pair(left: &Namespace, left_name: &str, right: &Namespace, right_name: &str) -> String {
    format!(
        "link add {left_name} netns {} type veth peer name {right_name} netns {}\n",
        left.name(),
        right.name()
    )
}

/// The bridge does not learn who listens to multicast: neighbour solicitations must reach everybody
/// from the first moment.
fn switch_commands(hosts: &[&Host], is_gateway: bool) -> String {
    let ports: String =
        hosts.iter().map(|host| format!("link set {} master segment up\n", host.name())).collect();
    let (v4, v6) = SEGMENT.addresses(GATEWAY_LAST);
    let addresses = match is_gateway {
        true => format!("addr add {v4}/24 dev segment\naddr add {v6}/64 dev segment nodad\n"),
        false => String::new(),
    };
    format!(
        "link add segment type bridge forward_delay 0 mcast_snooping 0\n\
         link set segment up\n\
         {addresses}{ports}"
    )
}

fn outside_commands(host: &Host) -> String {
    format!(
        "link set lo up\nlink set eth0 up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n",
        host.v4(),
        host.v6()
    )
}

fn default_routes(segment: Segment) -> String {
    let (v4, v6) = segment.addresses(GATEWAY_LAST);
    format!("route add 0.0.0.0/0 via {v4}\nroute add ::/0 via {v6}\n")
}

/// Routes from `host` to the pod prefixes of all nodes but itself.
fn routes_to_pods(nodes: &[Node], host: &Host) -> String {
    nodes
        .iter()
        .filter(|node| node.host().name() != host.name())
        .map(|node| {
            let ([v4, v6], via) = (node.pod_cidrs(), node.host());
            format!("route add {v4} via {}\nroute add {v6} via {}\n", via.v4(), via.v6())
        })
        .collect()
}

fn node_commands(interface: &str, pod: &Host) -> String {
    format!(
        "link set {interface} address {GATEWAY_MAC} up\n\
         route add {} dev {interface}\n\
         route add {} dev {interface}\n",
        pod.v4(),
        pod.v6()
    )
}

fn pod_commands(pod: &Host) -> String {
    format!(
        "link set lo up\n\
         link set eth0 up\n\
         addr add {}/32 dev eth0\n\
         addr add {}/128 dev eth0 nodad\n\
         route add {GATEWAY_V4} dev eth0\n\
         route add 0.0.0.0/0 via {GATEWAY_V4} dev eth0\n\
         route add ::/0 via {GATEWAY_V6} dev eth0\n",
        pod.v4(),
        pod.v6()
    )
}

/// Lets an interface take frames that XDP redirects to its other end.
///
/// # Errors
/// No ethtool; no such interface.
pub(crate) fn set_napi_on(namespace: &Namespace, interface: &str) -> Result<()> {
    set_features([(namespace, interface)].into_iter(), NAPI_ON)
}

/// Sets the same features on many interfaces, all at once: each takes a process of its own.
fn set_features<'a>(ends: impl Iterator<Item = (&'a Namespace, &'a str)>, features: &[&str]) -> Result<()> {
    let mut children = Vec::new();
    for (namespace, interface) in ends {
        let child = ethtool(namespace, interface, features).spawn();
        children.push((interface, child.context("cannot run ethtool; install it")?));
    }
    for (interface, child) in children {
        let output = child.wait_with_output().context("cannot wait for ethtool")?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("cannot set {features:?} on {interface}: {}", error.trim());
        }
    }
    Ok(())
}

fn ethtool(namespace: &Namespace, interface: &str, features: &[&str]) -> Command {
    let mut command = namespace.command("ethtool".as_ref(), None);
    command.arg("-K").arg(interface).args(features).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_addresses_read_like_the_ipv4_ones() {
        assert_eq!(v6([0x2001, 0xdb8, 0, 1], 100).to_string(), "2001:db8:0:1::100");
        assert_eq!(v6([0x2001, 0xdb8, 0x244, 2], 19).to_string(), "2001:db8:244:2::19");
    }
}
