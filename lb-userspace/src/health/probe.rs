//! One probe: what is asked of an endpoint, and what counts as its answer. Always from this node and to the
//! endpoint itself, never by way of a VIP (the socket hooks translate VIPs alone).
//!
//! An endpoint may be anything, and lie. A probe takes no longer than its timeout, reads no body but that of
//! a gRPC answer, and follows no redirect.
use std::error::Error;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::uri::Authority;
use http::{Request, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::reason::Seen;
use super::{ReasonCode, grpc, tls};
use crate::model::{CheckKind, HttpTransport};

/// A connection to an endpoint, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Most bytes of a response's headers.
const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// Most headers of a response.
const HEADERS_MAX: usize = 100;
/// Most bytes of a gRPC answer.
const ANSWER_BYTES_MAX: usize = 1_024;
/// Most characters of an error that are kept: an endpoint may have chosen them.
const DETAIL_CHARS_MAX: usize = 200;
const USER_AGENT: &str = concat!("podway-health-check/", env!("CARGO_PKG_VERSION"));

/// Errors of `connect` that say something about this node and nothing about the endpoint.
const OWN_FAULTS: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];

/// A probe that did not pass.
type Failure = Seen;

fn failed(code: ReasonCode, error: impl Display) -> Failure {
    Seen { code, detail: error.to_string().chars().take(DETAIL_CHARS_MAX).collect() }
}

/// How rustls begins when the other end ended TLS. Of the errors inside, h2 keeps the words alone.
const ALERT: &str = "received fatal alert: ";

/// What went wrong after the connection, with its causes: the outermost one tells little. A server that wants a
/// certificate says so only when the client's part of the handshake is done (RFC 8446 §4.4.3).
fn broken(error: &hyper::Error) -> Failure {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
    let code = if text.contains(ALERT) { ReasonCode::Tls } else { ReasonCode::Protocol };
    failed(code, text)
}

/// Asks `address`. No probe takes longer than `within`.
pub(super) async fn ask(kind: &CheckKind, address: SocketAddr, within: Duration) -> Seen {
    let deadline = Instant::now() + within;
    let late = |code, what| Seen { code, detail: format!("{what} within {} ms", within.as_millis()) };
    let stream = match timeout_at(deadline, connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(failure)) => return failure,
        Err(_) => return late(ReasonCode::ConnectTimeout, "no connection"),
    };
    let answer = timeout_at(deadline, async {
        match kind {
            CheckKind::Tcp => Ok("connected".to_owned()),
            CheckKind::Http { transport, path, host, expected_codes } => {
                let code = get(stream, *transport, path, host.as_deref(), address).await?;
                expect(code, expected_codes)
            }
            CheckKind::Grpc { is_tls, service } => ask_grpc(stream, *is_tls, service, address).await,
        }
    });
    match answer.await {
        Ok(Ok(detail)) => Seen { code: ReasonCode::Passed, detail },
        Ok(Err(failure)) => failure,
        Err(_) => late(ReasonCode::Timeout, "no answer"),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(address).await.map_err(|error| match error.kind() {
        _ if is_own_fault(&error) => failed(ReasonCode::NodeFault, error),
        io::ErrorKind::ConnectionRefused => failed(ReasonCode::ConnectRefused, error),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            failed(ReasonCode::Unreachable, error)
        }
        _ => failed(ReasonCode::ConnectFailed, error),
    })?;
    // A probe ends by a reset, as HAProxy's do: else each would leave its port and an entry of the node's
    // conntrack behind for a minute or two (RFC 9293 TIME-WAIT), some hundred thousands with many endpoints.
    set_socket_linger(&stream, Some(Duration::ZERO)).map_err(|error| failed(ReasonCode::NodeFault, error))?;
    Ok(stream)
}

fn is_own_fault(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| OWN_FAULTS.iter().any(|fault| fault.raw_os_error() == code))
}

fn expect(code: StatusCode, expected: &[(u16, u16)]) -> Result<String, Failure> {
    let code = code.as_u16();
    match expected.iter().any(|(first, last)| (*first..=*last).contains(&code)) {
        true => Ok(format!("code {code}")),
        false => Err(failed(ReasonCode::WrongCode, format!("code {code}"))),
    }
}

/// The code that a GET is answered with.
async fn get(
    stream: TcpStream,
    transport: HttpTransport,
    path: &str,
    host: Option<&str>,
    address: SocketAddr,
) -> Result<StatusCode, Failure> {
    let authority = host.map_or_else(|| address.to_string(), str::to_owned);
    let name = host.and_then(|host| host.parse::<Authority>().ok());
    let name = name.as_ref().map(Authority::host);
    match transport {
        HttpTransport::Http1 => get_1(stream, &authority, path).await,
        HttpTransport::Https => get_1(secure(stream, name, tls::HTTP_1).await?, &authority, path).await,
        HttpTransport::H2c => get_2(stream, "http", &authority, path).await,
        HttpTransport::Http2 => {
            get_2(secure(stream, name, tls::HTTP_2).await?, "https", &authority, path).await
        }
    }
}

async fn secure(stream: TcpStream, name: Option<&str>, protocol: &[u8]) -> Result<impl Stream, Failure> {
    tls::connect(stream, name, protocol).await.map_err(|error| failed(ReasonCode::Tls, error))
}

async fn get_1(stream: impl Stream, authority: &str, path: &str) -> Result<StatusCode, Failure> {
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(ReasonCode::Protocol, error))?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEADERS_BYTES_MAX).max_headers(HEADERS_MAX);
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| broken(&error))?;
    drive(connection, async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        Ok(response.status())
    })
    .await
}

async fn get_2(
    stream: impl Stream,
    scheme: &str,
    authority: &str,
    path: &str,
) -> Result<StatusCode, Failure> {
    let request = Request::get(format!("{scheme}://{authority}{path}"))
        .version(Version::HTTP_2)
        .header(header::USER_AGENT, USER_AGENT)
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(ReasonCode::Protocol, error))?;
    let handshake = builder_2().handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| broken(&error))?;
    drive(connection, async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        Ok(response.status())
    })
    .await
}

/// Whether the endpoint says that the service is serving.
async fn ask_grpc(
    stream: TcpStream,
    is_tls: bool,
    service: &str,
    address: SocketAddr,
) -> Result<String, Failure> {
    match is_tls {
        true => ask_grpc_by(secure(stream, None, tls::HTTP_2).await?, "https", service, address).await,
        false => ask_grpc_by(stream, "http", service, address).await,
    }
}

async fn ask_grpc_by(
    stream: impl Stream,
    scheme: &str,
    service: &str,
    address: SocketAddr,
) -> Result<String, Failure> {
    let request = Request::post(format!("{scheme}://{address}{}", grpc::CHECK_PATH))
        .version(Version::HTTP_2)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::<Bytes>::from(grpc::request(service)))
        .map_err(|error| failed(ReasonCode::Protocol, error))?;
    let handshake = builder_2().handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| broken(&error))?;
    drive(connection, async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(failed(ReasonCode::WrongCode, format!("code {}", head.status.as_u16())));
        }
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| failed(ReasonCode::Protocol, error))?;
        // An answer without a message has its status in front, among the headers.
        let status = body.trailers().and_then(grpc::status).or_else(|| grpc::status(&head.headers));
        grpc::serving(status, &body.to_bytes()).map_err(|(code, detail)| Seen { code, detail })
    })
    .await
}

fn builder_2() -> http2::Builder<Tasks> {
    let mut builder = http2::Builder::new(Tasks::default());
    builder.max_header_list_size(HEADERS_BYTES_MAX as u32);
    builder
}

/// What an HTTP/2 connection does beside its requests; it ends with the probe, whatever the endpoint does.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }
}

/// Waits for the answer while the connection works for it.
async fn drive<T>(
    connection: impl Future,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // What came before its end is there to be read.
        _ = connection => answer.await,
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
