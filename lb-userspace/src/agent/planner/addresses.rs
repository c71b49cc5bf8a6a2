//! Load-balancer addresses among the facts: what decides who gets which, and where no API server keeps statuses, the giving.
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::announce::{self, Reach};
use crate::lb_pool::{self, Held, OwnerKind};
use crate::model::{Balancer, Change, ObjectName, Problem, Service};

use super::Planner;

impl Planner {
    /// Gives load-balancer addresses itself from now on.
    pub(in crate::agent) fn give_addresses(&mut self) {
        self.held = Some(Held::default());
    }

    /// Whether a change decides who gets which load-balancer address.
    pub(super) fn concerns_pools(&self, change: &Change) -> bool {
        let has =
            |service: &Service| service.balancer != Balancer::None || !service.load_balancer_ips.is_empty();
        let had = |name: &ObjectName| self.snapshot.services.get(name).is_some_and(|known| has(known));
        match change {
            Change::Service(service) => has(service) || had(&service.name),
            Change::ServiceGone(name) => had(name),
            Change::Ingress(_)
            | Change::IngressGone(_)
            | Change::IngressClass(_)
            | Change::IngressClassGone(_)
            | Change::LoadBalancerPool(_)
            | Change::LoadBalancerPoolGone(_) => true,
            _ => false,
        }
    }

    /// Gives load-balancer addresses to the facts, where no API server keeps statuses.
    pub(super) fn give(&mut self) {
        let Some(held) = &mut self.held else { return };
        if !std::mem::take(&mut self.are_pools_dirty) {
            return;
        }
        for owner in lb_pool::assign(&mut self.snapshot, &self.node, held) {
            match owner.kind {
                OwnerKind::Service => self.note_service(&owner.object),
                OwnerKind::Ingress => self.are_url_maps_dirty = true,
            }
        }
    }

    /// What could not be given, where the planner gives load-balancer addresses itself.
    pub(in crate::agent) fn address_problems(&self) -> impl Iterator<Item = &Problem> {
        self.held.iter().flat_map(|held| &held.problems)
    }

    /// Whether something has changed since the last call that decides who gets which load-balancer address.
    pub(in crate::agent) fn take_pool_change(&mut self) -> bool {
        std::mem::take(&mut self.are_pools_dirty)
    }

    /// The VIPs of load-balancer pools.
    pub(in crate::agent) fn vips(&self) -> BTreeMap<IpAddr, Reach> {
        let (pools, _) = lb_pool::pools(&self.snapshot, &self.node);
        announce::vips(&self.snapshot, self.desired.url_maps(), &self.node, &pools, |service| {
            let slices = self.slices.get(service).into_iter().flat_map(BTreeMap::values);
            slices.map(|slice| &**slice)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::NodeFlags;
    use crate::model::BalancerRequest;
    use crate::plan::fixture::service;

    #[test]
    fn an_agent_without_an_api_server_gives_addresses_itself() {
        let pool = vec!["203.0.113.8/30".parse().expect("a range")];
        let mut planner = Planner::new("node-a", NodeFlags { lb_pool: pool, ..NodeFlags::default() });
        planner.give_addresses();
        let balanced = Service {
            balancer: Balancer::Podway(BalancerRequest::default()),
            ..service("cart", "192.0.2.1")
        };
        let vips = |planner: &mut Planner| -> Vec<String> {
            planner.plan();
            planner.desired.frontends().map(|chain| chain.frontend.address.to_string()).collect()
        };
        planner.change(Change::Service(balanced.clone().into()));
        assert!(planner.is_dirty());
        assert_eq!(vips(&mut planner), ["192.0.2.1", "203.0.113.8"]);
        assert!(!planner.is_dirty());
        planner.change(Change::Service(Service { balancer: Balancer::None, ..balanced }.into()));
        assert_eq!(vips(&mut planner), ["192.0.2.1"]);
    }
}
