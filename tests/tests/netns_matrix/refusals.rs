//! What is refused, and how the client sees it.
use anyhow::Result;
use lb_tests::traffic::Failure;

use crate::world::{At, Story, World, story, with_socket_hooks};

pub(crate) const STORIES: &[Story] = &[
    story("a Service without pods refuses outside clients", empty_refuses_outside),
    story("a Service without pods refuses pods", empty_refuses_pods),
    with_socket_hooks("a Service without pods refuses processes", empty_refuses_processes),
];

fn empty_refuses_outside(world: &mut World) -> Result<()> {
    // Over IPv6 the refusal of the first SYN comes too early for Linux, and each connection takes a second.
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
