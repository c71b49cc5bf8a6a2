//! The certificates that Secrets hold, and what each URL map shows to clients.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracing::info;

use crate::l7::HostPattern;
use crate::l7::serve::{Certificate, Certificates};
use crate::model::{ObjectName, Problem, TlsSecret};
use crate::plan::UrlMapPlan;

/// A Secret that an Ingress names.
#[derive(Default)]
struct Known {
    secret: Option<Arc<TlsSecret>>,
    /// The last that was good.
    certificate: Option<Certificate>,
    /// What is wrong now.
    fault: Option<String>,
}

/// All of them.
#[derive(Default)]
pub(super) struct KnownCertificates(BTreeMap<ObjectName, Known>);

impl KnownCertificates {
    /// Takes the Secrets as they are now; whether a certificate came, changed or went. A Secret that cannot be used, or
    /// that is gone while it is named, leaves the last good certificate.
    pub(super) fn follow(
        &mut self,
        names: &BTreeSet<ObjectName>,
        secrets: &BTreeMap<ObjectName, Arc<TlsSecret>>,
    ) -> bool {
        let before = self.0.len();
        self.0.retain(|name, _| names.contains(name));
        let mut is_change = self.0.len() != before;
        for name in names {
            let secret = secrets.get(name);
            let known = self.0.entry(name.clone()).or_insert_with(|| {
                is_change = true;
                Known { fault: Some("it is not there".to_owned()), ..Known::default() }
            });
            if known.secret.as_ref() != secret {
                known.secret = secret.cloned();
                known.read(name);
                // A fault is one too: it is to be told.
                is_change = true;
            }
        }
        is_change
    }

    /// What is wrong with Secrets.
    pub(super) fn problems(&self) -> BTreeSet<Problem> {
        let faulty = self.0.iter().filter_map(|(name, known)| Some((name, known.fault.as_ref()?, known)));
        let problem = |(name, fault, known): (&ObjectName, &String, &Known)| {
            let served = match known.certificate {
                Some(_) => "the last good certificate is served",
                None => "its hosts have no certificate",
            };
            let message = format!("cannot serve TLS from it: {fault}; {served}");
            Problem { kind: "Secret", object: name.clone(), message }
        };
        faulty.map(problem).collect()
    }

    /// What a URL map shows; `None`: it has no certificate that can be served, and its port stays closed.
    pub(super) fn of(&self, map: &UrlMapPlan) -> Option<Arc<Certificates>> {
        let certificates: Vec<Certificate> = map
            .certificates
            .iter()
            .filter_map(|wanted| self.0.get(&wanted.secret)?.certificate.clone())
            .collect();
        Certificates::new(&certificates).ok().map(Arc::new)
    }

    /// Hosts of a URL map for which it has no certificate with their name.
    pub(super) fn uncovered(&self, map: &UrlMapPlan) -> Vec<String> {
        let hosts = map.certificates.iter().flat_map(|wanted| {
            let certificate = self.0.get(&wanted.secret).and_then(|known| known.certificate.as_ref());
            wanted.hosts.iter().filter(move |host| certificate.is_some_and(|known| !covers(known, host)))
        });
        hosts.map(ToString::to_string).collect()
    }
}

/// Whether a certificate is for a host (RFC 6125 §6.4.3: a star is one whole label, the first).
fn covers(certificate: &Certificate, host: &HostPattern) -> bool {
    let name = host.to_string();
    let wildcard = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
    certificate.names.iter().any(|known| *known == name || Some(known) == wildcard.as_ref())
}

impl Known {
    /// Reads the Secret anew; what cannot be read leaves the certificate as it is.
    fn read(&mut self, name: &ObjectName) {
        let Some(secret) = &self.secret else {
            self.fault = Some("it is gone, or has neither tls.crt nor tls.key".to_owned());
            return;
        };
        match Certificate::parse(&secret.certificate_pem, &secret.key_pem) {
            Ok(certificate) => {
                info!(secret = %name, names = certificate.names.join(","), "certificate read");
                self.certificate = Some(certificate);
                self.fault = None;
            }
            Err(fault) => self.fault = Some(fault.to_string()),
        }
    }
}
