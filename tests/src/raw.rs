//! Sockets below TCP and UDP: those of `ping`, and raw ones for packets that no kernel here would send.
use std::io::{Error, Result};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, RawProtocol, SendFlags, SocketType, bind, ipproto, sendto, socket};

use crate::packet::PacketBuilder;
use crate::packet::pieces::cut;
use crate::topology::Host;

/// Of an Ethernet header.
const LINK_BYTES: usize = 14;
/// `IPPROTO_RAW`: the packet comes with its IP header.
const RAW: u8 = 255;
/// Longest packet that is received.
const PACKET_BYTES_MAX: usize = 2_048;
/// A fragment that is early waits for a second at most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends an echo request, whose checksum and identifier are the kernel's, and returns the message that
/// answers it.
///
/// # Errors
/// No answer in time; the host cannot open such a socket.
pub fn ping(from: &Host, to: IpAddr, request: &[u8], timeout: Duration) -> Result<Vec<u8>> {
    // Else nobody may open such a socket (`icmp_sk`'s range of groups is empty in a new namespace).
    from.namespace().set_sysctls(&[("ipv4/ping_group_range", "0 0")]).map_err(Error::other)?;
    let protocol = if to.is_ipv4() { ipproto::ICMP } else { ipproto::ICMPV6 };
    let ask = || {
        let socket = UdpSocket::from(socket(family_of(to), SocketType::DGRAM, Some(protocol))?);
        socket.set_read_timeout(Some(timeout))?;
        socket.connect(SocketAddr::new(to, 0))?;
        socket.send(request)?;
        receive(&socket).map(|(_, reply)| reply)
    };
    from.run_in_netns(ask).map_err(Error::other)?
}

/// An echo request with the sequence number 1, and the type of its reply (RFC 792, RFC 4443 §4).
#[must_use]
pub fn echo_request(to: IpAddr, payload_bytes: usize) -> (Vec<u8>, u8) {
    let (kind, reply) = if to.is_ipv4() { (8, 0) } else { (128, 129) };
    let payload = (0..payload_bytes).map(|index| (index % 251) as u8);
    ([kind, 0, 0, 0, 0, 0, 0, 1].into_iter().chain(payload).collect(), reply)
}

/// Sends the IP packets of frames as they are, from the namespace of this thread.
///
/// # Errors
/// The kernel does not take one.
pub fn send(to: IpAddr, frames: &[Vec<u8>]) -> Result<()> {
    let socket = open(to, RAW)?;
    for frame in frames {
        sendto(&socket, &frame[LINK_BYTES..], SendFlags::empty(), &SocketAddr::new(to, 0))?;
    }
    Ok(())
}

/// Sends a datagram in fragments of `piece_bytes`, the last one first, and returns the answer, which must
/// come from `to`. Datagrams of one host need different identifications.
///
/// # Errors
/// No answer in time, or from elsewhere.
///
/// # Panics
/// `piece_bytes` is no multiple of eight.
pub fn ask_backwards(
    from: &Host,
    to: SocketAddr,
    payload: &[u8],
    piece_bytes: usize,
    identification: u16,
) -> Result<Vec<u8>> {
    let ask = || {
        let socket = UdpSocket::bind(SocketAddr::new(from.address_for(to.ip()), 0))?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let datagram = PacketBuilder::udp(socket.local_addr()?, to).payload(payload).build();
        let mut pieces = cut(&datagram, piece_bytes, identification);
        pieces.reverse();
        send(to.ip(), &pieces)?;
        let mut answer = vec![0; PACKET_BYTES_MAX];
        let (count, by) = socket.recv_from(&mut answer)?;
        if by != to {
            return Err(Error::other(format!("{by} answered for {to}")));
        }
        answer.truncate(count);
        Ok(answer)
    };
    from.run_in_netns(ask).map_err(Error::other)?
}

/// What comes to an address of a host over one IP protocol.
#[derive(Debug)]
pub struct Listener {
    socket: UdpSocket,
}

impl Listener {
    /// Listens; the kernel of the host tells nobody that it does not know the protocol.
    ///
    /// # Errors
    /// The host has no such address.
    pub fn start(host: &Host, address: IpAddr, protocol: u8, timeout: Duration) -> Result<Self> {
        let listen = || {
            let socket = open(address, protocol)?;
            bind(&socket, &SocketAddr::new(address, 0))?;
            let socket = UdpSocket::from(socket);
            socket.set_read_timeout(Some(timeout))?;
            Ok(Self { socket })
        };
        host.run_in_netns(listen).map_err(Error::other)?
    }

    /// The source of the next packet, and what follows its IP header.
    ///
    /// # Errors
    /// There is none in time.
    pub fn next_packet(&self) -> Result<(IpAddr, Vec<u8>)> {
        let (source, mut packet) = receive(&self.socket)?;
        // Over IPv4 a raw socket gets the header too, over IPv6 it does not (RFC 3542 §3).
        if source.is_ipv4() {
            packet.drain(..usize::from(packet[0] & 0x0f) * 4);
        }
        Ok((source, packet))
    }
}

fn open(address: IpAddr, protocol: u8) -> Result<OwnedFd> {
    let protocol = RawProtocol::new(protocol.into()).map(rustix::net::Protocol::from_raw);
    Ok(socket(family_of(address), SocketType::RAW, protocol)?)
}

fn receive(socket: &UdpSocket) -> Result<(IpAddr, Vec<u8>)> {
    let mut packet = vec![0; PACKET_BYTES_MAX];
    let (count, source) = socket.recv_from(&mut packet)?;
    packet.truncate(count);
    Ok((source.ip(), packet))
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}
