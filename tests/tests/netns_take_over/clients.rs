//! Clients that are in the middle of something.
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use http::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lb_tests::topology::Host;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{DEADLINE, HOST};

/// Trusts one certificate, and speaks one protocol.
pub(crate) fn config(trusted: &CertificateDer<'static>, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

pub(crate) fn name() -> ServerName<'static> {
    ServerName::try_from(HOST).unwrap()
}

/// Called in the client's namespace.
pub(crate) fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Called in the client's namespace.
pub(crate) async fn dial_http_2(
    to: SocketAddr,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<tokio::net::TcpStream>> {
    let stream = tokio::net::TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(config).connect(name(), stream).await
}

/// A long answer of which the first bytes are read.
pub(crate) struct Download(BufReader<TcpStream>);

impl Download {
    pub(crate) fn begin(client: &Host, to: SocketAddr) -> Self {
        let mut stream = client.run_in_netns(|| dial(to)).unwrap().unwrap();
        write!(stream, "GET /long HTTP/1.1\r\nHost: {HOST}\r\n\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).unwrap();
        }
        reader.read_exact(&mut [0; 1024]).unwrap();
        Self(reader)
    }

    /// How long it was in all.
    pub(crate) fn finish(mut self) -> usize {
        1024 + io::copy(&mut self.0, &mut io::sink()).unwrap() as usize
    }
}

/// A TLS handshake of which half of the first message is sent.
pub(crate) struct HalfHello {
    session: ClientConnection,
    stream: TcpStream,
    rest: Vec<u8>,
}

impl HalfHello {
    pub(crate) fn send(client: &Host, to: SocketAddr, trusted: &CertificateDer<'static>) -> Self {
        let mut session = ClientConnection::new(config(trusted, b"http/1.1"), name()).unwrap();
        let mut stream = client.run_in_netns(|| dial(to)).unwrap().unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        let rest = hello.split_off(hello.len() / 2);
        stream.write_all(&hello).unwrap();
        Self { session, stream, rest }
    }

    /// The code of the answer to a request on the connection.
    pub(crate) fn finish(mut self) -> u16 {
        self.stream.write_all(&self.rest).unwrap();
        let mut stream = StreamOwned::new(self.session, self.stream);
        write!(stream, "GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }
}

/// A request by HTTP/2 that has no answer yet.
pub(crate) struct Waiting {
    told: Receiver<()>,
    code: Receiver<StatusCode>,
}

impl Waiting {
    pub(crate) fn begin(client: &Host, to: SocketAddr, trusted: &CertificateDer<'static>) -> Self {
        let (client, config) = (client.clone(), config(trusted, b"h2"));
        let ((to_told, told), (to_code, code)) = (channel(), channel());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let asked = async {
                let stream = TokioIo::new(dial_http_2(to, config).await.unwrap());
                let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
                let (mut sender, connection) = made.unwrap();
                tokio::spawn(connection);
                let request =
                    |path: &str| Request::get(format!("https://{HOST}{path}")).body(String::new()).unwrap();
                let answer = tokio::spawn(sender.send_request(request("/wait")));
                // Requests go on until the connection is told to end.
                while sender.ready().await.is_ok() && sender.send_request(request("/")).await.is_ok() {}
                let _ = to_told.send(());
                let _ = to_code.send(answer.await.unwrap().unwrap().status());
            };
            client.run_in_netns(|| runtime.block_on(asked)).unwrap();
        });
        Self { told, code }
    }

    /// Waits until no further request can be sent.
    pub(crate) fn wait_for_goaway(&self) {
        self.told.recv_timeout(DEADLINE).unwrap();
    }

    pub(crate) fn code(self) -> StatusCode {
        self.code.recv_timeout(DEADLINE).unwrap()
    }
}
