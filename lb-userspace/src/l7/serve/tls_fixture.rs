//! Certificates and clients for tests of TLS.
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::fixture::*;
use super::*;
use crate::health::tls;

/// A certificate for these names, made for one test.
pub(super) fn certificate(names: &[&str]) -> Certificate {
    let (pem, key) = pem(names);
    Certificate::parse(pem.as_bytes(), key.as_bytes()).expect("a certificate")
}

pub(super) fn pem(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

pub(super) fn https(names: &[&str]) -> Scheme {
    let certificates = Certificates::new(&[certificate(names)]).expect("certificates");
    Scheme::Https(Arc::new(certificates))
}

pub(super) async fn dial(stand: &Stand, name: &str, protocol: &[u8]) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(stand.address).await.expect("a connection");
    tls::connect(stream, Some(name), protocol).await.expect("a handshake")
}
