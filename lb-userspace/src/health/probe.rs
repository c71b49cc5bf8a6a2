//! One probe: what is asked of an endpoint, and what counts as its answer. Always from this node and to the
//! endpoint itself, never by way of a VIP (the socket hooks translate VIPs alone).
//!
//! An endpoint may be anything, and lie. A probe takes no longer than its timeout, reads no body but that of
//! a gRPC answer, and follows no redirect.
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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::schedule::Seen;
use super::{Outcome, grpc, tls};
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
const USER_AGENT: &str = concat!("podway-health-check/", env!("CARGO_PKG_VERSION"));

/// Errors of `connect` that say something about this node and nothing about the endpoint.
const OWN_FAULTS: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];

/// Why a probe did not pass.
enum Failure {
    /// This node could not ask; says nothing about the endpoint.
    Own(String),
    /// The endpoint's fault, with the word for its kind.
    Endpoint(&'static str, String),
}

fn failed(kind: &'static str, error: impl Display) -> Failure {
    Failure::Endpoint(kind, error.to_string())
}

/// Asks `address`; a pass or failure comes with a reason, whose first word is its kind.
pub(super) async fn ask(kind: &CheckKind, address: SocketAddr, within: Duration) -> Seen {
    let answer = timeout(within, async {
        match kind {
            CheckKind::Tcp => connect(address).await.map(|_| "connected".to_owned()),
            CheckKind::Http { transport, path, host, expected_codes } => {
                let code = get(*transport, path, host.as_deref(), address).await?;
                expect(code, expected_codes)
            }
            CheckKind::Grpc { is_tls, service } => ask_grpc(*is_tls, service, address).await,
        }
    });
    match answer.await {
        Ok(Ok(reason)) => Ok((Outcome::Passed, reason)),
        Ok(Err(Failure::Endpoint(kind, detail))) => Ok((Outcome::Failed, format!("{kind}: {detail}"))),
        Ok(Err(Failure::Own(fault))) => Err(fault),
        Err(_) => Ok((Outcome::Failed, format!("timeout: no answer within {} ms", within.as_millis()))),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    TcpStream::connect(address).await.map_err(|error| match error.kind() {
        _ if is_own_fault(&error) => Failure::Own(error.to_string()),
        io::ErrorKind::ConnectionRefused => failed("refused", error),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => failed("unreachable", error),
        _ => failed("connect", error),
    })
}

fn is_own_fault(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| OWN_FAULTS.iter().any(|fault| fault.raw_os_error() == code))
}

fn expect(code: StatusCode, expected: &[(u16, u16)]) -> Result<String, Failure> {
    let code = code.as_u16();
    match expected.iter().any(|(first, last)| (*first..=*last).contains(&code)) {
        true => Ok(format!("code {code}")),
        false => Err(failed("code", code)),
    }
}

/// The code that a GET is answered with.
async fn get(
    transport: HttpTransport,
    path: &str,
    host: Option<&str>,
    address: SocketAddr,
) -> Result<StatusCode, Failure> {
    let authority = host.map_or_else(|| address.to_string(), str::to_owned);
    let name = host.and_then(|host| host.parse::<Authority>().ok());
    let name = name.as_ref().map(Authority::host);
    let stream = connect(address).await?;
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
    tls::connect(stream, name, protocol).await.map_err(|error| failed("tls", error))
}

async fn get_1(stream: impl Stream, authority: &str, path: &str) -> Result<StatusCode, Failure> {
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed("protocol", error))?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEADERS_BYTES_MAX).max_headers(HEADERS_MAX);
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed("protocol", error))?;
    drive(connection, async {
        let response = sender.send_request(request).await.map_err(|error| failed("protocol", error))?;
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
        .map_err(|error| failed("protocol", error))?;
    let handshake = builder_2().handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed("protocol", error))?;
    drive(connection, async {
        let response = sender.send_request(request).await.map_err(|error| failed("protocol", error))?;
        Ok(response.status())
    })
    .await
}

/// Whether the endpoint says that the service is serving.
async fn ask_grpc(is_tls: bool, service: &str, address: SocketAddr) -> Result<String, Failure> {
    let stream = connect(address).await?;
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
        .map_err(|error| failed("protocol", error))?;
    let handshake = builder_2().handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed("protocol", error))?;
    drive(connection, async {
        let response = sender.send_request(request).await.map_err(|error| failed("protocol", error))?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(failed("code", head.status.as_u16()));
        }
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| failed("protocol", error))?;
        // An answer without a message has its status in front, among the headers.
        let status = body.trailers().and_then(grpc::status).or_else(|| grpc::status(&head.headers));
        grpc::serving(status, &body.to_bytes()).map_err(|problem| failed("grpc", problem))
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
