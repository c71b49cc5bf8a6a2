//! What the sweep sees of flows that began becomes signals about the endpoints, and these take effect.
use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{debug, info};

use crate::health::{HealthState, Moment, Reporter, StateReason, Target};
use crate::model::ObjectName;
use crate::plan::{Desired, Endpoint, Family, NodePortEndpoint};
use crate::sweep::Begun;

use super::{Agent, Planner};

impl Agent {
    /// Says which flows the sweep judges: those of Services that ask for it.
    pub(super) fn watch_flows(&mut self, changed: &BTreeSet<ObjectName>) {
        let (_, tables) = self.applier.maps_and_tables();
        for name in changed {
            let planned = self.planner.desired.service(name).map(|plan| &plan.backend_services);
            let judged =
                planned.into_iter().flatten().filter(|service| service.health_policy.passive.is_some());
            let ids = judged.filter_map(|service| tables.backend_service_id(&service.name)).collect();
            self.sweeper.watch(name, ids);
        }
    }

    /// Takes how flows began, in the order of their seconds.
    pub(super) fn take_begun(&mut self, all: &[Begun]) {
        let now = Moment::now();
        for begun in all {
            let Some(target) = self.target(begun) else { continue };
            let policy = self.planner.health_policy(&target.backend_service.service);
            let Planner { findings, desired, .. } = &mut self.planner;
            let signal = (begun.signal, u64::from(begun.created_s) * 1_000, Reporter::Path);
            if findings.signal(&target, signal, &policy, || endpoints(desired, &target), now) {
                self.follow_health(&target);
            }
        }
    }

    /// Takes what requests to Ingresses told of endpoints.
    pub(super) fn take_requests(&mut self) {
        let now = Moment::now();
        for (target, signal, began_ms) in self.front_end.signals() {
            let policy = self.planner.health_policy(&target.backend_service.service);
            let Planner { findings, desired, .. } = &mut self.planner;
            let signal = (signal, began_ms, Reporter::FrontEnd);
            if findings.signal(&target, signal, &policy, || endpoints(desired, &target), now) {
                self.follow_health(&target);
            }
        }
    }

    /// The endpoint of a flow, if it is still there.
    fn target(&mut self, begun: &Begun) -> Option<Target> {
        let (_, tables) = self.applier.maps_and_tables();
        let endpoint = tables.endpoint(begun.endpoint);
        if !endpoint.is_named() || endpoint.generation != begun.endpoint_generation {
            return None;
        }
        let backend_service = Arc::clone(&tables.name(endpoint.backend_service)?.name);
        Some(Target { backend_service, address: endpoint.address.into(), port: endpoint.port.get() })
    }

    /// Lets ejections and warming end.
    pub(super) fn pass_time(&mut self) {
        let planner = &mut self.planner;
        let mut findings = std::mem::take(&mut planner.findings);
        let changed = findings.tick(|service| planner.health_policy(service), Moment::now());
        planner.findings = findings;
        changed.iter().for_each(|target| self.follow_health(target));
    }

    /// Brings what is known of an endpoint to the maps: one store now, its ring with the next apply.
    pub(super) fn follow_health(&mut self, target: &Target) {
        let Target { backend_service, address, port } = target;
        let health = self.planner.findings.health(backend_service, *address, *port);
        self.applier.set_health(target, health.state.is_healthy());
        if !health.state.is_healthy() {
            self.front_end.take_out(target);
        }
        self.planner.mark(backend_service.service.clone());
        let endpoint = std::net::SocketAddr::new(*address, *port).to_string();
        let (service, state, reason) = (backend_service.to_string(), health.state, health.reason);
        match (state, health.reporter) {
            // Each step is a change.
            (HealthState::Warming, _) => debug!(endpoint, backend_service = service, ?reason, "warms up"),
            // What a probe decided has been logged.
            (_, Reporter::Probe) if reason != StateReason::WarmedUp => {}
            _ => info!(endpoint, backend_service = service, ?state, ?reason, "health changed"),
        }
    }
}

/// How many endpoints a backend service has of a target's family and kind, pods or nodes, that could take flows if they
/// were healthy.
fn endpoints(desired: &Desired, target: &Target) -> usize {
    let Some(service) = desired.backend_service(&target.backend_service) else { return 0 };
    let mut negs = service.node_ports.iter().flat_map(|nodes| &nodes.negs).map(|neg| &neg.endpoints);
    let is_target = |node: &NodePortEndpoint| (node.address, node.port) == (target.address, target.port);
    if let Some(nodes) = negs.find(|nodes| nodes.iter().any(is_target)) {
        return nodes.len();
    }
    let of_family = |endpoint: &&Endpoint| endpoint.family() == Family::of(target.address);
    service.endpoints.iter().filter(of_family).filter(|endpoint| endpoint.facts().ready).count()
}
