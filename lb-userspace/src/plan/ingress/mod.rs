//! The plan of all Ingresses: one URL map for each set of them that answers on the same VIPs.
//!
//! Unlike Services, Ingresses are planned together: on a VIP that several share, each host and path is decided
//! between them.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::l7::{Host, HostPattern, HostRule, UrlMap};
use crate::model::{BackendPort, Ingress, ObjectName, Problem, ProxyVersions, Snapshot};

use super::{BackendServiceName, NodeContext, Origin};

mod class;
mod draft;
mod json;
mod merge;
mod tls;

use draft::Draft;
pub use json::{CertificateText, HostText, PathText, TargetText, UrlMapText, VipText};
pub use tls::{TlsDemand, TlsDemandText};

/// The port of HTTP.
pub const HTTP_PORT: u16 = 80;
/// The port of HTTP by TLS.
pub const HTTPS_PORT: u16 = 443;

/// The field that a VIP comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VipSource {
    /// The annotation `podway.io/vips`.
    Annotation,
    /// `status.loadBalancer.ingress[].ip`.
    Status,
    /// The node's own addresses.
    Node,
}

impl VipSource {
    /// The field as an operator finds it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Annotation => "podway.io/vips",
            Self::Status => "status.loadBalancer.ingress[].ip",
            Self::Node => "node addresses",
        }
    }
}

/// What becomes of a request that comes without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    /// It is served.
    Served,
    /// It is sent to HTTPS with this code.
    Redirected(u16),
    /// It is answered as if there were no rule for it: `kubernetes.io/ingress.allow-http` is `false`, or clients need
    /// a certificate.
    Refused,
}

/// Why a rule has no backend service. Its requests are answered with 404, and reach no other rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoBackend {
    /// There is none of the name, or it is of type ExternalName.
    #[error("Service {0} is missing or of type ExternalName")]
    ServiceMissing(ObjectName),
    /// The Service has no such TCP port.
    #[error("Service {0} has no TCP port {1}")]
    PortMissing(ObjectName, BackendPort),
    /// `--only-service` or `--service-selector` leave it to another proxy.
    #[error("Service {0} is left to another proxy")]
    NotSelected(ObjectName),
    /// Not a Service port; the object's own problem says what it is.
    #[error("the backend is no Service port")]
    Unusable,
    /// No rule has the path, and the default backend of another Ingress is not for this host.
    #[error("no rule has the path, and the Ingress has no default backend")]
    NoDefault,
}

/// Where a rule leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The Ingress that has the rule.
    pub ingress: ObjectName,
    /// The backend service.
    pub backend: Result<Arc<BackendServiceName>, NoBackend>,
    /// What becomes of its requests without TLS.
    pub plain_http: PlainHttp,
}

/// A certificate that clients may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateUse {
    /// The Secret of type `kubernetes.io/tls`.
    pub secret: ObjectName,
    /// The hosts that it is for; none stands for those that the certificate names.
    pub hosts: Vec<HostPattern>,
}

/// A URL map with the VIPs that it answers on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlMapPlan {
    /// Its Ingresses' names, `shop/web`, joined by `+` where they share VIPs.
    pub name: Arc<str>,
    /// Its Ingresses, the oldest first.
    pub ingresses: Vec<Origin>,
    /// Its VIPs, sorted, and where each comes from; none while the node's addresses are unknown.
    pub vips: Vec<(IpAddr, VipSource)>,
    /// Whether [`HTTP_PORT`] is open.
    pub has_http: bool,
    /// Whether [`HTTPS_PORT`] is open.
    pub has_https: bool,
    /// Certificates, in the order of their Ingresses; the first is for clients that ask for none of the hosts.
    pub certificates: Vec<CertificateUse>,
    /// What each host asks of TLS, those that ask for nothing among them; empty where none asks for anything.
    pub tls: Vec<(HostPattern, TlsDemand)>,
    /// The PROXY protocol with which its connections begin.
    pub proxy_protocol: Option<ProxyVersions>,
    /// The rules.
    pub map: UrlMap<Target>,
}

impl UrlMapPlan {
    /// What a host asks of TLS.
    #[must_use]
    pub fn tls_demand(&self, host: &Host<'_>) -> TlsDemand {
        let rule = |(host, demand): &(HostPattern, TlsDemand)| HostRule {
            host: host.clone(),
            paths: Vec::new(),
            default: Some(demand.clone()),
        };
        UrlMap::new(self.tls.iter().map(rule).collect(), None).default_of(host).cloned().unwrap_or_default()
    }

    /// Where its rules lead, defaults among them.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let of_hosts =
            self.map.hosts().flat_map(|rule| rule.paths.iter().map(|path| &path.target).chain(&rule.default));
        of_hosts.chain(self.map.default_target())
    }
}

/// The URL maps of all Ingresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UrlMaps {
    maps: Vec<Arc<UrlMapPlan>>,
    /// Why an Ingress is in no URL map.
    left_out: BTreeMap<ObjectName, String>,
    /// Services that a rule names, there or not.
    services: BTreeSet<ObjectName>,
    problems: BTreeSet<Problem>,
}

impl UrlMaps {
    /// All of them, in the order of their names.
    #[must_use]
    pub fn maps(&self) -> &[Arc<UrlMapPlan>] {
        &self.maps
    }

    /// The Ingresses that are in none of them, and why.
    #[must_use]
    pub const fn left_out(&self) -> &BTreeMap<ObjectName, String> {
        &self.left_out
    }

    /// Whether a rule names the Service, so that a change of it may change a URL map.
    #[must_use]
    pub fn names_service(&self, service: &ObjectName) -> bool {
        self.services.contains(service)
    }

    /// The Secrets whose certificates they show.
    #[must_use]
    pub fn certificate_secrets(&self) -> BTreeSet<ObjectName> {
        let certificates = self.maps.iter().flat_map(|map| &map.certificates);
        certificates.map(|certificate| certificate.secret.clone()).collect()
    }

    /// The Secrets by which they verify clients.
    #[must_use]
    pub fn authority_secrets(&self) -> BTreeSet<ObjectName> {
        let demands = self.maps.iter().flat_map(|map| &map.tls);
        demands.filter_map(|(_, demand)| Some(demand.clients.as_ref()?.secret.clone())).collect()
    }

    /// All Secrets that they name.
    #[must_use]
    pub fn secrets(&self) -> BTreeSet<ObjectName> {
        self.certificate_secrets().into_iter().chain(self.authority_secrets()).collect()
    }

    /// The Services that a rule names, there or not.
    pub fn services(&self) -> impl Iterator<Item = &ObjectName> {
        self.services.iter()
    }

    /// What cannot be used of the Ingresses.
    #[must_use]
    pub fn problems(&self) -> &BTreeSet<Problem> {
        &self.problems
    }
}

/// Whether an Ingress is Podway's to serve, by its class.
#[must_use]
pub fn is_served_class(ingress: &Ingress, snapshot: &Snapshot) -> bool {
    class::check(ingress, &snapshot.ingress_classes).is_ok()
}

/// The URL maps of a snapshot's Ingresses on a node.
#[must_use]
pub fn url_maps(snapshot: &Snapshot, node: &NodeContext) -> UrlMaps {
    let mut all = UrlMaps::default();
    let mut ours: Vec<&Ingress> = Vec::new();
    for (name, ingress) in &snapshot.ingresses {
        match class::check(ingress, &snapshot.ingress_classes) {
            Ok(()) => ours.push(ingress),
            Err(reason) => drop(all.left_out.insert(name.clone(), reason)),
        }
    }
    // Names are in order; without a creation time an Ingress goes after all that have one, as a Service does.
    ours.sort_by_key(|ingress| ingress.created_s.unwrap_or(i64::MAX));
    let drafts: Vec<Draft> = ours.iter().map(|ingress| Draft::new(ingress, snapshot, node)).collect();
    for draft in &drafts {
        all.services.extend(draft.services.iter().cloned());
        all.problems.extend(draft.problems.iter().cloned());
    }
    for (members, vips) in groups(&drafts) {
        let drafts: Vec<&Draft> = members.iter().map(|index| &drafts[*index]).collect();
        let (map, problems) = merge::url_map(&drafts, vips);
        all.maps.push(Arc::new(map));
        all.problems.extend(problems);
    }
    all.maps.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// VIPs that the same drafts answer on, by the indices of these, which rise. Drafts without any VIP are one group.
fn groups(drafts: &[Draft]) -> BTreeMap<Vec<usize>, Vec<(IpAddr, VipSource)>> {
    let mut by_vip: BTreeMap<Option<IpAddr>, (Vec<usize>, VipSource)> = BTreeMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        let mut add = |vip| {
            by_vip.entry(vip).or_insert_with(|| (Vec::new(), draft.vip_source)).0.push(index);
        };
        if draft.vips.is_empty() {
            add(None);
        }
        draft.vips.iter().for_each(|vip| add(Some(*vip)));
    }
    let mut groups: BTreeMap<Vec<usize>, Vec<(IpAddr, VipSource)>> = BTreeMap::new();
    for (vip, (members, source)) in by_vip {
        groups.entry(members).or_default().extend(vip.map(|vip| (vip, source)));
    }
    groups
}

#[cfg(test)]
mod tests;
