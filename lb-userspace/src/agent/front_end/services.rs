//! The backend services that URL maps lead to, as the front-end has them.
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::neg::NegKind;
use tracing::warn;

use crate::health::Target;
use crate::l7::serve::{
    Affinity, BackendService, Counters, CustomHeader, Endpoint, Protocol, REQUEST_TIMEOUT, Slot,
};
use crate::model::{HeaderField, HttpTransport, ObjectName, RequestAffinity};
use crate::plan::{self, BackendServiceName, Desired, NodePorts, UrlMaps};

/// The NEGs that requests may go to, the first with an endpoint: those of the cluster first, since a front-end is no
/// node's own; IPv4 first, since a pod of both families is one endpoint to it.
const NEGS: [NegKind; 4] = [NegKind::ClusterV4, NegKind::ClusterV6, NegKind::LocalV4, NegKind::LocalV6];

/// One of them.
struct Known {
    name: Arc<BackendServiceName>,
    slot: Arc<Slot>,
    /// The same ones in all that is served, so that their requests stay counted.
    endpoints: BTreeMap<SocketAddr, Arc<Endpoint>>,
    counters: Arc<Counters>,
}

/// All of them, by the name that the front-end knows.
#[derive(Default)]
pub(super) struct KnownServices(BTreeMap<Arc<str>, Known>);

impl KnownServices {
    /// Brings those of the Services to the plan.
    pub(super) fn update(&mut self, desired: &Desired, services: &BTreeSet<ObjectName>) {
        let changed = self.0.iter_mut().filter(|(_, known)| services.contains(&known.name.service));
        for (text, known) in changed {
            let planned = desired.backend_service(&known.name);
            let service = known.service(text, planned);
            known.slot.store(service);
        }
    }

    /// Adds those that the URL maps name, and forgets all others.
    pub(super) fn keep(&mut self, desired: &Desired, url_maps: &UrlMaps) {
        let targets = url_maps.maps().iter().flat_map(|map| map.targets());
        let names: BTreeMap<Arc<str>, &Arc<BackendServiceName>> = targets
            .filter_map(|target| target.backend.as_ref().ok())
            .map(|name| (name.to_string().into(), name))
            .collect();
        self.0.retain(|text, _| names.contains_key(text));
        for (text, name) in names {
            self.0.entry(Arc::clone(&text)).or_insert_with(|| Known::new(&text, name, desired));
        }
    }

    /// The place of a backend service.
    pub(super) fn slot(&self, name: &BackendServiceName) -> Option<Arc<Slot>> {
        self.0.get(&*name.to_string()).map(|known| Arc::clone(&known.slot))
    }

    /// What is counted of each.
    pub(super) fn counters(&self) -> Vec<(Arc<BackendServiceName>, Arc<Counters>)> {
        self.0.values().map(|known| (Arc::clone(&known.name), Arc::clone(&known.counters))).collect()
    }

    /// Sends no more requests to an endpoint; the next plan says what holds.
    pub(super) fn take_out(&self, target: &Target) {
        let known = self.0.get(&*target.backend_service.to_string());
        let endpoint =
            known.and_then(|known| known.endpoints.get(&SocketAddr::new(target.address, target.port)));
        if let Some(endpoint) = endpoint {
            endpoint.set_weight(0);
        }
    }

    /// The endpoint that a signal is about, if it is still there.
    pub(super) fn target(&self, service: &str, endpoint: SocketAddr) -> Option<Target> {
        let known = self.0.get(service)?;
        let backend_service = Arc::clone(&known.name);
        known.endpoints.contains_key(&endpoint).then(|| Target {
            backend_service,
            address: endpoint.ip(),
            port: endpoint.port(),
        })
    }
}

impl Known {
    fn new(text: &Arc<str>, name: &Arc<BackendServiceName>, desired: &Desired) -> Self {
        let mut known = Self {
            name: Arc::clone(name),
            slot: Arc::new(Slot::new(BackendService::new(text, Vec::new()))),
            endpoints: BTreeMap::new(),
            counters: Arc::default(),
        };
        let service = known.service(text, desired.backend_service(name));
        known.slot.store(service);
        known
    }

    /// What the plan makes of it. Without a plan it has no endpoint.
    fn service(&mut self, text: &Arc<str>, planned: Option<&plan::BackendService>) -> BackendService {
        let mut service = BackendService::new(text, Vec::new());
        service.counters = Arc::clone(&self.counters);
        let Some(planned) = planned else {
            self.endpoints.clear();
            return service;
        };
        let http = &planned.http;
        service.endpoints = self.endpoints(planned);
        service.protocol = match planned.transport {
            HttpTransport::Http1 => Protocol::Http,
            HttpTransport::Https => Protocol::Https,
            HttpTransport::Http2 => Protocol::Http2,
            HttpTransport::H2c => Protocol::H2c,
        };
        service.proxy_protocol = planned.proxy_protocol;
        service.request_timeout =
            http.timeout_s.map_or(REQUEST_TIMEOUT, |seconds| Duration::from_secs(seconds.into()));
        service.affinity = match http.affinity {
            RequestAffinity::ClientIp => Affinity::ClientIp,
            RequestAffinity::GeneratedCookie { ttl_s } => Affinity::Cookie(Duration::from_secs(ttl_s.into())),
            RequestAffinity::None if planned.affinity_timeout_s.is_some() => Affinity::ClientIp,
            RequestAffinity::None => Affinity::None,
        };
        service.request_headers = headers(text, &http.request_headers);
        service.response_headers = headers(text, &http.response_headers);
        service.log_per_million = http.logging.map_or(0, |logging| logging.per_million);
        service
    }

    fn endpoints(&mut self, planned: &plan::BackendService) -> Vec<Arc<Endpoint>> {
        let members = match &planned.node_ports {
            None => pods(planned),
            Some(nodes) => nodes_with_weights(nodes),
        };
        let mut former = std::mem::take(&mut self.endpoints);
        for (address, weight) in members {
            let endpoint =
                former.remove(&address).unwrap_or_else(|| Arc::new(Endpoint::new(address, weight)));
            endpoint.set_weight(weight);
            self.endpoints.insert(address, endpoint);
        }
        self.endpoints.values().cloned().collect()
    }
}

/// The pods that requests may go to, and their weights.
fn pods(planned: &plan::BackendService) -> Vec<(SocketAddr, u16)> {
    let negs = NEGS.iter().filter_map(|kind| planned.neg(*kind));
    let members = negs.map(|neg| &neg.members).find(|members| !members.is_empty());
    let members = members.into_iter().flatten().filter_map(|index| planned.endpoints.get(*index as usize));
    let with_weight = |member: &plan::Endpoint| {
        let weight = u32::from(member.weight) * u32::from(member.share_percent);
        (SocketAddr::new(member.address, member.port), u16::try_from(weight).unwrap_or(u16::MAX))
    };
    members.map(with_weight).collect()
}

/// The nodes that requests may go to: all weigh the same, but for those that warm up.
fn nodes_with_weights(nodes: &NodePorts) -> Vec<(SocketAddr, u16)> {
    let members = nodes.used().into_iter().flat_map(plan::NodePortNeg::members);
    let with_weight = |member: &plan::NodePortEndpoint| {
        (SocketAddr::new(member.address, member.port), u16::from(member.share_percent))
    };
    members.map(with_weight).collect()
}

/// The plan has refused what cannot be a header; what is left over is a fault of ours.
fn headers(service: &str, fields: &[HeaderField]) -> Vec<CustomHeader> {
    let read = |field: &HeaderField| {
        let parsed = CustomHeader::parse(&format!("{}:{}", field.name, field.value));
        parsed.inspect_err(|fault| warn!(backend_service = service, %fault, "header left out")).ok()
    };
    fields.iter().filter_map(read).collect()
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
