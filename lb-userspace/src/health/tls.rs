//! TLS to an endpoint whose certificate is not verified: see [`HttpTransport`](crate::model::HttpTransport).
use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The protocol's name (RFC 7301 §6).
pub(crate) const HTTP_1: &[u8] = b"http/1.1";
/// As [`HTTP_1`].
pub(crate) const HTTP_2: &[u8] = b"h2";

/// A handshake for one protocol; without a name none is sent.
pub(crate) async fn connect(
    stream: TcpStream,
    name: Option<&str>,
    protocol: &[u8],
) -> io::Result<TlsStream<TcpStream>> {
    let address = stream.peer_addr()?.ip();
    let name = name.and_then(|name| ServerName::try_from(name.to_owned()).ok());
    let name = name.unwrap_or_else(|| ServerName::from(address));
    TlsConnector::from(config(protocol)?).connect(name, stream).await
}

/// The settings for a protocol, made once for all probes.
fn config(protocol: &[u8]) -> io::Result<Arc<ClientConfig>> {
    static CONFIGS: OnceLock<Result<[Arc<ClientConfig>; 2], Error>> = OnceLock::new();
    let configs = CONFIGS.get_or_init(|| {
        let provider = Arc::new(default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let verifier = Arc::new(Unverified(provider));
        let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Ok([HTTP_1, HTTP_2].map(|protocol| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        }))
    });
    let [http_1, http_2] = configs.as_ref().map_err(io::Error::other)?;
    Ok(Arc::clone(if protocol == HTTP_2 { http_2 } else { http_1 }))
}

/// Takes every certificate.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
