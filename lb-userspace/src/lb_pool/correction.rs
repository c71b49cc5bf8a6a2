//! Which statuses are not as they are to be. Pure.
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Allocation, Claims, Owner};

/// A status that is not as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The object.
    pub owner: Owner,
    /// The version that was looked at: a later one may have another status.
    pub resource_version: Arc<str>,
    /// What `status.loadBalancer.ingress` is to say; nothing where the object has no address any more.
    pub addresses: Vec<IpAddr>,
}

/// The statuses that differ from an allocation.
#[must_use]
pub fn corrections(claims: &Claims, allocation: &Allocation) -> Vec<Correction> {
    let released = claims.released.iter().map(|owner| (owner, Vec::new()));
    let given = allocation.addresses.iter().map(|(owner, addresses)| (owner, addresses.clone()));
    let correction = |(owner, addresses): (&Owner, Vec<IpAddr>)| {
        let (resource_version, status) = claims.seen.get(owner)?;
        let is_same = status.iter().collect::<BTreeSet<_>>() == addresses.iter().collect();
        let resource_version = Arc::clone(resource_version);
        (!is_same).then(|| Correction { owner: owner.clone(), resource_version, addresses })
    };
    released.chain(given).filter_map(correction).collect()
}
