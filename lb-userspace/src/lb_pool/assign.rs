//! Addresses given to the facts themselves, where no API server keeps statuses.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{ObjectName, Problem, Snapshot};
use crate::plan::NodeContext;

use super::{Owner, OwnerKind, allocate, claims, pools};

/// What was given so far, and what is wrong now.
#[derive(Clone, Debug, Default)]
pub struct Held {
    addresses: BTreeMap<Owner, Vec<IpAddr>>,
    /// What could not be given, and pools that cannot be used.
    pub problems: BTreeSet<Problem>,
}

/// Gives each object of a snapshot its addresses, as a status would have them; the objects that changed thereby. What an
/// object was given before, or has in its status, stays.
pub fn assign(snapshot: &mut Snapshot, node: &NodeContext, held: &mut Held) -> Vec<Owner> {
    let (pools, problems) = pools(snapshot, node);
    let mut found = claims(snapshot, node, &pools);
    for claim in found.claims.iter_mut().filter(|claim| claim.present.is_empty()) {
        claim.present = held.addresses.get(&claim.owner).cloned().unwrap_or_default();
    }
    let allocation = allocate(&pools, &found.claims, &found.reserved);
    held.problems = problems.into_iter().chain(found.problems).chain(allocation.problems).collect();
    let mut changed = Vec::new();
    let released = found.released.into_iter().map(|owner| (owner, Vec::new()));
    for (owner, addresses) in allocation.addresses.clone().into_iter().chain(released) {
        if give(snapshot, &owner, addresses) {
            changed.push(owner);
        }
    }
    held.addresses = allocation.addresses;
    changed
}

/// Whether that is a change.
fn give(snapshot: &mut Snapshot, owner: &Owner, addresses: Vec<IpAddr>) -> bool {
    match owner.kind {
        OwnerKind::Service => {
            replace(&mut snapshot.services, &owner.object, addresses, |facts| &mut facts.load_balancer_ips)
        }
        OwnerKind::Ingress => {
            replace(&mut snapshot.ingresses, &owner.object, addresses, |facts| &mut facts.load_balancer_ips)
        }
    }
}

fn replace<T: Clone>(
    facts: &mut BTreeMap<ObjectName, Arc<T>>,
    name: &ObjectName,
    addresses: Vec<IpAddr>,
    of: fn(&mut T) -> &mut Vec<IpAddr>,
) -> bool {
    let Some(known) = facts.get_mut(name) else { return false };
    let mut new = T::clone(known);
    if *of(&mut new) == addresses {
        return false;
    }
    *of(&mut new) = addresses;
    *known = Arc::new(new);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Balancer, BalancerRequest, Service};
    use crate::plan::fixture::{ip, node, service};

    fn with_pool() -> NodeContext {
        NodeContext { lb_pool: vec!["203.0.113.8/30".parse().expect("a range")], ..node() }
    }

    fn balanced(name: &str) -> Service {
        Service { balancer: Balancer::Podway(BalancerRequest::default()), ..service(name, "192.0.2.1") }
    }

    fn put(snapshot: &mut Snapshot, facts: Service) {
        snapshot.services.insert(facts.name.clone(), Arc::new(facts));
    }

    fn addresses(snapshot: &Snapshot) -> Vec<(&str, &[IpAddr])> {
        snapshot.services.iter().map(|(name, facts)| (&*name.name, &*facts.load_balancer_ips)).collect()
    }

    #[test]
    fn addresses_stay_while_the_manifests_are_read_again() {
        let (mut snapshot, mut held) = (Snapshot::default(), Held::default());
        put(&mut snapshot, balanced("b"));
        assert_eq!(assign(&mut snapshot, &with_pool(), &mut held).len(), 1);
        // As the folder has them, without a status.
        put(&mut snapshot, balanced("a"));
        put(&mut snapshot, balanced("b"));
        assert_eq!(assign(&mut snapshot, &with_pool(), &mut held).len(), 2);
        assert_eq!(addresses(&snapshot), [("a", &[ip("203.0.113.9")][..]), ("b", &[ip("203.0.113.8")][..])]);
        assert_eq!(assign(&mut snapshot, &with_pool(), &mut held), []);
    }

    #[test]
    fn a_service_of_another_type_gives_its_address_back() {
        let (mut snapshot, mut held) = (Snapshot::default(), Held::default());
        put(&mut snapshot, balanced("a"));
        assign(&mut snapshot, &with_pool(), &mut held);
        let plain = Service {
            balancer: Balancer::None,
            ..(*snapshot.services[&ObjectName::new("shop", "a")]).clone()
        };
        put(&mut snapshot, plain);
        put(&mut snapshot, balanced("b"));
        assign(&mut snapshot, &with_pool(), &mut held);
        assert_eq!(addresses(&snapshot), [("a", &[][..]), ("b", &[ip("203.0.113.8")][..])]);
    }
}
