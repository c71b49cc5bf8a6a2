//! What hosts ask of TLS: clients that are verified, least versions, and requests that come by the way of another host.
use std::io::{self, BufReader, ErrorKind, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use super::client_certificate::ClientCertificate;
use super::fixture::*;
use super::tls_fixture::pem;
use super::*;
use crate::health::tls::HTTP_2;
use crate::l7::HostPattern;
use crate::model::{ClientVerify, TlsVersion};

/// Hosts of one certificate, which its address is in too: a client may ask for any of them on a connection.
const HOSTS: [&str; 4] = ["open.example", "secure.example", "other.example", "127.0.0.1"];

/// Signs clients' certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn parsed(&self) -> Arc<ClientAuthority> {
        Arc::new(ClientAuthority::parse(self.pem.as_bytes()).expect("an authority"))
    }

    fn identity(&self) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "a client");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").der().clone();
        Identity { certificate, key: PrivateKeyDer::try_from(key.serialize_der()).expect("a key") }
    }

    /// That of a host whose clients it signs for.
    fn policy(&self, name: &str, verify: ClientVerify) -> TlsPolicy {
        let clients = ClientPolicy { name: name.into(), verify, authority: Some(self.parsed()) };
        TlsPolicy { clients: Some(clients), ..TlsPolicy::default() }
    }
}

/// What a client shows.
struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// A front-end that serves [`HOSTS`] with one certificate.
struct World {
    stand: Stand,
    web: RawEndpoint,
    pem: (String, String),
}

impl World {
    fn start(policies: &[(&str, TlsPolicy)]) -> Self {
        let web = RawEndpoint::named("web");
        let pem = pem(&HOSTS);
        let stand = Stand::start(one_thread(), snapshot_of(&web, &pem, policies));
        Self { stand, web, pem }
    }

    /// A client that trusts the front-end's certificate; its sessions may be resumed.
    fn client(
        &self,
        identity: Option<Identity>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pem.0.as_bytes()).expect("a certificate"))
            .expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let builder = builder.expect("versions").with_root_certificates(roots);
        Arc::new(match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                builder.with_client_auth_cert(vec![certificate], key).expect("an identity")
            }
        })
    }

    fn plain_client(&self) -> Arc<ClientConfig> {
        self.client(None, rustls::ALL_VERSIONS)
    }

    /// Opens a connection for `name` and asks for `host` on it.
    fn ask(&self, client: &Arc<ClientConfig>, name: &str, host: &str, fields: &str) -> io::Result<Message> {
        let stream = TcpStream::connect(self.stand.address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(client), name).map_err(io::Error::other)?;
        let mut reader = BufReader::new(StreamOwned::new(session, stream));
        write!(reader.get_mut(), "GET / HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n")?;
        let mut message = read_head(&mut reader)?.ok_or(ErrorKind::UnexpectedEof)?;
        read_body(&mut reader, &mut message)?;
        Ok(message)
    }

    /// The code of an answer and its reason; zero where the connection did not come about.
    fn code(&self, client: &Arc<ClientConfig>, name: &str, host: &str) -> u16 {
        self.ask(client, name, host, "").map_or(0, |answer| answer.code())
    }

    fn requests(&self) -> usize {
        self.web.requests.lock().expect("requests").len()
    }
}

fn snapshot_of(web: &RawEndpoint, pem: &(String, String), policies: &[(&str, TlsPolicy)]) -> Arc<Snapshot> {
    let certificate = Certificate::parse(pem.0.as_bytes(), pem.1.as_bytes()).expect("a certificate");
    let pattern = |host: &str| match host {
        "*" => HostPattern::Any,
        host => HostPattern::Exact(host.into()),
    };
    let policies: Vec<_> = policies.iter().map(|(host, policy)| (pattern(host), policy.clone())).collect();
    let certificates = Certificates::with_policies(&[certificate], &policies).expect("certificates");
    let mut service = BackendService::new("shop/web:80", vec![web.endpoint()]);
    let headers =
        ["x-subject:{client_cert_subject_dn}", "x-has:{client_cert_present} {client_cert_chain_verified}"];
    service.request_headers = headers.map(|text| CustomHeader::parse(text).expect("a header")).into();
    let rules = vec![rule("*", "/", Route::to(service))];
    snapshot(Scheme::Https(Arc::new(certificates)), site(rules, Plain::Served))
}

#[test]
fn a_host_whose_clients_need_a_certificate_lets_in_who_shows_a_good_one() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let world = World::start(&[("secure.example", ours.policy("shop/clients", ClientVerify::Require))]);
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let client = world.client(Some(ours.identity()), versions);
        assert_eq!(world.code(&client, "secure.example", "secure.example"), 200);
        assert_eq!(world.code(&world.client(None, versions), "secure.example", "secure.example"), 0);
        let stranger = world.client(Some(others.identity()), versions);
        assert_eq!(world.code(&stranger, "secure.example", "secure.example"), 0);
        assert_eq!(world.code(&stranger, "open.example", "open.example"), 200, "nobody asks for it there");
    }
    assert_eq!(world.requests(), 4);
}

#[test]
fn the_endpoint_hears_who_the_client_is_from_the_front_end_alone() {
    let authority = Authority::new("ours");
    let world = World::start(&[("secure.example", authority.policy("shop/clients", ClientVerify::Optional))]);
    let lies = "Client-Cert: :AAAA:\r\nClient_Cert: :AAAA:\r\nClient-Cert-Chain: :AAAA:\r\nX-Subject: AAAA\r\n\
                X_Has: true\r\nX-Has: true true\r\n";
    let identity = authority.identity();
    let shown = ClientCertificate::of(&identity.certificate).expect("a certificate");
    let client = world.client(Some(identity), rustls::ALL_VERSIONS);
    assert_eq!(world.ask(&client, "secure.example", "secure.example", lies).expect("an answer").code(), 200);
    let request = world.web.last();
    assert_eq!(request.fields("client-cert"), [shown.field.to_str().expect("text")]);
    assert_eq!(request.fields("x-subject"), [shown.subject.as_str()]);
    assert_eq!(request.fields("x-has"), ["true true"]);

    let nobody = world.plain_client();
    assert_eq!(world.ask(&nobody, "secure.example", "secure.example", lies).expect("an answer").code(), 200);
    let without = world.web.last();
    assert_eq!((without.fields("client-cert"), without.fields("x-subject")), (vec![], vec![""]));
    assert_eq!(without.fields("x-has"), ["false false"]);
    for request in [request, without] {
        for gone in ["client_cert", "client-cert-chain", "x_has"] {
            assert_eq!(request.field(gone), None, "{gone}");
        }
    }
}

#[test]
fn no_host_is_reached_by_the_way_of_another() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let world = World::start(&[
        ("open.example", TlsPolicy::default()),
        ("secure.example", ours.policy("shop/clients", ClientVerify::Require)),
        ("other.example", others.policy("shop/others", ClientVerify::Optional)),
    ]);
    let client = world.client(Some(ours.identity()), rustls::ALL_VERSIONS);
    let nobody = world.plain_client();
    let cases = [
        // Without a certificate, by the hosts that ask for none.
        (&nobody, "open.example", "secure.example"),
        (&nobody, "open.example", "other.example"),
        (&nobody, "other.example", "secure.example"),
        (&nobody, "127.0.0.1", "secure.example"),
        (&nobody, "open.example", "secure.example:443"),
        (&nobody, "open.example", "SECURE.example."),
        // With one, which another authority would not take, or which says something where nobody asked.
        (&client, "secure.example", "other.example"),
        (&client, "secure.example", "open.example"),
    ];
    for (client, name, host) in cases {
        let answer = world.ask(client, name, host, "").expect("an answer");
        assert_eq!(
            (answer.code(), answer.field("x-podway-reason")),
            (421, Some("misdirected")),
            "{host} by {name}"
        );
    }
    assert_eq!(world.requests(), 0, "no endpoint saw any of it");
    assert_eq!(world.code(&nobody, "open.example", "open.example"), 200);
    assert_eq!(world.code(&nobody, "127.0.0.1", "open.example"), 200);
    assert_eq!(world.code(&nobody, "other.example", "other.example"), 200);
}

#[tokio::test]
async fn a_misdirected_request_leaves_an_http_2_connection_as_it_is() {
    let authority = Authority::new("ours");
    let world = World::start(&[("secure.example", authority.policy("shop/clients", ClientVerify::Require))]);
    let mut config = (*world.plain_client()).clone();
    config.alpn_protocols = vec![HTTP_2.to_vec()];
    let stream = tokio::net::TcpStream::connect(world.stand.address).await.expect("a connection");
    let name = ServerName::try_from("open.example").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
    let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = made.expect("a connection");
    tokio::spawn(connection);
    for (host, code) in [("secure", StatusCode::MISDIRECTED_REQUEST), ("open", StatusCode::OK)] {
        let request = Request::builder().uri(format!("https://{host}.example/"));
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        assert_eq!(sender.send_request(request).await.expect("an answer").status(), code, "{host}");
    }
}

#[test]
fn a_host_refuses_versions_that_are_earlier_than_it_allows() {
    let strict = TlsPolicy { min_version: TlsVersion::V1_3, clients: None };
    let world = World::start(&[("secure.example", strict)]);
    let old = world.client(None, &[&rustls::version::TLS12]);
    assert_eq!(world.code(&old, "secure.example", "secure.example"), 0);
    assert_eq!(world.code(&old, "open.example", "open.example"), 200);
    assert_eq!(world.code(&old, "open.example", "secure.example"), 421);
    let new = world.plain_client();
    assert_eq!(world.code(&new, "secure.example", "secure.example"), 200);
    assert_eq!(world.code(&new, "open.example", "secure.example"), 200, "what counts is the version");
}

#[test]
fn a_session_without_a_certificate_is_not_resumed_once_one_is_needed() {
    let world = World::start(&[]);
    let client = world.plain_client();
    assert_eq!(world.code(&client, "secure.example", "secure.example"), 200);
    let authority = Authority::new("ours");
    let required = [("secure.example", authority.policy("shop/clients", ClientVerify::Require))];
    assert!(world.stand.front_end.swap(snapshot_of(&world.web, &world.pem, &required)).is_empty());
    assert_eq!(world.code(&client, "secure.example", "secure.example"), 0);
    assert_eq!(world.code(&client, "open.example", "open.example"), 200);
}

#[test]
fn a_connection_outlives_its_authority_but_not_a_stricter_word() {
    let (former, next) = (Authority::new("former"), Authority::new("next"));
    let optional = |authority: &Authority| {
        [("secure.example", authority.policy("shop/clients", ClientVerify::Optional))]
    };
    let world = World::start(&optional(&former));
    let stream = TcpStream::connect(world.stand.address).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let name = ServerName::try_from("secure.example").expect("a name");
    let session = ClientConnection::new(world.plain_client(), name).expect("a session");
    let mut reader = BufReader::new(StreamOwned::new(session, stream));
    let mut code = || {
        write!(reader.get_mut(), "GET / HTTP/1.1\r\nHost: secure.example\r\n\r\n").expect("sent");
        let mut answer = read_head(&mut reader).expect("a head").expect("an answer");
        read_body(&mut reader, &mut answer).expect("a body");
        answer.code()
    };
    assert_eq!(code(), 200);
    let swap = |policies: &[_]| world.stand.front_end.swap(snapshot_of(&world.web, &world.pem, policies));
    assert!(swap(&optional(&next)).is_empty());
    assert_eq!(code(), 200, "the same name");
    let required = [("secure.example", next.policy("shop/clients", ClientVerify::Require))];
    assert!(swap(&required).is_empty());
    assert_eq!(code(), 421);
}

#[test]
fn without_its_authority_a_host_lets_nobody_in() {
    let clients = ClientPolicy { name: "shop/gone".into(), verify: ClientVerify::Optional, authority: None };
    let world =
        World::start(&[("secure.example", TlsPolicy { clients: Some(clients), ..TlsPolicy::default() })]);
    let client = world.plain_client();
    assert_eq!(world.code(&client, "secure.example", "secure.example"), 0);
    assert_eq!(world.code(&client, "open.example", "secure.example"), 421);
    assert_eq!(world.code(&client, "open.example", "open.example"), 200);
}

#[test]
fn clients_that_name_no_host_are_those_of_the_rules_without_one() {
    let authority = Authority::new("ours");
    let world = World::start(&[
        ("open.example", TlsPolicy::default()),
        ("*", authority.policy("shop/clients", ClientVerify::Require)),
    ]);
    let (nobody, client) =
        (world.plain_client(), world.client(Some(authority.identity()), rustls::ALL_VERSIONS));
    assert_eq!(world.code(&nobody, "127.0.0.1", "other.example"), 0);
    assert_eq!(world.code(&nobody, "other.example", "other.example"), 0);
    assert_eq!(world.code(&nobody, "open.example", "other.example"), 421);
    assert_eq!(world.code(&client, "127.0.0.1", "other.example"), 200);
    assert_eq!(world.code(&nobody, "open.example", "open.example"), 200);
}

#[test]
fn authorities_that_cannot_be_used_say_why() {
    let fault = |pem: &str| ClientAuthority::parse(pem.as_bytes()).expect_err("a fault").to_string();
    assert_eq!(
        fault(""),
        "cannot read the authorities in ca.crt: no certificate in it; it must be PEM certificates of authorities"
    );
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(fault(garbage).starts_with("cannot read the authorities in ca.crt: "));
    let many = Authority::new("one").pem.repeat(AUTHORITIES_MAX + 1);
    assert_eq!(
        fault(&many),
        "cannot use the authorities in ca.crt: there are more than 32; spread clients over hosts"
    );
}
