//! One listening socket and the connections that it accepted.
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{Wanted, answer};
use crate::plan::Family;

/// Connections of one listener that are served at once; further ones wait in the kernel's queue, which
/// has as many places.
const CONNECTIONS_MAX: usize = 64;
/// Time in which a client must have asked and read its answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed `accept()`: what it lacks (descriptors, memory) is not there at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until it is dropped; connections that were accepted before are answered to their end.
#[derive(Debug)]
pub(super) struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listener {
    /// Listens on `place`; an unspecified IPv6 address takes both families.
    pub(super) fn open(place: SocketAddr, wanted: watch::Receiver<Wanted>) -> std::io::Result<Self> {
        let listener = bound(place)?;
        Ok(Self(tokio::spawn(accept(listener, place.port(), wanted))))
    }
}

/// `TcpListener::bind` leaves `IPV6_V6ONLY` to a sysctl of the node.
fn bound(place: SocketAddr) -> std::io::Result<TcpListener> {
    let family = if place.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    set_socket_reuseaddr(&socket, true)?;
    if place.is_ipv6() {
        set_ipv6_v6only(&socket, place.ip() != Ipv6Addr::UNSPECIFIED)?;
    }
    bind(&socket, &place)?;
    listen(&socket, CONNECTIONS_MAX as i32)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: TcpListener, port: u16, wanted: watch::Receiver<Wanted>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let wanted = wanted.clone();
        tokio::spawn(async move {
            // A client that is too slow, or goes away, has no answer and needs none.
            let _ = timeout(CONNECTION_TIMEOUT, serve(stream, port, wanted)).await;
            drop(place);
        });
    }
}

/// One request for each connection: a probe comes every few seconds, and a connection that stayed open
/// would outlive the port.
async fn serve(stream: TcpStream, port: u16, wanted: watch::Receiver<Wanted>) -> Result<(), hyper::Error> {
    // A client on IPv4 meets a socket for both families at a mapped address.
    let family = stream.local_addr().map_or(Family::V4, |address| Family::of(address.ip().to_canonical()));
    let respond = service_fn(|_| {
        let wanted = wanted.borrow();
        let response = match wanted.services.get(&port) {
            Some(health) => answer(health, family, wanted.is_proxy_healthy),
            // The port was given up while the client was asking.
            None => not_found(),
        };
        std::future::ready(Ok::<_, Infallible>(response))
    });
    http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), respond).await
}

fn not_found() -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
