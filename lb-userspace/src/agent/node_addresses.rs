//! The addresses of all nodes: map NODES, which says from whom encapsulated packets are taken.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::Address;

use crate::maps::Maps;

/// What NODES shall hold, and what it does.
#[derive(Debug, Default)]
pub(super) struct NodeAddresses {
    /// How many Nodes have an address.
    wanted: BTreeMap<Address, u32>,
    written: BTreeSet<Address>,
    /// Addresses that came or went since the last write.
    changed: BTreeSet<Address>,
    /// Addresses that the kernel refused; the next write tries them again.
    refused: BTreeSet<Address>,
}

impl NodeAddresses {
    /// Takes what is in the map already: addresses that no Node has go with the first write.
    pub(super) fn begin(&mut self, written: BTreeSet<Address>) {
        self.changed.extend(written.iter().chain(self.wanted.keys()));
        self.written = written;
    }

    /// A Node had some addresses and now has others.
    pub(super) fn replace(&mut self, before: &[IpAddr], now: &[IpAddr]) {
        if before == now {
            return;
        }
        for address in now.iter().map(|address| Address::from(*address)) {
            *self.wanted.entry(address).or_default() += 1;
            self.changed.insert(address);
        }
        for address in before.iter().map(|address| Address::from(*address)) {
            if let Some(count) = self.wanted.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    self.wanted.remove(&address);
                }
            }
            self.changed.insert(address);
        }
    }

    /// Whether there is something to write.
    pub(super) fn is_dirty(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Brings the map to the Nodes, at the cost of what changed. What the kernel refused is tried again
    /// with the next write.
    ///
    /// # Errors
    /// The first refusal.
    pub(super) fn write(&mut self, maps: &mut Maps) -> anyhow::Result<()> {
        let mut result = Ok(());
        let due = std::mem::take(&mut self.changed);
        for address in std::mem::take(&mut self.refused).into_iter().chain(due) {
            let is_wanted = self.wanted.contains_key(&address);
            if is_wanted == self.written.contains(&address) {
                continue;
            }
            let done = if is_wanted { maps.put_node(&address) } else { maps.remove_node(&address) };
            match done {
                Ok(()) if is_wanted => drop(self.written.insert(address)),
                Ok(()) => drop(self.written.remove(&address)),
                Err(error) => {
                    self.refused.insert(address);
                    result = result.and(Err(error));
                }
            }
        }
        result
    }
}
