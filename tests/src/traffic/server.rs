//! The server of `lb-traffic`.
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::RECEIVE_BYTES;

/// The line that says that all ports listen.
pub const READY: &str = "ready";

/// A thread per connection needs little: it only copies.
const STACK_BYTES: usize = 64 * 1024;
/// Longest datagram that is answered.
const DATAGRAM_BYTES_MAX: usize = 16 * 1024;

/// Serves until standard input ends.
///
/// # Errors
/// A port cannot be opened.
pub fn serve(name: &str, tcp: &[u16], udp: &[u16], hello: &[u16]) -> Result<()> {
    let name: Arc<str> = name.into();
    for port in hello {
        let listener =
            TcpListener::bind(any(*port)).with_context(|| format!("cannot listen on TCP {port}"))?;
        let name = Arc::clone(&name);
        std::thread::spawn(move || greet(&listener, &name));
    }
    for port in tcp {
        let listener =
            TcpListener::bind(any(*port)).with_context(|| format!("cannot listen on TCP {port}"))?;
        let name = Arc::clone(&name);
        std::thread::spawn(move || accept(&listener, &name));
    }
    for port in udp {
        let socket = UdpSocket::bind(any(*port)).with_context(|| format!("cannot open UDP {port}"))?;
        set_socket_recv_buffer_size_force(&socket, RECEIVE_BYTES)
            .context("cannot enlarge a socket's buffer")?;
        let name = Arc::clone(&name);
        std::thread::spawn(move || answer(&socket, &name));
    }
    println!("{READY}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).context("cannot read standard input")?;
    Ok(())
}

/// Every address of both families.
fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn accept(listener: &TcpListener, name: &Arc<str>) {
    loop {
        let Ok((stream, peer)) = listener.accept() else { continue };
        let name = Arc::clone(name);
        let spawned = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            // A client that goes away ends its connection, nothing else.
            let _ = greet_and_echo(stream, peer, &name);
        });
        if let Err(error) = spawned {
            eprintln!("cannot serve {peer}: {error}");
        }
    }
}

/// Greets and hangs up: one thread for thousands of connections a second.
fn greet(listener: &TcpListener, name: &str) {
    loop {
        let Ok((mut stream, peer)) = listener.accept() else { continue };
        // A client that is gone already misses its greeting, nothing else.
        let _ = writeln!(stream, "{name} {}", unmapped(peer));
    }
}

fn greet_and_echo(mut stream: TcpStream, peer: SocketAddr, name: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    writeln!(stream, "{name} {}", unmapped(peer))?;
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
    }
}

fn answer(socket: &UdpSocket, name: &str) {
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    loop {
        // An ICMP error for an earlier answer comes out here; it concerns no other client.
        let Ok((count, peer)) = socket.recv_from(&mut buffer) else { continue };
        let mut reply = format!("{name} {} ", unmapped(peer)).into_bytes();
        reply.extend(&buffer[..count]);
        let _ = socket.send_to(&reply, peer);
    }
}

/// An IPv4 peer of an IPv6 socket is shown as what it is.
fn unmapped(peer: SocketAddr) -> SocketAddr {
    let address = match peer.ip() {
        IpAddr::V6(v6) => v6.to_canonical(),
        v4 @ IpAddr::V4(_) => v4,
    };
    SocketAddr::new(address, peer.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_peers_are_written_as_such() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:7".parse().unwrap();
        assert_eq!(unmapped(mapped).to_string(), "192.0.2.1:7");
        let v6: SocketAddr = "[2001:db8::1]:7".parse().unwrap();
        assert_eq!(unmapped(v6), v6);
    }
}
