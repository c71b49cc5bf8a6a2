//! `externalTrafficPolicy`, `internalTrafficPolicy` and endpoints that terminate (KEP-1669).
use anyhow::Result;
use lb_tests::traffic::Failure;

use crate::services::PODS;
use crate::world::{At, Story, World, story};

pub(crate) const STORIES: &[Story] = &[
    story("external policy Local keeps to the node's pods", external_local),
    story("external policy Local without a pod on the node drops", external_local_drops),
    story("external policy Local does not bind pods of the cluster", external_local_from_pods),
    story("internal policy Local keeps to the client's node", internal_local),
    story("internal policy Local without a pod on the node drops", internal_local_drops),
    story("internal policy Local does not bind outside clients", internal_local_from_outside),
    story("terminating pods serve when none is ready", terminating_serve),
    story("zone hints keep clients in their zone", zone_hints),
    story("zone hints hold only where every pod has one", half_zone_hints),
    story("node hints keep clients on their node", node_hints),
    story("a node that no node hint is for follows zone hints", zone_hints_behind_node_hints),
    story("the local pods decide apart from all whether terminating ones serve", terminating_local),
];

fn external_local(world: &mut World) -> Result<()> {
    for (node, pod) in [("node-a", "web-a-1"), ("node-c", "web-c-1")] {
        world.expect_all("client", "local", At::Node(node), &[pod])?;
        world.expect("client", "local", At::Node(node), &[pod], "client")?;
        world.routed_via(node, || world.expect("client", "local", At::LoadBalancer, &[pod], "client"))?;
    }
    Ok(())
}

fn external_local_drops(world: &mut World) -> Result<()> {
    let counted = Some(("node-b", "no-local-endpoint"));
    world.expect_failure("client", "local", At::Node("node-b"), Failure::TimedOut, counted)?;
    world.routed_via("node-b", || {
        world.expect_failure("client", "local", At::LoadBalancer, Failure::TimedOut, counted)
    })
}

fn external_local_from_pods(world: &mut World) -> Result<()> {
    world.expect_all("web-b-3", "local", At::LoadBalancer, &["web-a-1", "web-c-1"])
}

fn internal_local(world: &mut World) -> Result<()> {
    for (client, pod) in [("web-a-3", "web-a-1"), ("web-c-3", "web-c-1")] {
        world.expect_all(client, "internal-local", At::Cluster, &[pod])?;
    }
    Ok(())
}

/// A socket hook cannot drop what was not sent yet: it refuses `connect()`.
fn internal_local_drops(world: &mut World) -> Result<()> {
    let failure = if world.mode.has_socket_hooks() { Failure::NotPermitted } else { Failure::TimedOut };
    let counted = Some(("node-b", "no-local-endpoint"));
    world.expect_failure("web-b-3", "internal-local", At::Cluster, failure, counted)
}

fn internal_local_from_outside(world: &mut World) -> Result<()> {
    world.expect_all("client", "internal-local", At::LoadBalancer, &["web-a-1", "web-c-1"])
}

fn terminating_serve(world: &mut World) -> Result<()> {
    world.expect_all("client", "fading", At::LoadBalancer, &["web-a-1", "web-b-1"])?;
    world.expect_all("web-c-3", "fading", At::Cluster, &["web-a-1", "web-b-1"])
}

fn terminating_local(world: &mut World) -> Result<()> {
    world.expect_all("client", "fading-local", At::Node("node-a"), &["web-a-1"])?;
    world.expect_all("client", "fading-local", At::Node("node-b"), &["web-b-1"])?;
    world.expect_all("web-a-3", "fading-local", At::Cluster, &["web-b-1"])
}

fn zone_hints(world: &mut World) -> Result<()> {
    let (east, west) = (["web-a-1", "web-a-2", "web-b-1", "web-b-2"], ["web-c-1", "web-c-2"]);
    world.expect_all("web-a-3", "zonal", At::Cluster, &east)?;
    world.expect_all("web-c-3", "zonal", At::Cluster, &west)?;
    world.expect_all("client", "zonal", At::Node("node-b"), &east)?;
    world.expect_all("client", "zonal", At::Node("node-c"), &west)
}

fn half_zone_hints(world: &mut World) -> Result<()> {
    world.expect_all("web-c-3", "half-zonal", At::Cluster, &PODS)
}

fn node_hints(world: &mut World) -> Result<()> {
    for (client, node, pod) in [("web-a-3", "node-a", "web-a-1"), ("web-b-3", "node-b", "web-b-1")] {
        world.expect_all(client, "nodal", At::Cluster, &[pod])?;
        world.expect_all("client", "nodal", At::Node(node), &[pod])?;
    }
    Ok(())
}

/// `node-b` is in the zone of `node-a`.
fn zone_hints_behind_node_hints(world: &mut World) -> Result<()> {
    world.expect_all("web-b-3", "half-nodal", At::Cluster, &["web-a-1"])?;
    world.expect_all("client", "half-nodal", At::Node("node-b"), &["web-a-1"])
}
