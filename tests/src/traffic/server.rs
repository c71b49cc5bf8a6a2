//! The server of `lb-traffic`.
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Builder;

use super::RECEIVE_BYTES;

/// The line that says that all ports listen.
pub const READY: &str = "ready";

/// What is echoed at once: more than a packet of any link holds.
const ECHO_BYTES: usize = 4 * 1_024;
/// Longest datagram that is answered.
const DATAGRAM_BYTES_MAX: usize = 16 * 1024;

/// Serves until standard input ends.
///
/// # Errors
/// A port cannot be opened.
pub fn serve(name: &str, tcp: &[u16], udp: &[u16], hello: &[u16]) -> Result<()> {
    let name: Arc<str> = name.into();
    let listen =
        |port: &u16| TcpListener::bind(any(*port)).with_context(|| format!("cannot listen on TCP {port}"));
    for port in hello {
        let (listener, name) = (listen(port)?, Arc::clone(&name));
        std::thread::spawn(move || greet(&listener, &name));
    }
    echo(tcp.iter().map(listen).collect::<Result<_>>()?, &name)?;
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

/// Greets and echoes on one thread, however many connections there are.
fn echo(listeners: Vec<TcpListener>, name: &Arc<str>) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build().context("cannot make a runtime")?;
    let _guard = runtime.enter();
    for listener in listeners {
        listener.set_nonblocking(true).context("cannot make a socket wait for nobody")?;
        let listener = tokio::net::TcpListener::from_std(listener).context("cannot wait for connections")?;
        runtime.spawn(accept(listener, Arc::clone(name)));
    }
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, name: Arc<str>) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let name = Arc::clone(&name);
        tokio::spawn(async move {
            // A client that goes away ends its connection, nothing else.
            let _ = greet_and_echo(stream, peer, &name).await;
        });
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

async fn greet_and_echo(
    mut stream: tokio::net::TcpStream,
    peer: SocketAddr,
    name: &str,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{name} {}\n", unmapped(peer)).as_bytes()).await?;
    let mut buffer = [0; ECHO_BYTES];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
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
