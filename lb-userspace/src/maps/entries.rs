//! The maps that programs fill, in batches: what a sweep walks through.
use std::fmt::Debug;

use anyhow::{Context as _, Result};
use bytemuck::Pod;
use lb_common::affinity::{Affinity, AffinityKey};
use lb_common::conntrack::{Flow, FlowKey};
use lb_common::fragment::{FragmentKey, FragmentPorts};
use lb_common::maps as names;
use lb_common::socket_flow::{SocketFlow, SocketFlowKey};

use super::Maps;
use super::syscall::Cursor;
use super::table::HashTable;

/// Where a walk through a map goes on; the default is the beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place(Cursor);

/// Some entries, and where the next ones are; `None` at the end.
#[derive(Clone, Debug)]
pub struct Entries<K, V> {
    /// Keys and values.
    pub entries: Vec<(K, V)>,
    /// Where to go on.
    pub next: Option<Place>,
}

/// A map that programs fill, by the type of its keys.
pub trait Traces: Pod + Debug {
    /// The map's values.
    type Value: Pod + Debug;
    /// The map's name.
    const NAME: &'static str;
    #[doc(hidden)]
    fn table(maps: &mut Maps) -> &mut HashTable<Self, Self::Value>;
}

impl Traces for FlowKey {
    type Value = Flow;
    const NAME: &'static str = names::CONNTRACK;
    fn table(maps: &mut Maps) -> &mut HashTable<Self, Flow> {
        maps.conntrack.current()
    }
}

impl Traces for AffinityKey {
    type Value = Affinity;
    const NAME: &'static str = names::AFFINITY;
    fn table(maps: &mut Maps) -> &mut HashTable<Self, Affinity> {
        &mut maps.affinity
    }
}

impl Traces for SocketFlowKey {
    type Value = SocketFlow;
    const NAME: &'static str = names::SOCKET_FLOWS;
    fn table(maps: &mut Maps) -> &mut HashTable<Self, SocketFlow> {
        &mut maps.socket_flows
    }
}

impl Traces for FragmentKey {
    type Value = FragmentPorts;
    const NAME: &'static str = names::FRAGMENTS;
    fn table(maps: &mut Maps) -> &mut HashTable<Self, FragmentPorts> {
        &mut maps.fragments
    }
}

impl Maps {
    /// About `wanted` entries of a map from a place on.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn some_entries<K: Traces>(&mut self, from: Place, wanted: usize) -> Result<Entries<K, K::Value>> {
        let batch = K::table(self).batch(from.0, wanted);
        let batch = batch.with_context(|| format!("cannot read map {}", K::NAME))?;
        let entries = batch.keys.into_iter().zip(batch.values).collect();
        Ok(Entries { entries, next: batch.next.map(Place) })
    }

    /// One entry of a map.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn entry<K: Traces>(&mut self, key: &K) -> Result<Option<K::Value>> {
        K::table(self).get(key).with_context(|| format!("cannot read map {}", K::NAME))
    }

    /// Removes an entry of a map if `is_over` says so of the value that it has at that moment: a program may have begun
    /// it anew since it was read. Whether it is gone; one that was not there is.
    ///
    /// # Errors
    /// The kernel refuses a read or a write.
    pub fn remove_entry_if<K: Traces>(
        &mut self,
        key: &K,
        is_over: impl FnOnce(&K::Value) -> bool,
    ) -> Result<bool> {
        let removed = K::table(self).remove_if(key, is_over);
        removed.with_context(|| format!("cannot remove an entry of map {}", K::NAME))
    }

    /// Removes entries of a map; those that are not there are no error.
    ///
    /// # Errors
    /// The kernel refuses a write.
    pub fn remove_entries<K: Traces>(&mut self, keys: &[K]) -> Result<()> {
        K::table(self).remove_all(keys).with_context(|| format!("cannot remove entries of map {}", K::NAME))
    }

    /// The bound on a map's entries.
    pub fn entries_max<K: Traces>(&mut self) -> u32 {
        K::table(self).entries_max()
    }

    /// Begins a walk through all flows, for FLOW_FILTER; one that was begun before and not ended counts for nothing.
    pub fn begin_flow_walk(&self) {
        self.flow_filter.begin();
    }

    /// Notes a flow that the walk has met and that stays.
    pub fn note_flow(&self, key: &FlowKey) {
        self.flow_filter.note(key);
    }

    /// Ends a walk that has met all flows of CONNTRACK, none of which was moved meanwhile.
    pub fn end_flow_walk(&mut self) {
        self.flow_filter.end();
    }

    /// Whether CONNTRACK is growing: flows are still to be moved to the larger map.
    #[must_use]
    pub fn is_growing(&self) -> bool {
        self.conntrack.is_growing()
    }

    /// Begins to move the flows to a new map of `entries_max` entries, which is the one that flows are
    /// entered into from now.
    ///
    /// # Errors
    /// No memory, or flows are being moved already.
    pub fn grow_conntrack(&mut self, entries_max: u32) -> Result<()> {
        self.conntrack.grow(entries_max)
    }

    /// Moves some of the flows that are left in the former map; how many entries were looked at.
    ///
    /// # Errors
    /// The kernel refuses; nothing is lost.
    pub fn move_flows(&mut self) -> Result<usize> {
        self.conntrack.move_some()
    }
}
