//! Certificates with their keys, and those of who signs clients' ones. Keys are kept in memory alone, and never shown.
use std::sync::Arc;

use super::ObjectName;

/// A Secret that holds a certificate (`type: kubernetes.io/tls`, keys `tls.crt` and `tls.key`), or authorities
/// (`ca.crt`).
#[derive(Clone, PartialEq, Eq)]
pub struct TlsSecret {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.resourceVersion`; empty where it has none.
    pub resource_version: Arc<str>,
    /// `metadata.uid`, by which an Event finds it; empty from a manifest without one.
    pub uid: Arc<str>,
    /// `tls.crt`: PEM, the certificate first and then its issuers. Empty where the Secret has none.
    pub certificate_pem: Arc<[u8]>,
    /// `tls.key`: PEM.
    pub key_pem: Arc<[u8]>,
    /// `ca.crt`: PEM, the certificates of authorities. Empty where the Secret has none.
    pub authority_pem: Arc<[u8]>,
}

/// Says nothing of the key.
impl std::fmt::Debug for TlsSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, resource_version, .. } = self;
        f.debug_struct("TlsSecret").field("name", name).field("resource_version", resource_version).finish()
    }
}
