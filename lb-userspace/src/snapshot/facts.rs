//! The facts that an agent plans from, without Secrets, and what it knew of the endpoints: enough for the same plan
//! elsewhere.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{
    BackendConfig, EndpointSlice, FrontendConfig, Ingress, IngressClass, Node, ObjectName, Problem, Service,
    ServiceCidr, Snapshot,
};
use crate::plan::{self, BackendServiceName, Desired, HealthView, NodeContext};

/// The facts of one moment. Objects are shared with whoever has them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedFacts {
    /// The node that is planned for.
    pub node: NodeContext,
    services: Vec<Arc<Service>>,
    endpoint_slices: Vec<Arc<EndpointSlice>>,
    nodes: Vec<Arc<Node>>,
    service_cidrs: Vec<Arc<ServiceCidr>>,
    backend_configs: Vec<Arc<BackendConfig>>,
    ingresses: Vec<Arc<Ingress>>,
    ingress_classes: Vec<Arc<IngressClass>>,
    frontend_configs: Vec<Arc<FrontendConfig>>,
    /// The endpoints that take less than their share of new flows, though they are ready.
    ailing: Vec<Ailing>,
    /// What cannot be used of Ingresses.
    ingress_problems: Vec<IngressProblem>,
}

/// An endpoint whose health says otherwise than its conditions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ailing {
    backend_service: String,
    address: IpAddr,
    port: u16,
    is_healthy: bool,
    fails_check: bool,
    share_percent: u8,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IngressProblem {
    ingress: ObjectName,
    message: String,
}

const INGRESS: &str = "Ingress";

impl RecordedFacts {
    /// The facts, what their plan knows of endpoints, and the problems of Ingresses among these. Costs what a walk
    /// over all objects costs; none is copied.
    #[must_use]
    pub fn new<'a>(
        facts: &Snapshot,
        node: &NodeContext,
        desired: &Desired,
        problems: impl IntoIterator<Item = &'a Problem>,
    ) -> Self {
        let of_ingresses = problems.into_iter().filter(|problem| problem.kind == INGRESS);
        Self {
            node: node.clone(),
            services: facts.services.values().cloned().collect(),
            endpoint_slices: facts.endpoint_slices.values().cloned().collect(),
            nodes: facts.nodes.values().cloned().collect(),
            service_cidrs: facts.service_cidrs.values().cloned().collect(),
            backend_configs: facts.backend_configs.values().cloned().collect(),
            ingresses: facts.ingresses.values().cloned().collect(),
            ingress_classes: facts.ingress_classes.values().cloned().collect(),
            frontend_configs: facts.frontend_configs.values().cloned().collect(),
            ailing: ailing(desired),
            ingress_problems: of_ingresses
                .map(|problem| IngressProblem {
                    ingress: problem.object.clone(),
                    message: problem.message.clone(),
                })
                .collect(),
        }
    }

    /// The plan that the agent had.
    #[must_use]
    pub fn plan(&self) -> Desired {
        let facts = Snapshot {
            services: by_name(&self.services, |object| object.name.clone()),
            endpoint_slices: by_name(&self.endpoint_slices, |object| object.name.clone()),
            nodes: by_name(&self.nodes, |object| Arc::clone(&object.name)),
            service_cidrs: by_name(&self.service_cidrs, |object| Arc::clone(&object.name)),
            backend_configs: by_name(&self.backend_configs, |object| object.name.clone()),
            ingresses: by_name(&self.ingresses, |object| object.name.clone()),
            ingress_classes: by_name(&self.ingress_classes, |object| Arc::clone(&object.name)),
            frontend_configs: by_name(&self.frontend_configs, |object| object.name.clone()),
            ..Snapshot::default()
        };
        let key = |ailing: &Ailing| (ailing.backend_service.clone(), ailing.address, ailing.port);
        let health = RecordedHealth(self.ailing.iter().map(|ailing| (key(ailing), ailing)).collect());
        plan::plan(&facts, &self.node, &health)
    }

    /// The problems of Ingresses, as the agent told them.
    #[must_use]
    pub fn ingress_problems(&self) -> Vec<Problem> {
        let problem = |told: &IngressProblem| Problem {
            kind: INGRESS,
            object: told.ingress.clone(),
            message: told.message.clone(),
        };
        self.ingress_problems.iter().map(problem).collect()
    }
}

fn by_name<K: Ord, V>(objects: &[Arc<V>], name: impl Fn(&V) -> K) -> BTreeMap<K, Arc<V>> {
    objects.iter().map(|object| (name(object), Arc::clone(object))).collect()
}

fn ailing(desired: &Desired) -> Vec<Ailing> {
    let mut all = Vec::new();
    for service in desired.backend_services() {
        let endpoints = service.endpoints.iter();
        let found = endpoints.filter(|endpoint| {
            !endpoint.passes_health_check || endpoint.fails_health_check || endpoint.share_percent < 100
        });
        all.extend(found.map(|endpoint| Ailing {
            backend_service: service.name.to_string(),
            address: endpoint.address,
            port: endpoint.port,
            is_healthy: endpoint.passes_health_check,
            fails_check: endpoint.fails_health_check,
            share_percent: endpoint.share_percent,
        }));
    }
    all
}

/// What an agent knew of its endpoints.
struct RecordedHealth<'a>(BTreeMap<(String, IpAddr, u16), &'a Ailing>);

impl RecordedHealth<'_> {
    fn of(&self, backend_service: &BackendServiceName, address: IpAddr, port: u16) -> Option<&Ailing> {
        self.0.get(&(backend_service.to_string(), address, port)).copied()
    }
}

impl HealthView for RecordedHealth<'_> {
    fn is_healthy(&self, backend_service: &BackendServiceName, address: IpAddr, port: u16) -> bool {
        self.of(backend_service, address, port).is_none_or(|ailing| ailing.is_healthy)
    }

    fn fails_check(&self, backend_service: &BackendServiceName, address: IpAddr, port: u16) -> bool {
        self.of(backend_service, address, port).is_some_and(|ailing| ailing.fails_check)
    }

    fn share_percent(&self, backend_service: &BackendServiceName, address: IpAddr, port: u16) -> u8 {
        self.of(backend_service, address, port).map_or(100, |ailing| ailing.share_percent)
    }
}
