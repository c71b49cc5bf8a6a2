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
    story("pods learn it by direct server return too", pods_learn_directly),
];

/// What goes to and fro: hundreds of full packets.
const TRANSFER_BYTES: usize = 1_000_000;
/// The reason of a translated ICMP error.
const ICMP_ERROR: &str = "icmp-error";
const TIMEOUT: Duration = Duration::from_secs(10);
/// Least that IPv6 allows is 1280.
const SMALL_LINK_BYTES: u32 = 1_300;

fn own_pods_learn(world: &mut World) -> Result<()> {
    expect_translated_error(world, "near")
}

fn other_pods_learn(world: &mut World) -> Result<()> {
    expect_translated_error(world, "far")
}

/// The router's errors go to the VIP, and so to the node that the client came by, which sends them on in the
/// encapsulation as it does the client's packets.
fn pods_learn_directly(world: &mut World) -> Result<()> {
    let (by, to) = over_a_small_link(world, "direct")?;
    let client = world.host("client").address_for(to.ip()).to_string();
    let output = world.host(&by).command("ip").args(["route", "get", &client]).output()?;
    let route = String::from_utf8_lossy(&output.stdout);
    ensure!(route.contains(&format!(" mtu {SMALL_LINK_BYTES}")), "{by} has not learned it: {route:?}");
    Ok(())
}

fn expect_translated_error(world: &World, service: &str) -> Result<()> {
    let before = world.count("node-a", ICMP_ERROR)?;
    let (_, to) = over_a_small_link(world, service)?;
    ensure!(world.count("node-a", ICMP_ERROR)? > before, "{to}: no ICMP error was translated");
    Ok(())
}

/// Who answered, and where.
fn over_a_small_link(world: &World, service: &str) -> Result<(String, SocketAddr)> {
    let to = world.address(service, At::LoadBalancer, Protocol::Tcp)?;
    let router = world.host("router").namespace();
    let routes = |mtu: &str| {
        format!(
            "route replace 203.0.113.0/24 dev eth1 {mtu}\nroute replace 2001:db8:113::/64 dev eth1 metric 256 {mtu}\n"
        )
    };
    router.ip_batch(&routes(&format!("mtu {SMALL_LINK_BYTES}")))?;
    let transferred = world.host("client").run_in_netns(|| transfer(to))?;
    router.ip_batch(&routes(""))?;
    let by = transferred.with_context(|| format!("{TRANSFER_BYTES} bytes through {to}"))?;
    Ok((by, to))
}

/// Sends bytes through the server's echo and compares. Who answered.
fn transfer(to: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let (mut greeting, mut byte) = (Vec::new(), [0]);
    while byte != *b"\n" {
        stream.read_exact(&mut byte).context("the greeting")?;
        greeting.extend(byte);
    }
    let greeting = String::from_utf8_lossy(&greeting);
    let (by, _) = greeting.split_once(' ').with_context(|| format!("no greeting: {greeting:?}"))?;
    let sent: Vec<u8> = (0..TRANSFER_BYTES).map(|index| (index % 251) as u8).collect();
    let mut received = vec![0; TRANSFER_BYTES];
    let mut reader = stream.try_clone()?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| stream.write_all(&sent));
        reader.read_exact(&mut received).context("the echo")?;
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?.context("sending")
    })?;
    ensure!(received == sent, "the echo differs");
    Ok(by.to_owned())
}
