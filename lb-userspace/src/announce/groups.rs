//! Which Leases a node seeks, and the VIPs that go with each. Pure.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::health::Electorate;
use crate::stable_hash;

use super::{Nodes, Reach};

/// Groups to which the VIPs are dealt that all nodes may announce: so many Leases, and nodes that announce at a time.
pub(super) const GROUPS: u64 = 4;

/// Nodes that watch a group's Lease: the first by rendezvous hashing (Thaler and Ravishankar 1998) of those that may
/// announce and have a live agent. Where all of them die at once the next ones follow when their silence is noticed by all
/// agents.
pub const CANDIDATES: usize = 3;

/// Most Leases of single VIPs that a node seeks; of more, those of the least addresses.
pub(super) const OWN_GROUPS_MAX: usize = 64;

/// Most groups that a node seeks.
pub(super) const GROUPS_MAX: u64 = GROUPS + OWN_GROUPS_MAX as u64;

/// Most VIPs of a node; of more, the least.
pub(super) const VIPS_MAX: usize = 1_024;

/// VIPs that one node announces together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Some of those that all nodes may announce.
    Shared(u64),
    /// One that only nodes with an endpoint may announce.
    Own(IpAddr),
}

/// The name of its Lease.
impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shared(number) => write!(f, "podway-vips-{number}"),
            Self::Own(IpAddr::V4(vip)) => {
                let [a, b, c, d] = vip.octets();
                write!(f, "podway-vip-{a}-{b}-{c}-{d}")
            }
            Self::Own(IpAddr::V6(vip)) => write!(f, "podway-vip-{:032x}", u128::from(*vip)),
        }
    }
}

/// A group that a node seeks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The node's place among those that seek it, from zero.
    pub rank: usize,
    /// What is announced with it.
    pub vips: BTreeSet<IpAddr>,
}

/// All groups that a node seeks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The groups.
    pub groups: BTreeMap<Group, Part>,
    /// VIPs past a bound.
    pub left_out: usize,
}

/// What a node is to seek. `live` are the nodes with a live agent; the node itself is one.
#[must_use]
pub fn wanted(vips: &BTreeMap<IpAddr, Reach>, node: &str, live: &BTreeSet<Arc<str>>) -> Wanted {
    let mut wanted = Wanted::default();
    let (mut own_groups, mut taken) = (0, 0);
    for (vip, reach) in vips {
        let (group, nodes) = match &reach.nodes {
            Nodes::All => (Group::Shared(stable_hash::of(&vip.to_string()) % GROUPS), live),
            Nodes::These(nodes) => (Group::Own(*vip), nodes),
        };
        let is_own = matches!(group, Group::Own(_));
        let Some(rank) = rank(group, node, nodes, live) else { continue };
        if taken == VIPS_MAX || is_own && own_groups == OWN_GROUPS_MAX {
            wanted.left_out += 1;
            continue;
        }
        taken += 1;
        own_groups += usize::from(is_own);
        let part = wanted.groups.entry(group).or_default();
        part.rank = rank;
        part.vips.insert(*vip);
    }
    wanted
}

/// The place of a node among the candidates.
fn rank(group: Group, node: &str, nodes: &BTreeSet<Arc<str>>, live: &BTreeSet<Arc<str>>) -> Option<usize> {
    let may = nodes.iter().map(|name| &**name).filter(|name| *name == node || live.contains(*name));
    let key = stable_hash::of(&group.to_string());
    Electorate::new(may, CANDIDATES).probers(key).iter().position(|name| *name == node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixture::ip;

    fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| (*name).into()).collect()
    }

    fn all() -> Reach {
        Reach { nodes: Nodes::All, has_endpoints: true }
    }

    fn only(nodes: &[&str]) -> Reach {
        Reach { nodes: Nodes::These(names(nodes)), has_endpoints: true }
    }

    const NODES: [&str; 5] = ["a", "b", "c", "d", "e"];

    #[test]
    fn three_nodes_of_all_seek_a_group_each_with_a_place_of_its_own() {
        let vips = [(ip("203.0.113.1"), all())].into();
        let mut ranks: Vec<usize> = NODES
            .iter()
            .flat_map(|node| wanted(&vips, node, &names(&NODES)).groups.into_values().map(|part| part.rank))
            .collect();
        ranks.sort_unstable();
        assert_eq!(ranks, [0, 1, 2]);
    }

    #[test]
    fn a_node_without_a_live_agent_makes_room_for_the_next() {
        let vips = [(ip("203.0.113.1"), all())].into();
        let first = |live: &[&str]| {
            let is_first =
                |node: &&&str| wanted(&vips, node, &names(live)).groups.values().any(|part| part.rank == 0);
            live.iter().find(is_first).map(|node| (*node).to_owned())
        };
        let before = first(&NODES).expect("a first node");
        let others: Vec<&str> = NODES.into_iter().filter(|node| *node != before).collect();
        let after = first(&others).expect("another first node");
        assert_ne!(before, after);
    }

    #[test]
    fn a_vip_for_local_endpoints_is_sought_where_these_are() {
        let vips: BTreeMap<_, _> =
            [(ip("203.0.113.1"), only(&["b"])), (ip("2001:db8::1"), only(&["b", "c"]))].into();
        let of = |node: &str| -> Vec<String> {
            wanted(&vips, node, &names(&NODES)).groups.keys().map(ToString::to_string).collect()
        };
        let own = "podway-vip-20010db8000000000000000000000001";
        assert_eq!(of("a"), [""; 0]);
        assert_eq!(of("b"), ["podway-vip-203-0-113-1", own]);
        assert_eq!(of("c"), [own]);
    }

    #[test]
    fn what_is_past_the_bounds_is_counted() {
        let vips: BTreeMap<_, _> =
            (0..70u8).map(|last| (IpAddr::from([203, 0, 113, last]), only(&["a"]))).collect();
        let found = wanted(&vips, "a", &names(&NODES));
        assert_eq!((found.groups.len(), found.left_out), (64, 6));
    }

    #[test]
    fn many_vips_are_a_few_groups() {
        let vips: BTreeMap<_, _> =
            (0..200u8).map(|last| (IpAddr::from([203, 0, 113, last]), all())).collect();
        let found = wanted(&vips, "a", &names(&["a"]));
        assert_eq!(found.groups.len() as u64, GROUPS);
        assert_eq!(found.groups.values().map(|part| part.vips.len()).sum::<usize>(), 200);
    }
}
