//! SCTP. The kernel need not have it: raw sockets send and take its packets.
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::packet::PacketBuilder;
use lb_tests::packet::build::{SCTP, chunk};
use lb_tests::raw::{self, Listener};
use lb_userspace::model::Protocol;

use crate::services::SCTP_PORT;
use crate::world::{At, OUTSIDE, Story, World, story};

pub(crate) const STORIES: &[Story] = &[
    story("an association opens with a pod of the dialled node", own_pod_answers),
    story("an association opens with a pod of another node", other_pod_answers),
    story("a pod opens associations at every kind of address", pod_is_answered),
];

/// A tag, a window, streams and a first number: what INIT and INIT ACK hold (RFC 9260 §3.3.2).
const INIT_VALUE: [u8; 16] = [0, 0, 0, 9, 0, 1, 0, 0, 0, 4, 0, 4, 0, 0, 0, 1];
const TIMEOUT: Duration = Duration::from_secs(10);

fn own_pod_answers(world: &mut World) -> Result<()> {
    (40_000..).zip(OUTSIDE).try_for_each(|(port, at)| {
        expect_handshake(world, ("client", port), "signals", at, "web-a-1", "client")
    })
}

fn other_pod_answers(world: &mut World) -> Result<()> {
    (40_000..).zip(OUTSIDE).try_for_each(|(port, at)| {
        expect_handshake(world, ("client", port), "far-signals", at, "web-c-1", "node-a")
    })
}

fn pod_is_answered(world: &mut World) -> Result<()> {
    (41_000..).zip(OUTSIDE).try_for_each(|(port, at)| {
        expect_handshake(world, ("web-a-3", port), "signals", at, "web-a-1", "web-a-3")?;
        expect_handshake(world, ("web-a-3", port), "far-signals", at, "web-c-1", "web-a-3")
    })
}

/// An INIT of `from` reaches the pod, which sees `sees`, and the pod's INIT ACK comes from the VIP. Both
/// packets are what their sender would have written to the other, CRC included.
fn expect_handshake(
    world: &World,
    (from, port): (&str, u16),
    service: &str,
    at: At,
    pod: &str,
    sees: &str,
) -> Result<()> {
    let to = world.address(service, at, Protocol::Sctp)?;
    let what = format!("{service} at {at:?}, {to}");
    let address = |host| world.host(host).address_for(to.ip());
    let (client, pod_at) = (SocketAddr::new(address(from), port), SocketAddr::new(address(pod), SCTP_PORT));
    let at_pod = Listener::start(world.host(pod), pod_at.ip(), SCTP, TIMEOUT)?;
    let at_client = Listener::start(world.host(from), client.ip(), SCTP, TIMEOUT)?;

    send(world, from, client, to, chunk::INIT)?;
    let (source, packet) = at_pod.next_packet().with_context(|| format!("the INIT to {what}"))?;
    ensure!(source == address(sees), "{what}: the pod sees {source}");
    let source = SocketAddr::new(source, source_port(&packet));
    ensure!(sees != from || source == client, "{what}: the pod sees {source}");
    ensure!(packet == sctp(source, pod_at, chunk::INIT), "{what}: the pod got {packet:?} from {source}");

    send(world, pod, pod_at, source, chunk::INIT_ACK)?;
    let (source, packet) = at_client.next_packet().with_context(|| format!("the INIT ACK of {what}"))?;
    ensure!(source == to.ip(), "{what}: {source} answered");
    ensure!(packet == sctp(to, client, chunk::INIT_ACK), "{what}: the client got {packet:?}");
    Ok(())
}

fn frame(from: SocketAddr, to: SocketAddr, chunk: u8) -> Vec<u8> {
    PacketBuilder::sctp(from, to, chunk).payload(&INIT_VALUE).build()
}

fn send(world: &World, host: &str, from: SocketAddr, to: SocketAddr, chunk: u8) -> Result<()> {
    let frames = [frame(from, to, chunk)];
    let sent = world.host(host).run_in_netns(|| raw::send(to.ip(), &frames))?;
    sent.with_context(|| format!("{host} cannot send to {to}"))
}

/// What follows the IP header.
fn sctp(from: SocketAddr, to: SocketAddr, chunk: u8) -> Vec<u8> {
    let headers_bytes = 14 + if from.is_ipv4() { 20 } else { 40 };
    frame(from, to, chunk).split_off(headers_bytes)
}

fn source_port(packet: &[u8]) -> u16 {
    packet.first_chunk().map_or(0, |port| u16::from_be_bytes(*port))
}
