//! Pods and processes of nodes as clients.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use lb_tests::cluster::PROTOCOLS;
use lb_tests::traffic::{Dial, UdpSocketKind, ask, ask_as};
use lb_userspace::model::Protocol;

use crate::world::{At, Family, Story, World, story, with_socket_hooks};

pub(crate) const STORIES: &[Story] = &[
    story("pods reach every kind of address and are seen as themselves", pods_reach_everything),
    story("pods reach node ports of other nodes", pods_reach_node_ports_of_other_nodes),
    story("pods reach a host-network endpoint of every node", pods_reach_a_host_network_endpoint),
    story("pods' datagrams without a connection are answered from the VIP", unconnected_datagrams),
    story("a pod reaches itself through its Service", hairpin),
    story("processes of a node reach every kind of address", processes_reach_everything),
    with_socket_hooks(
        "processes of a node reach its node ports, also on loopback",
        processes_reach_node_ports,
    ),
    with_socket_hooks(
        "processes reach a host-network endpoint, their own node's too",
        processes_reach_the_host,
    ),
];

fn pods_reach_everything(world: &mut World) -> Result<()> {
    for (pod, node) in [("web-a-3", "node-a"), ("web-c-3", "node-c")] {
        for at in [At::Cluster, At::LoadBalancer, At::External, At::Node(node)] {
            world.expect(pod, "near", at, &["web-a-1", "web-a-2"], pod)?;
            world.expect(pod, "far", at, &["web-b-1", "web-b-2"], pod)?;
            world.expect(pod, "west", at, &["web-c-1", "web-c-2"], pod)?;
        }
    }
    Ok(())
}

/// The other node translates them as it does what comes from outside.
fn pods_reach_node_ports_of_other_nodes(world: &mut World) -> Result<()> {
    let at = At::Node("node-b");
    world.expect("web-a-3", "near", at, &["web-a-1", "web-a-2"], "node-b")?;
    world.expect("web-a-3", "far", at, &["web-b-1", "web-b-2"], "web-a-3")?;
    world.expect("web-a-3", "west", at, &["web-c-1", "web-c-2"], "node-b")
}

fn pods_reach_a_host_network_endpoint(world: &mut World) -> Result<()> {
    for pod in ["web-a-3", "web-c-3"] {
        world.expect(pod, "host", At::Cluster, &["node-c"], pod)?;
    }
    Ok(())
}

fn unconnected_datagrams(world: &mut World) -> Result<()> {
    let to = world.address("far", At::Cluster, Protocol::Udp)?;
    let request = Dial { udp_socket: UdpSocketKind::Unconnected, ..Dial::times(1, Protocol::Udp, to) };
    let answered = ask_as(world.host("web-a-3"), &request)?;
    ensure!(answered.by.starts_with("web-b-") && answered.peer == to, "{answered:?}");
    Ok(())
}

/// A packet that comes back to its pod needs another source: the node's.
fn hairpin(world: &mut World) -> Result<()> {
    let sees = if world.mode.has_socket_hooks() { "web-b-1" } else { "node-b" };
    for at in [At::Cluster, At::LoadBalancer] {
        world.expect("web-b-1", "own", at, &["web-b-1"], sees)?;
    }
    Ok(())
}

fn processes_reach_everything(world: &mut World) -> Result<()> {
    for at in [At::Cluster, At::LoadBalancer, At::External] {
        world.expect("node-a", "near", at, &["web-a-1", "web-a-2"], "node-a")?;
        world.expect("node-a", "west", at, &["web-c-1", "web-c-2"], "node-a")?;
    }
    Ok(())
}

fn processes_reach_node_ports(world: &mut World) -> Result<()> {
    world.expect("node-a", "near", At::Node("node-a"), &["web-a-1", "web-a-2"], "node-a")?;
    world.expect("node-a", "west", At::Node("node-a"), &["web-c-1", "web-c-2"], "node-a")?;
    let loopback: IpAddr = match world.family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    for protocol in PROTOCOLS {
        let to = SocketAddr::new(loopback, world.address("west", At::Node("node-a"), protocol)?.port());
        let answered = ask(world.host("node-a"), protocol, to)?;
        ensure!(answered.by.starts_with("web-c-") && answered.peer == to, "{answered:?}");
    }
    Ok(())
}

fn processes_reach_the_host(world: &mut World) -> Result<()> {
    for node in ["node-a", "node-c"] {
        world.expect(node, "host", At::Cluster, &["node-c"], node)?;
    }
    Ok(())
}
