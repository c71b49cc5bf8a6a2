//! Endpoints that come and go under traffic.
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::traffic::{Failure, Hold, UdpStream};
use lb_userspace::model::Protocol;

use crate::world::{At, Mode, Story, World, story};

pub(crate) const STORIES: &[Story] = &[
    story("an outside client's datagrams go on when their pod goes", datagrams_of_a_client_move),
    Story {
        name: "a pod's datagrams go on when their pod goes",
        has_meaning: |mode| mode == Mode::NoSocketHooks,
        tell: datagrams_of_a_pod_move,
    },
    story("connections stay with a pod that no slice names any more", connections_stay),
    story("connections end with their pod where the drain contract is reset", connections_end),
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

fn connections_stay(world: &mut World) -> Result<()> {
    let mut holds = Vec::new();
    for (client, at) in [("client", At::LoadBalancer), ("web-a-3", At::Cluster)] {
        holds.push(Hold::start(world.host(client), world.address("restless", at, Protocol::Tcp)?, 20)?);
    }
    world.change_endpoints("web-b-3", "restless", &["web-c-1"])?;
    let held: Vec<_> = holds.into_iter().map(Hold::finish).collect::<Result<_>>()?;
    world.change_endpoints("web-b-3", "restless", &["web-b-1", "web-c-1"])?;
    ensure!(held.iter().all(|held| held.lost.is_empty()), "{held:?}");
    Ok(())
}

fn connections_end(world: &mut World) -> Result<()> {
    let to = world.address("impatient", At::LoadBalancer, Protocol::Tcp)?;
    let hold = Hold::start(world.host("client"), to, 10)?;
    world.change_endpoints("web-b-3", "impatient", &["web-c-1"])?;
    let held = hold.finish()?;
    world.change_endpoints("web-b-3", "impatient", &["web-b-1"])?;
    ensure!(held.lost == BTreeMap::from([(Failure::Reset, 10)]), "{held:?}");
    Ok(())
}
