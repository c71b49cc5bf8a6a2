//! A link behind the router takes less than the nodes' interfaces: who sends too much is told by ICMP
//! (RFC 1191, RFC 8201), through the VIP.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_userspace::model::Protocol;

use crate::world::{At, Story, World, story};

pub(crate) const STORIES: &[Story] = &[
    story("pods of the dialled node learn what the way to the client takes", own_pods_learn),
    story("pods of other nodes learn what the way to the client takes", other_pods_learn),
];

/// What goes to and fro: hundreds of full packets.
const TRANSFER_BYTES: usize = 1_000_000;
/// The reason of a translated ICMP error.
const ICMP_ERROR: &str = "icmp-error";
const TIMEOUT: Duration = Duration::from_secs(10);
/// Least that IPv6 allows is 1280.
const SMALL_LINK_BYTES: u32 = 1_300;

fn own_pods_learn(world: &mut World) -> Result<()> {
    over_a_small_link(world, "near")
}

fn other_pods_learn(world: &mut World) -> Result<()> {
    over_a_small_link(world, "far")
}

fn over_a_small_link(world: &World, service: &str) -> Result<()> {
    let to = world.address(service, At::LoadBalancer, Protocol::Tcp)?;
    let router = world.host("router").namespace();
    let routes = |mtu: &str| {
        format!(
            "route replace 203.0.113.0/24 dev eth1 {mtu}\nroute replace 2001:db8:113::/64 dev eth1 metric 256 {mtu}\n"
        )
    };
    router.ip_batch(&routes(&format!("mtu {SMALL_LINK_BYTES}")))?;
    let before = world.count("node-a", ICMP_ERROR)?;
    let transferred = world.host("client").run_in_netns(|| transfer(to))?;
    router.ip_batch(&routes(""))?;
    transferred.with_context(|| format!("{TRANSFER_BYTES} bytes through {to}"))?;
    ensure!(world.count("node-a", ICMP_ERROR)? > before, "{to}: no ICMP error was translated");
    Ok(())
}

/// Sends bytes through the server's echo and compares.
fn transfer(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).context("the greeting")?;
    }
    let sent: Vec<u8> = (0..TRANSFER_BYTES).map(|index| (index % 251) as u8).collect();
    let mut received = vec![0; TRANSFER_BYTES];
    let mut reader = stream.try_clone()?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| stream.write_all(&sent));
        reader.read_exact(&mut received).context("the echo")?;
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?.context("sending")
    })?;
    ensure!(received == sent, "the echo differs");
    Ok(())
}
