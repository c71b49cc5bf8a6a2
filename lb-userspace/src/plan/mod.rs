//! Every Kubernetes rule is here: from the facts of a [`Snapshot`] to the state that this node shall
//! have. Pure: the same facts give the same plan.
//!
//! The reference is kube-proxy of Kubernetes 1.36 (`pkg/proxy/topology.go`, `serviceport.go`,
//! `endpointslicecache.go`, `nftables/proxier.go`); each rule names its source where it is applied.
//!
//! A Service is planned alone (`service`), since nothing in its plan depends on another one. What
//! two Services have to settle between them, who keeps a VIP:port that both ask for, is settled in
//! [`Desired`], which therefore takes a change of one Service at that Service's cost.
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{EndpointSlice, ObjectName, Service, Snapshot};

mod backend_config;
mod backend_service;
mod condition;
mod desired;
mod endpoint;
mod frontend;
mod health;
mod ingress;
mod json;
mod neg;
mod node;
mod node_ports;
mod origin;
mod policy;
mod selection;
mod service;
mod source_ranges;

pub use backend_service::{BackendService, BackendServiceName};
pub use condition::Condition;
pub use desired::{Desired, FrontendChain};
pub use endpoint::{Endpoint, EndpointState};
pub use frontend::{EmptyAction, Family, Frontend, Scope, kind_field, kind_name};
pub use health::{HealthCheckNodePort, HealthView, ReadinessAlone};
pub use ingress::{
    CertificateText, CertificateUse, HTTP_PORT, HTTPS_PORT, HostText, NoBackend, PathText, PlainHttp, Target,
    TargetText, TlsDemand, TlsDemandText, UrlMapPlan, UrlMapText, UrlMaps, VipSource, VipText,
    is_served_class, url_maps,
};
pub(crate) use json::{frontend_key_text, socket_text, transport_name};
pub use neg::{Neg, neg_kind, neg_kind_name};
pub use node::{NodeContext, NodePortAddresses};
pub use node_ports::{NodePortEndpoint, NodePortNeg, NodePorts, add_node_ports, neg_type};
pub use origin::Origin;
pub use selection::{LabelSelector, Labels, Selection};
pub use service::{ServicePlan, service};

/// Whether there is anything to plan of a Service: to a headless one Ingresses alone lead.
#[must_use]
pub fn is_planned(service: &Service, url_maps: &UrlMaps) -> bool {
    !service.is_headless || url_maps.names_service(&service.name)
}

/// The desired state of all Services of a snapshot.
#[must_use]
pub fn plan(snapshot: &Snapshot, node: &NodeContext, health: &dyn HealthView) -> Desired {
    let slices = slices_by_service(snapshot);
    let mut desired = Desired::default();
    desired.replace_url_maps(url_maps(snapshot, node));
    for (name, facts) in &snapshot.services {
        if !is_planned(facts, desired.url_maps()) {
            continue;
        }
        let slices = slices.get(name).map_or(&[][..], Vec::as_slice);
        let configs = &snapshot.backend_configs;
        let mut planned = service(facts, slices, configs, node, health);
        if desired.url_maps().names_service(name) {
            add_node_ports(&mut planned, facts, &snapshot.nodes, node, health);
        }
        desired.replace(name, Some(planned));
    }
    desired
}

/// The EndpointSlices of each Service that has some, each list in the order of slice names.
#[must_use]
pub fn slices_by_service(snapshot: &Snapshot) -> BTreeMap<ObjectName, Vec<Arc<EndpointSlice>>> {
    let mut slices: BTreeMap<ObjectName, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in snapshot.endpoint_slices.values() {
        let service = ObjectName { namespace: slice.name.namespace.clone(), name: slice.service.clone() };
        slices.entry(service).or_default().push(Arc::clone(slice));
    }
    slices
}

#[cfg(test)]
mod backend_config_tests;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod headless_tests;
#[cfg(test)]
mod hint_tests;
#[cfg(test)]
mod panic_tests;
#[cfg(test)]
mod tests;
