//! What a load balancer hears from nodes at `healthCheckNodePort`.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;

use crate::services::HEALTH_CHECK_NODE_PORT;
use crate::world::{At, CHANGE_DEADLINE, Story, World, story};

pub(crate) const STORIES: &[Story] = &[
    story("nodes tell how many pods of a Service they have", nodes_tell_their_pods),
    story("a node without a pod of a Service says 503", node_without_a_pod),
    story("a node whose last pod goes says 503, and 200 when it is back", node_whose_pod_goes),
];

const TIMEOUT: Duration = Duration::from_secs(10);

fn nodes_tell_their_pods(world: &mut World) -> Result<()> {
    expect_answer(world, "node-a", "200 OK", 2)?;
    expect_answer(world, "node-c", "200 OK", 1)
}

fn node_without_a_pod(world: &mut World) -> Result<()> {
    expect_answer(world, "node-b", "503 Service Unavailable", 0)
}

fn node_whose_pod_goes(world: &mut World) -> Result<()> {
    world.replace_endpoints("checked", &["web-a-1", "web-a-2"])?;
    wait_for_answer(world, "node-c", "503 Service Unavailable", 0)?;
    expect_answer(world, "node-a", "200 OK", 2)?;
    world.replace_endpoints("checked", &["web-a-1", "web-a-2", "web-c-1"])?;
    wait_for_answer(world, "node-c", "200 OK", 1)
}

fn wait_for_answer(world: &World, node: &'static str, status: &str, endpoints: u32) -> Result<()> {
    let mut last = Ok(());
    let waited = wait_until(CHANGE_DEADLINE, &format!("{node} to say {status}"), || {
        last = expect_answer(world, node, status, endpoints);
        last.is_ok()
    });
    waited.with_context(|| format!("last seen: {last:?}"))?;
    last
}

fn expect_answer(world: &World, node: &'static str, status: &str, endpoints: u32) -> Result<()> {
    let at = world.address("checked", At::Node(node), Protocol::Tcp)?;
    let answer = answer(world, SocketAddr::new(at.ip(), HEALTH_CHECK_NODE_PORT))?;
    let parts = [
        format!("HTTP/1.1 {status}\r\n"),
        "content-type: application/json\r\n".to_owned(),
        format!("x-load-balancing-endpoint-weight: {endpoints}\r\n"),
        format!(
            r#"{{"service":{{"namespace":"shop","name":"checked"}},"localEndpoints":{endpoints},"serviceProxyHealthy":true}}"#
        ),
    ];
    for part in parts {
        ensure!(answer.contains(&part), "{node}: expected {part:?} in {answer:?}");
    }
    Ok(())
}

/// What the outside client gets.
fn answer(world: &World, from: SocketAddr) -> Result<String> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&from, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    world.host("client").run_in_netns(ask)?
}
