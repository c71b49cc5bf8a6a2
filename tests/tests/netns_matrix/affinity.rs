//! `sessionAffinity: ClientIP`.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::topology::Host;
use lb_tests::traffic::{Dial, Dialing, answerers};
use lb_userspace::model::Protocol;

use crate::services::PODS;
use crate::world::{At, OUTSIDE, Story, World, story};

pub(crate) const STORIES: &[Story] = &[
    story("an outside client keeps its pod at every kind of address", outside_client_keeps_its_pod),
    story("pods and processes keep their pod", inside_clients_keep_their_pod),
    story("clients choose anew after the timeout", affinity_ends),
    story("pods and processes choose anew after the timeout", affinity_ends_inside),
    story("affinity breaks when its pod goes", affinity_breaks),
];

const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];

fn outside_client_keeps_its_pod(world: &mut World) -> Result<()> {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut kept = None;
        for at in OUTSIDE {
            let to = world.address("sticky", at, protocol)?;
            let pods = answerers(world.host("client"), &Dial::times(8, protocol, to))?;
            ensure!(pods.len() == 1, "{at:?} over {protocol}: {pods:?}");
            let kept = kept.get_or_insert_with(|| pods.clone());
            ensure!(*kept == pods, "{at:?} over {protocol}: {pods:?}, before {kept:?}");
        }
    }
    Ok(())
}

fn inside_clients_keep_their_pod(world: &mut World) -> Result<()> {
    for client in ["web-a-3", "web-b-3", "node-a"] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let to = world.address("sticky", At::Cluster, protocol)?;
            let pods = answerers(world.host(client), &Dial::times(12, protocol, to))?;
            ensure!(pods.len() == 1, "{client} over {protocol}: {pods:?}");
        }
    }
    Ok(())
}

/// Of twelve clients that choose anew, some get another of six pods, but once in two thousand million.
fn affinity_ends_inside(world: &mut World) -> Result<()> {
    let clients: Vec<&str> = world.cluster.topology.pods().map(Host::name).chain(NODES).collect();
    ensure!(clients.len() == 12, "{clients:?}");
    ensure!(has_one_moved(world, &clients)?, "every pod and process kept its pod");
    Ok(())
}

fn affinity_ends(world: &mut World) -> Result<()> {
    let clients: Vec<&str> = world.cluster.topology.pods().map(Host::name).chain(["client"]).collect();
    ensure!(has_one_moved(world, &clients)?, "every client kept its pod");
    Ok(())
}

/// Whether another pod answers one of these when it asks again later than the timeout, a second.
fn has_one_moved(world: &World, clients: &[&str]) -> Result<bool> {
    let to = world.address("forgetful", At::Cluster, Protocol::Tcp)?;
    let twice = Dial { interval: Duration::from_millis(2_100), ..Dial::times(2, Protocol::Tcp, to) };
    let started = clients
        .iter()
        .map(|client| Dialing::start(world.host(client), &twice))
        .collect::<Result<Vec<_>>>()?;
    let mut has_moved = false;
    for dialing in started {
        let answers = dialing.finish()?;
        let by = answers.iter().map(|answer| answer.outcome.clone().map(|answered| answered.by));
        let by = by.collect::<Result<Vec<_>, _>>().map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
        has_moved |= by.first() != by.last();
    }
    Ok(has_moved)
}

fn affinity_breaks(world: &mut World) -> Result<()> {
    for client in ["client", "web-a-3", "node-a"] {
        let to = world.address("broken-affinity", At::LoadBalancer, Protocol::Tcp)?;
        let kept = answerers(world.host(client), &Dial::times(4, Protocol::Tcp, to))?;
        let kept = kept.into_iter().next().context("nobody answered")?;
        let others: Vec<&str> = PODS.into_iter().filter(|pod| *pod != kept).collect();
        world.replace_endpoints("broken-affinity", &others)?;
        let next = world.wait_for_answer(client, "broken-affinity", At::LoadBalancer, |by| by != kept)?;
        ensure!(others.contains(&&*next), "{client}: {next} after {kept}");
        let kept = answerers(world.host(client), &Dial::times(8, Protocol::Tcp, to))?;
        ensure!(kept.len() == 1, "{client} keeps no pod after {next}: {kept:?}");
        world.replace_endpoints("broken-affinity", &PODS)?;
    }
    Ok(())
}
