//! The certificates and authorities that Secrets hold, and what each URL map shows to clients and asks of them.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::info;

use crate::l7::HostPattern;
use crate::l7::serve::{Certificate, Certificates, ClientAuthority, ClientPolicy, TlsPolicy};
use crate::model::{ObjectName, Problem, TlsSecret};
use crate::plan::{TlsDemand, UrlMapPlan, UrlMaps};

use super::known_secrets::KnownSecrets;

/// All of them.
pub(super) struct KnownCertificates {
    certificates: KnownSecrets<Certificate>,
    authorities: KnownSecrets<Arc<ClientAuthority>>,
    /// What was last told of certificates that are served all the same.
    remarks: BTreeSet<Problem>,
}

impl Default for KnownCertificates {
    fn default() -> Self {
        Self {
            certificates: KnownSecrets::new(certificate, "tls.crt or tls.key"),
            authorities: KnownSecrets::new(authority, "ca.crt"),
            remarks: BTreeSet::new(),
        }
    }
}

impl KnownCertificates {
    /// Takes the Secrets that URL maps name as they are now; whether something came, changed or went, time with which a
    /// certificate expires among it.
    pub(super) fn follow(
        &mut self,
        url_maps: &UrlMaps,
        secrets: &BTreeMap<ObjectName, Arc<TlsSecret>>,
    ) -> bool {
        let is_new = self.certificates.follow(&url_maps.certificate_secrets(), secrets);
        let are_authorities_new = self.authorities.follow(&url_maps.authority_secrets(), secrets);
        let remarks = self.remarks_at(now_s());
        let are_remarks_new = self.remarks != remarks;
        self.remarks = remarks;
        is_new || are_authorities_new || are_remarks_new
    }

    /// What is wrong with Secrets.
    pub(super) fn problems(&self) -> BTreeSet<Problem> {
        let certificates = self.certificates.faults().map(|(name, fault, has_former)| {
            let served = match has_former {
                true => "the last good certificate is served",
                false => "its hosts have no certificate",
            };
            problem(name, format!("cannot serve TLS from it: {fault}; {served}"))
        });
        let authorities = self.authorities.faults().map(|(name, fault, has_former)| {
            let verified = match has_former {
                true => "the last good authorities are used",
                false => "no client is let in to its hosts",
            };
            problem(name, format!("cannot verify clients by it: {fault}; {verified}"))
        });
        certificates.chain(authorities).chain(self.remarks.iter().cloned()).collect()
    }

    /// Whether time has made a difference since the last look.
    pub(super) fn are_remarks_due(&self) -> bool {
        self.remarks != self.remarks_at(now_s())
    }

    fn remarks_at(&self, now_s: i64) -> BTreeSet<Problem> {
        let told = self.certificates.values().flat_map(|(name, certificate)| {
            certificate.remarks(now_s).into_iter().map(|remark| problem(name, remark.to_string()))
        });
        told.collect()
    }

    /// What a URL map shows; `None`: it has no certificate that can be served, and its port stays closed.
    pub(super) fn of(&self, map: &UrlMapPlan) -> Option<Arc<Certificates>> {
        let certificates: Vec<Certificate> = map
            .certificates
            .iter()
            .filter_map(|wanted| self.certificates.value(&wanted.secret).cloned())
            .collect();
        let policies: Vec<(HostPattern, TlsPolicy)> =
            map.tls.iter().map(|(host, demand)| (host.clone(), self.policy(demand))).collect();
        Certificates::with_policies(&certificates, &policies).ok().map(Arc::new)
    }

    fn policy(&self, demand: &TlsDemand) -> TlsPolicy {
        let clients = demand.clients.as_ref().map(|clients| ClientPolicy {
            name: clients.secret.to_string().into(),
            verify: clients.verify,
            authority: self.authorities.value(&clients.secret).cloned(),
        });
        TlsPolicy { min_version: demand.min_version, clients }
    }

    /// Hosts of a URL map for which it has no certificate with their name.
    pub(super) fn uncovered(&self, map: &UrlMapPlan) -> Vec<String> {
        let hosts = map.certificates.iter().flat_map(|wanted| {
            let certificate = self.certificates.value(&wanted.secret);
            wanted.hosts.iter().filter(move |host| certificate.is_some_and(|known| !covers(known, host)))
        });
        hosts.map(ToString::to_string).collect()
    }
}

fn problem(secret: &ObjectName, message: String) -> Problem {
    Problem { kind: "Secret", object: secret.clone(), message }
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn certificate(name: &ObjectName, secret: &TlsSecret) -> Result<Certificate, String> {
    let certificate = Certificate::parse(&secret.certificate_pem, &secret.key_pem);
    let certificate = certificate.map_err(|fault| fault.to_string())?;
    info!(secret = %name, names = certificate.names.join(","), "certificate read");
    Ok(certificate)
}

fn authority(name: &ObjectName, secret: &TlsSecret) -> Result<Arc<ClientAuthority>, String> {
    let authority = ClientAuthority::parse(&secret.authority_pem).map_err(|fault| fault.to_string())?;
    info!(secret = %name, "authorities of clients read");
    Ok(Arc::new(authority))
}

/// Whether a certificate is for a host (RFC 6125 §6.4.3: a star is one whole label, the first).
fn covers(certificate: &Certificate, host: &HostPattern) -> bool {
    let name = host.to_string();
    let wildcard = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
    certificate.names.iter().any(|known| *known == name || Some(known) == wildcard.as_ref())
}

#[cfg(test)]
#[path = "certificates_tests.rs"]
mod tests;
