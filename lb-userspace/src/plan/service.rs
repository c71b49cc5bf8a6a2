//! The plan of one Service.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use lb_common::Address;
use lb_common::backend_service::LABEL_BYTES_MAX;
use lb_common::frontend::FrontendKey;

use crate::model::{BackendConfigs, EndpointSlice, ObjectName, Problem, Service, ServicePort};

use super::backend_config::{self, Settings};
use super::endpoint::WEIGHT_DEFAULT;
use super::policy::{PortPolicy, Usable, vips};
use super::source_ranges::{checks_source, ranges};
use super::{
    BackendService, BackendServiceName, Endpoint, Family, Frontend, HealthCheckNodePort, HealthView,
    NodeContext, Origin,
};

/// What one Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// The Service.
    pub name: ObjectName,
    /// Its `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// Its `metadata.creationTimestamp`, seconds since 1970.
    pub created_s: Option<i64>,
    /// The frontends that it asks for; [`super::Desired`] knows which ones it gets.
    pub frontends: Vec<Frontend>,
    /// Its ports, in their order in the Service.
    pub backend_services: Vec<BackendService>,
    /// What its health-check node port answers, where it has one.
    pub health_check_node_port: Option<HealthCheckNodePort>,
    /// What of it cannot be used.
    pub problems: Vec<Problem>,
}

impl ServicePlan {
    /// One of its backend services.
    #[must_use]
    pub fn backend_service(&self, name: &BackendServiceName) -> Option<&BackendService> {
        self.backend_services.iter().find(|service| *service.name == *name)
    }

    /// The Service.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin { kind: "Service", object: self.name.clone(), resource_version: self.resource_version.clone() }
    }
}

/// Plans one Service from its EndpointSlices: `slices` are those whose label names the Service, `configs` may
/// have more than it names. A Service that is left to another proxy has an empty plan; a headless one has no frontend.
#[must_use]
pub fn service(
    service: &Service,
    slices: &[Arc<EndpointSlice>],
    configs: &BackendConfigs,
    node: &NodeContext,
    health: &dyn HealthView,
) -> ServicePlan {
    let slices = &*of_its_kind(service, slices);
    let families = families(service, slices);
    let mut plan = ServicePlan {
        name: service.name.clone(),
        resource_version: service.resource_version.clone(),
        created_s: service.created_s,
        frontends: Vec::new(),
        backend_services: Vec::with_capacity(service.ports.len()),
        health_check_node_port: None,
        problems: Vec::new(),
    };
    if !node.selection.has(service) {
        return plan;
    }
    plan.health_check_node_port = HealthCheckNodePort::new(service, &families, slices, node);
    plan.problems.extend(backend_config::missing(service, configs));
    let mut seen: BTreeMap<FrontendKey, Arc<BackendServiceName>> = BTreeMap::new();
    for port in &service.ports {
        let name = Arc::new(BackendServiceName {
            service: service.name.clone(),
            port_name: port.name.clone(),
            port: port.port,
            protocol: port.protocol,
        });
        if let Some(problem) = too_long(&name) {
            plan.problems.push(problem);
            continue;
        }
        let settings = Settings::new(service, port, configs);
        let planned = PortPlan::new(service, port, &families, slices, node, health, (name, settings));
        plan.problems.extend(planned.problem);
        for frontend in planned.frontends {
            match seen.get(&frontend.key()) {
                None => {
                    seen.insert(frontend.key(), Arc::clone(&frontend.backend_service));
                    plan.frontends.push(frontend);
                }
                // An address that stands in two fields of the Service leads to one place either way.
                Some(first) if *first == frontend.backend_service => {}
                Some(first) => plan.problems.push(asked_twice(&frontend, first)),
            }
        }
        plan.backend_services.push(planned.backend_service);
    }
    plan
}

/// Slices that say that their Service is headless are none of one that is not, as for kube-proxy, which reads none of
/// them. Those of a headless Service need not say it: people may write them by hand.
fn of_its_kind<'a>(service: &Service, slices: &'a [Arc<EndpointSlice>]) -> Cow<'a, [Arc<EndpointSlice>]> {
    let is_its = |slice: &&Arc<EndpointSlice>| service.is_headless || !slice.is_headless;
    if slices.iter().all(|slice| is_its(&slice)) {
        return Cow::Borrowed(slices);
    }
    slices.iter().filter(is_its).cloned().collect()
}

/// The families of the Service's cluster IPs. kube-proxy runs once for each family and skips, for
/// all kinds of frontends, a Service without a cluster IP of that family
/// (`pkg/proxy/servicechangetracker.go`, `GetClusterIPByFamily`). A headless one has those of its endpoints, and both
/// while it has none.
fn families(service: &Service, slices: &[Arc<EndpointSlice>]) -> Vec<Family> {
    let of = |has: &dyn Fn(Family) -> bool| Family::ALL.into_iter().filter(|family| has(*family)).collect();
    if !service.is_headless {
        return of(&|family| service.cluster_ips.iter().any(|ip| Family::of(*ip) == family));
    }
    let endpoints = || slices.iter().flat_map(|slice| &slice.endpoints);
    let is_empty = endpoints().next().is_none();
    of(&|family| is_empty || endpoints().any(|endpoint| Family::of(endpoint.address) == family))
}

fn too_long(name: &BackendServiceName) -> Option<Problem> {
    let labels = [
        ("namespace", &name.service.namespace),
        ("name", &name.service.name),
        ("port name", &name.port_name),
    ];
    let (field, label) = labels.into_iter().find(|(_, label)| label.len() > LABEL_BYTES_MAX)?;
    Some(Problem {
        kind: "Service",
        object: name.service.clone(),
        message: format!(
            "cannot forward port {}: the {field} {label} is longer than {LABEL_BYTES_MAX} bytes (RFC 1123); \
             shorten it",
            name.port
        ),
    })
}

fn asked_twice(frontend: &Frontend, first: &BackendServiceName) -> Problem {
    Problem {
        kind: "Service",
        object: frontend.backend_service.service.clone(),
        message: format!(
            "cannot give {} to {}: {first} of the same Service has it; change one of the two ports",
            super::json::frontend_text(frontend),
            frontend.backend_service
        ),
    }
}

/// The plan of one port.
struct PortPlan {
    frontends: Vec<Frontend>,
    backend_service: BackendService,
    problem: Option<Problem>,
}

impl PortPlan {
    fn new(
        service: &Service,
        port: &ServicePort,
        families: &[Family],
        slices: &[Arc<EndpointSlice>],
        node: &NodeContext,
        health: &dyn HealthView,
        (name, settings): (Arc<BackendServiceName>, Settings),
    ) -> Self {
        let policy = PortPolicy::new(service, port, node);
        let problem = port_without_slice(service, port, slices);
        let mut endpoints = endpoints(service, port, families, slices, node);
        if settings.health_check.is_some() || service.health_policy.passive.is_some() {
            for endpoint in &mut endpoints {
                endpoint.passes_health_check = health.is_healthy(&name, endpoint.address, endpoint.port);
                endpoint.fails_health_check = health.fails_check(&name, endpoint.address, endpoint.port);
                endpoint.share_percent = health.share_percent(&name, endpoint.address, endpoint.port);
            }
        }
        let mut negs = Vec::new();
        let mut frontends = Vec::new();
        for family in families {
            let usable = Usable::new(&endpoints, *family, node);
            negs.extend(policy.negs(&endpoints, &usable, *family));
            for (kind, address, frontend_port) in vips(service, port, node, *family) {
                frontends.push(Frontend {
                    checks_source: checks_source(service, kind, address),
                    ..policy.frontend(kind, address, frontend_port, &name, &usable)
                });
            }
        }
        for index in negs.iter().filter(|neg| neg.is_panic).flat_map(|neg| &neg.members) {
            let endpoint = &mut endpoints[*index as usize];
            endpoint.is_used_in_panic = !endpoint.passes_health_check;
        }
        let backend_service = BackendService {
            name,
            resource_version: service.resource_version.clone(),
            affinity_timeout_s: service.affinity_timeout_s,
            health_check: settings.health_check,
            health_policy: service.health_policy.clone(),
            transport: port.transport,
            proxy_protocol: service.proxy_protocol,
            http: settings.http,
            drain: settings.drain,
            source_ranges: ranges(service, node),
            endpoints,
            negs,
            node_ports: None,
        };
        Self { frontends, backend_service, problem }
    }
}

/// A Service whose slices are there but all lack its port gets no endpoint for it, as in kube-proxy,
/// which looks endpoints up by port name (`endpointslicecache.go`, `endpointInfoByServicePort`). A
/// misspelt `targetPort` looks like this, so it is worth a word.
fn port_without_slice(
    service: &Service,
    port: &ServicePort,
    slices: &[Arc<EndpointSlice>],
) -> Option<Problem> {
    let mut filled = slices.iter().filter(|slice| !slice.endpoints.is_empty()).peekable();
    filled.peek()?;
    if filled.any(|slice| slice_port(slice, port).is_some()) {
        return None;
    }
    let name = if port.name.is_empty() { "without a name" } else { &port.name };
    Some(Problem {
        kind: "Service",
        object: service.name.clone(),
        message: format!(
            "cannot find endpoints for port {} ({name}, {}): no EndpointSlice of the Service has a port of \
             that name and protocol; check targetPort and the pods' containerPort names",
            port.port, port.protocol
        ),
    })
}

/// The endpoints' port for a Service port: slices match it by name and protocol, each for itself,
/// since pods of two versions may have a named port on two numbers.
fn slice_port(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol).map(|p| p.port)
}

/// All endpoints of the port, one for each address and port, in that order.
fn endpoints(
    service: &Service,
    port: &ServicePort,
    families: &[Family],
    slices: &[Arc<EndpointSlice>],
    node: &NodeContext,
) -> Vec<Endpoint> {
    let mut all = Vec::with_capacity(slices.iter().map(|slice| slice.endpoints.len()).sum());
    for slice in slices {
        let Some(number) = slice_port(slice, port) else { continue };
        for (index, facts) in (0u32..).zip(&slice.endpoints) {
            if !families.contains(&Family::of(facts.address)) {
                continue;
            }
            let given = service.endpoint_weights.get(&facts.address).copied();
            all.push(Endpoint {
                address: facts.address,
                port: number,
                weight: given.or(facts.weight).unwrap_or(WEIGHT_DEFAULT),
                passes_health_check: true,
                fails_health_check: false,
                is_used_in_panic: false,
                share_percent: 100,
                is_local: facts.is_on(&node.name),
                slice: Arc::clone(slice),
                index,
            });
        }
    }
    // While an endpoint moves between slices both may name it. A local one is kept, as kube-proxy
    // does (`endpointslicecache.go`, `addEndpoints`); then the one that is better off; then the first.
    all.sort_by(|a, b| {
        let place = |e: &Endpoint| (Address::from(e.address), e.port);
        place(a)
            .cmp(&place(b))
            .then_with(|| preference(b).cmp(&preference(a)))
            .then_with(|| (&a.slice.name, a.index).cmp(&(&b.slice.name, b.index)))
    });
    all.dedup_by(|later, first| {
        Address::from(later.address) == Address::from(first.address) && later.port == first.port
    });
    all.shrink_to_fit();
    all
}

fn preference(endpoint: &Endpoint) -> (bool, bool, bool) {
    let facts = endpoint.facts();
    (endpoint.is_local, facts.ready, facts.serving)
}
