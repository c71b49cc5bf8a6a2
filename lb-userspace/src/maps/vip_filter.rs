//! The filter before FRONTENDS, kept with it: a bit is set before the first frontend that needs it is
//! there, and cleared after the last one is gone.
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use aya::maps::MapError;
use lb_common::frontend::{Frontend, FrontendKey};
use lb_common::maps;
use lb_common::vip_filter::{VIP_FILTER_WORDS, place};

use super::mapped::{Access, Mapped};
use super::table::HashTable;

/// VIP_FILTER and, for whoever writes it, the frontends behind each bit.
pub(super) struct VipFilter {
    words: Arc<Mapped>,
    frontends: HashMap<(u32, u64), BTreeSet<FrontendKey>>,
}

impl VipFilter {
    /// Of the frontends that are there. A writer also clears what a killed one may have left set.
    pub(super) fn new(
        words: Arc<Mapped>,
        frontends: &HashTable<FrontendKey, Frontend>,
        access: Access,
    ) -> Result<Self> {
        let mut filter = Self { words, frontends: HashMap::new() };
        if access == Access::Read {
            return Ok(filter);
        }
        let keys: Result<Vec<_>, MapError> = frontends.entries().map(|found| Ok(found?.0)).collect();
        let keys = keys.with_context(|| format!("cannot read map {}", maps::FRONTENDS))?;
        keys.iter().for_each(|key| filter.put(key));
        let mut wanted = vec![0; VIP_FILTER_WORDS as usize];
        filter.frontends.keys().for_each(|(word, bit)| wanted[*word as usize] |= bit);
        for (index, bits) in (0..).zip(wanted) {
            if let Some(word) = filter.words.word64(index) {
                word.fetch_and(bits, Ordering::AcqRel);
            }
        }
        Ok(filter)
    }

    /// Lets packets to a frontend's address through the filter.
    pub(super) fn put(&mut self, key: &FrontendKey) {
        let (index, bit) = place(&key.address);
        self.frontends.entry((index, bit)).or_default().insert(*key);
        if let Some(word) = self.words.word64(index) {
            word.fetch_or(bit, Ordering::AcqRel);
        }
    }

    /// Forgets a frontend.
    pub(super) fn remove(&mut self, key: &FrontendKey) {
        let (index, bit) = place(&key.address);
        let Some(keys) = self.frontends.get_mut(&(index, bit)) else { return };
        keys.remove(key);
        if keys.is_empty() {
            self.frontends.remove(&(index, bit));
            if let Some(word) = self.words.word64(index) {
                word.fetch_and(!bit, Ordering::AcqRel);
            }
        }
    }
}
