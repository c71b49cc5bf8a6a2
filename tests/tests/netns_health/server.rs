//! Where pods say how they are: real servers of every protocol that a check can speak, and what can be wrong
//! with them.
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Bytes;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lb_tests::topology::Host;
use lb_userspace::model::{CheckKind, HttpTransport};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Longer than any check here waits.
const SLOW: Duration = Duration::from_secs(5);

/// What a check speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    Tcp,
    Http,
    Https,
    H2c,
    Http2,
    Grpc,
    Grpcs,
}

impl Speech {
    pub(crate) const ALL: [Self; 7] =
        [Self::Tcp, Self::Http, Self::Https, Self::H2c, Self::Http2, Self::Grpc, Self::Grpcs];

    /// The name of its Service.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "by-tcp",
            Self::Http => "by-http",
            Self::Https => "by-https",
            Self::H2c => "by-h2c",
            Self::Http2 => "by-http2",
            Self::Grpc => "by-grpc",
            Self::Grpcs => "by-grpcs",
        }
    }

    /// Where the pods are asked.
    pub(crate) const fn port(self) -> u16 {
        9_000 + self as u16
    }

    pub(crate) const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Http2 | Self::Grpcs)
    }

    pub(crate) const fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::Grpcs)
    }

    pub(crate) fn kind(self) -> CheckKind {
        let transport = match self {
            Self::Tcp => return CheckKind::Tcp,
            Self::Grpc | Self::Grpcs => {
                return CheckKind::Grpc { is_tls: self.is_tls(), service: "shop.Web".into() };
            }
            Self::Http => HttpTransport::Http1,
            Self::Https => HttpTransport::Https,
            Self::H2c => HttpTransport::H2c,
            Self::Http2 => HttpTransport::Http2,
        };
        let (path, expected_codes) = ("/healthz".into(), [(200, 399)].into());
        CheckKind::Http { transport, path, host: None, expected_codes }
    }
}

/// What is wrong with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Nobody listens.
    Killed,
    /// Packets to it vanish.
    Silent,
    /// Its own packets vanish.
    Mute,
    /// It accepts, and says nothing.
    Hung,
    /// It answers after the check has given up.
    Slow,
    /// Code 503, or not serving.
    Wrong,
    /// It hangs up.
    HangsUp,
    /// It speaks no TLS.
    NoTls,
    /// It wants a certificate of its client.
    WantsCertificate,
    /// The first so many probes of each prober go wrong.
    First(u32),
    /// Every so-many-th probe of each prober goes well, the others wrong.
    AllBut(u32),
}

/// A server; it goes with the process.
pub(crate) struct HealthServer {
    pod: Host,
    handle: Handle,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    speech: Speech,
    fault: Mutex<Fault>,
    /// Probes of each prober since the fault.
    probes: Mutex<BTreeMap<IpAddr, u32>>,
    acceptors: [TlsAcceptor; 2],
}

impl HealthServer {
    pub(crate) fn start(runtime: &Runtime, pod: &Host, speech: Speech) -> Self {
        let acceptors = [false, true].map(|wants_certificate| acceptor(speech, wants_certificate));
        let (fault, probes) = (Mutex::new(Fault::None), Mutex::default());
        let shared = Arc::new(Shared { speech, fault, probes, acceptors });
        let mut server = Self { pod: pod.clone(), handle: runtime.handle().clone(), shared, accepting: None };
        server.listen();
        server
    }

    /// Has this fault from now on.
    pub(crate) fn is(&mut self, fault: Fault) {
        *lock(&self.shared.fault) = fault;
        lock(&self.shared.probes).clear();
        match fault {
            Fault::Killed => {
                if let Some(accepting) = self.accepting.take() {
                    accepting.abort();
                    // Its listener is closed when it has ended.
                    let _ = self.handle.block_on(accepting);
                }
            }
            _ if self.accepting.is_none() => self.listen(),
            _ => {}
        }
        filter(&self.pod, self.shared.speech.port(), fault);
    }

    /// The most probes that one prober has made since the fault.
    pub(crate) fn probes(&self) -> u32 {
        lock(&self.shared.probes).values().copied().max().unwrap_or_default()
    }

    fn listen(&mut self) {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.shared.speech.port()));
        let listener = self.pod.run_in_netns(|| std::net::TcpListener::bind(any)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::clone(&self.shared);
        self.accepting = Some(self.handle.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, peer)) = listener.accept().await {
                tokio::spawn(Arc::clone(&shared).serve(stream, peer.ip()));
            }
        }));
    }
}

/// A table of at most one rule, in the pod alone, for one direction; without it nothing is dropped.
fn filter(pod: &Host, port: u16, fault: Fault) {
    let table = format!("inet silent-{port}");
    let rule = match fault {
        Fault::Silent => format!("add rule {table} input tcp dport {port} drop;"),
        Fault::Mute => format!("add rule {table} output tcp sport {port} drop;"),
        _ => String::new(),
    };
    let script = format!(
        "add table {table}; delete table {table}; add table {table};
         add chain {table} input {{ type filter hook input priority 0; }};
         add chain {table} output {{ type filter hook output priority 0; }}; {rule}"
    );
    let output = pod.command("nft").arg(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// What happens to the next probe of a prober.
    fn next_fault(&self, prober: IpAddr) -> Fault {
        let mut probes = lock(&self.probes);
        let count = probes.entry(prober).or_default();
        *count += 1;
        match *lock(&self.fault) {
            Fault::First(bad) => {
                if *count <= bad {
                    Fault::Wrong
                } else {
                    Fault::None
                }
            }
            Fault::AllBut(period) => {
                if count.is_multiple_of(period) {
                    Fault::None
                } else {
                    Fault::Wrong
                }
            }
            fault => fault,
        }
    }

    /// One connection; whoever asked may have gone.
    async fn serve(self: Arc<Self>, mut stream: TcpStream, prober: IpAddr) {
        let fault = self.next_fault(prober);
        match fault {
            Fault::HangsUp => {}
            Fault::Hung => drop(stream.read_to_end(&mut Vec::new()).await),
            Fault::NoTls => {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
            _ if self.speech.is_tls() => {
                let acceptor = &self.acceptors[usize::from(fault == Fault::WantsCertificate)];
                if let Ok(stream) = acceptor.accept(stream).await {
                    self.speak(stream, fault).await;
                }
            }
            _ => self.speak(stream, fault).await,
        }
    }

    async fn speak(&self, stream: impl AsyncRead + AsyncWrite + Unpin, fault: Fault) {
        let is_grpc = self.speech.is_grpc();
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
            let path = if is_grpc { "/grpc.health.v1.Health/Check" } else { "/healthz" };
            assert_eq!(request.uri().path(), path);
            if fault == Fault::Slow {
                tokio::time::sleep(SLOW).await;
            }
            Ok::<_, Infallible>(if is_grpc { grpc_answer(fault) } else { answer(fault) })
        });
        let stream = TokioIo::new(stream);
        let _ = match self.speech {
            Speech::Tcp => Ok(()),
            Speech::Http | Speech::Https => http1::Builder::new().serve_connection(stream, service).await,
            _ => http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await,
        };
    }
}

fn answer(fault: Fault) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(Empty::new().boxed());
    if fault == Fault::Wrong {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// A `HealthCheckResponse`: SERVING is 1, NOT_SERVING 2.
fn grpc_answer(fault: Fault) -> Response<BoxBody<Bytes, Infallible>> {
    let state = if fault == Fault::Wrong { 2 } else { 1 };
    let message = Full::new(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, state]));
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    Response::new(message.with_trailers(std::future::ready(Some(Ok(trailers)))).boxed())
}

/// A server's TLS with a certificate of its own making, for a name that nobody asks for.
fn acceptor(speech: Speech, wants_certificate: bool) -> TlsAcceptor {
    let own = rcgen::generate_simple_self_signed(["other.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let certificate = own.cert.der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = if wants_certificate {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        builder.with_client_cert_verifier(verifier.unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
    let protocol = if speech == Speech::Https { b"http/1.1".as_slice() } else { b"h2" };
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
