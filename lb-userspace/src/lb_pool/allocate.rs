//! Who gets which address. Pure.
//!
//! Three passes over the objects, the oldest first: each keeps what it has; then gets what it asks for by name; then what
//! it still lacks. So nothing moves because another object comes or goes, and the order in which they are given does
//! not matter.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::Problem;
use crate::plan::Family;

use super::{Allocation, CLAIMS_MAX, Claim, Pool};

/// Gives addresses of pools to those that ask. `reserved` ones are given to nobody anew.
#[must_use]
pub fn allocate(pools: &[Pool], claims: &[Claim], reserved: &BTreeSet<IpAddr>) -> Allocation {
    let mut order: Vec<&Claim> = claims.iter().collect();
    // Without a creation time an object goes after all that have one, as in the plan.
    order.sort_by_key(|claim| (claim.created_s.unwrap_or(i64::MAX), &claim.owner));
    let mut allocation = Allocation::default();
    for claim in order.iter().skip(CLAIMS_MAX) {
        allocation.problems.insert(claim.owner.problem(format!(
            "cannot give it an address: {CLAIMS_MAX} older objects have some; remove others"
        )));
        allocation.addresses.insert(claim.owner.clone(), Vec::new());
    }
    order.truncate(CLAIMS_MAX);
    let problems = &mut allocation.problems;
    let mut space = Space::new(pools, reserved);
    let mut given: Vec<Vec<IpAddr>> = order.iter().map(|claim| space.keep(claim, problems)).collect();
    for (claim, given) in order.iter().zip(&mut given) {
        space.give_wanted(claim, given, problems);
    }
    for (claim, given) in order.iter().zip(&mut given) {
        space.give_missing(claim, given, problems);
        given.sort_unstable();
    }
    let owners = order.iter().map(|claim| claim.owner.clone());
    allocation.addresses.extend(owners.zip(given));
    allocation
}

/// The addresses of all pools, and who has which.
struct Space<'a> {
    pools: &'a [Pool],
    reserved: &'a BTreeSet<IpAddr>,
    users: BTreeMap<IpAddr, Vec<&'a Claim>>,
    /// By pool and range: below this address nothing is free.
    next: BTreeMap<(usize, usize), Option<IpAddr>>,
}

impl<'a> Space<'a> {
    fn new(pools: &'a [Pool], reserved: &'a BTreeSet<IpAddr>) -> Self {
        Self { pools, reserved, users: BTreeMap::new(), next: BTreeMap::new() }
    }

    fn keep(&mut self, claim: &'a Claim, problems: &mut BTreeSet<Problem>) -> Vec<IpAddr> {
        let mut kept: Vec<IpAddr> = Vec::new();
        for address in &claim.present {
            let family = Family::of(*address);
            let is_asked = claim.families.contains(&family) && !has_family(&kept, family);
            if !is_asked || !self.pools.iter().any(|pool| pool.contains(*address)) {
                continue;
            }
            match self.obstacle(*address, claim) {
                None => kept.push(self.take(*address, claim)),
                Some(other) => drop(problems.insert(claim.owner.problem(format!(
                    "cannot keep {address}: {} has it and is older; it gets another one",
                    other.owner
                )))),
            }
        }
        kept
    }

    fn give_wanted(&mut self, claim: &'a Claim, given: &mut Vec<IpAddr>, problems: &mut BTreeSet<Problem>) {
        for address in
            claim.wanted.iter().filter(|address| !given.contains(*address)).copied().collect::<Vec<_>>()
        {
            let family = Family::of(address);
            match self.reason_against(address, claim) {
                None => {
                    if let Some(index) = given.iter().position(|known| Family::of(*known) == family) {
                        let former = given.remove(index);
                        self.leave(former, claim);
                    }
                    given.push(self.take(address, claim));
                }
                Some(reason) => {
                    problems.insert(
                        claim
                            .owner
                            .problem(format!("cannot give it {address}: {reason}; ask for another one")),
                    );
                }
            }
        }
    }

    /// Why an object cannot have the address that it asks for.
    fn reason_against(&self, address: IpAddr, claim: &Claim) -> Option<String> {
        let family = Family::of(address);
        if !claim.families.contains(&family) {
            return Some("it has no cluster IP of that family".to_owned());
        }
        let mut pools = self.pools.iter().filter(|pool| pool.contains(address)).peekable();
        if pools.peek().is_none() {
            return Some("no pool has it".to_owned());
        }
        if !pools.any(|pool| pool.admits(claim)) {
            return Some("its pool is for other objects".to_owned());
        }
        if self.reserved.contains(&address) {
            return Some("another object uses it, or a node".to_owned());
        }
        self.obstacle(address, claim).map(|other| format!("{} has it", other.owner))
    }

    /// Of a family that it asks for an address by name it gets no other.
    fn give_missing(&mut self, claim: &'a Claim, given: &mut Vec<IpAddr>, problems: &mut BTreeSet<Problem>) {
        let mut has_pool = false;
        for family in &claim.families {
            if has_family(given, *family) || has_family(&claim.wanted, *family) {
                has_pool = true;
                continue;
            }
            let of_family =
                |pool: &&Pool| pool.is_auto_assigned && pool.admits(claim) && pool.has_family(*family);
            if !self.pools.iter().any(|pool| of_family(&pool)) {
                continue;
            }
            has_pool = true;
            match self.shared(claim, *family).or_else(|| self.lowest_free(claim, *family)) {
                Some(address) => given.push(self.take(address, claim)),
                None => drop(problems.insert(claim.owner.problem(format!(
                    "cannot give it an {} address: the pools for it have none left; add addresses to --lb-pool or to a \
                     LoadBalancerPool",
                    family_name(*family)
                )))),
            }
        }
        if !has_pool {
            problems.insert(claim.owner.problem(
                "cannot give it an address: no pool with addresses of its families is for it; add one, or ask for an \
                 address by name"
                    .to_owned(),
            ));
        }
    }

    /// The lowest address that others have who share it with this one.
    fn shared(&self, claim: &Claim, family: Family) -> Option<IpAddr> {
        claim.sharing_key.as_ref()?;
        let admits = |address: IpAddr| {
            self.pools
                .iter()
                .any(|pool| pool.is_auto_assigned && pool.admits(claim) && pool.contains(address))
        };
        let mut taken = self.users.iter().filter(|(address, users)| {
            Family::of(**address) == family
                && !users.is_empty()
                && users.iter().all(|user| user.may_share(claim))
        });
        taken.find(|(address, _)| admits(**address)).map(|(address, _)| *address)
    }

    /// Pools and ranges are gone through in their order.
    fn lowest_free(&mut self, claim: &Claim, family: Family) -> Option<IpAddr> {
        for (number, pool) in self.pools.iter().enumerate() {
            if !pool.is_auto_assigned || !pool.admits(claim) {
                continue;
            }
            for (index, range) in pool.ranges.iter().enumerate() {
                if Family::of(range.first) != family {
                    continue;
                }
                let next = self.next.entry((number, index)).or_insert(Some(range.first));
                while let Some(address) = *next {
                    let is_free = self.users.get(&address).is_none_or(Vec::is_empty);
                    if is_free && !self.reserved.contains(&address) {
                        return Some(address);
                    }
                    *next = range.after(address);
                }
            }
        }
        None
    }

    /// Somebody who has the address and does not share it.
    fn obstacle(&self, address: IpAddr, claim: &Claim) -> Option<&'a Claim> {
        self.users.get(&address)?.iter().find(|user| !user.may_share(claim)).copied()
    }

    fn take(&mut self, address: IpAddr, claim: &'a Claim) -> IpAddr {
        self.users.entry(address).or_default().push(claim);
        address
    }

    fn leave(&mut self, address: IpAddr, claim: &Claim) {
        if let Some(users) = self.users.get_mut(&address) {
            users.retain(|user| user.owner != claim.owner);
        }
    }
}

fn has_family(addresses: &[IpAddr], family: Family) -> bool {
    addresses.iter().any(|address| Family::of(*address) == family)
}

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

#[cfg(test)]
#[path = "allocate_tests.rs"]
mod tests;
