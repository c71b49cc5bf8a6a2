//! A client outside the cluster, behind the router.
use anyhow::{Result, ensure};
use lb_tests::cluster::PROTOCOLS;
use lb_tests::traffic::{Failure, ask};

use crate::services::OTHER_SERVER;
use crate::world::{At, Family, OUTSIDE, Story, World, story};

pub(crate) const STORIES: &[Story] = &[
    story("pods of the node that is dialled see the client", own_pods_see_the_client),
    story("pods of other nodes see the node that was dialled", other_pods_see_the_node),
    story("source NAT takes ports of its range", source_nat_takes_its_ports),
    story("node ports of every node lead everywhere", node_ports_of_every_node),
    story("another node serves the same addresses", another_node_serves),
    story("a host-network endpoint is reached through its node and others", host_network),
    story("slices have ports of their own under one name", slices_with_ports_of_their_own),
    story("source ranges let nobody else in at load-balancer addresses", source_ranges_close),
    story("source ranges let in whom they cover", source_ranges_open),
    story("direct server return shows the client to pods of every node", direct_server_return),
    story("a Service of one family is served in it", single_stack),
    story("a pod of weight zero takes no new flow", weight_of_zero),
    story("Services that share pods are counted apart", shared_pods),
];

fn own_pods_see_the_client(world: &mut World) -> Result<()> {
    OUTSIDE
        .into_iter()
        .try_for_each(|at| world.expect("client", "near", at, &["web-a-1", "web-a-2"], "client"))
}

fn other_pods_see_the_node(world: &mut World) -> Result<()> {
    OUTSIDE.into_iter().try_for_each(|at| {
        world.expect("client", "far", at, &["web-b-1", "web-b-2"], "node-a")?;
        world.expect("client", "west", at, &["web-c-1", "web-c-2"], "node-a")
    })
}

fn source_nat_takes_its_ports(world: &mut World) -> Result<()> {
    for protocol in PROTOCOLS {
        let to = world.address("far", At::LoadBalancer, protocol)?;
        let port = ask(world.host("client"), protocol, to)?.seen_source.port();
        ensure!((20_000..=23_999).contains(&port), "port {port} over {protocol}");
    }
    Ok(())
}

fn node_ports_of_every_node(world: &mut World) -> Result<()> {
    let pods = ["web-a-1", "web-a-2", "web-b-1", "web-b-2", "web-c-1", "web-c-2"];
    for node in ["node-a", "node-b", "node-c"] {
        world.expect_all("client", "web", At::Node(node), &pods)?;
    }
    world.expect("client", "far", At::Node("node-b"), &["web-b-1", "web-b-2"], "client")?;
    world.expect("client", "far", At::Node("node-c"), &["web-b-1", "web-b-2"], "node-c")
}

fn another_node_serves(world: &mut World) -> Result<()> {
    world.routed_via("node-c", || {
        world.expect("client", "west", At::LoadBalancer, &["web-c-1", "web-c-2"], "client")?;
        world.expect("client", "near", At::LoadBalancer, &["web-a-1", "web-a-2"], "node-c")
    })
}

fn host_network(world: &mut World) -> Result<()> {
    world.expect("client", "host", At::LoadBalancer, &["node-c"], "node-a")?;
    world.expect("client", "host", At::Node("node-b"), &["node-c"], "node-b")?;
    world.expect("client", "host", At::Node("node-c"), &["node-c"], "client")
}

fn slices_with_ports_of_their_own(world: &mut World) -> Result<()> {
    world.expect_all("client", "slices", At::LoadBalancer, &["web-a-1", OTHER_SERVER])?;
    world.expect_all("web-b-3", "slices", At::Cluster, &["web-a-1", OTHER_SERVER])
}

fn source_ranges_close(world: &mut World) -> Result<()> {
    let counted = Some(("node-a", "source-range"));
    world.expect_failure("client", "closed", At::LoadBalancer, Failure::TimedOut, counted)?;
    world.expect_failure("web-a-3", "closed", At::LoadBalancer, Failure::TimedOut, counted)?;
    for at in [At::Cluster, At::External, At::Node("node-a")] {
        world.expect_all("client", "closed", at, &["web-a-1", "web-b-1"])?;
    }
    Ok(())
}

fn source_ranges_open(world: &mut World) -> Result<()> {
    world.expect_all("client", "open", At::LoadBalancer, &["web-a-1", "web-b-1"])?;
    world.expect_failure(
        "web-a-3",
        "open",
        At::LoadBalancer,
        Failure::TimedOut,
        Some(("node-a", "source-range")),
    )
}

fn direct_server_return(world: &mut World) -> Result<()> {
    for at in [At::LoadBalancer, At::External, At::Node("node-a"), At::Node("node-b")] {
        world.expect("client", "direct", at, &["web-b-1", "web-c-1"], "client")?;
        world.expect_all("client", "direct", at, &["web-b-1", "web-c-1"])?;
    }
    Ok(())
}

fn single_stack(world: &mut World) -> Result<()> {
    let service = match world.family {
        Family::V4 => "only-v4",
        Family::V6 => "only-v6",
    };
    for at in OUTSIDE {
        world.expect_all("client", service, at, &["web-a-1", "web-b-1"])?;
        world.expect_all("web-a-3", service, at, &["web-a-1", "web-b-1"])?;
    }
    Ok(())
}

fn weight_of_zero(world: &mut World) -> Result<()> {
    for client in ["client", "web-a-3"] {
        world.expect_all(client, "weighted", At::LoadBalancer, &["web-b-1"])?;
    }
    Ok(())
}

fn shared_pods(world: &mut World) -> Result<()> {
    let flows = |world: &World| -> Result<(u64, u64)> {
        let rows = world.cluster.agents[0].get("endpoints")?;
        let of = |service: &str| {
            let rows = rows.as_array().into_iter().flatten();
            let rows = rows.filter(|row| row["backendService"].as_str().is_some_and(|n| n.contains(service)));
            rows.filter_map(|row| row["newFlows"].as_u64()).sum()
        };
        Ok((of("/near:"), of("/web:")))
    };
    let before = flows(world)?;
    world.expect("client", "near", At::LoadBalancer, &["web-a-1", "web-a-2"], "client")?;
    let after = flows(world)?;
    ensure!(
        (after.0 - before.0, after.1 - before.1) == (2, 0),
        "flows of near and web: {before:?}, {after:?}"
    );
    Ok(())
}
