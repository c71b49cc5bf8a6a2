//! A front-end on loopback, with and without TLS.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lb_userspace::l7::serve::{
    BackendService, Certificate, Certificates, Endpoint, FrontEnd, Listener, Protocol, Route, Scheme,
    Settings, Site, Snapshot,
};
use lb_userspace::l7::{HostPattern, HostRule, UrlMap};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Time in which anything must have happened.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// The host that is served.
pub(crate) const HOST: &str = "shop.example";
/// ALPN names (RFC 7301 §6).
pub(crate) const HTTP_1: &[u8] = b"http/1.1";
pub(crate) const HTTP_2: &[u8] = b"h2";

/// Any port, each on an address of its own, since a snapshot knows listeners by their address.
const PLAIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const SECURE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 0);

/// A front-end, and what its clients need.
pub(crate) struct Stand {
    pub(crate) front_end: FrontEnd,
    /// Where it speaks HTTP in the clear.
    pub(crate) plain: SocketAddr,
    /// Where it speaks TLS.
    pub(crate) secure: SocketAddr,
    certificates: Arc<Certificates>,
    trusted: CertificateDer<'static>,
}

impl Stand {
    /// All requests for [`HOST`] go to a backend service.
    pub(crate) fn of(settings: Settings, service: BackendService) -> Self {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        let key = made.signing_key.serialize_pem();
        let certificate = Certificate::parse(made.cert.pem().as_bytes(), key.as_bytes()).unwrap();
        let mut stand = Self {
            front_end: FrontEnd::start(settings).unwrap(),
            plain: PLAIN,
            secure: SECURE,
            certificates: Arc::new(Certificates::new(&[certificate]).unwrap()),
            trusted: made.cert.der().clone(),
        };
        let host = HostPattern::Exact(HOST.into());
        let rule = HostRule { host, paths: Vec::new(), default: Some(Route::to(service)) };
        stand.serve(UrlMap::new(vec![rule], None));
        let addresses = stand.front_end.addresses();
        (stand.plain, stand.secure) = (addresses[&PLAIN], addresses[&SECURE]);
        stand
    }

    /// With one endpoint, which is spoken to in a protocol.
    pub(crate) fn with(endpoint: SocketAddr, protocol: Protocol) -> Self {
        let settings = Settings { threads: 2, ..Settings::default() };
        Self::of(settings, service(endpoint, protocol))
    }

    /// Serves another URL map from now on.
    pub(crate) fn serve(&self, url_map: UrlMap<Route>) {
        let site = Arc::new(Site { name: "shop/web".into(), url_map, counters: Arc::default() });
        let secure = Scheme::Https(Arc::clone(&self.certificates));
        let listeners = [(PLAIN, Scheme::Http), (SECURE, secure)]
            .map(|(place, scheme)| (place, Listener { scheme, proxied: None, site: Arc::clone(&site) }));
        let faults = self.front_end.swap(Arc::new(Snapshot { listeners: listeners.into() }));
        assert!(faults.is_empty(), "{faults:?}");
    }

    fn client(&self, protocol: &[u8]) -> Arc<ClientConfig> {
        trusting(self.trusted.clone(), protocol)
    }

    /// A connection by TLS.
    pub(crate) async fn dial_tls(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.secure).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from(HOST).unwrap();
        TlsConnector::from(self.client(protocol)).connect(name, stream).await.unwrap()
    }

    /// A connection by TLS that blocks.
    pub(crate) fn dial_tls_blocking(
        &self,
        protocol: &[u8],
    ) -> StreamOwned<ClientConnection, std::net::TcpStream> {
        let stream = dial(self.secure);
        let name = ServerName::try_from(HOST).unwrap();
        StreamOwned::new(ClientConnection::new(self.client(protocol), name).unwrap(), stream)
    }
}

/// TLS for clients that speak a protocol and trust one certificate.
pub(crate) fn trusting(certificate: CertificateDer<'static>, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

/// A connection that blocks, with a deadline.
pub(crate) fn dial(to: SocketAddr) -> std::net::TcpStream {
    let stream = std::net::TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A backend service with one endpoint.
pub(crate) fn service(endpoint: SocketAddr, protocol: Protocol) -> BackendService {
    let mut service = BackendService::new("shop/web:80", vec![Arc::new(Endpoint::new(endpoint, 1))]);
    service.protocol = protocol;
    service
}

/// TLS for an endpoint, with a certificate that nobody knows.
pub(crate) fn endpoint_tls(protocol: &[u8]) -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["pod.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let chain = vec![made.cert.der().clone()];
    let mut config = builder.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
