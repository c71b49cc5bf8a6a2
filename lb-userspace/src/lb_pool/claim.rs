//! What objects ask of the pools, from their facts.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Balancer, BalancerRequest, Ingress, Problem, Protocol, Service, Snapshot};
use crate::plan::{self, Family, HTTP_PORT, HTTPS_PORT, Labels, NodeContext};

use super::{Owner, OwnerKind, Pool};

/// What one object asks for, and what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The object.
    pub owner: Owner,
    /// `metadata.creationTimestamp`, seconds since 1970; the older one keeps what two have.
    pub created_s: Option<i64>,
    /// Labels, by which a pool may choose.
    pub labels: Arc<Labels>,
    /// The families of which it gets an address each.
    pub families: Vec<Family>,
    /// Addresses that it asks for, one of a family.
    pub wanted: Vec<IpAddr>,
    /// Addresses that it has: those of its status, or given a moment ago.
    pub present: Vec<IpAddr>,
    /// Objects of its kind with the same key may have an address together.
    pub sharing_key: Option<Arc<str>>,
    /// The ports that it uses there.
    pub ports: BTreeSet<(Protocol, u16)>,
}

impl Claim {
    /// Whether two objects may have one address: both say so, and the ports tell them apart. Ingresses on one address
    /// are one URL map, which settles who has a path.
    pub(super) fn may_share(&self, other: &Self) -> bool {
        let has_same_key = self.sharing_key.is_some() && self.sharing_key == other.sharing_key;
        let is_told_apart = match (self.owner.kind, other.owner.kind) {
            (OwnerKind::Ingress, OwnerKind::Ingress) => true,
            (OwnerKind::Service, OwnerKind::Service) => self.ports.is_disjoint(&other.ports),
            _ => false,
        };
        has_same_key && is_told_apart
    }
}

/// What all objects ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Those that ask, with the version of the object.
    pub claims: Vec<Claim>,
    /// Addresses that are somebody's otherwise: they are given to nobody anew.
    pub reserved: BTreeSet<IpAddr>,
    /// Objects that have addresses of pools in their status and ask for none any more.
    pub released: Vec<Owner>,
    /// Objects whose addresses are of no pool.
    pub problems: Vec<Problem>,
    /// Version and status of each object that is named above.
    pub(super) seen: BTreeMap<Owner, (Arc<str>, Vec<IpAddr>)>,
}

/// What the objects of a snapshot ask of these pools.
#[must_use]
pub fn claims(snapshot: &Snapshot, node: &NodeContext, pools: &[Pool]) -> Claims {
    let mut all = Claims::default();
    if pools.is_empty() {
        return all;
    }
    all.reserved.extend(snapshot.nodes.values().flat_map(|node| &node.addresses));
    for service in snapshot.services.values() {
        all.reserved.extend(&service.external_ips);
        if node.selection.has(service) {
            all.add_service(service, pools);
        }
    }
    for ingress in snapshot.ingresses.values() {
        if plan::is_served_class(ingress, snapshot) {
            all.add_ingress(ingress, pools);
        }
    }
    all
}

impl Claims {
    fn add_service(&mut self, service: &Service, pools: &[Pool]) {
        let owner = Owner { kind: OwnerKind::Service, object: service.name.clone() };
        let seen = (Arc::clone(&service.resource_version), service.load_balancer_ips.clone());
        match &service.balancer {
            Balancer::Other => self.reserved.extend(&service.load_balancer_ips),
            Balancer::None if is_of_pools(&service.load_balancer_ips, pools) => self.release(owner, seen),
            Balancer::None => {}
            Balancer::Podway(request) => {
                let families = Family::ALL.into_iter();
                let has = |family: &Family| service.cluster_ips.iter().any(|ip| Family::of(*ip) == *family);
                let ports = service.ports.iter().map(|port| (port.protocol, port.port));
                self.add(
                    Claim {
                        created_s: service.created_s,
                        labels: Arc::clone(&service.labels),
                        families: families.filter(has).collect(),
                        ports: ports.collect(),
                        ..Claim::new(owner, request, &service.load_balancer_ips)
                    },
                    seen,
                    pools,
                );
            }
        }
    }

    /// Where the annotation says its VIPs, these are asked of no pool; those of a pool that it had go.
    fn add_ingress(&mut self, ingress: &Ingress, pools: &[Pool]) {
        let owner = Owner { kind: OwnerKind::Ingress, object: ingress.name.clone() };
        let present = &ingress.load_balancer_ips;
        let seen = (Arc::clone(&ingress.resource_version), present.clone());
        self.reserved.extend(&ingress.vips);
        if ingress.has_load_balancer_hosts {
            self.reserved.extend(present);
            return;
        }
        if !ingress.vips.is_empty() {
            let is_stale = present.iter().any(|address| !ingress.vips.contains(address));
            if is_stale && is_of_pools(present, pools) {
                self.release(owner, seen);
            }
            return;
        }
        let request = &ingress.balancer;
        let is_for_all = |pool: &&Pool| pool.is_auto_assigned && pool.selector.is_none();
        let has = |family: &Family| match request.wanted.is_empty() {
            true => pools.iter().filter(is_for_all).any(|pool| pool.has_family(*family)),
            false => request.wanted.iter().any(|address| Family::of(*address) == *family),
        };
        let families: Vec<Family> = Family::ALL.into_iter().filter(has).collect();
        // Without a pool for it, it is served at the nodes' own addresses.
        if families.is_empty() && present.is_empty() {
            return;
        }
        let ports = [HTTP_PORT, HTTPS_PORT].map(|port| (Protocol::Tcp, port));
        let claim = Claim {
            created_s: ingress.created_s,
            families,
            ports: ports.into(),
            ..Claim::new(owner, request, present)
        };
        self.add(claim, seen, pools);
    }

    fn release(&mut self, owner: Owner, seen: (Arc<str>, Vec<IpAddr>)) {
        self.seen.insert(owner.clone(), seen);
        self.released.push(owner);
    }

    /// Addresses that are of no pool were given by somebody else, or by a pool that is no more: nobody can tell, so they
    /// stay.
    fn add(&mut self, claim: Claim, seen: (Arc<str>, Vec<IpAddr>), pools: &[Pool]) {
        let is_known = |address: &IpAddr| pools.iter().any(|pool| pool.contains(*address));
        let foreign = claim.present.iter().find(|address| !is_known(address));
        if let Some(address) = foreign {
            self.problems.push(claim.owner.problem(format!(
                "cannot give it an address of a pool: its status has {address}, which is of none; clear \
                 status.loadBalancer, or put the address into a pool; what it has stays"
            )));
            self.reserved.extend(&claim.present);
            return;
        }
        self.seen.insert(claim.owner.clone(), seen);
        self.claims.push(claim);
    }
}

impl Claim {
    fn new(owner: Owner, request: &BalancerRequest, present: &[IpAddr]) -> Self {
        Self {
            owner,
            created_s: None,
            labels: Arc::default(),
            families: Vec::new(),
            wanted: request.wanted.clone(),
            present: present.to_vec(),
            sharing_key: request.sharing_key.clone(),
            ports: BTreeSet::new(),
        }
    }
}

/// Whether there are addresses, and all of them are of pools.
fn is_of_pools(addresses: &[IpAddr], pools: &[Pool]) -> bool {
    let is_known = |address: &IpAddr| pools.iter().any(|pool| pool.contains(*address));
    !addresses.is_empty() && addresses.iter().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClassChoice, LoadBalancerPool, ObjectName};
    use crate::plan::fixture::{ip, node, service};

    /// Facts with a pool `outside` of 203.0.113.0/28.
    fn snapshot(services: Vec<Service>, ingresses: Vec<Ingress>) -> Snapshot {
        let pool = LoadBalancerPool {
            name: "outside".into(),
            resource_version: "1".into(),
            ranges: vec!["203.0.113.0/28".parse().expect("a range")],
            service_selector: None,
            is_auto_assigned: true,
        };
        Snapshot {
            services: services.into_iter().map(|facts| (facts.name.clone(), Arc::new(facts))).collect(),
            ingresses: ingresses.into_iter().map(|facts| (facts.name.clone(), Arc::new(facts))).collect(),
            load_balancer_pools: [("outside".into(), Arc::new(pool))].into(),
            ..Snapshot::default()
        }
    }

    fn found(services: Vec<Service>, ingresses: Vec<Ingress>) -> Claims {
        let snapshot = snapshot(services, ingresses);
        let (pools, _) = super::super::pools(&snapshot, &node());
        claims(&snapshot, &node(), &pools)
    }

    fn balanced(name: &str, balancer: Balancer, status: &[&str]) -> Service {
        let load_balancer_ips = status.iter().map(|text| ip(text)).collect();
        Service { balancer, load_balancer_ips, ..service(name, "192.0.2.1") }
    }

    fn ours(name: &str) -> Ingress {
        Ingress {
            class: ClassChoice::Annotation("podway".into()),
            ..Ingress::new(ObjectName::new("shop", name))
        }
    }

    fn names(owners: impl Iterator<Item = Owner>) -> Vec<String> {
        owners.map(|owner| owner.to_string()).collect()
    }

    #[test]
    fn a_service_asks_while_its_type_and_class_say_so_and_gives_back_when_not() {
        let podway = || Balancer::Podway(BalancerRequest::default());
        let all = found(
            vec![
                balanced("a", podway(), &["203.0.113.1"]),
                balanced("b", Balancer::None, &["203.0.113.2"]),
                balanced("c", Balancer::Other, &["203.0.113.3"]),
                balanced("d", Balancer::None, &[]),
            ],
            vec![],
        );
        assert_eq!(names(all.claims.iter().map(|claim| claim.owner.clone())), ["Service shop/a"]);
        assert_eq!(names(all.released.into_iter()), ["Service shop/b"]);
        assert!(all.reserved.contains(&ip("203.0.113.3")) && !all.reserved.contains(&ip("203.0.113.2")));
    }

    #[test]
    fn addresses_of_no_pool_stay_and_are_named() {
        let all = found(
            vec![balanced("a", Balancer::Podway(BalancerRequest::default()), &["198.51.100.9"])],
            vec![],
        );
        assert_eq!(all.claims, []);
        assert_eq!(all.problems.len(), 1);
        assert!(all.reserved.contains(&ip("198.51.100.9")));
    }

    #[test]
    fn an_ingress_asks_unless_an_annotation_gives_its_vips() {
        let annotated = |name: &str, vips: &[&str], status: &[&str]| Ingress {
            vips: vips.iter().map(|text| ip(text)).collect(),
            load_balancer_ips: status.iter().map(|text| ip(text)).collect(),
            ..ours(name)
        };
        let all = found(
            vec![],
            vec![
                annotated("a", &[], &[]),
                annotated("b", &["198.51.100.80"], &["203.0.113.4"]),
                annotated("c", &["203.0.113.5"], &["203.0.113.5"]),
                Ingress { class: ClassChoice::Annotation("nginx".into()), ..ours("d") },
            ],
        );
        assert_eq!(names(all.claims.iter().map(|claim| claim.owner.clone())), ["Ingress shop/a"]);
        assert_eq!(all.claims[0].families, [Family::V4], "the pool has no other");
        assert_eq!(names(all.released.into_iter()), ["Ingress shop/b"]);
        assert!(all.reserved.contains(&ip("203.0.113.5")));
    }
}
