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
use x509_parser::certificate::{Validity, X509Certificate};
use x509_parser::prelude::FromDer as _;

use super::tls_policy::{ClientPolicy, TlsPolicy};
use crate::health::tls::{HTTP_1, HTTP_2};
use crate::l7::{Host, HostPattern, HostRule, UrlMap};
use crate::model::TlsVersion;

/// A client without a name is one of no host in particular, as an address is (`l7::url_map`).
const NO_NAME: &str = "[::]";

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
    /// The key is of another certificate in the chain.
    #[error(
        "cannot use the certificate: the private key is that of certificate {0} of the chain; put that one first"
    )]
    NotFirst(usize),
    /// No DNS name that clients could ask for.
    #[error("cannot use the certificate: it has no DNS name (subjectAltName); clients would not take it")]
    Nameless,
}

/// Something about a certificate that clients will not take well; it is served all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRemark {
    /// Its time is over.
    #[error("its certificate has expired ({0}); it is served all the same; give another")]
    Expired(String),
    /// Its time has not begun.
    #[error(
        "its certificate is not valid before {0}; it is served all the same; look at this node's clock too"
    )]
    NotYetValid(String),
    /// A certificate is not signed by the next one.
    #[error(
        "certificate {0} of its chain is not issued by the one that follows; clients may not find their way; order tls.crt \
         from the host's own to the root's, and leave others out"
    )]
    Order(usize),
}

/// A certificate chain with its private key.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    validity: Option<Validity>,
    /// The number, from 1, of the first certificate of the chain that the next one did not issue.
    out_of_order: Option<usize>,
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
        let (validity, out_of_order) = (validity(own), out_of_order(&chain));
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|fault| CertificateFault::Key(fault.to_string()))?;
        let of_key = |chain: &[CertificateDer<'static>]| {
            CertifiedKey::from_der(chain.to_vec(), key.clone_key(), &default_provider())
        };
        let key = of_key(&chain).map_err(|fault| match fault {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                match (1..chain.len()).find(|index| of_key(&chain[*index..]).is_ok()) {
                    Some(index) => CertificateFault::NotFirst(index + 1),
                    None => CertificateFault::Mismatch,
                }
            }
            fault => CertificateFault::Key(fault.to_string()),
        })?;
        if names.is_empty() {
            return Err(CertificateFault::Nameless);
        }
        Ok(Self { key: Arc::new(key), validity, out_of_order, names })
    }

    /// What is to be told of it at a time, seconds since 1970.
    #[must_use]
    pub fn remarks(&self, now_s: i64) -> Vec<CertificateRemark> {
        let of_time = self.validity.as_ref().and_then(|validity| {
            if now_s > validity.not_after.timestamp() {
                Some(CertificateRemark::Expired(validity.not_after.to_string()))
            } else if now_s < validity.not_before.timestamp() {
                Some(CertificateRemark::NotYetValid(validity.not_before.to_string()))
            } else {
                None
            }
        });
        of_time.into_iter().chain(self.out_of_order.map(CertificateRemark::Order)).collect()
    }
}

/// What cannot be read for it is no reason not to serve.
fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    Some(X509Certificate::from_der(certificate).ok()?.1.validity().clone())
}

fn out_of_order(chain: &[CertificateDer<'_>]) -> Option<usize> {
    let parsed: Vec<_> =
        chain.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1)).collect();
    let is_signed = |pair: &[X509Certificate<'_>]| pair[0].issuer().as_raw() == pair[1].subject().as_raw();
    parsed.windows(2).position(|pair| !is_signed(pair)).map(|index| index + 1)
}

fn names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, CertificateFault> {
    let parsed =
        EndEntityCert::try_from(certificate).map_err(|fault| CertificateFault::Chain(fault.to_string()))?;
    Ok(parsed.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

/// The certificates of a listener, by the names that they are for, and what its hosts ask of TLS.
pub struct Certificates {
    /// For hosts that ask for nothing.
    default: Served,
    /// By host; none where no host asks for anything.
    hosts: Option<UrlMap<Served>>,
}

/// How a host is served.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) policy: Arc<TlsPolicy>,
    pub(super) config: Arc<ServerConfig>,
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
        Self::with_policies(certificates, &[])
    }

    /// With what hosts ask of TLS: that of the most precise host holds, as for rules. Clients that ask for no name are
    /// those of [`HostPattern::Any`].
    ///
    /// # Errors
    ///
    /// As [`Certificates::new`].
    pub fn with_policies(
        certificates: &[Certificate],
        policies: &[(HostPattern, TlsPolicy)],
    ) -> Result<Self, Error> {
        let default = certificates.first().ok_or(Error::NoCertificatesPresented)?;
        let mut by_name = ByName { default: Arc::clone(&default.key), keys: HashMap::new() };
        for certificate in certificates {
            for name in &certificate.names {
                by_name.keys.entry(name.clone()).or_insert_with(|| Arc::clone(&certificate.key));
            }
        }
        let by_name: Arc<dyn ResolvesServerCert> = Arc::new(by_name);
        let default = Served::new(&by_name, TlsPolicy::default())?;
        if policies.is_empty() {
            return Ok(Self { default, hosts: None });
        }
        let rule = |(host, policy): &(HostPattern, TlsPolicy)| {
            let served = Served::new(&by_name, policy.clone())?;
            Ok(HostRule { host: host.clone(), paths: Vec::new(), default: Some(served) })
        };
        let rules = policies.iter().map(rule).collect::<Result<Vec<_>, Error>>()?;
        Ok(Self { hosts: Some(UrlMap::new(rules, Some(default.clone()))), default })
    }

    /// How the clients are served that ask for a name when they connect.
    pub(super) fn of_name(&self, name: Option<&str>) -> &Served {
        let Some(hosts) = &self.hosts else { return &self.default };
        let host = Host::of(name.unwrap_or(NO_NAME)).ok();
        host.and_then(|host| hosts.default_of(&host)).unwrap_or(&self.default)
    }

    /// Whether a host asks for anything.
    pub(super) const fn has_policies(&self) -> bool {
        self.hosts.is_some()
    }

    /// What the host of a request asks of its connection; `None` is nothing.
    pub(super) fn policy(&self, host: &Host<'_>) -> Option<&TlsPolicy> {
        self.hosts.as_ref()?.default_of(host).map(|served| &*served.policy)
    }
}

impl Served {
    fn new(certificates: &Arc<dyn ResolvesServerCert>, policy: TlsPolicy) -> Result<Self, Error> {
        let versions = match policy.min_version {
            TlsVersion::V1_2 => rustls::ALL_VERSIONS,
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)?;
        let mut config = match &policy.clients {
            None => {
                let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::clone(certificates));
                config.ticketer = ticketer()?;
                config
            }
            // Without tickets: each connection's client is verified, by the authority as it is then.
            Some(ClientPolicy { authority: Some(authority), verify, .. }) => {
                let builder = builder.with_client_cert_verifier(authority.verifier(*verify));
                let mut config = builder.with_cert_resolver(Arc::clone(certificates));
                config.send_tls13_tickets = 0;
                config
            }
            Some(_) => builder.with_no_client_auth().with_cert_resolver(Arc::new(Nobody)),
        };
        config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1.to_vec()];
        // Tickets are the client's to keep: nothing is stored here for those who never come back.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { policy: Arc::new(policy), config: Arc::new(config) })
    }
}

/// Has a certificate for no client, so that its handshake ends with an alert.
#[derive(Debug)]
struct Nobody;

impl ResolvesServerCert for Nobody {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
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
