//! An HTTP server in a pod, and clients of it or of a front-end, with and without TLS.
use std::io::{BufRead as _, BufReader, Error, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::manifests::NAMESPACE;
use crate::topology::Host;

/// The pods' port.
pub const HTTP_PORT: u16 = 8_081;
/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Answers each request with the pod's name and what it was asked. Dropping it ends its connections and closes its
/// port.
#[derive(Debug)]
pub struct Web(JoinHandle<()>);

impl Web {
    /// Starts it on a runtime; it listens when this returns.
    ///
    /// # Errors
    /// The port cannot be opened.
    pub fn start(handle: &Handle, pod: &Host) -> Result<Self> {
        Self::with_code(handle, pod, 200)
    }

    /// One that answers each request with this code.
    ///
    /// # Errors
    /// As [`Web::start`].
    pub fn with_code(handle: &Handle, pod: &Host, code: u16) -> Result<Self> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, HTTP_PORT));
        let listener = pod.run_in_netns(|| std::net::TcpListener::bind(any))?;
        let listener =
            listener.with_context(|| format!("cannot listen on TCP {HTTP_PORT} in {}", pod.name()))?;
        listener.set_nonblocking(true)?;
        let name: Arc<str> = pod.name().into();
        let _guard = handle.enter();
        let listener = TcpListener::from_std(listener)?;
        Ok(Self(handle.spawn(async move {
            // All in one task: what ends it ends them.
            let mut connections = FuturesUnordered::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => connections.push(serve(stream, Arc::clone(&name), code)),
                        Err(_) => return,
                    },
                    Some(_) = connections.next() => {}
                }
            }
        })))
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.0.abort();
        // It ends on a thread of the runtime's: whoever drops it may rely on it that nobody answers any more.
        let until = Instant::now() + TIMEOUT;
        while !self.0.is_finished() && Instant::now() < until {
            std::thread::yield_now();
        }
    }
}

async fn serve(stream: tokio::net::TcpStream, name: Arc<str>, code: u16) -> std::io::Result<()> {
    let mut stream = tokio::io::BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let of = |field: &str| {
            let found = lines.iter().find_map(|line| line.strip_prefix(field));
            found.unwrap_or_default().trim().to_owned()
        };
        let body = format!("{name} {} {} {}", lines[0], of("host:"), of("x-forwarded-for:"));
        let head = format!("HTTP/1.1 {code} Code\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.get_mut().write_all(format!("{head}{body}").as_bytes()).await?;
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// Status line and fields, in lower case.
    pub head: String,
    /// Content.
    pub body: String,
}

impl Answer {
    /// The pod that answered.
    #[must_use]
    pub fn pod(&self) -> &str {
        self.body.split(' ').next().unwrap_or_default()
    }

    /// Whether the connection is there for a further request.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        !self.head.contains("connection: close")
    }
}

/// A certificate of its own for a host, and its Secret.
///
/// # Errors
/// The host is no name of a certificate.
pub fn certificate(secret: &str, host: &str) -> Result<(CertificateDer<'static>, Value)> {
    let made = rcgen::generate_simple_self_signed([host.to_owned()])
        .with_context(|| format!("cannot make a certificate for {host}"))?;
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": secret, "namespace": NAMESPACE},
        "stringData": {"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()},
    });
    Ok((made.cert.der().clone(), object))
}

/// Asks once, on a connection of its own.
///
/// # Errors
/// No whole answer comes in time.
pub fn ask(client: &Host, to: SocketAddr, host: &str, path: &str) -> std::io::Result<Answer> {
    client.run_in_netns(|| request(dial(to)?, host, path)).map_err(Error::other)?
}

/// As [`ask`], of a server that may be gone.
///
/// # Errors
/// No connection, or no answer on it, comes within this time.
pub fn ask_within(
    timeout: Duration,
    client: &Host,
    to: SocketAddr,
    host: &str,
    path: &str,
) -> std::io::Result<Answer> {
    client.run_in_netns(|| request(dial_within(timeout, to)?, host, path)).map_err(Error::other)?
}

/// Asks once by TLS, trusting this certificate alone.
///
/// # Errors
/// No whole answer comes in time, or the server shows another certificate.
pub fn ask_by_tls(
    client: &Host,
    to: SocketAddr,
    host: &str,
    path: &str,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<Answer> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).map_err(Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(Error::other)?.with_root_certificates(roots).with_no_client_auth();
    let config = Arc::new(config);
    let name = ServerName::try_from(host.to_owned()).map_err(Error::other)?;
    let asked = || {
        let session = ClientConnection::new(config, name).map_err(Error::other)?;
        request(StreamOwned::new(session, dial(to)?), host, path)
    };
    client.run_in_netns(asked).map_err(Error::other)?
}

fn dial(to: SocketAddr) -> std::io::Result<TcpStream> {
    dial_within(TIMEOUT, to)
}

fn dial_within(timeout: Duration, to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection over which one request follows another.
#[derive(Debug)]
pub struct Kept(BufReader<TcpStream>);

impl Kept {
    /// Opens it in the namespace of the calling thread ([`Host::run_in_netns`]).
    ///
    /// # Errors
    /// It is not opened in time.
    pub fn dial(to: SocketAddr) -> std::io::Result<Self> {
        dial(to).map(|stream| Self(BufReader::new(stream)))
    }

    /// Asks once.
    ///
    /// # Errors
    /// No whole answer comes in time: the connection is of no further use.
    pub fn ask(&mut self, host: &str, path: &str) -> std::io::Result<Answer> {
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        self.0.get_mut().write_all(head.as_bytes())?;
        answer(&mut self.0)
    }
}

fn request(mut stream: impl Read + Write, host: &str, path: &str) -> std::io::Result<Answer> {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    stream.flush()?;
    answer(&mut BufReader::new(stream))
}

fn answer(reader: &mut BufReader<impl Read>) -> std::io::Result<Answer> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(Error::other(format!("ended after {head:?}")));
        }
    }
    let head = head.to_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length = field("content-length:").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let code = head.split(' ').nth(1).and_then(|text| text.parse().ok());
    let code = code.ok_or_else(|| Error::other(head.clone()))?;
    Ok(Answer { code, body: String::from_utf8(body).map_err(Error::other)?, head })
}
