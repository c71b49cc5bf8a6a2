//! An HTTP server in a pod, and a client outside.
use std::io::{BufRead as _, BufReader, Error, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use lb_tests::topology::Host;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

/// The pods' port.
pub(crate) const HTTP_PORT: u16 = 8_081;
/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Answers each request with the pod's name and what it was asked. Dropping it ends its connections and closes its
/// port.
pub(crate) struct Web(JoinHandle<()>);

impl Web {
    pub(crate) fn start(handle: &Handle, pod: &Host) -> Self {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, HTTP_PORT));
        let listener = pod.run_in_netns(|| std::net::TcpListener::bind(any)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let name: Arc<str> = pod.name().into();
        Self(handle.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&name)));
            }
        }))
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(stream: tokio::net::TcpStream, name: Arc<str>) -> std::io::Result<()> {
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
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.get_mut().write_all(format!("{head}{body}").as_bytes()).await?;
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    /// Fields, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Asks once, on a connection of its own.
pub(crate) fn ask(client: &Host, to: SocketAddr, host: &str, path: &str) -> std::io::Result<Answer> {
    client.run_in_netns(|| request(dial(to)?, host, path)).unwrap()
}

/// Asks once by TLS, trusting this certificate alone.
pub(crate) fn ask_by_tls(
    client: &Host,
    to: SocketAddr,
    host: &str,
    path: &str,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<Answer> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let asked = || {
        let session = ClientConnection::new(config, name).map_err(Error::other)?;
        request(StreamOwned::new(session, dial(to)?), host, path)
    };
    client.run_in_netns(asked).unwrap()
}

fn dial(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn request(mut stream: impl Read + Write, host: &str, path: &str) -> std::io::Result<Answer> {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    stream.flush()?;
    let mut reader = BufReader::new(stream);
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
