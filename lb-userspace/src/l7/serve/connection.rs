//! One connection of a client, from its first byte to its last.
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificate::Certificates;
use super::client::{Client, TlsFacts};
use super::client_certificate::ClientCertificate;
use super::client_stream::{ClientStream, Dialect};
use super::counters::count;
use super::direct::{self, Next};
use super::exchange::answer;
use super::flat::Flat;
use super::link::Link;
use super::local::LocalExecutor;
use super::parked::until_quiet;
use super::proxied;
use super::replayed::Replayed;
use super::settings::{HEAD_BUFFER_BYTES, HEADERS_MAX, Limits};
use super::snapshot::Scheme;
use super::tls_policy::TlsPolicy;
use super::worker::{Counted, Task, Worker};
use crate::health::tls::HTTP_2;
use crate::model::TlsVersion;

/// Window of a stream of a client, bytes: what may be under way before a slow endpoint holds its client back.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Window of a client's connection, bytes.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of an answer that wait in a stream for its client.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// Serves a connection that came to the listener `place` until it ends or `closing` is told or dropped. `_begun` comes
/// first so that it is dropped last.
pub(super) async fn serve(
    _begun: Task,
    worker: Rc<Worker>,
    place: SocketAddr,
    mut stream: TcpStream,
    peer: SocketAddr,
    mut counted: Counted,
    closing: watch::Receiver<()>,
) {
    let _ = stream.set_nodelay(true);
    let Some((peer, local)) = proxied::ends(&worker, place, &mut stream, peer).await else { return };
    if !counted.admit_client(peer.ip()) {
        return;
    }
    let snapshot = worker.snapshot();
    let Some(listener) = snapshot.listeners.get(&place) else { return };
    let is_trusted = worker.shared.is_trusted(peer.ip());
    let limits = &worker.shared.settings.limits;
    match &listener.scheme {
        Scheme::Http => {
            drop(snapshot);
            let client = Client::new(peer, local, None, is_trusted);
            let link = Rc::new(Link::new(Rc::clone(&worker), place, client, counted));
            http_1(stream, link, closing).await;
        }
        Scheme::Https(certificates) => {
            let certificates = Arc::clone(certificates);
            drop(snapshot);
            // What TLS takes is not taken of connections in the clear.
            let opening = Box::pin(timeout(limits.handshake_timeout, handshake(stream, &certificates)));
            let Some((stream, tls)) = opening.await.ok().flatten() else {
                count(&worker.shared.totals.handshakes_failed);
                return;
            };
            drop(certificates);
            let client = Client::new(peer, local, Some(tls), is_trusted);
            let is_http_2 = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
            let link = Rc::new(Link::new(Rc::clone(&worker), place, client, counted));
            if is_http_2 {
                Box::pin(http_2_until_idle(stream, link, closing)).await;
            } else {
                Box::pin(http_1(stream, link, closing)).await;
            }
        }
    }
}

/// Opens TLS as the host asks that the client names first.
async fn handshake(
    stream: TcpStream,
    certificates: &Certificates,
) -> Option<(TlsStream<Flat<TcpStream>>, TlsFacts)> {
    let opened = async {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), Flat(stream)).await?;
        let served = certificates.of_name(begun.client_hello().server_name());
        let (policy, config) = (Arc::clone(&served.policy), Arc::clone(&served.config));
        Ok::<_, std::io::Error>((begun.into_stream(config).await?, policy))
    };
    match opened.await {
        Ok((stream, policy)) => {
            let facts = facts(&stream, &policy)?;
            Some((stream, facts))
        }
        Err(error) => {
            tracing::debug!(%error, "a client's TLS handshake failed");
            None
        }
    }
}

/// `None`: the client's certificate is one that cannot be told.
fn facts(stream: &TlsStream<Flat<TcpStream>>, policy: &TlsPolicy) -> Option<TlsFacts> {
    let tls = stream.get_ref().1;
    let version_number = match tls.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => TlsVersion::V1_3,
        _ => TlsVersion::V1_2,
    };
    let cipher = tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("");
    let verified_by = policy.clients.as_ref().map(|clients| (Arc::clone(&clients.name), clients.verify));
    let certificate = match tls.peer_certificates().and_then(|chain| chain.first()) {
        Some(der) => Some(ClientCertificate::of(der)?),
        None => None,
    };
    let server_name = tls.server_name().map(str::to_owned);
    Some(TlsFacts { server_name, version_number, cipher, verified_by, certificate })
}

async fn http_1<S>(stream: S, link: Rc<Link>, mut closing: watch::Receiver<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::clone(&link.worker.shared);
    let limits = &shared.settings.limits;
    let state = Arc::clone(&link.wire);
    let mut stream = ClientStream::new(stream, Dialect::Http1, state, Arc::clone(&shared.totals), limits);
    loop {
        let bytes = match direct::serve(&mut stream, &link, limits, &mut closing).await {
            Next::Parsed(bytes) => bytes,
            Next::Close => {
                let _ = stream.shutdown().await;
                return;
            }
            Next::Cut => return,
        };
        // The parser has an allocation of its own, which a connection without one does not.
        let replayed = Replayed::new(stream, bytes);
        let parsed = Box::pin(http_1_until_quiet(replayed, &link, limits, &mut closing)).await;
        let Some(quiet) = parsed.and_then(Replayed::into_inner) else { return };
        stream = quiet;
    }
}

/// Serves requests until the connection ends; it is returned once it is quiet.
async fn http_1_until_quiet<S>(
    stream: Replayed<ClientStream<S>>,
    link: &Rc<Link>,
    limits: &Limits,
    closing: &mut watch::Receiver<()>,
) -> Option<Replayed<ClientStream<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let requests = Rc::clone(link);
    let service = service_fn(move |request| answer(Rc::clone(&requests), request));
    let mut parser = http1::Builder::new();
    parser
        .half_close(false)
        .header_read_timeout(None)
        .max_header_size(limits.head_bytes_max)
        .max_buf_size(HEAD_BUFFER_BYTES);
    // hyper's own bound is this one, and costs less than the same bound given to it: its places are not made anew for
    // each request.
    if limits.headers_max != HEADERS_MAX {
        parser.max_headers(limits.headers_max);
    }
    let mut connection = parser.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::select! {
        biased;
        // A connection's fault is its client's: there is nobody left to tell.
        _ = &mut connection => return None,
        () = until_unused(link, limits.last_request_timeout, closing) => {
            Pin::new(&mut connection).graceful_shutdown();
        }
        () = until_quiet(link, limits.parked_after) => {
            // What the parser may have read is an empty line, which asks for nothing (RFC 9112 §2.2).
            return connection.into_parts().map(|parts| parts.io.into_inner());
        }
    }
    let _ = connection.await;
    None
}

async fn http_2_until_idle(
    stream: TlsStream<Flat<TcpStream>>,
    link: Rc<Link>,
    mut closing: watch::Receiver<()>,
) {
    let shared = Arc::clone(&link.worker.shared);
    let limits = &shared.settings.limits;
    let state = Arc::clone(&link.wire);
    let stream = ClientStream::new(stream, Dialect::Http2, state, Arc::clone(&shared.totals), limits);
    let requests = Rc::clone(&link);
    let service = service_fn(move |request| answer(Rc::clone(&requests), request));
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // When the client was told that the connection ends.
    let mut told = None;
    loop {
        tokio::select! {
            biased;
            () = link.cut.notified() => {
                count(&shared.totals.resets_refused);
                return;
            }
            () = until_stalled(&link, limits.write_stall_timeout) => return,
            _ = connection.as_mut() => return,
            () = until_closing(&link, &mut closing), if told.is_none() => {}
            // A client that was told and asks for nothing more has no reason to stay.
            () = until_idle(&link, limits, told) => if told.is_some() { return },
        }
        told = Some(Instant::now());
        Pin::as_mut(&mut connection).graceful_shutdown();
    }
}

/// Ends once the connection should: not before its first request, which may be on its way, and which nobody else would
/// answer.
async fn until_closing(link: &Link, closing: &mut watch::Receiver<()>) {
    let _ = closing.changed().await;
    link.asked().await;
}

/// Ends once a connection of HTTP/1 should: its client cannot be told between two answers, so the next one tells it.
async fn until_unused(link: &Link, patience: Duration, closing: &mut watch::Receiver<()>) {
    let _ = closing.changed().await;
    let told = Instant::now();
    link.close_with_next_answer();
    link.asked().await;
    loop {
        let since = link.idle_since().unwrap_or_else(Instant::now);
        let limit = told.max(since) + patience;
        if Instant::now() >= limit {
            return;
        }
        sleep_until(limit).await;
    }
}

/// Ends once the connection has been without a request for too long, since the client was told or before.
async fn until_idle(link: &Link, limits: &Limits, told: Option<Instant>) {
    loop {
        let is_short = told.is_some() || !link.has_asked();
        let patience = if is_short { limits.header_timeout } else { limits.idle_timeout };
        let since = link.idle_since().unwrap_or_else(Instant::now);
        let limit = told.map_or(since, |told| told.max(since)) + patience;
        if Instant::now() >= limit {
            return;
        }
        sleep_until(limit).await;
    }
}

/// Ends once a client has taken nothing of an answer for that long; looks twice in that time.
async fn until_stalled(link: &Link, stall_timeout: Duration) {
    while !link.is_stalled(stall_timeout) {
        sleep(stall_timeout / 2).await;
    }
}
