//! Certificates, and which of them a client gets.
use std::collections::HashMap;
use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, OnceLock};

use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, ServerConfig};
use webpki::EndEntityCert;

use crate::health::tls::{HTTP_1, HTTP_2};

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFault {
    /// The PEM text has no certificate, or one that is not whole.
    #[error("cannot read the certificate: {0}; it must be a PEM chain that begins with the host's own")]
    Chain(String),
    /// The PEM text has no private key, or one of an unknown kind.
    #[error("cannot read the private key: {0}; it must be a PEM key of RSA, ECDSA or Ed25519")]
    Key(String),
    /// The key is another certificate's.
    #[error(
        "cannot use the certificate: the private key is not the certificate's own; give the two that belong together"
    )]
    Mismatch,
    /// No DNS name that clients could ask for.
    #[error("cannot use the certificate: it has no DNS name (subjectAltName); clients would not take it")]
    Nameless,
}

/// A certificate chain with its private key.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// The DNS names that it is for, in lower case.
    pub names: Vec<String>,
}

impl Debug for Certificate {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads a chain and its key from PEM text, as a `kubernetes.io/tls` Secret has them. Whether it has expired is
    /// the client's to judge.
    ///
    /// # Errors
    ///
    /// What cannot be served: say so where the Secret is named, and serve the other certificates.
    pub fn parse(pem: &[u8], key: &[u8]) -> Result<Self, CertificateFault> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|fault| CertificateFault::Chain(fault.to_string()))?;
        let own = chain.first().ok_or_else(|| CertificateFault::Chain("no certificate in it".to_owned()))?;
        let names = names(own)?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|fault| CertificateFault::Key(fault.to_string()))?;
        let key = CertifiedKey::from_der(chain, key, &default_provider()).map_err(|fault| match fault {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => CertificateFault::Mismatch,
            fault => CertificateFault::Key(fault.to_string()),
        })?;
        Ok(Self { key: Arc::new(key), names })
    }
}

fn names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, CertificateFault> {
    let parsed =
        EndEntityCert::try_from(certificate).map_err(|fault| CertificateFault::Chain(fault.to_string()))?;
    let names: Vec<String> = parsed.valid_dns_names().map(str::to_ascii_lowercase).collect();
    if names.is_empty() { Err(CertificateFault::Nameless) } else { Ok(names) }
}

/// The certificates of a listener, by the names that they are for.
pub struct Certificates {
    config: Arc<ServerConfig>,
}

impl Debug for Certificates {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Certificates {
    /// The first of `certificates` is for clients that ask for no name, or for one that no certificate has; of two for
    /// one name, the earlier.
    ///
    /// # Errors
    ///
    /// No certificate at all, or no randomness for session tickets: the listener cannot be served.
    pub fn new(certificates: &[Certificate]) -> Result<Self, Error> {
        let default = certificates.first().ok_or(Error::NoCertificatesPresented)?;
        let mut by_name = ByName { default: Arc::clone(&default.key), keys: HashMap::new() };
        for certificate in certificates {
            for name in &certificate.names {
                by_name.keys.entry(name.clone()).or_insert_with(|| Arc::clone(&certificate.key));
            }
        }
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(by_name));
        config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1.to_vec()];
        config.ticketer = ticketer()?;
        // Tickets are the client's to keep: nothing is stored here for those who never come back.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config) })
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

/// One for the whole process, so that a session outlives a snapshot and may go on with another thread.
fn ticketer() -> Result<Arc<dyn ProducesTickets>, Error> {
    static TICKETER: OnceLock<Result<Arc<dyn ProducesTickets>, Error>> = OnceLock::new();
    TICKETER.get_or_init(Ticketer::new).clone()
}

#[derive(Debug)]
struct ByName {
    default: Arc<CertifiedKey>,
    /// Wildcards with their star.
    keys: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    /// RFC 6125 §6.4.3: a star is one whole label, the first.
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let wildcard = || Some(format!("*.{}", name.split_once('.')?.1));
        self.keys.get(&name).or_else(|| self.keys.get(&wildcard()?))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = hello.server_name().and_then(|name| self.find(name));
        Some(Arc::clone(found.unwrap_or(&self.default)))
    }
}
