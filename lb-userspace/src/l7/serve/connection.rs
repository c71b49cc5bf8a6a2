//! One connection of a client, from its first byte to its last.
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::client::{Client, TlsFacts};
use super::client_stream::{ClientStream, Dialect};
use super::counters::count;
use super::exchange::answer;
use super::link::Link;
use super::local::LocalExecutor;
use super::settings::{HEAD_BUFFER_BYTES, Limits};
use super::snapshot::Scheme;
use super::worker::{Counted, Worker};
use crate::health::tls::HTTP_2;

/// Window of a stream of a client, bytes: what may be under way before a slow endpoint holds its client back.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Window of a client's connection, bytes.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of an answer that wait in a stream for its client.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// Serves a connection that came to the listener `place` until it ends or `closing` is told or dropped.
pub(super) async fn serve(
    worker: Rc<Worker>,
    place: SocketAddr,
    stream: TcpStream,
    peer: SocketAddr,
    counted: Counted,
    closing: watch::Receiver<()>,
) {
    let Ok(local) = stream.local_addr() else { return };
    let _ = stream.set_nodelay(true);
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
            let config = certificates.config();
            drop(snapshot);
            let Some(stream) = handshake(stream, config, limits.handshake_timeout).await else {
                count(&worker.shared.totals.handshakes_failed);
                return;
            };
            let client = Client::new(peer, local, Some(facts(&stream)), is_trusted);
            let is_http_2 = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
            let link = Rc::new(Link::new(Rc::clone(&worker), place, client, counted));
            if is_http_2 {
                http_2_until_idle(stream, link, closing).await;
            } else {
                http_1(stream, link, closing).await;
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    limit: Duration,
) -> Option<TlsStream<TcpStream>> {
    match timeout(limit, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a client's TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

fn facts(stream: &TlsStream<TcpStream>) -> TlsFacts {
    let tls = stream.get_ref().1;
    let version = match tls.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    };
    let cipher = tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("");
    TlsFacts { server_name: tls.server_name().map(str::to_owned), version, cipher }
}

async fn http_1<S>(stream: S, link: Rc<Link>, mut closing: watch::Receiver<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::clone(&link.worker.shared);
    let limits = &shared.settings.limits;
    let state = Arc::clone(&link.wire);
    let stream = ClientStream::new(stream, Dialect::Http1, state, Arc::clone(&shared.totals), limits);
    let requests = Rc::clone(&link);
    let service = service_fn(move |request| answer(Rc::clone(&requests), request));
    let connection = http1::Builder::new()
        .half_close(false)
        .header_read_timeout(None)
        .max_headers(limits.headers_max)
        .max_header_size(limits.head_bytes_max)
        .max_buf_size(HEAD_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        // A connection's fault is its client's: there is nobody left to tell.
        _ = connection.as_mut() => return,
        () = until_unused(&link, limits.last_request_timeout, &mut closing) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn http_2_until_idle(stream: TlsStream<TcpStream>, link: Rc<Link>, mut closing: watch::Receiver<()>) {
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
