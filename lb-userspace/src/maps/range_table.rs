//! SOURCE_RANGES, a trie: its keys are prefixes, and their values say nothing.
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};
use lb_common::maps;
use lb_common::source_range::SourceRangeKey;

use super::mapped::Plain;
use super::table;

/// The words of a key after its length.
type Words = [u32; 5];

/// SOURCE_RANGES.
pub(super) struct RangeTable(LpmTrie<MapData, Plain<Words>, u32>, u32);

impl RangeTable {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let map = table::open(dir, maps::SOURCE_RANGES)?;
        let entries_max = table::entries_max(&map)?;
        let trie = map.try_into().with_context(|| format!("cannot use map {}", maps::SOURCE_RANGES))?;
        Ok(Self(trie, entries_max))
    }

    /// The bound on its entries.
    pub(super) fn entries_max(&self) -> u32 {
        self.1
    }

    pub(super) fn put(&mut self, key: &SourceRangeKey) -> Result<(), MapError> {
        self.0.insert(&trie_key(key), 1, 0)
    }

    /// Removes a range; one that is not there is no error.
    pub(super) fn remove(&mut self, key: &SourceRangeKey) -> Result<(), MapError> {
        match self.0.remove(&trie_key(key)) {
            Err(error)
                if table::io_error(&error).is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    /// All ranges.
    pub(super) fn keys(&self) -> Result<Vec<SourceRangeKey>, MapError> {
        // A walk over a trie that changes may give a key twice.
        let steps_max = 2 * self.entries_max() as usize;
        let keys = self.0.keys().take(steps_max);
        keys.map(|key| key.map(|key| range_key(key.prefix_len(), key.data().0))).collect()
    }
}

fn trie_key(key: &SourceRangeKey) -> Key<Plain<Words>> {
    let [a, b, c, d] = key.client;
    Key::new(key.prefix_bits, Plain([key.backend_service, a, b, c, d]))
}

fn range_key(prefix_bits: u32, [backend_service, a, b, c, d]: Words) -> SourceRangeKey {
    SourceRangeKey { prefix_bits, backend_service, client: [a, b, c, d] }
}
