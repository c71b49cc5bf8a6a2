//! What the hosts of a URL map ask of TLS and of their clients.
//!
//! Where several Ingresses name a host the strictest of them holds, so that none is reached by an easier way than it
//! asks for.
use std::collections::BTreeMap;

use serde::Serialize;

use crate::l7::HostPattern;
use crate::model::{ClientVerification, ClientVerify, ObjectName, Problem, TlsVersion};

use super::draft::Draft;

/// What a host asks of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsDemand {
    /// Earlier versions are refused.
    pub min_version: TlsVersion,
    /// How clients are verified, where they are.
    pub clients: Option<ClientVerification>,
}

impl TlsDemand {
    /// Whether a client without a certificate has no business here, so that none may come without TLS either.
    #[must_use]
    pub fn requires_certificate(&self) -> bool {
        self.clients.as_ref().is_some_and(|clients| clients.verify == ClientVerify::Require)
    }
}

/// A demand as JSON, with its host.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsDemandText {
    /// The name, the wildcard, or `*` for all others.
    pub host: String,
    /// `1.2` or `1.3`.
    pub min_version: &'static str,
    /// The Secret by which clients are verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<String>,
    /// `require` or `optional`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_verify: Option<&'static str>,
}

impl From<&(HostPattern, TlsDemand)> for TlsDemandText {
    fn from((host, demand): &(HostPattern, TlsDemand)) -> Self {
        let clients = demand.clients.as_ref();
        Self {
            host: host.to_string(),
            min_version: demand.min_version.name(),
            client_ca: clients.map(|clients| clients.secret.to_string()),
            client_verify: clients.map(|clients| clients.verify.name()),
        }
    }
}

/// The demand of each host of the drafts, of which the one that goes first is in front; empty where none asks for
/// anything. Hosts that no rule names are [`HostPattern::Any`].
pub(super) fn demands(drafts: &[&Draft]) -> (BTreeMap<HostPattern, TlsDemand>, Vec<Problem>) {
    let mut demands: BTreeMap<HostPattern, TlsDemand> = BTreeMap::new();
    let mut problems = Vec::new();
    if drafts.iter().all(|draft| draft.tls == TlsDemand::default()) {
        return (demands, problems);
    }
    for draft in drafts {
        let named = draft.hosts.iter().map(|(host, _)| host);
        let others = draft.default.is_some().then_some(&HostPattern::Any);
        let mut lost: Option<(&HostPattern, ObjectName)> = None;
        for host in named.chain(others) {
            let demand = demands.entry(host.clone()).or_default();
            demand.min_version = demand.min_version.max(draft.tls.min_version);
            match (&mut demand.clients, &draft.tls.clients) {
                (None, wanted) => demand.clients.clone_from(wanted),
                (Some(held), Some(wanted)) => {
                    held.verify = held.verify.min(wanted.verify);
                    if held.secret != wanted.secret {
                        lost = Some((host, held.secret.clone()));
                    }
                }
                (Some(_), None) => {}
            }
        }
        if let Some((host, held)) = lost {
            problems.push(Problem {
                kind: "Ingress",
                object: draft.name().clone(),
                message: format!(
                    "cannot verify the clients of host {host} by its own podway.io/client-ca: another Ingress has the host \
                     on the same VIPs and verifies them by Secret {held}; give both one Secret"
                ),
            });
        }
    }
    (demands, problems)
}
