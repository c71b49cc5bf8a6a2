//! Echo requests to VIPs, and datagrams longer than any packet.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::raw::{echo_request, ping};
use lb_tests::topology::Host;
use lb_userspace::model::Protocol;

use crate::world::{At, Family, OUTSIDE, Story, World, story};

pub(crate) const STORIES: &[Story] = &[
    story("VIPs answer the echo requests of an outside client", client_is_answered),
    story("VIPs answer the echo requests of a pod", pod_is_answered),
    story("long datagrams of an outside client come back whole", long_datagrams_of_a_client),
    story(
        "long datagrams of an outside client come back whole by direct server return",
        long_direct_datagrams,
    ),
    story("long datagrams of a pod come back whole", long_datagrams_of_a_pod),
];

/// What `ping` sends by itself.
const PING_BYTES: usize = 56;
/// Type, code and checksum, and the identifier: the kernel writes these.
const KERNEL_BYTES: usize = 6;
/// Six fragments.
const DATAGRAM_BYTES: usize = 8_000;
/// Longest answer: the server says who it is before it echoes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// What takes longer is lost.
const TIMEOUT: Duration = Duration::from_secs(10);

fn client_is_answered(world: &mut World) -> Result<()> {
    expect_echoes(world, "client")
}

fn pod_is_answered(world: &mut World) -> Result<()> {
    expect_echoes(world, "web-a-3")
}

/// The node itself answers: no pod is asked.
fn expect_echoes(world: &World, from: &str) -> Result<()> {
    for at in [At::Cluster, At::LoadBalancer, At::External] {
        let vip = world.address("far", at, Protocol::Tcp)?.ip();
        let what = || format!("{from} pings {vip}");
        let before = world.count("node-a", "echo")?;
        let (request, kind) = echo_request(vip, PING_BYTES);
        let reply = ping(world.host(from), vip, &request, TIMEOUT).with_context(what)?;
        ensure!(reply.starts_with(&[kind, 0]), "{}: {reply:?}", what());
        ensure!(reply[KERNEL_BYTES..] == request[KERNEL_BYTES..], "{}: the echo differs", what());
        ensure!(world.count("node-a", "echo")? == before + 1, "{}: not counted", what());
    }
    Ok(())
}

fn long_datagrams_of_a_client(world: &mut World) -> Result<()> {
    OUTSIDE.into_iter().try_for_each(|at| {
        expect_whole(world, "client", "near", at, "web-a-")?;
        expect_whole(world, "client", "far", at, "web-b-")
    })
}

fn long_direct_datagrams(world: &mut World) -> Result<()> {
    [At::LoadBalancer, At::External, At::Node("node-a")]
        .into_iter()
        .try_for_each(|at| expect_whole(world, "client", "direct", at, "web-"))
}

fn long_datagrams_of_a_pod(world: &mut World) -> Result<()> {
    for at in [At::Cluster, At::LoadBalancer] {
        expect_whole(world, "web-a-3", "near", at, "web-a-")?;
        expect_whole(world, "web-a-3", "far", at, "web-b-")?;
    }
    Ok(())
}

fn expect_whole(world: &World, from: &str, service: &str, at: At, by: &str) -> Result<()> {
    let to = world.address(service, at, Protocol::Udp)?;
    let what = || format!("{from} to {service} at {at:?}");
    let sent: Vec<u8> = (0..DATAGRAM_BYTES).map(|index| (index % 251) as u8).collect();
    let answer = exchange(world.host(from), world.family, to, &sent).with_context(what)?;
    ensure!(answer.starts_with(by.as_bytes()), "{}: expected an answer of {by}", what());
    ensure!(answer.ends_with(&sent), "{}: the echo differs", what());
    Ok(())
}

fn exchange(from: &Host, family: Family, to: SocketAddr, sent: &[u8]) -> Result<Vec<u8>> {
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    from.run_in_netns(|| {
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.connect(to)?;
        let mut answer = vec![0; ANSWER_BYTES_MAX];
        let count = send_and_receive(&socket, sent, &mut answer)?;
        answer.truncate(count);
        Ok(answer)
    })?
}

/// Once more if the datagram's fragments were too long for the way: an application hears of it with the next
/// call, and the kernel then cuts shorter ones.
fn send_and_receive(socket: &UdpSocket, sent: &[u8], answer: &mut [u8]) -> std::io::Result<usize> {
    let exchange = |answer: &mut [u8]| {
        socket.send(sent)?;
        socket.recv(answer)
    };
    match exchange(answer) {
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => exchange(answer),
        outcome => outcome,
    }
}
