//! Datagrams whose pod goes.
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::cluster::PROTOCOLS;
use lb_tests::traffic::{UdpStream, ask};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;

use crate::world::{At, CHANGE_DEADLINE, Mode, Story, World, story, with_socket_hooks};

pub(crate) const STORIES: &[Story] = &[
    story("an outside client's datagrams go on when their pod goes", datagrams_of_a_client_move),
    Story {
        name: "a pod's datagrams go on when their pod goes",
        has_meaning: |mode| mode == Mode::NoSocketHooks,
        tell: datagrams_of_a_pod_move,
    },
    with_socket_hooks("a pod's connected socket moves when its pod goes", socket_of_a_pod_moves),
    with_socket_hooks("a process' connected socket moves when its pod goes", socket_of_a_process_moves),
];

fn datagrams_of_a_client_move(world: &mut World) -> Result<()> {
    datagrams_move(world, "client", At::LoadBalancer)
}

fn datagrams_of_a_pod_move(world: &mut World) -> Result<()> {
    datagrams_move(world, "web-a-3", At::Cluster)
}

/// One socket sends a datagram each millisecond while its pod is replaced: all are answered.
fn datagrams_move(world: &mut World, from: &str, at: At) -> Result<()> {
    let to = world.address("moving", at, Protocol::Udp)?;
    let stream = UdpStream::start(world.host(from), to, Duration::from_millis(1))?;
    world.change_endpoints("web-b-3", "moving", &["web-c-1"])?;
    let streamed = stream.finish()?;
    world.change_endpoints("web-b-3", "moving", &["web-b-1"])?;
    ensure!(streamed.missing.is_empty() && streamed.failed.is_empty(), "{streamed:?}");
    let by: Vec<&str> = streamed.by.keys().map(String::as_str).collect();
    ensure!(by == ["web-b-1", "web-c-1"], "{streamed:?}");
    Ok(())
}

fn socket_of_a_pod_moves(world: &mut World) -> Result<()> {
    socket_moves(world, "web-a-3")
}

fn socket_of_a_process_moves(world: &mut World) -> Result<()> {
    socket_moves(world, "node-a")
}

/// The application sees no error, and whom it talks to from then on.
fn socket_moves(world: &mut World, from: &str) -> Result<()> {
    let to = world.address("moving", At::Cluster, Protocol::Udp)?;
    let stream = UdpStream::start(world.host(from), to, Duration::from_millis(1))?;
    let moved = |world: &World| world.cluster.agents[0].log().matches("moved=1 ").count();
    let before = moved(world);
    world.change_endpoints("web-b-3", "moving", &["web-c-1"])?;
    wait_until(CHANGE_DEADLINE, "the socket to move", || moved(world) > before)?;
    // Long enough for the stream's next datagrams.
    for protocol in [PROTOCOLS, PROTOCOLS].concat() {
        ask(world.host(from), protocol, world.address("moving", At::Cluster, protocol)?)?;
    }
    let streamed = stream.finish()?;
    world.change_endpoints("web-b-3", "moving", &["web-b-1"])?;
    let by: Vec<&str> = streamed.by.keys().map(String::as_str).collect();
    ensure!(by == ["web-b-1", "web-c-1"] && streamed.failed.is_empty(), "{streamed:?}");
    Ok(())
}
