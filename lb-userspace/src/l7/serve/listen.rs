//! Sockets on which clients' connections arrive: one for each thread, among which the kernel spreads connections.
use std::io;
use std::net::{SocketAddr, TcpListener};

use rustix::net::sockopt::{
    set_ip_freebind, set_ipv6_freebind, set_ipv6_v6only, set_socket_reuseaddr, set_socket_reuseport,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

/// Connections that wait to be accepted, for each socket; the kernel's own bound is `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;

/// At least one socket for each of `threads` threads on one address, and the address where port 0 asked for any. Those
/// that another process has `given` are among them, all of them: connections wait in each.
///
/// SO_REUSEPORT lets a new process listen beside the one that it replaces; IP_FREEBIND lets an address come later.
pub(super) fn sockets(
    address: SocketAddr,
    threads: usize,
    given: Vec<TcpListener>,
) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let mut sockets = given;
    if sockets.is_empty() {
        sockets.push(socket(address)?);
    }
    let bound = sockets[0].local_addr()?;
    while sockets.len() < threads {
        sockets.push(socket(bound)?);
    }
    Ok((bound, sockets))
}

fn socket(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    set_socket_reuseaddr(&socket, true)?;
    set_socket_reuseport(&socket, true)?;
    if address.is_ipv4() {
        set_ip_freebind(&socket, true)?;
    } else {
        set_ipv6_freebind(&socket, true)?;
        set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
