//! Datagrams in fragments of which the last one comes first.
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, ensure};
use lb_tests::raw::ask_backwards;
use lb_userspace::model::Protocol;

use crate::world::{At, OUTSIDE, Story, World, story};

pub(crate) const STORIES: &[Story] = &[
    story("fragments out of order of an outside client arrive whole", of_a_client),
    story(
        "fragments out of order of an outside client arrive whole by direct server return",
        of_a_direct_client,
    ),
    story("fragments out of order of a pod arrive whole", of_a_pod),
];

/// Two fragments; the answer goes in one packet.
const PAYLOAD: [u8; 1_200] = [b'x'; 1_200];
const PIECE_BYTES: usize = 800;

/// Services share their addresses, so each datagram needs an identification of its own.
static IDENTIFICATION: AtomicU16 = AtomicU16::new(1);

fn of_a_client(world: &mut World) -> Result<()> {
    OUTSIDE.into_iter().try_for_each(|at| {
        expect_whole(world, "client", "near", at, &["web-a-1", "web-a-2"])?;
        expect_whole(world, "client", "far", at, &["web-b-1", "web-b-2"])
    })
}

fn of_a_direct_client(world: &mut World) -> Result<()> {
    [At::LoadBalancer, At::Node("node-a")]
        .into_iter()
        .try_for_each(|at| expect_whole(world, "client", "direct", at, &["web-b-1", "web-c-1"]))
}

fn of_a_pod(world: &mut World) -> Result<()> {
    for at in [At::Cluster, At::LoadBalancer, At::Node("node-a")] {
        expect_whole(world, "web-a-3", "near", at, &["web-a-1", "web-a-2"])?;
        expect_whole(world, "web-a-3", "far", at, &["web-b-1", "web-b-2"])?;
    }
    Ok(())
}

/// The early fragment is held by `node-a`, where it enters.
fn expect_whole(world: &World, from: &str, service: &str, at: At, by: &[&str]) -> Result<()> {
    let to = world.address(service, at, Protocol::Udp)?;
    let what = || format!("{from} to {service} at {at:?}");
    let before = world.count("node-a", "fragment-early")?;
    let identification = IDENTIFICATION.fetch_add(1, Ordering::Relaxed);
    let answer =
        ask_backwards(world.host(from), to, &PAYLOAD, PIECE_BYTES, identification).with_context(what)?;
    ensure!(
        by.iter().any(|pod| answer.starts_with(pod.as_bytes())),
        "{}: expected an answer of {by:?}",
        what()
    );
    ensure!(answer.ends_with(&PAYLOAD), "{}: the echo differs", what());
    ensure!(world.count("node-a", "fragment-early")? > before, "{}: it was not early", what());
    Ok(())
}
