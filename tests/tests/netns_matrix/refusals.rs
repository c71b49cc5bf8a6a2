//! What is refused, and how the client sees it.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use lb_tests::cluster::PROTOCOLS;
use lb_tests::traffic::Failure;
use lb_userspace::model::Protocol;

use crate::world::{At, Family, Story, World, story, with_socket_hooks};

pub(crate) const STORIES: &[Story] = &[
    story("a Service without pods refuses outside clients", empty_refuses_outside),
    story("a Service without pods refuses pods", empty_refuses_pods),
    story("an unused port of a cluster IP refuses", unused_port_refuses),
    story("a refused connection has sent one SYN", refused_at_once),
    story("an address that no Service has is silent", unallocated_address_is_silent),
    story("a closed port of a pod is told to the client", closed_port_is_told),
    story(
        "a closed port of a pod is told to the client of direct server return",
        closed_port_is_told_directly,
    ),
    with_socket_hooks("a Service without pods refuses processes", empty_refuses_processes),
];

fn empty_refuses_outside(world: &mut World) -> Result<()> {
    [At::LoadBalancer, At::Node("node-a")].into_iter().try_for_each(|at| {
        world.expect_failure("client", "empty", at, Failure::Refused, Some(("node-a", "no-endpoint")))
    })
}

fn empty_refuses_pods(world: &mut World) -> Result<()> {
    let failure = if world.mode.has_socket_hooks() { Failure::NotPermitted } else { Failure::Refused };
    let counted = Some(("node-a", "no-endpoint"));
    world.expect_failure("web-a-3", "empty", At::Cluster, failure, counted)?;
    world.expect_failure("web-a-3", "empty", At::LoadBalancer, failure, counted)
}

fn empty_refuses_processes(world: &mut World) -> Result<()> {
    let counted = Some(("node-a", "no-endpoint"));
    world.expect_failure("node-a", "empty", At::Cluster, Failure::NotPermitted, counted)
}

/// A port on which no Service listens.
const UNUSED_PORT: u16 = 9;

fn unused_port_refuses(world: &mut World) -> Result<()> {
    for client in ["client", "web-a-3"] {
        for protocol in PROTOCOLS {
            let to = SocketAddr::new(world.address("web", At::Cluster, protocol)?.ip(), UNUSED_PORT);
            let counted = Some(("node-a", "unused-port"));
            world.expect_failure_at(client, to, protocol, Failure::Refused, counted)?;
        }
    }
    Ok(())
}

/// The node next to the client answers before `connect()` has let the socket go.
fn refused_at_once(world: &mut World) -> Result<()> {
    let balancer = world.address("empty", At::LoadBalancer, Protocol::Tcp)?;
    let unused = SocketAddr::new(world.address("web", At::Cluster, Protocol::Tcp)?.ip(), UNUSED_PORT);
    for (client, to, reason) in [
        ("client", balancer, "no-endpoint"),
        ("client", unused, "unused-port"),
        ("web-a-3", unused, "unused-port"),
    ] {
        let before = world.count("node-a", reason)?;
        world.expect_failure_at(client, to, Protocol::Tcp, Failure::Refused, None)?;
        let syns = world.count("node-a", reason)? - before;
        ensure!(syns == 1, "{client} to {to}: {syns} packets were refused");
    }
    Ok(())
}

fn unallocated_address_is_silent(world: &mut World) -> Result<()> {
    let address: IpAddr = match world.family {
        Family::V4 => Ipv4Addr::new(10, 96, 255, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x96, 0, 0, 0, 0, 0xff01).into(),
    };
    for client in ["client", "web-a-3"] {
        let (to, counted) = (SocketAddr::new(address, 80), Some(("node-a", "unallocated")));
        world.expect_failure_at(client, to, Protocol::Udp, Failure::TimedOut, counted)?;
    }
    Ok(())
}

/// Over UDP by an ICMP error, which quotes the packet as the pod got it.
fn closed_port_is_told(world: &mut World) -> Result<()> {
    for (client, at) in
        [("client", At::LoadBalancer), ("client", At::Node("node-b")), ("web-a-3", At::Cluster)]
    {
        world.expect_failure(client, "deaf", at, Failure::Refused, None)?;
    }
    Ok(())
}

/// The pod's ICMP error goes straight to the client, as its answers do.
fn closed_port_is_told_directly(world: &mut World) -> Result<()> {
    [At::LoadBalancer, At::External, At::Node("node-a")]
        .into_iter()
        .try_for_each(|at| world.expect_failure("client", "direct-deaf", at, Failure::Refused, None))
}
