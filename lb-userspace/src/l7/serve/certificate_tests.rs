//! Which certificate a client gets, and what is refused.
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::fixture::*;
use super::tls_fixture::*;
use super::*;
use crate::health::tls::{self, HTTP_1};

#[tokio::test]
async fn a_client_gets_the_certificate_of_the_name_that_it_asks_for() {
    let certificates =
        [certificate(&["first.example"]), certificate(&["*.shop.example"]), certificate(&["a.shop.example"])];
    let scheme = Scheme::Https(Arc::new(Certificates::new(&certificates).expect("certificates")));
    let stand = Stand::start(one_thread(), snapshot(scheme, site(Vec::new(), Plain::Served)));
    let cases = [
        ("a.shop.example", "a.shop.example"),
        ("A.SHOP.example", "a.shop.example"),
        ("b.shop.example", "*.shop.example"),
        ("c.b.shop.example", "first.example"),
        ("shop.example", "first.example"),
        ("none.example", "first.example"),
    ];
    for (asked, got) in cases {
        let stream = dial(&stand, asked, HTTP_1).await;
        let chain = stream.get_ref().1.peer_certificates().expect("a chain");
        let parsed = webpki::EndEntityCert::try_from(&chain[0]).expect("a certificate");
        assert_eq!(parsed.valid_dns_names().collect::<Vec<_>>(), [got], "{asked}");
    }
    // Without a name (an address is none), the first.
    let stream = TcpStream::connect(stand.address).await.expect("a connection");
    let stream = tls::connect(stream, None, HTTP_1).await.expect("a handshake");
    let chain = stream.get_ref().1.peer_certificates().expect("a chain");
    let parsed = webpki::EndEntityCert::try_from(&chain[0]).expect("a certificate");
    assert_eq!(parsed.valid_dns_names().collect::<Vec<_>>(), ["first.example"]);
}

#[tokio::test]
async fn a_session_is_resumed_whatever_snapshot_is_served() {
    let scheme = https(&["resumed.example"]);
    let sites = || snapshot(scheme.clone(), site(Vec::new(), Plain::Served));
    let stand = Stand::start(Settings { threads: 2, ..Settings::default() }, sites());
    for round in 0..3 {
        let mut stream = dial(&stand, "resumed.example", HTTP_1).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("sent");
        // TLS 1.3 tickets come with the first bytes of an answer.
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.expect("an answer");
        let kind = stream.get_ref().1.handshake_kind();
        let expected = if round == 0 { rustls::HandshakeKind::Full } else { rustls::HandshakeKind::Resumed };
        assert_eq!(kind, Some(expected), "round {round}");
        assert!(stand.front_end.swap(sites()).is_empty());
    }
}

#[test]
fn a_certificate_that_cannot_be_served_says_why() {
    let ((good, key), (_, other_key)) = (pem(&["a.example"]), pem(&["b.example"]));
    let fault = |pem: &str, key: &str| {
        Certificate::parse(pem.as_bytes(), key.as_bytes()).expect_err("a fault").to_string()
    };
    assert_eq!(
        fault("", &key),
        "cannot read the certificate: no certificate in it; it must be a PEM chain that begins with the host's own"
    );
    assert!(
        fault("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key)
            .starts_with("cannot read the certificate: ")
    );
    assert!(fault(&good, "").starts_with("cannot read the private key: "));
    assert_eq!(
        fault(&good, &other_key),
        "cannot use the certificate: the private key is not the certificate's own; give the two that belong together"
    );
    let (nameless, own_key) = pem(&[]);
    assert!(matches!(
        Certificate::parse(nameless.as_bytes(), own_key.as_bytes()),
        Err(CertificateFault::Nameless)
    ));
    assert_eq!(certificate(&["A.example", "*.b.example"]).names, ["a.example", "*.b.example"]);
    assert!(Certificates::new(&[]).is_err());
}

#[test]
fn a_chain_that_does_not_begin_with_the_hosts_own_is_told_by_its_key() {
    let (own, key) = pem(&["a.example"]);
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "another");
    let issuer =
        params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate").pem();
    let chain = |first: &str, second: &str| format!("{first}{second}");
    let fault = Certificate::parse(chain(&issuer, &own).as_bytes(), key.as_bytes()).expect_err("a fault");
    assert_eq!(
        fault.to_string(),
        "cannot use the certificate: the private key is that of certificate 2 of the chain; put that one first"
    );
    let served = Certificate::parse(chain(&own, &issuer).as_bytes(), key.as_bytes()).expect("a certificate");
    assert_eq!(served.remarks(1_800_000_000), [CertificateRemark::Order(1)]);
}

#[test]
fn a_certificate_is_served_whatever_the_time_and_that_is_told() {
    let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
    params.not_before = rcgen::date_time_ymd(2030, 1, 1);
    params.not_after = rcgen::date_time_ymd(2031, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    let certificate =
        Certificate::parse(pem.as_bytes(), key.serialize_pem().as_bytes()).expect("a certificate");
    let remarks = |now_s| certificate.remarks(now_s).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(remarks(1_893_456_000), [""; 0]);
    assert_eq!(
        remarks(1_893_455_999),
        [
            "its certificate is not valid before Jan  1 00:00:00 2030 +00:00; it is served all the same; look at this \
             node's clock too"
        ]
    );
    assert_eq!(
        remarks(1_924_992_001),
        [
            "its certificate has expired (Jan  1 00:00:00 2031 +00:00); it is served all the same; give another"
        ]
    );
}

#[test]
fn plain_http_is_sent_to_https_where_the_rule_says_so() {
    let web = RawEndpoint::named("web");
    let service = Route::to(BackendService::new("shop/web:80", vec![web.endpoint()]));
    let plain = Plain::Redirected(StatusCode::PERMANENT_REDIRECT);
    let rules = vec![rule("*", "/", service)];
    let stand = Stand::start(one_thread(), snapshot(Scheme::Http, site(rules, plain)));
    let mut client = stand.client();
    let cases = [
        ("shop.example", "/a/../b?c=d", "https://shop.example/b?c=d"),
        ("shop.example:80", "/", "https://shop.example/"),
        ("[2001:db8::1]:80", "/x", "https://[2001:db8::1]/x"),
    ];
    for (host, path, location) in cases {
        let answer = client.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!((answer.code(), answer.field("location")), (308, Some(location)));
    }
    assert_eq!(web.accepted.load(Ordering::SeqCst), 0);
}
