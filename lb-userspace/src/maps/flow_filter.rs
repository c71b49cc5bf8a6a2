//! FLOW_FILTER, from which bits of flows that are over go: see [`lb_common::flow_filter`].
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lb_common::conntrack::FlowKey;
use lb_common::flow_filter::{Half, place};

use super::mapped::{Access, Mapped};

/// The filter and the half that is made anew by the walk that is under way, or by the next one.
pub(super) struct FlowFilter {
    words: Arc<Mapped>,
    half: Half,
}

impl FlowFilter {
    /// The filter of a former agent, which may have been killed in the middle of a walk: with what either half says in
    /// both, each is complete.
    pub(super) fn new(words: Arc<Mapped>, access: Access) -> Self {
        if access == Access::ReadWrite {
            for word in (0..words.count()).filter_map(|index| words.word64(index)) {
                let bits = word.load(Ordering::Acquire);
                word.fetch_or(bits.rotate_left(u32::BITS), Ordering::AcqRel);
            }
        }
        Self { words, half: Half::default() }
    }

    /// Begins a walk through all entries, anew where one was begun.
    pub(super) fn begin(&self) {
        for word in (0..self.words.count()).filter_map(|index| self.words.word64(index)) {
            word.fetch_and(!self.half.mask(), Ordering::AcqRel);
        }
    }

    /// Sets all bits: what has been entered is not known. Two walks clear those that no flow needs.
    pub(super) fn fill(&self) {
        for word in (0..self.words.count()).filter_map(|index| self.words.word64(index)) {
            word.store(u64::MAX, Ordering::Release);
        }
    }

    /// Sets the bits of an entry that stays.
    pub(super) fn note(&self, key: &FlowKey) {
        let (index, bits) = place(&key.destination);
        if let Some(word) = self.words.word64(index) {
            word.fetch_or(bits, Ordering::AcqRel);
        }
    }

    /// Ends a walk that has met every entry: the half is complete, and the other one may be made anew.
    pub(super) fn end(&mut self) {
        self.half = self.half.other();
    }
}
