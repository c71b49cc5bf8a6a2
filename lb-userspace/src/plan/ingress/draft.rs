//! What one Ingress asks for, before it meets others on its VIPs.
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::l7::{HostPattern, PathRule, host_pattern, path_pattern};
use crate::lb_pool;
use crate::model::{
    BackendPort, FrontendConfig, Ingress, IngressBackend, IngressPath, ObjectName, PathType, Problem,
    Protocol, ProxyVersions, Service, Snapshot,
};

use super::{CertificateUse, NoBackend, NodeContext, PlainHttp, Target, TlsDemand, VipSource};
use crate::plan::{BackendServiceName, Origin};

/// What one Ingress asks for.
pub(super) struct Draft {
    pub(super) origin: Origin,
    pub(super) vips: Vec<IpAddr>,
    pub(super) vip_source: VipSource,
    pub(super) allows_http: bool,
    pub(super) plain_http: PlainHttp,
    pub(super) certificates: Vec<CertificateUse>,
    pub(super) tls: TlsDemand,
    pub(super) proxy_protocol: Option<ProxyVersions>,
    /// In the order of its rules; a host may come more than once.
    pub(super) hosts: Vec<(HostPattern, Vec<PathRule<Target>>)>,
    pub(super) default: Option<Target>,
    /// Services that it names.
    pub(super) services: BTreeSet<ObjectName>,
    pub(super) problems: Vec<Problem>,
}

impl Draft {
    pub(super) fn new(ingress: &Ingress, snapshot: &Snapshot, node: &NodeContext) -> Self {
        let awaits_address = lb_pool::awaits_address(ingress, snapshot, node);
        let (vips, vip_source) = match awaits_address {
            true => (Vec::new(), VipSource::Status),
            false => vips(ingress, node),
        };
        let mut reader = Reader {
            ingress,
            snapshot,
            node,
            plain_http: PlainHttp::Served,
            services: BTreeSet::new(),
            problems: Vec::new(),
        };
        let certificates = reader.certificates();
        let config = reader.frontend_config();
        reader.plain_http = reader.plain_http(config.as_deref(), !certificates.is_empty());
        let tls = reader.tls(config.as_deref(), !certificates.is_empty());
        let default =
            ingress.default_backend.as_ref().map(|backend| reader.target(backend, "its default backend"));
        let hosts = reader.hosts();
        if awaits_address {
            reader.problem(
                "cannot serve it yet: it waits for an address of a load-balancer pool; where it gets none, another problem \
                 or an Event of it says why"
                    .to_owned(),
            );
        } else if vips.is_empty() {
            reader.problem(
                "cannot tell its VIPs: this node's addresses are unknown; give podway.io/vips or --node-ip"
                    .to_owned(),
            );
        }
        let Reader { services, problems, plain_http, .. } = reader;
        let origin = Origin {
            kind: "Ingress",
            object: ingress.name.clone(),
            resource_version: Arc::clone(&ingress.resource_version),
        };
        Self {
            origin,
            vips,
            vip_source,
            allows_http: ingress.allows_http,
            plain_http,
            certificates,
            tls,
            proxy_protocol: ingress.proxy_protocol,
            hosts,
            default,
            services,
            problems,
        }
    }

    pub(super) fn name(&self) -> &ObjectName {
        &self.origin.object
    }
}

/// The first that is there of the annotation, the status and the node's addresses, those of its node ports.
fn vips(ingress: &Ingress, node: &NodeContext) -> (Vec<IpAddr>, VipSource) {
    if !ingress.vips.is_empty() {
        (ingress.vips.clone(), VipSource::Annotation)
    } else if !ingress.load_balancer_ips.is_empty() {
        (ingress.load_balancer_ips.clone(), VipSource::Status)
    } else {
        (node.node_port_addresses(), VipSource::Node)
    }
}

/// Reads an Ingress against the other objects.
struct Reader<'a> {
    ingress: &'a Ingress,
    snapshot: &'a Snapshot,
    node: &'a NodeContext,
    plain_http: PlainHttp,
    services: BTreeSet<ObjectName>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, message: String) {
        self.problems.push(Problem { kind: "Ingress", object: self.ingress.name.clone(), message });
    }

    fn beside(&self, name: &Arc<str>) -> ObjectName {
        ObjectName { namespace: Arc::clone(&self.ingress.name.namespace), name: Arc::clone(name) }
    }

    fn certificates(&mut self) -> Vec<CertificateUse> {
        let mut certificates = Vec::new();
        for tls in &self.ingress.tls {
            let mut hosts = Vec::new();
            for text in &tls.hosts {
                match host_pattern(text, self.node.dialect) {
                    Ok(host) => hosts.push(host),
                    Err(fault) => self.problem(format!(
                        "cannot serve TLS for host {text:?} of Secret {}: {fault}; correct spec.tls",
                        tls.secret
                    )),
                }
            }
            // Without the bad ones the list must not come to mean all hosts.
            if !hosts.is_empty() || tls.hosts.is_empty() {
                certificates.push(CertificateUse { secret: self.beside(&tls.secret), hosts });
            }
        }
        certificates
    }

    fn frontend_config(&mut self) -> Option<Arc<FrontendConfig>> {
        let name = self.beside(self.ingress.frontend_config.as_ref()?);
        let config = self.snapshot.frontend_configs.get(&name).cloned();
        if config.is_none() {
            self.problem(format!(
                "cannot find FrontendConfig {name}; create it or correct annotation \
                 networking.gke.io/v1beta1.FrontendConfig; without it nothing is redirected"
            ));
        }
        config
    }

    /// The Ingress's own word goes before its FrontendConfig's.
    fn tls(&mut self, config: Option<&FrontendConfig>, has_certificates: bool) -> TlsDemand {
        let min_version = self.ingress.min_tls_version.or_else(|| config?.min_tls_version);
        let clients = self.ingress.client_verification.clone();
        let demand = TlsDemand { min_version: min_version.unwrap_or_default(), clients };
        if demand.clients.is_some() && !has_certificates {
            self.problem(
                "cannot verify clients: the Ingress has no certificate, and HTTP knows no clients; give spec.tls a \
                 Secret"
                    .to_owned(),
            );
        }
        demand
    }

    fn plain_http(&mut self, config: Option<&FrontendConfig>, has_certificates: bool) -> PlainHttp {
        match config.and_then(|config| config.redirect_code) {
            _ if !self.ingress.allows_http => PlainHttp::Refused,
            Some(code) if has_certificates => PlainHttp::Redirected(code),
            Some(_) => {
                self.problem(
                    "cannot redirect to HTTPS: the Ingress has no certificate; give spec.tls a Secret; HTTP is served"
                        .to_owned(),
                );
                PlainHttp::Served
            }
            None => PlainHttp::Served,
        }
    }

    fn hosts(&mut self) -> Vec<(HostPattern, Vec<PathRule<Target>>)> {
        let mut hosts = Vec::new();
        for rule in &self.ingress.rules {
            match host_pattern(&rule.host, self.node.dialect) {
                Ok(host) => {
                    let paths = rule.paths.iter().filter_map(|path| self.path(&rule.host, path)).collect();
                    hosts.push((host, paths));
                }
                Err(fault) => self.problem(format!(
                    "cannot follow the rule for host {:?}: {fault}; correct it; its requests meet other rules",
                    rule.host
                )),
            }
        }
        hosts
    }

    fn path(&mut self, host: &str, path: &IngressPath) -> Option<PathRule<Target>> {
        let text = &path.path;
        if path.path_type != PathType::ImplementationSpecific && text.ends_with("/*") {
            self.problem(format!(
                "path {text} of host {host:?} has type {:?}, where `*` is an ordinary character; write \
                 ImplementationSpecific, or the path without it",
                path.path_type
            ));
        }
        match path_pattern(path.path_type, text, self.node.dialect) {
            Ok(pattern) => {
                let target = self.target(&path.backend, &format!("path {text:?} of host {host:?}"));
                Some(PathRule { pattern, target })
            }
            Err(fault) => {
                self.problem(format!(
                    "cannot follow path {text:?} of host {host:?}: {fault}; correct it; its requests meet other rules"
                ));
                None
            }
        }
    }

    fn target(&mut self, backend: &IngressBackend, what: &str) -> Target {
        let backend = self.backend(backend);
        if let Err(reason) = &backend
            && *reason != NoBackend::Unusable
        {
            self.problem(format!("cannot serve {what}: {reason}; its requests are answered with 404"));
        }
        Target { ingress: self.ingress.name.clone(), backend, plain_http: self.plain_http }
    }

    /// Requests are for TCP ports alone, so a number that TCP and UDP share names the TCP one.
    fn backend(&mut self, backend: &IngressBackend) -> Result<Arc<BackendServiceName>, NoBackend> {
        let IngressBackend::Service(service, port) = backend else { return Err(NoBackend::Unusable) };
        let name = self.beside(service);
        self.services.insert(name.clone());
        let Some(service) = self.snapshot.services.get(&name) else {
            return Err(NoBackend::ServiceMissing(name));
        };
        if !self.node.selection.has(service) {
            return Err(NoBackend::NotSelected(name));
        }
        backend_service(service, port).ok_or_else(|| NoBackend::PortMissing(name, port.clone()))
    }
}

fn backend_service(service: &Service, port: &BackendPort) -> Option<Arc<BackendServiceName>> {
    let mut ports = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    let port = ports.find(|candidate| match port {
        BackendPort::Name(name) => candidate.name == *name,
        BackendPort::Number(number) => candidate.port == *number,
    })?;
    Some(Arc::new(BackendServiceName {
        service: service.name.clone(),
        port_name: Arc::clone(&port.name),
        port: port.port,
        protocol: port.protocol,
    }))
}
