//! The desired state of a node: the plans of all Services, and who keeps which frontend.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::Be16;
use lb_common::frontend::FrontendKey;

use crate::model::{ObjectName, Problem, Protocol};

use super::{
    BackendService, BackendServiceName, Frontend, HTTP_PORT, HTTPS_PORT, ServicePlan, UrlMapPlan, UrlMaps,
};

/// A claim on a frontend; the least one wins. An older Service goes before a younger one, one without
/// a creation time (a manifest that never saw an API server) after all that have one, then the lesser
/// name before the greater: an order that all nodes see alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    created_s: i64,
    service: ObjectName,
}

impl Claim {
    fn of(plan: &ServicePlan) -> Self {
        Self { created_s: plan.created_s.unwrap_or(i64::MAX), service: plan.name.clone() }
    }
}

/// What this node shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    services: BTreeMap<ObjectName, Arc<ServicePlan>>,
    owners: BTreeMap<FrontendKey, Claim>,
    /// Those that want a frontend that another one keeps.
    waiting: BTreeMap<FrontendKey, BTreeSet<Claim>>,
    /// Services with problems of their own.
    with_problems: BTreeSet<ObjectName>,
    /// Services with a health check node port.
    with_health_check_port: BTreeSet<ObjectName>,
    url_maps: Arc<UrlMaps>,
}

/// A frontend with the objects that it leads to.
#[derive(Clone, Copy, Debug)]
pub struct FrontendChain<'a> {
    /// The frontend.
    pub frontend: &'a Frontend,
    /// The backend service.
    pub backend_service: &'a BackendService,
    /// The Service that both belong to.
    pub service: &'a Arc<ServicePlan>,
}

impl Desired {
    /// Puts the plan of one Service in the place of its former one, or takes it away. Costs what that
    /// Service and those that contend for its frontends cost. Returns the Services whose part of the
    /// desired state has changed.
    pub fn replace(&mut self, name: &ObjectName, plan: Option<ServicePlan>) -> BTreeSet<ObjectName> {
        let plan = plan.map(Arc::new);
        let mut changed = BTreeSet::new();
        if self.services.get(name) == plan.as_ref() {
            return changed;
        }
        changed.insert(name.clone());
        let has_problems = plan.as_ref().is_some_and(|plan| !plan.problems.is_empty());
        note(&mut self.with_problems, name, has_problems);
        let has_port = plan.as_ref().is_some_and(|plan| plan.health_check_node_port.is_some());
        note(&mut self.with_health_check_port, name, has_port);
        let old = match &plan {
            Some(plan) => self.services.insert(name.clone(), Arc::clone(plan)),
            None => self.services.remove(name),
        };
        let keys = |plan: &Option<Arc<ServicePlan>>| -> BTreeSet<FrontendKey> {
            plan.iter().flat_map(|plan| &plan.frontends).map(Frontend::key).collect()
        };
        let (old_keys, new_keys) = (keys(&old), keys(&plan));
        let old_claim = old.as_deref().map(Claim::of);
        let new_claim = plan.as_deref().map(Claim::of);
        let is_same_claim = old_claim == new_claim;
        for key in old_keys.iter().filter(|key| !is_same_claim || !new_keys.contains(key)) {
            if let Some(claim) = &old_claim {
                changed.extend(self.release(key, claim));
            }
        }
        for key in new_keys.iter().filter(|key| !is_same_claim || !old_keys.contains(key)) {
            if let Some(claim) = &new_claim {
                changed.extend(self.claim(key, claim));
            }
        }
        changed
    }

    /// Takes a claim away; returns the Service that gets the frontend.
    fn release(&mut self, key: &FrontendKey, claim: &Claim) -> Option<ObjectName> {
        if self.owners.get(key) != Some(claim) {
            self.stop_waiting(key, claim);
            return None;
        }
        self.owners.remove(key);
        let heir = self.waiting.get(key)?.first()?.clone();
        self.stop_waiting(key, &heir);
        let service = heir.service.clone();
        self.owners.insert(*key, heir);
        Some(service)
    }

    fn stop_waiting(&mut self, key: &FrontendKey, claim: &Claim) {
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.remove(claim);
            if waiting.is_empty() {
                self.waiting.remove(key);
            }
        }
    }

    /// Adds a claim; returns the Service that loses the frontend.
    fn claim(&mut self, key: &FrontendKey, claim: &Claim) -> Option<ObjectName> {
        let Some(owner) = self.owners.get_mut(key) else {
            self.owners.insert(*key, claim.clone());
            return None;
        };
        if *owner < *claim {
            self.waiting.entry(*key).or_default().insert(claim.clone());
            return None;
        }
        let loser = std::mem::replace(owner, claim.clone());
        let service = loser.service.clone();
        self.waiting.entry(*key).or_default().insert(loser);
        Some(service)
    }

    /// Puts the URL maps in the place of the former ones; `false` where they are the same.
    pub fn replace_url_maps(&mut self, url_maps: UrlMaps) -> bool {
        let is_change = *self.url_maps != url_maps;
        if is_change {
            self.url_maps = Arc::new(url_maps);
        }
        is_change
    }

    /// The URL maps of all Ingresses.
    #[must_use]
    pub fn url_maps(&self) -> &Arc<UrlMaps> {
        &self.url_maps
    }

    /// The URL maps and the Services that they lead to, without the rest and without problems. Costs what these
    /// Services cost.
    #[must_use]
    pub fn url_map_part(&self) -> Self {
        let services = self.url_maps.services().filter_map(|name| self.services.get_key_value(name));
        Self {
            services: services.map(|(name, plan)| (name.clone(), Arc::clone(plan))).collect(),
            url_maps: Arc::clone(&self.url_maps),
            ..Self::default()
        }
    }

    /// The plans by Service.
    #[must_use]
    pub fn services(&self) -> &BTreeMap<ObjectName, Arc<ServicePlan>> {
        &self.services
    }

    /// The plan of one Service.
    #[must_use]
    pub fn service(&self, name: &ObjectName) -> Option<&Arc<ServicePlan>> {
        self.services.get(name)
    }

    /// A backend service by its name.
    #[must_use]
    pub fn backend_service(&self, name: &BackendServiceName) -> Option<&BackendService> {
        self.services.get(&name.service)?.backend_service(name)
    }

    /// The Service that keeps a frontend.
    #[must_use]
    pub fn owner(&self, key: &FrontendKey) -> Option<&ObjectName> {
        self.owners.get(key).map(|claim| &claim.service)
    }

    /// A frontend by its key.
    #[must_use]
    pub fn frontend(&self, key: &FrontendKey) -> Option<FrontendChain<'_>> {
        let service = self.services.get(self.owner(key)?)?;
        let frontend = service.frontends.iter().find(|frontend| frontend.key() == *key)?;
        let backend_service = service.backend_service(&frontend.backend_service)?;
        Some(FrontendChain { frontend, backend_service, service })
    }

    /// All frontends, in the order of address, port and protocol.
    pub fn frontends(&self) -> impl Iterator<Item = FrontendChain<'_>> {
        self.owners.keys().filter_map(|key| self.frontend(key))
    }

    /// The frontends that a Service keeps of those that it asks for.
    pub fn frontends_of<'a>(&'a self, plan: &'a ServicePlan) -> impl Iterator<Item = &'a Frontend> {
        plan.frontends.iter().filter(|frontend| self.owner(&frontend.key()) == Some(&plan.name))
    }

    /// All backend services, in the order of their Services and their ports.
    pub fn backend_services(&self) -> impl Iterator<Item = &BackendService> {
        self.services.values().flat_map(|plan| &plan.backend_services)
    }

    /// The Services with a health check node port, in the order of their names.
    pub fn with_health_check_port(&self) -> impl Iterator<Item = &Arc<ServicePlan>> {
        self.with_health_check_port.iter().filter_map(|name| self.services.get(name))
    }

    /// Ports of URL maps that a Service has: packets to them go to its endpoints and no request is seen.
    fn contended_vips(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for map in self.url_maps.maps() {
            let open = [(map.has_http, HTTP_PORT), (map.has_https, HTTPS_PORT)];
            let ports = open.into_iter().filter(|(is_open, _)| *is_open).map(|(_, port)| port);
            for port in ports {
                for (vip, _) in &map.vips {
                    let key = FrontendKey::new((*vip).into(), Be16::new(port), Protocol::Tcp.number());
                    problems.extend(self.owner(&key).map(|owner| taken(map, &key, owner)));
                }
            }
        }
        problems
    }

    /// What cannot be used: each Service's own problems, and the frontends that two ask for.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let faulty = self.with_problems.iter().filter_map(|name| self.services.get(name));
        let own = faulty.flat_map(|plan| &plan.problems).cloned();
        let contended = self.waiting.iter().flat_map(|(key, waiting)| {
            let owner = self.owner(key);
            waiting.iter().filter_map(move |claim| Some(lost(key, claim, owner?)))
        });
        let of_ingresses = self.url_maps.problems().iter().cloned();
        own.chain(contended).chain(of_ingresses).chain(self.contended_vips()).collect()
    }
}

/// Sees to it that a set has a name, or has it not.
fn note(set: &mut BTreeSet<ObjectName>, name: &ObjectName, is_in: bool) {
    if is_in {
        set.insert(name.clone());
    } else {
        set.remove(name);
    }
}

fn taken(map: &UrlMapPlan, key: &FrontendKey, owner: &ObjectName) -> Problem {
    let first = map.ingresses.first();
    Problem {
        kind: "Ingress",
        object: first.map_or_else(|| ObjectName::new("", &map.name), |origin| origin.object.clone()),
        message: format!(
            "cannot serve {}: Service {owner} has it; change the Service's address or port, or give the Ingress \
             other addresses by podway.io/vips",
            super::frontend_key_text(key)
        ),
    }
}

fn lost(key: &FrontendKey, claim: &Claim, owner: &ObjectName) -> Problem {
    Problem {
        kind: "Service",
        object: claim.service.clone(),
        message: format!(
            "cannot have {}: Service {owner} has it, being the older one or, of one age, of the lesser name; \
             change the address or the port of one of them",
            super::frontend_key_text(key)
        ),
    }
}
