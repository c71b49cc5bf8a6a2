//! What other than Podway is there for.
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::cluster::{PROTOCOLS, TCP_PORT, UDP_PORT};
use lb_tests::topology::Host;
use lb_tests::traffic::{Answered, ask};
use lb_userspace::model::Protocol;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::services::PROXY;
use crate::world::{At, Story, World, story};

pub(crate) const STORIES: &[Story] = &[
    story("a headless Service has no frontend", headless_has_no_frontend),
    story("pods of a headless Service are reached directly", headless_pods_are_reached),
    story("a pod is reached directly from a port that its Service was reached from", used_port_is_free),
    story("an address of ipMode Proxy has no frontend", proxy_has_no_frontend),
    story("what goes to an address of ipMode Proxy arrives there", proxy_is_reached),
];

/// Below those that the kernel gives to sockets, so no other flow is from it.
const USED_PORT: u16 = 9_101;
const LINE: &str = "a line\n";
const TIMEOUT: Duration = Duration::from_secs(10);

fn headless_has_no_frontend(world: &mut World) -> Result<()> {
    for agent in &world.cluster.agents {
        let rows = agent.get("frontends")?.to_string();
        ensure!(rows.contains("shop/web") && !rows.contains("shop/headless"), "{rows}");
    }
    Ok(())
}

/// At the pods' own address, as the name of a headless Service resolves.
fn headless_pods_are_reached(world: &mut World) -> Result<()> {
    expect_untouched(world, "web-b-1", "node-b")
}

/// By the node of the pod, which keeps the client's address.
fn used_port_is_free(world: &mut World) -> Result<()> {
    let by = "web-b-1";
    let vip = world.address("own", At::LoadBalancer, Protocol::Tcp)?;
    let (client, pod) = (world.host("client"), world.host(by).address_for(vip.ip()));
    let source = SocketAddr::new(client.address_for(vip.ip()), USED_PORT);
    world.routed_via("node-b", || {
        for to in [vip, SocketAddr::new(pod, TCP_PORT)] {
            let echo = client.run_in_netns(|| exchange(source, to))?;
            let echo = echo.with_context(|| format!("from {source} to {to}"))?;
            ensure!(echo == format!("{by} {source}\n{LINE}"), "from {source} to {to}: {echo:?}");
        }
        Ok(())
    })
}

/// All that the server says to one line, until both ends have closed.
fn exchange(source: SocketAddr, to: SocketAddr) -> std::io::Result<String> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None)?;
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &source)?;
    connect(&socket, &to)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(LINE.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

fn proxy_has_no_frontend(world: &mut World) -> Result<()> {
    for agent in &world.cluster.agents {
        let frontends = agent.frontends()?;
        let (cluster, proxy) = (world.cluster.manifests.service("proxied").cluster_ips, world.host(PROXY));
        let of_service = |address: std::net::IpAddr| frontends.iter().any(|(_, at)| at.ip() == address);
        ensure!(cluster.into_iter().all(of_service), "{frontends:?}");
        ensure!(!of_service(proxy.v4().into()) && !of_service(proxy.v6().into()), "{frontends:?}");
    }
    Ok(())
}

/// The load balancer, not a pod of the Service, answers at the Service's port.
fn proxy_is_reached(world: &mut World) -> Result<()> {
    expect_untouched(world, PROXY, "node-c")
}

/// Asks a pod itself. A datagram from a port from which a former story has asked the same pod by a VIP is
/// answered from the VIP (`docs/differences.md`), so another port may have to be tried.
fn ask_itself(from: &Host, protocol: Protocol, to: SocketAddr) -> Result<Answered> {
    match ask(from, protocol, to) {
        Err(_) if protocol == Protocol::Udp => ask(from, protocol, to),
        answered => answered,
    }
}

/// A host of this node answers everybody at its own address, and sees who asks.
fn expect_untouched(world: &World, by: &str, node: &str) -> Result<()> {
    for client in ["client", "web-a-3", "node-a"] {
        for protocol in PROTOCOLS {
            let port = if protocol == Protocol::Tcp { TCP_PORT } else { UDP_PORT };
            let host = world.host(client);
            let addresses = [world.host(by).v4().into(), world.host(by).v6().into()];
            for address in addresses.into_iter().filter(|address| world.family.has(*address)) {
                let before = world.count(node, "not-ours")?;
                let answered = ask_itself(host, protocol, SocketAddr::new(address, port))?;
                let is_untouched =
                    answered.by == by && answered.seen_source.ip() == host.address_for(address);
                ensure!(is_untouched, "{client} over {protocol}: {answered:?}");
                ensure!(world.count(node, "not-ours")? > before, "{client} over {protocol}: not counted");
            }
        }
    }
    Ok(())
}
