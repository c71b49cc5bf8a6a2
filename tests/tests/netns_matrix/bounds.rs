//! Maps at their bound. These stories come last, since their flows stay for a while.
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::packet::PacketBuilder;
use lb_tests::raw;
use lb_tests::traffic::{Failure, Hold, ask};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;

use crate::services::OTHER_SERVER;
use crate::world::{At, Story, World, story};

pub(crate) const STORIES: &[Story] = &[
    story("CONNTRACK grows while a connection stays open", conntrack_grows),
    story("exhausted source NAT refuses, is counted and spares others", source_nat_exhausts),
];

const FIRST_SOURCE_PORT: u16 = 1_024;
/// All below those that the kernel gives to sockets, so no flow of another story is one of ours.
const FLOWS_MAX: u32 = 31_000;
/// The agents have 4,000 ports for source NAT, of which each flow tries eight: not one is left, but once in a
/// thousand million. A flood loses some, so that there may have to be another.
const CROWD: u32 = 20_000;
const EXHAUSTION_DEADLINE: Duration = Duration::from_secs(30);
/// With a sweep each second.
const GROWTH_DEADLINE: Duration = Duration::from_secs(60);

/// Flows of one datagram each from the outside client, each from a port of its own.
fn send_flows(world: &World, to: SocketAddr, count: u32) -> Result<()> {
    ensure!(count <= FLOWS_MAX, "{count} flows need more ports than there are");
    let client = world.host("client");
    let ports = (FIRST_SOURCE_PORT..).take(count as usize);
    let source = |port| SocketAddr::new(client.address_for(to.ip()), port);
    let frames: Vec<_> =
        ports.map(|port| PacketBuilder::udp(source(port), to).payload(b"x").build()).collect();
    client.run_in_netns(|| raw::send(to.ip(), &frames))?.with_context(|| format!("{count} flows to {to}"))
}

/// Entries, the bound, and whether there are still some to move, of CONNTRACK on `node-a`.
fn conntrack(world: &World) -> Result<(u32, u32, bool)> {
    let rows = world.cluster.agents[0].get("pressure")?;
    let row = rows.as_array().into_iter().flatten().find(|row| row["map"] == "CONNTRACK");
    let row = row.context("no row of CONNTRACK")?;
    let number = |field: &str| row[field].as_u64().and_then(|number| u32::try_from(number).ok());
    let numbers = number("entries").zip(number("entriesMax")).zip(row["growing"].as_bool());
    let ((entries, entries_max), is_growing) = numbers.with_context(|| format!("not a row: {row}"))?;
    Ok((entries, entries_max, is_growing))
}

/// No slice names the pod of the open connections any more, so their entries alone lead them to it.
fn conntrack_grows(world: &mut World) -> Result<()> {
    let to = world.address("draining", At::LoadBalancer, Protocol::Tcp)?;
    let hold = Hold::start(world.host("client"), to, 10)?;
    world.change_endpoints("web-b-3", "draining", &["web-c-1"])?;
    world.wait_for_answer("client", "draining", At::LoadBalancer, |by| by == "web-c-1")?;
    let (_, entries_max, _) = conntrack(world)?;
    let (deaf, crowd) =
        (world.address("deaf", At::LoadBalancer, Protocol::Udp)?, entries_max / 4 * 3 / 2 + 500);
    let mut last = Ok((0, 0, false));
    let waited = wait_until(GROWTH_DEADLINE, &format!("CONNTRACK to double from {entries_max}"), || {
        // A flood loses some.
        last = send_flows(world, deaf, crowd).and_then(|()| conntrack(world));
        last.as_ref().is_ok_and(|(_, max, is_growing)| *max > entries_max && !is_growing)
    });
    let held = hold.finish()?;
    world.change_endpoints("web-b-3", "draining", &["web-b-1"])?;
    waited.with_context(|| format!("last seen: {last:?}"))?;
    ensure!(held.lost.is_empty(), "{held:?}");
    Ok(())
}

/// Others are those to other endpoints, of whoever needs no port, and over TCP. No other story that is still
/// to come needs the ports of this endpoint.
fn source_nat_exhausts(world: &mut World) -> Result<()> {
    let at = At::LoadBalancer;
    let to = world.address("crowded", at, Protocol::Udp)?;
    let counted = Some(("node-a", "source-nat-exhausted"));
    let mut last = Ok(());
    let waited = wait_until(EXHAUSTION_DEADLINE, "a flow to be refused", || {
        last = send_flows(world, to, CROWD)
            .and_then(|()| world.expect_failure_at("client", to, Protocol::Udp, Failure::Refused, counted));
        last.is_ok()
    });
    waited.with_context(|| format!("{last:?}"))?;
    let over_tcp = ask(world.host("client"), Protocol::Tcp, world.address("crowded", at, Protocol::Tcp)?)?;
    ensure!(over_tcp.by == OTHER_SERVER, "{over_tcp:?}");
    world.expect("client", "west", at, &["web-c-1", "web-c-2"], "node-a")?;
    world.expect("client", "crowded", At::Node("node-c"), &[OTHER_SERVER], "client")?;
    world.expect("web-a-3", "crowded", at, &[OTHER_SERVER], "web-a-3")
}
