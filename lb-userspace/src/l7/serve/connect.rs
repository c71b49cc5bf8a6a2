//! New connections to endpoints.
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::body::RequestBody;
use super::endpoint_connection::EndpointConnection;
use super::local::LocalExecutor;
use super::proxied::Announced;
use super::settings::HEAD_BUFFER_BYTES;
use super::snapshot::Protocol;
use crate::health::tls::{self, HTTP_1, HTTP_2};

pub(super) type Http2 = http2::SendRequest<RequestBody>;

/// Window of a stream from an endpoint, bytes: what may be under way before a slow client holds its endpoint back.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Window of a connection from an endpoint, bytes.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes of a request that wait in a stream for its endpoint.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Time between pings on a shared connection that has requests, and time for their answers: an endpoint that is gone
/// without a word is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How many requests an endpoint allows at a time on one connection (RFC 9113 §6.5.2,
/// SETTINGS_MAX_CONCURRENT_STREAMS).
pub(super) type StreamsMax = Rc<dyn Fn() -> usize>;

/// A connection that was just opened.
pub(super) enum Fresh {
    /// For one request at a time.
    One(EndpointConnection),
    /// For many.
    Shared(Http2, StreamsMax),
}

/// An open stream, on which nothing was said.
pub(super) async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(super) async fn connect(
    address: SocketAddr,
    protocol: Protocol,
    announced: Option<Announced>,
) -> io::Result<Fresh> {
    let mut stream = open(address).await?;
    if let Some(announced) = announced {
        announced.write(&mut stream).await?;
    }
    match protocol {
        Protocol::Http => EndpointConnection::begin(stream).await.map(Fresh::One),
        Protocol::H2c => shared(stream).await,
        Protocol::Https => {
            let stream = tls::connect(stream, None, HTTP_1).await?;
            EndpointConnection::begin(stream).await.map(Fresh::One)
        }
        Protocol::Http2 => {
            let stream = tls::connect(stream, None, HTTP_2).await?;
            if stream.get_ref().1.alpn_protocol() != Some(HTTP_2) {
                return Err(io::Error::other("the endpoint does not offer HTTP/2 (ALPN h2)"));
            }
            shared(stream).await
        }
    }
}

async fn shared<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> io::Result<Fresh> {
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(HEAD_BUFFER_BYTES as u32)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // The connection knows the limit, and belongs to the task that runs it until it ends.
    let connection = Rc::new(RefCell::new(Some(Box::pin(connection))));
    let running = Rc::clone(&connection);
    spawn_local(async move {
        poll_fn(|cx| {
            let mut running = running.borrow_mut();
            running.as_mut().map_or(Poll::Ready(()), |connection| connection.as_mut().poll(cx).map(drop))
        })
        .await;
        running.take();
    });
    let streams_max: StreamsMax = Rc::new(move || {
        let running = connection.borrow();
        running.as_ref().map_or(0, |connection| connection.current_max_send_streams())
    });
    Ok(Fresh::Shared(sender, streams_max))
}
