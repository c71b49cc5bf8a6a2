//! The drain contract: what becomes of open connections whose pod no slice names any more.
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::traffic::{Failure, Hold};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;
use serde_json::Value;

use crate::world::{At, Story, World, story};

pub(crate) const STORIES: &[Story] = &[
    story("connections stay with a pod that no slice names any more", connections_stay),
    story("connections that are left are shown with the time that they have", left_is_shown),
    story("connections end with their pod where the drain contract is reset", connections_end),
    story("connections end at the deadline of the drain contract", connections_end_at_the_deadline),
];

/// How long an agent may take to see a change, or a deadline of a second.
const DEADLINE: Duration = Duration::from_secs(30);
/// Connections of each client.
const CONNECTIONS: u32 = 10;

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

/// Of an hour, as long as no annotation says otherwise.
fn left_is_shown(world: &mut World) -> Result<()> {
    let holds = hold(world, "draining")?;
    world.change_endpoints("web-b-3", "draining", &["web-c-1"])?;
    let row = wait_for_row(world, "draining", "web-b-1", |row| row["state"] == "withdrawn")?;
    let count = u64::from(CONNECTIONS) * holds.len() as u64;
    ensure!(row["flowsLeft"].as_u64() == Some(count), "expected {count} flows left: {row}");
    let seconds = row["secondsLeft"].as_u64().context("no time left")?;
    ensure!((3_500..=3_600).contains(&seconds), "expected an hour or little less: {row}");
    let held: Vec<_> = holds.into_iter().map(Hold::finish).collect::<Result<_>>()?;
    world.change_endpoints("web-b-3", "draining", &["web-b-1"])?;
    ensure!(held.iter().all(|held| held.lost.is_empty()), "{held:?}");
    Ok(())
}

fn connections_end(world: &mut World) -> Result<()> {
    expect_resets(world, "impatient")
}

/// After a second.
fn connections_end_at_the_deadline(world: &mut World) -> Result<()> {
    expect_resets(world, "hasty")
}

fn expect_resets(world: &mut World, service: &str) -> Result<()> {
    let holds = hold(world, service)?;
    world.change_endpoints("web-b-3", service, &["web-c-1"])?;
    wait_for_row(world, service, "web-b-1", Value::is_null)?;
    let held: Vec<_> = holds.into_iter().map(Hold::finish).collect::<Result<_>>()?;
    world.change_endpoints("web-b-3", service, &["web-b-1"])?;
    let all_reset = BTreeMap::from([(Failure::Reset, CONNECTIONS)]);
    ensure!(held.iter().all(|held| held.lost == all_reset), "{held:?}");
    Ok(())
}

/// Connections by way of CONNTRACK: those of a client, and those of a pod that no socket hook translates.
fn hold(world: &World, service: &str) -> Result<Vec<Hold>> {
    let pod = (!world.mode.has_socket_hooks()).then_some(("web-a-3", At::Cluster));
    let clients = [("client", At::LoadBalancer)].into_iter().chain(pod);
    let hold = |(client, at)| {
        Hold::start(world.host(client), world.address(service, at, Protocol::Tcp)?, CONNECTIONS)
    };
    clients.map(hold).collect()
}

/// Waits until `node-a` shows a pod behind the TCP port of a Service as it is `wanted`; null is not at all.
fn wait_for_row(world: &World, service: &str, pod: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let address = world.address(service, At::Cluster, Protocol::Tcp)?.ip();
    let address = world.host(pod).address_for(address).to_string();
    let is_it = |row: &&Value| {
        let has = |field: &str, text: &str| row[field].as_str().is_some_and(|value| value.contains(text));
        has("backendService", &format!("/{service}:tcp/")) && has("address", &address)
    };
    let mut seen = Ok(Value::Null);
    let waited = wait_until(DEADLINE, &format!("the row of {pod} behind {service}"), || {
        let rows = world.cluster.agents[0].get("endpoints");
        seen =
            rows.map(|rows| rows.as_array().into_iter().flatten().find(is_it).cloned().unwrap_or_default());
        seen.as_ref().is_ok_and(&wanted)
    });
    let seen = seen?;
    waited.with_context(|| format!("last seen: {seen}"))?;
    Ok(seen)
}
