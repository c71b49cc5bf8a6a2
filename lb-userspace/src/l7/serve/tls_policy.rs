//! What hosts ask of TLS, and whether a connection was opened as the host of a request asks.
//!
//! A client names one host when it opens a connection (RFC 6066 §3) and may ask for others on it: HTTP/2 invites it to
//! (RFC 9113 §9.1.1). A request to a host that asks for another verification, or a later version, than the
//! connection's is answered with 421 (RFC 9110 §15.5.20), so that no host is reached by the easier way of another.
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::client::TlsFacts;
use crate::model::{ClientVerify, TlsVersion};

/// Certificates of authorities in one Secret: all their names go to each client that is to show a certificate.
pub const AUTHORITIES_MAX: usize = 32;

/// What a host asks of TLS; by default nothing beyond what all do.
#[derive(Clone, Debug, Default)]
pub struct TlsPolicy {
    /// Earlier versions are refused.
    pub min_version: TlsVersion,
    /// How clients are verified, where they are.
    pub clients: Option<ClientPolicy>,
}

/// How clients are verified.
#[derive(Clone, Debug)]
pub struct ClientPolicy {
    /// Names the authority: what it verified before it changed stays verified while the connection lasts.
    pub name: Arc<str>,
    /// Which clients are let in.
    pub verify: ClientVerify,
    /// Who signs their certificates; while it cannot be had no client is let in.
    pub authority: Option<Arc<ClientAuthority>>,
}

impl TlsPolicy {
    /// Whether a connection was opened as this asks.
    pub(super) fn is_met_by(&self, tls: &TlsFacts) -> bool {
        let wanted = self.clients.as_ref().map(|clients| (&clients.name, clients.verify));
        let had = tls.verified_by.as_ref().map(|(name, verify)| (name, *verify));
        wanted == had && self.min_version <= tls.version_number
    }
}

/// Why authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientAuthorityFault {
    /// The PEM text has no certificate, or one that is not whole or signs nothing.
    #[error("cannot read the authorities in ca.crt: {0}; it must be PEM certificates of authorities")]
    Chain(String),
    /// More than [`AUTHORITIES_MAX`].
    #[error(
        "cannot use the authorities in ca.crt: there are more than {AUTHORITIES_MAX}; spread clients over hosts"
    )]
    TooMany,
}

/// Those who sign clients' certificates.
#[derive(Debug)]
pub struct ClientAuthority {
    require: Arc<dyn ClientCertVerifier>,
    optional: Arc<dyn ClientCertVerifier>,
}

impl ClientAuthority {
    /// Reads authorities from PEM text. Revocation lists are not asked.
    ///
    /// # Errors
    ///
    /// What cannot be used: say so where the Secret is named, and keep to the former one.
    pub fn parse(pem: &[u8]) -> Result<Self, ClientAuthorityFault> {
        let chain = |fault: String| ClientAuthorityFault::Chain(fault);
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            if roots.len() == AUTHORITIES_MAX {
                return Err(ClientAuthorityFault::TooMany);
            }
            let certificate = certificate.map_err(|fault| chain(fault.to_string()))?;
            roots.add(certificate).map_err(|fault| chain(fault.to_string()))?;
        }
        if roots.is_empty() {
            return Err(chain("no certificate in it".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let optional = builder.clone().allow_unauthenticated().build();
        let fault = |fault: rustls::server::VerifierBuilderError| chain(fault.to_string());
        Ok(Self { require: builder.build().map_err(fault)?, optional: optional.map_err(fault)? })
    }

    pub(super) fn verifier(&self, verify: ClientVerify) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(match verify {
            ClientVerify::Require => &self.require,
            ClientVerify::Optional => &self.optional,
        })
    }
}
